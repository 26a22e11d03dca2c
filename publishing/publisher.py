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
from transformers import TrainerCallback, TrainerState, TrainingArguments
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


def saved_by_tokens(state: TrainerState) -> dict[str, dict[str, int]]:
    """The `step` and the `tokens` of each checkpoint by tokens that a run has saved, by name."""
    return state.stateful_callbacks.get("TokenCheckpoints", {}).get("attributes", {})


class Publisher(TrainerCallback):
    """Publishes checkpoints during training, as `training.hub_strategy` says, and the finished run at the end.

    A push runs in a process of its own, on a complete checkpoint, so the Hub can't affect training. A checkpoint saved
    while another is being pushed is not published, unless `training.hub_always_push` is set. Checkpoints by tokens are
    all published, by every strategy, each as a branch of its name; what fails is tried again at the end.
    """

    SUBFOLDERS = {HubStrategy.CHECKPOINT: "last-checkpoint", HubStrategy.ALL_CHECKPOINTS: "checkpoint-{}"}

    def __init__(self, args: TrainingArguments, folder: Path):
        """Switches the Trainer's own publishing off: it would push pickles, and folders without the model's code."""
        self.folder = folder
        self.wanted = args.push_to_hub and args.should_save
        self.target = folder, args.hub_model_id, args.hub_private_repo
        self.revision = getattr(args, "hub_revision", None)
        self.waiting: list[tuple[int, Path]] = []
        self.branches: dict[Path, str | None] = {}
        """The branch that a snapshot is pushed to."""
        self.failed: list[tuple[int, Path]] = []
        """Snapshots to try again at the end."""
        self.push: Push | None = None
        args.push_to_hub = False

    def on_train_begin(self, args, state, control, **kwargs):  # noqa: ARG002
        if self.wanted:
            remove_stale_snapshots(self.folder)

    def on_save(self, args, state, control, **kwargs):  # noqa: ARG002
        self._advance()
        if not self.wanted:
            return
        busy = self.push is not None and not args.hub_always_push
        for name, about in saved_by_tokens(state).items():
            if about["step"] == state.global_step:
                self._await_push(state.global_step, None, name)
        if args.hub_strategy != HubStrategy.END and not busy:
            kept_as = self.SUBFOLDERS.get(args.hub_strategy, "").format(state.global_step) or None
            self._await_push(state.global_step, kept_as, self.revision)
        self._advance()

    def _await_push(self, step: int, kept_as: str | None, branch: str | None):
        """Queue a snapshot of a step's checkpoint."""
        try:
            there = snapshot(self.folder, self.folder / f"checkpoint-{step}", kept_as)
        except Exception as error:  # whatever it is, training continues
            return self._report_failure(step, str(error))
        self.waiting.append((step, there))
        self.branches[there] = branch

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
        for step, there in self.failed:
            branch, checkpoint = self.branches[there], f"checkpoint-{step}"
            publish_finished(*self.target, branch, there, checkpoint)
            shutil.rmtree(there, ignore_errors=True)
        publish_finished(*self.target, self.revision)

    def _advance(self):
        """Clean up after a push that has ended, and start the next."""
        if self.push is not None and self.push.process.poll() is not None:
            with self.push.errors as errors:
                if self.push.process.returncode:
                    errors.seek(0)
                    self._report_failure(self.push.step, errors.read())
            self._discard(self.push.step, self.push.snapshot, has_failed=bool(self.push.process.returncode))
            self.push = None
        if self.push is None and self.waiting:
            step, there = self.waiting.pop(0)
            try:
                self.push = self._start(step, there)
            except OSError as error:  # no process or file available; training continues
                self._report_failure(step, str(error))
                self._discard(step, there, has_failed=True)

    def _discard(self, step: int, there: Path, has_failed: bool):
        """Remove a snapshot; one of a checkpoint by tokens that was not published is kept for the end."""
        if has_failed and self.branches.get(there, self.revision) != self.revision:
            self.failed.append((step, there))
        else:
            shutil.rmtree(there, ignore_errors=True)

    def _start(self, step: int, there: Path) -> Push:
        """Start the process that pushes a snapshot."""
        command = [*_command(*self.target, self.branches.get(there)), "--tries", "1", str(there.resolve())]
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


def publish_finished(
    folder: Path,
    name: str | None,
    private: bool | None,
    revision: str | None = None,
    there: Path | None = None,
    checkpoint: str | None = None,
):
    """Publish a finished run; if that fails, exit with code 1 and the command to do it later.

    `revision` is the branch, `there` a snapshot of the `checkpoint` to publish instead.
    """
    command = _command(folder, name, private, revision)
    done = subprocess.run(
        [*command, "--tries", str(ATTEMPTS), str((there or folder).resolve())],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    print(done.stdout, end="")
    if done.returncode:
        of = ["--checkpoint", checkpoint] if checkpoint else []
        later = shlex.join(["python", *command[1:], *of, str(folder)])
        sys.exit(f"not published: the run is finished and complete in {folder}; publish it later: {later}")


def _command(folder: Path, name: str | None, private: bool | None, revision: str | None) -> list[str]:
    """The command that publishes a run or a snapshot to a branch, without its folder."""
    command = [sys.executable, "-m", "publishing", "--to", name or folder.resolve().name]
    command += ["--revision", revision] if revision else []
    return command + ["--private"] * bool(private)
