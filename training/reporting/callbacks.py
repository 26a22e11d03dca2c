"""Callbacks that report on a run while it trains: progress bar, metrics.jsonl, samples, curves."""

import functools
import json
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from tqdm import tqdm
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback

from settings.checks import ConfigError
from settings.sections import SampleSection
from storage.files import append_or_restore, write_atomically
from training.checkpoints.store import is_disk_error

from .averages import averaged_losses
from .curves import draw_curves
from .generation import encode_prompt
from .prompting import Sampling, prompt_command


def tolerate_full_disk(write: Callable) -> Callable:
    """Decorate a method that writes into the run folder: a disk error is reported, and training continues."""

    @functools.wraps(write)
    def tolerant(self, *args, **kwargs):
        try:
            return write(self, *args, **kwargs)
        except Exception as error:
            if not is_disk_error(error):
                raise
            tqdm.write(f"{type(self).__name__} could not write ({error}); training continues", file=sys.stderr)

    return tolerant


def truncate_after_step(path: Path, step: int):
    """Remove rows of later steps, which will be written again, and incomplete lines from a file of JSON lines."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(ValueError, TypeError, LookupError):
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
    write_atomically(path, "".join(kept))


class MetricsFile(TrainerCallback):
    """Writes `metrics.jsonl`: one line per log, the rows of the Trainer's log history.

    After a resume, and after a line was lost to a full disk, the file is rewritten from that history.
    """

    def __init__(self, folder: Path):
        self.path = folder / "metrics.jsonl"
        self.lines = 0

    @tolerate_full_disk
    def on_train_begin(self, args, state, control, **kwargs):  # noqa: ARG002
        if state.is_world_process_zero:
            write_atomically(self.path, "".join(json.dumps(row) + "\n" for row in state.log_history))
            self.lines = len(state.log_history)

    @tolerate_full_disk
    def on_log(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            if self.lines < len(state.log_history) - 1:
                return self.on_train_begin(args, state, control, **kwargs)
            append_or_restore(self.path, json.dumps(state.log_history[-1]) + "\n")
            self.lines += 1


class Curves(TrainerCallback):
    """Draws `curves.png` at each evaluation. `floor.loss` is the loss that no model beats except by chance."""

    def __init__(self, folder: Path, floor):
        self.path = folder / "curves.png"
        self.floor = floor

    @tolerate_full_disk
    def on_evaluate(self, args, state, control, lr_scheduler=None, **kwargs):  # noqa: ARG002
        if state.is_world_process_zero:
            floor = self.floor.loss if self.floor else None
            draw_curves(state.log_history, self.path, floor, _rates_by(lr_scheduler))


def _rates_by(schedule: LRScheduler | None) -> Callable[[int], float] | None:
    """The learning rate as a function of the logged step, which starts at 1; None if the schedule is not one."""
    if not isinstance(schedule, LambdaLR):
        return None
    return lambda step: schedule.base_lrs[0] * schedule.lr_lambdas[0](step - 1)


class Samples(TrainerCallback):
    """Continues a fixed prompt at each evaluation; texts go to `samples.jsonl`, and the newest is `last`."""

    def __init__(self, folder: Path, tokenizer, section: SampleSection, positions: int):
        """`positions` is the model's maximum length; `ConfigError` if the prompt fills it."""
        self.path = folder / "samples.jsonl"
        self.tokenizer = tokenizer
        self.section = section
        self.last = ""
        self.ids = encode_prompt(tokenizer, section.prompt)
        self.longest = min(self.ids.shape[1] + section.max_new_tokens, positions)
        if self.ids.shape[1] >= positions:
            raise ConfigError(f"sample.prompt has {self.ids.shape[1]} tokens and the model {positions}; shorten it")

    def command(self, folder: Path) -> str:
        """The command that samples the same text from the model in `folder`."""
        section = self.section
        return prompt_command(folder, section.prompt, section.temperature, section.seed, section.max_new_tokens)

    @tolerate_full_disk
    def on_train_begin(self, args, state, control, **kwargs):  # noqa: ARG002
        if state.is_world_process_zero:
            truncate_after_step(self.path, state.global_step)

    @tolerate_full_disk
    def on_evaluate(self, args, state, control, model=None, **kwargs):  # noqa: ARG002
        if state.is_world_process_zero:
            if (text := self.draw(model)) is None:
                return tqdm.write(f"step {state.global_step:,}: no sample: the logits are not finite", file=sys.stderr)
            self.last = text
            row = {"step": state.global_step, "prompt": self.section.prompt, "text": text}
            append_or_restore(self.path, json.dumps(row) + "\n")

    def draw(self, model) -> str | None:
        """The prompt and its continuation; None if the logits are not finite.

        Leaves training mode and random state unchanged.
        """
        ids = self.ids.to(model.device)
        settings = Sampling(self.section.temperature).arguments() | {"max_length": self.longest, "use_cache": True}
        was_training = model.training
        model.eval()
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(self.section.seed)
            is_finite = model(ids, logits_to_keep=1).logits.isfinite().all()
            drawn = model.generate(ids, attention_mask=torch.ones_like(ids), **settings) if is_finite else None
        model.train(was_training)
        return None if drawn is None else self.tokenizer.decode(drawn[0], skip_special_tokens=True)


class Progress(ProgressCallback):
    """transformers' progress bar with loss and speed; each evaluation prints a line and a sample."""

    def __init__(self, floor, samples: Samples):
        super().__init__()
        self.floor = floor
        self.samples = samples

    def on_log(self, args, state, control, logs=None, **kwargs):  # noqa: ARG002
        if self.training_bar is not None and "loss" in logs:
            speed = f"{logs['tokens_per_second']:,.0f} tokens/s"
            self.training_bar.set_postfix_str(f"loss {logs['loss']:.3f}, {speed}", refresh=False)

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        super().on_evaluate(args, state, control, **kwargs)
        if self.training_bar is not None:
            sample = " ".join(self.samples.last.split())[:240]
            self.training_bar.write(f"step {state.global_step:,}: {describe(metrics, self.floor)}\n    {sample}")


class Printer(PrinterCallback):
    """transformers' line per log, without the metrics of single groups."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        totals = {name: value for name, value in logs.items() if "/" not in name}
        super().on_log(args, state, control, totals, **kwargs)


def show_progress(trainer: Trainer, progress: ProgressCallback):
    """Replace transformers' progress bar by `progress`, or its printer by `Printer` if `disable_tqdm` is set."""
    wanted = Printer() if trainer.args.disable_tqdm else progress
    trainer.remove_callback(PrinterCallback if trainer.args.disable_tqdm else ProgressCallback)
    trainer.add_callback(wanted)


def describe(metrics: dict, floor) -> str:
    """An evaluation's metrics in a line."""
    line = f"validation loss {metrics['eval_loss']:.4f}"
    averages = ", ".join(f"{name} {loss:.4f}" for name, loss in averaged_losses(metrics).items())
    line += f" ({averages})" if averages else ""
    line += f", perplexity {metrics['eval_perplexity']:.2f}"
    if "eval_bits_per_byte" not in metrics:
        return line
    against = f" (floor {floor.bits_per_byte:.4f})" if floor else ""
    return f"{line}, {metrics['eval_bits_per_byte']:.4f} bits per byte{against}"
