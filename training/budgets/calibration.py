"""Measures how long the steps of a run take, by training a few of them aside: `calibrate`."""

import copy
import gc
import math
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Subset
from transformers import PreTrainedModel, PrinterCallback, TrainerCallback, TrainingArguments
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from data_prep.collator import CausalLMCollator
from data_prep.tokens.order import Epochs
from data_prep.tokens.windows import TokenArray, Windows
from modeling.configuration_kindling import KindlingConfig
from settings.experiment import LanguageExperiment
from settings.sections import GuardSection
from training.model import build_model
from training.processes import batch_size
from training.trainer import KindlingTrainer

SECONDS = 10.0
"""Time limit for the steps after the first, and, a fifth of it, for the evaluation."""
STEPS = range(3, 51)
"""Steps after the first: at least, and below; a run of tiny steps is measured by the latter in less than the limit."""
HORIZON = 10**6
"""Steps that the schedule is built for, so that a warm-up keeps the learning rates of the first steps low."""
ASIDE = {
    "max_steps": HORIZON,
    "logging_strategy": IntervalStrategy.NO,
    "logging_first_step": False,
    "eval_strategy": IntervalStrategy.NO,
    "eval_on_start": False,
    "save_strategy": SaveStrategy.NO,
    "load_best_model_at_end": False,
    "report_to": [],
    "push_to_hub": False,
    "disable_tqdm": True,
}
"""Arguments that differ from the run's: nothing is reported, saved or evaluated while steps are timed."""


@dataclass(frozen=True)
class StepTimes:
    """Seconds that parts of a run take, measured; with several processes, the largest of any."""

    first_step: float
    """The first step, with what precedes it: data loader workers, compilation."""
    step: float
    """The median of the second half of the later steps."""
    evaluation_start: float
    """What the first evaluation takes in addition to later ones, such as compilation."""
    evaluation: float
    """A pass over the whole validation set, extrapolated from a part of it; 0 without one."""
    report: float
    """What a run does besides at an evaluation, such as its sample."""
    save: float
    """A checkpoint, written into the folder for temporary files; 0 if the run saves none."""
    steps: int
    """How many later steps were measured."""

    def seconds(self, steps: int, evaluations: int = 0, saves: int = 0) -> float:
        """Seconds of a run of so many steps, evaluations and checkpoints."""
        later = (steps - 1) * self.step + evaluations * (self.evaluation + self.report) + saves * self.save
        return self.first_step + later + (self.evaluation_start if evaluations else 0.0)


def calibrate(
    experiment: LanguageExperiment,
    args: TrainingArguments,
    config: KindlingConfig,
    examples: Sequence[dict],
    validation: Sequence[dict],
    collate: CausalLMCollator,
    *,
    seconds: float = SECONDS,
    report: Callable[[PreTrainedModel], None] | None = None,
) -> StepTimes:
    """Train a few steps of a run with a model of `config` on `examples`, and return how long they take.

    The steps are the run's own: its Trainer, optimiser, precision, compilation, batch and accumulation, in all of its
    processes. `validation` may be empty; `report` is what the run does besides at each evaluation. Nothing is printed
    or left behind: the model is dropped, files are written into a temporary folder only, and the generators of random
    numbers are as before.
    """
    with unchanged_random_state(), tempfile.TemporaryDirectory(prefix="kindling-calibration-") as folder:
        aside = copy.copy(args)
        vars(aside).update(ASIDE | {"output_dir": folder})
        clock = StepClock(seconds)
        trainer = KindlingTrainer(
            model=build_model(config, aside),
            args=aside,
            train_dataset=Epochs(examples, args.seed, stop=HORIZON * batch_size(args)),
            data_collator=WithoutGroups(collate),
            callbacks=[clock],
            text_bytes=None,
            peak_flops=1.0,
            optimizer=experiment.optimizer,
            averaging=experiment.averaging,
            z_loss=experiment.loss.z_loss,
            guard=GuardSection(skips_in_a_row=HORIZON),
            fit_memory=experiment.budget.fit_memory,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.signals.handle_signals = nullcontext  # there is nothing to save: a signal ends the process at once
        clock.agree = trainer.accelerator.gather
        trainer.train()
        found = clock.times + time_evaluation(trainer, validation, seconds / 5)
        found.append(time_report(trainer.model, report) if report else 0.0)
        found.append(0.0 if args.save_strategy == SaveStrategy.NO else time_of(trainer.save_checkpoint))
        slowest = trainer.accelerator.gather(torch.tensor([found], device=args.device)).amax(0).tolist()
        trainer.accelerator.free_memory()
        del trainer
        release_memory(args)
        return StepTimes(*slowest, steps=clock.later)


def time_of(action: Callable[[], None]) -> float:
    """Seconds that an action takes."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def time_report(model: PreTrainedModel, report: Callable[[PreTrainedModel], None]) -> float:
    """Seconds of a report, after one that does what only the first has to, such as imports."""
    report(model)
    return time_of(lambda: report(model))


class StepClock(TrainerCallback):
    """Times steps, and ends training when enough are measured, in all processes after the same step."""

    def __init__(self, seconds: float):
        self.limit = seconds
        self.started = time.perf_counter()
        self.ends: list[float] = []
        self.agree: Callable[[torch.Tensor], torch.Tensor] = lambda flags: flags

    @property
    def later(self) -> int:
        """Number of steps after the first."""
        return len(self.ends) - 1

    @property
    def times(self) -> list[float]:
        """Seconds of the first step, and the median of the second half of the later ones: caches fill up at first."""
        between = [end - start for start, end in zip(self.ends, self.ends[1:], strict=False)]
        return [self.ends[0] - self.started, statistics.median(between[len(between) // 2 :])]

    def on_train_begin(self, args, state, control, **kwargs):  # noqa: ARG002
        self.started = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):  # noqa: ARG002
        self.ends.append(time.perf_counter())
        took_long = self.ends[-1] - self.ends[0] > self.limit and self.later >= STEPS.start
        is_over = torch.tensor([float(took_long or self.later >= STEPS[-1])], device=args.device)
        control.should_training_stop |= self.agree(is_over).max().item() > 0


def time_evaluation(trainer: KindlingTrainer, examples: Sequence[dict], limit: float) -> list[float]:
    """What the first evaluation takes in addition to later ones, and the seconds of one over all `examples`.

    Evaluates one batch twice, and then as many as take about `limit` seconds, spread over the examples.
    """
    batch = trainer.args.eval_batch_size * trainer.args.world_size
    batches = math.ceil(len(examples) / batch)
    if batches == 0:
        return [0.0, 0.0]

    def timed(count: int) -> float:
        rows = np.linspace(0, len(examples) - 1, min(count * batch, len(examples))).astype(int)
        started = time.perf_counter()
        trainer.evaluate(Subset(examples, rows.tolist()))
        seconds = torch.tensor([time.perf_counter() - started], device=trainer.args.device)
        return trainer.accelerator.gather(seconds).max().item()  # so that all processes choose the same count

    first, one = timed(1), timed(1)
    count = max(1, min(batches, int(limit / one)))
    each = one if count == 1 else max(0.0, timed(count) - one) / (count - 1)
    return [max(0.0, first - one), one + (batches - 1) * each]


@dataclass(frozen=True)
class WithoutGroups:
    """A collator whose batches have no `groups`: the times do not depend on them."""

    collate: Callable[[Sequence[dict]], dict]

    def __call__(self, examples: Sequence[dict]) -> dict:
        return {name: value for name, value in self.collate(examples).items() if name != "groups"}


def random_windows(config: KindlingConfig, length: int, count: int) -> Windows:
    """Windows of random ids, in the place of data that are not there yet."""
    ids = np.random.default_rng(0).integers(config.vocab_size, size=count * (length - 1) + 1, dtype=np.uint32)
    return Windows(TokenArray([ids], [len(ids)]), length)


@contextmanager
def unchanged_random_state() -> Iterator[None]:
    """Within, random numbers may be drawn; after, Python's, numpy's and torch's generators are as before."""
    python, arrays = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)


def release_memory(args: TrainingArguments):
    """Give back what a dropped model has taken, on the device too."""
    if args.torch_compile:
        torch.compiler.reset()  # its cache holds the compiled model
    gc.collect()
    if args.device.type != "cpu":
        torch.accelerator.empty_cache()
