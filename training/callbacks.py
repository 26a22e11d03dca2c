"""What a run shows, keeps and publishes while it trains: a progress line, metrics.jsonl, samples, curves, its model."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, NamedTuple

import torch
from tqdm import tqdm
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import HubStrategy

from config import ROOT
from sections import ConfigError, SampleSection

from . import snapshot
from .curves import draw_curves
from .generation import Sampling, encode_prompt


class MetricsFile(TrainerCallback):
    """`metrics.jsonl`: one line a log, the very rows of the Trainer's log history.

    After a resume the file is written anew from the restored history, so it never holds a step twice.
    """

    def __init__(self, folder: Path):
        self.path = folder / "metrics.jsonl"

    def on_train_begin(self, args, state, control, **kwargs):  # noqa: ARG002
        if state.is_world_process_zero:
            self.path.write_text("".join(json.dumps(row) + "\n" for row in state.log_history), encoding="utf-8")

    def on_log(self, args, state, control, **kwargs):  # noqa: ARG002
        if state.is_world_process_zero:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(state.log_history[-1]) + "\n")


class Curves(TrainerCallback):
    """`curves.png`, drawn anew at each evaluation. `floor` has the exact `loss` no model can beat, or is None."""

    def __init__(self, folder: Path, floor):
        self.path = folder / "curves.png"
        self.floor = floor

    def on_evaluate(self, args, state, control, **kwargs):  # noqa: ARG002
        if state.is_world_process_zero:
            draw_curves(state.log_history, self.path, self.floor.loss if self.floor else None)


class Samples(TrainerCallback):
    """At each evaluation the model continues a fixed prompt; the texts go to `samples.jsonl`, the newest to `last`."""

    def __init__(self, folder: Path, tokenizer, section: SampleSection, positions: int):
        """`positions` is the model's longest sequence; a prompt that fills it is a `ConfigError`."""
        self.path = folder / "samples.jsonl"
        self.tokenizer = tokenizer
        self.section = section
        self.last = ""
        self.ids = encode_prompt(tokenizer, section.prompt)
        self.longest = min(self.ids.shape[1] + section.max_new_tokens, positions)
        if self.ids.shape[1] >= positions:
            raise ConfigError(f"sample.prompt has {self.ids.shape[1]} tokens and the model {positions}; shorten it")

    def on_train_begin(self, args, state, control, **kwargs):  # noqa: ARG002
        if state.is_world_process_zero and self.path.exists():  # resumed: later samples will be drawn again
            lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if json.loads(line)["step"] <= state.global_step]
            self.path.write_text("".join(kept), encoding="utf-8")

    def on_evaluate(self, args, state, control, model=None, **kwargs):  # noqa: ARG002
        if state.is_world_process_zero:
            self.last = self.draw(model)
            row = {"step": state.global_step, "prompt": self.section.prompt, "text": self.last}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

    def draw(self, model) -> str:
        """The prompt and its continuation. Leaves the training's mode and random state as they were."""
        ids = self.ids.to(model.device)
        settings = Sampling(self.section.temperature).arguments() | {"max_length": self.longest, "use_cache": True}
        was_training = model.training
        model.eval()
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(self.section.seed)
            drawn = model.generate(ids, attention_mask=torch.ones_like(ids), **settings)
        model.train(was_training)
        return self.tokenizer.decode(drawn[0], skip_special_tokens=True)


class Push(NamedTuple):
    """A snapshot of a run on its way to the Hub, the process that brings it there, and what that complains of."""

    step: int
    snapshot: Path
    process: subprocess.Popen
    complaint: IO[str]


class Publisher(TrainerCallback):
    """Publishes checkpoints while training goes on, as `training.hub_strategy` says, and at the end what came out.

    A push is a process of its own, of a finished checkpoint: nothing that the Hub does, or does not, is felt by the
    training. A checkpoint that comes while another is on its way is left out, unless `training.hub_always_push`.
    """

    KEPT_AS = {HubStrategy.CHECKPOINT: "last-checkpoint", HubStrategy.ALL_CHECKPOINTS: "checkpoint-{}"}

    def __init__(self, args: TrainingArguments, folder: Path):
        """Takes over from the Trainer, which would push pickles, and folders without the model's code."""
        self.folder = folder
        self.wanted = args.push_to_hub and args.should_save
        self.command = [sys.executable, "-m", "training.publish"]
        self.command += ["--to", args.hub_model_id or folder.resolve().name]
        self.command += ["--private"] * bool(args.hub_private_repo)
        self.waiting: list[tuple[int, Path]] = []
        self.push: Push | None = None
        args.push_to_hub = False

    def on_train_begin(self, args, state, control, **kwargs):  # noqa: ARG002
        if self.wanted:
            snapshot.remove_left_snapshots(self.folder)

    def on_save(self, args, state, control, **kwargs):  # noqa: ARG002
        self._go_on()
        busy = self.push is not None and not args.hub_always_push
        if not self.wanted or args.hub_strategy == HubStrategy.END or busy:
            return
        kept_as = self.KEPT_AS.get(args.hub_strategy, "").format(state.global_step) or None
        checkpoint = self.folder / f"checkpoint-{state.global_step}"
        try:
            self.waiting.append((state.global_step, snapshot.snapshot(self.folder, checkpoint, kept_as)))
        except Exception as error:  # whatever it is, the training is worth more
            self._complain(state.global_step, str(error))
        self._go_on()

    def on_log(self, args, state, control, **kwargs):  # noqa: ARG002
        self._go_on()

    def finish(self):
        """Publish the finished run. If that fails, exit with code 1 and say how to do it later."""
        if not self.wanted:
            return
        while self.push is not None:
            self.push.process.wait()
            self._go_on()
        last = [*self.command, str(self.folder.resolve())]
        done = subprocess.run(last, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
        print(done.stdout, end="")
        if done.returncode:
            later = shlex.join(["python", *self.command[1:], str(self.folder)])
            sys.exit(f"not published: the run is finished, whole and in {self.folder}; publish it later: {later}")

    def _go_on(self):
        """See to the push that has ended, and start the next."""
        if self.push is not None and self.push.process.poll() is not None:
            with self.push.complaint as complaint:
                if self.push.process.returncode:
                    complaint.seek(0)
                    self._complain(self.push.step, complaint.read())
            shutil.rmtree(self.push.snapshot, ignore_errors=True)
            self.push = None
        if self.push is None and self.waiting:
            step, there = self.waiting.pop(0)
            command = [*self.command, "--tries", "1", str(there.resolve())]
            # A file, for nobody reads a pipe meanwhile; and torch's error file is for what ends the training.
            complaint = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
            environment = {key: value for key, value in os.environ.items() if key != "TORCHELASTIC_ERROR_FILE"}
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=complaint
            )
            self.push = Push(step, there, process, complaint)

    def _complain(self, step: int, why: str):
        last = (why.strip().splitlines() or ["no reason given"])[-1]
        tqdm.write(f"step {step:,} is not published ({last}); training goes on", file=sys.stderr)


class Progress(ProgressCallback):
    """transformers' progress bar with loss and speed beside it; an evaluation prints a readable line and a sample."""

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
    """transformers' line a log, without the numbers of each group."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        totals = {name: value for name, value in logs.items() if "/" not in name}
        super().on_log(args, state, control, totals, **kwargs)


def show_progress(trainer: Trainer, progress: ProgressCallback):
    """Put `progress` in the place of transformers' bar, or `Printer` in that of its lines, if no bar is wanted."""
    wanted = Printer() if trainer.args.disable_tqdm else progress
    trainer.remove_callback(PrinterCallback if trainer.args.disable_tqdm else ProgressCallback)
    trainer.add_callback(wanted)


def describe(metrics: dict, floor) -> str:
    """One line of an evaluation's numbers."""
    line = f"validation loss {metrics['eval_loss']:.4f}, perplexity {metrics['eval_perplexity']:.2f}"
    if "eval_bits_per_byte" not in metrics:
        return line
    against = f" (floor {floor.bits_per_byte:.4f})" if floor else ""
    return f"{line}, {metrics['eval_bits_per_byte']:.4f} bits per byte{against}"
