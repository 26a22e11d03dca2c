"""What a run is, and how it is opened: settings, `TrainingArguments`, checkpoint, hardware."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from transformers import TrainingArguments
from transformers.utils.logging import disable_progress_bar

from settings.experiment import Experiment, LanguageExperiment

from .budgets.batch import split_batch
from .checkpoints.fingerprint import RunFingerprint, fingerprint_in
from .checkpoints.resume import checkpoint_to_resume
from .checkpoints.state import read_state_of
from .machine.hardware import describe_hardware, keep_freed_memory
from .optimization.decay_branch import plan_decay
from .preflight.arguments import keep_precision, training_arguments
from .preflight.before_data import check_experiment, check_start


@dataclass
class Run:
    """One run of an experiment, made by `open_run`."""

    experiment: Experiment
    args: TrainingArguments
    checkpoint: str | None
    """The checkpoint folder that it is resumed from, or None."""
    start: str | None
    """Where a run with `model.path` reads its model from: that path, or the checkpoint it is resumed from."""
    fingerprint: RunFingerprint

    @property
    def folder(self) -> Path:
        """The folder for everything that the run writes."""
        return self.experiment.folder

    @cached_property
    def hardware(self) -> dict:
        """Device, precision, processes and peak, as `describe_hardware` finds them."""
        return describe_hardware(self.args)


def open_run(experiment: Experiment) -> Run:
    """The run of an experiment, new or resumed. `ConfigError` for everything that can be checked without data.

    Exits with code 0 if it is resumed and finished already.
    """
    keep_freed_memory()
    disable_progress_bar()  # bars for each file read or written; the training's own stays
    check_experiment(experiment)
    checkpoint = checkpoint_to_resume(experiment)
    keep_precision(experiment.training, checkpoint)
    if experiment.resume.decay_from is not None:
        state = read_state_of(checkpoint)
        plan_decay(experiment, state, fingerprint_in(state).get("terms", {}))
    args = training_arguments(experiment)
    path = experiment.model.get("path")
    start = path and (checkpoint or path)
    if isinstance(experiment, LanguageExperiment):
        split_batch(args, experiment, start)
    run = Run(experiment, args, checkpoint, start, RunFingerprint(experiment, args, checkpoint))
    check_start(experiment, start)
    args.distributed_state.wait_for_everyone()  # all have read the folder before one of them writes
    return run
