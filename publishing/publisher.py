"""Publishes a run on the Hub while it trains, and at its end."""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, NamedTuple

from tqdm import tqdm
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_utils import HubStrategy

from settings.paths import ROOT
from storage.hub import ATTEMPTS

from .snapshot import remove_stale_snapshots, snapshot


class Push(NamedTuple):
    """A running push: the snapshot of a run, the process that uploads it, and its error output."""

    step: int
    snapshot: Path
    process: subprocess.Popen
    errors: IO[str]


class Publisher(TrainerCallback):
    """Publishes checkpoints during training, as `training.hub_strategy` says, and the finished run at the end.

    A push runs in a process of its own, on a complete checkpoint, so the Hub can't affect training. A checkpoint saved
    while another is being pushed is not published, unless `training.hub_always_push` is set.
    """

    SUBFOLDERS = {HubStrategy.CHECKPOINT: "last-checkpoint", HubStrategy.ALL_CHECKPOINTS: "checkpoint-{}"}

    def __init__(self, args: TrainingArguments, folder: Path):
        """Switches the Trainer's own publishing off: it would push pickles, and folders without the model's code."""
        self.folder = folder
        self.wanted = args.push_to_hub and args.should_save
        self.target = folder, args.hub_model_id, args.hub_private_repo
        self.command = _command(*self.target)
        self.waiting: list[tuple[int, Path]] = []
        self.push: Push | None = None
        args.push_to_hub = False

    def on_train_begin(self, args, state, control, **kwargs):  # noqa: ARG002
        if self.wanted:
            remove_stale_snapshots(self.folder)

    def on_save(self, args, state, control, **kwargs):  # noqa: ARG002
        self._advance()
        busy = self.push is not None and not args.hub_always_push
        if not self.wanted or args.hub_strategy == HubStrategy.END or busy:
            return
        kept_as = self.SUBFOLDERS.get(args.hub_strategy, "").format(state.global_step) or None
        checkpoint = self.folder / f"checkpoint-{state.global_step}"
        try:
            self.waiting.append((state.global_step, snapshot(self.folder, checkpoint, kept_as)))
        except Exception as error:  # whatever it is, training continues
            self._report_failure(state.global_step, str(error))
        self._advance()

    def on_log(self, args, state, control, **kwargs):  # noqa: ARG002
        self._advance()

    def finish(self):
        """Publish the finished run. If that fails, exit with code 1 and say how to do it later."""
        if not self.wanted:
            return
        while self.push is not None or self.waiting:
            if self.push is not None:
                self.push.process.wait()
            self._advance()
        publish_finished(*self.target)

    def _advance(self):
        """Clean up after a push that has ended, and start the next."""
        if self.push is not None and self.push.process.poll() is not None:
            with self.push.errors as errors:
                if self.push.process.returncode:
                    errors.seek(0)
                    self._report_failure(self.push.step, errors.read())
            shutil.rmtree(self.push.snapshot, ignore_errors=True)
            self.push = None
        if self.push is None and self.waiting:
            step, there = self.waiting.pop(0)
            try:
                self.push = self._start(step, there)
            except OSError as error:  # no process or file available; training continues
                self._report_failure(step, str(error))
                shutil.rmtree(there, ignore_errors=True)

    def _start(self, step: int, there: Path) -> Push:
        """Start the process that pushes a snapshot."""
        command = [*self.command, "--tries", "1", str(there.resolve())]
        # A file, since nobody reads a pipe meanwhile; torch's error file is for errors of the training.
        errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        environment = {key: value for key, value in os.environ.items() if key != "TORCHELASTIC_ERROR_FILE"}
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=errors
        )
        return Push(step, there, process, errors)

    def _report_failure(self, step: int, why: str):
        last = (why.strip().splitlines() or ["no reason given"])[-1]
        tqdm.write(f"step {step:,} is not published: {last}", file=sys.stderr)


def publish_finished(folder: Path, name: str | None, private: bool | None):
    """Publish a finished run; if that fails, exit with code 1 and the command to do it later."""
    command = _command(folder, name, private)
    done = subprocess.run(
        [*command, "--tries", str(ATTEMPTS), str(folder.resolve())],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    print(done.stdout, end="")
    if done.returncode:
        later = shlex.join(["python", *command[1:], str(folder)])
        sys.exit(f"not published: the run is finished and complete in {folder}; publish it later: {later}")


def _command(folder: Path, name: str | None, private: bool | None) -> list[str]:
    """The command that publishes a run or a snapshot, without its folder."""
    command = [sys.executable, "-m", "publishing", "--to", name or folder.resolve().name]
    return command + ["--private"] * bool(private)
