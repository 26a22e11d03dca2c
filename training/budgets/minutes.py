"""A budget in minutes: how many examples it pays for, measured on a few real steps before the run."""

import math
import tempfile
from bisect import bisect_left
from collections.abc import Callable, Sequence
from pathlib import Path

from transformers import TrainingArguments

from data_prep.tokens.windows import Documents, Windows
from modeling.configuration_kindling import KindlingConfig
from settings.checks import ConfigError
from settings.horizon import MAX_STEPS
from settings.wording import format_count
from training.checkpoints.state import read_state_of
from training.processes import batch_size
from training.reporting.budget import last_logged
from training.reporting.callbacks import Samples
from training.reporting.curves import draw_curves
from training.run import Run

from .calibration import StepTimes, calibrate, random_windows


def examples_in_time(
    run: Run,
    config: KindlingConfig,
    examples: Windows | Documents,
    validation: Sequence[dict],
    collate: Callable,
    samples: Samples,
) -> int:
    """The examples of a whole run of `budget.minutes`, evaluations, samples and checkpoints included.

    A resumed run keeps the number that it was started with, unless it is extended. `ConfigError` if not even one step
    fits. The calibration comes before the clock of the run starts.
    """
    before, position = run.fingerprint.position, 0
    seconds = 60 * run.experiment.budget.minutes
    if run.checkpoint is not None:
        if not (run.experiment.resume.extend or run.fingerprint.begins_branch) and "stop" in before:
            return before["stop"]
        position = before.get("position", 0)
        seconds -= last_logged(read_state_of(run.checkpoint).log_history, "seconds")
    if run.experiment.data.streaming:
        examples = random_windows(config, examples.length, 1000)

    def report(model):
        samples.draw(model)
        with tempfile.TemporaryDirectory() as folder:
            draw_curves([], Path(folder) / "curves.png")

    if run.args.torch_compile:  # once for the compilation, which the run then finds in the compiler's cache
        calibrate(run.experiment, run.args, config, examples, validation, collate, seconds=0.0)
    times = calibrate(run.experiment, run.args, config, examples, validation, collate, report=report)
    steps = steps_in_time(times, seconds, run.args, len(examples))
    if steps < 1:
        raise ConfigError(
            f"budget.minutes={run.experiment.budget.minutes:g} is over before the first step: it takes "
            f"{times.first_step:.2g} s, an evaluation {times.evaluation:.2g} s; raise it, or evaluate less"
        )
    if run.args.should_save:
        print(
            f"budget      {run.experiment.budget.minutes:g} minutes: {format_count(steps, 'step')} "
            f"of {times.step:.3g} s ({times.steps} measured, the first takes {times.first_step:.3g} s), evaluations of "
            f"{times.evaluation + times.report:.3g} s, checkpoints of {times.save:.3g} s"
        )
    return position + steps * batch_size(run.args)


def steps_in_time(times: StepTimes, seconds: float, args: TrainingArguments, examples: int) -> int:
    """The largest number of steps that ends within so many seconds, with what happens between them; 0 if none does."""
    per_epoch = max(1, examples // batch_size(args))

    def lasts(steps: int) -> float:
        evaluations = occurrences(args.eval_strategy, args.eval_steps, steps, per_epoch)
        saves = occurrences(args.save_strategy, args.save_steps, steps, per_epoch)
        return times.seconds(steps, evaluations, saves) + args.eval_on_start * times.evaluation

    return bisect_left(range(1, MAX_STEPS + 1), True, key=lambda steps: lasts(steps) > seconds)


def occurrences(strategy: str, interval: float | None, steps: int, per_epoch: int) -> int:
    """How often a run of so many steps evaluates or saves, its end included."""
    interval = interval or 1
    every = {
        "no": steps,
        "epoch": per_epoch,
        "steps": interval if interval >= 1 else math.ceil(steps * interval),
        "best": per_epoch,
    }[getattr(strategy, "value", strategy)]
    return math.ceil(steps / every)
