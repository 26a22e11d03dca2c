"""`Run`: the settings, `TrainingArguments`, checkpoint and hardware of a run."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from transformers import TrainingArguments

from settings.experiment import Experiment

from .checkpoints.fingerprint import RunFingerprint
from .machine.hardware import describe_hardware


@dataclass
class Run:
    """One run of an experiment, made by `open_run`."""

    experiment: Experiment
    args: TrainingArguments
    checkpoint: str | None
    """The checkpoint folder that it is resumed from, or None."""
    fingerprint: RunFingerprint

    @property
    def folder(self) -> Path:
        """The folder for everything that the run writes."""
        return self.experiment.folder

    @property
    def start(self) -> str | None:
        """Where a run with `model.path` reads its model from: that path, or the checkpoint it is resumed from."""
        path = self.experiment.model.get("path")
        return path and (self.checkpoint or path)

    @cached_property
    def hardware(self) -> dict:
        """Device, precision, processes and peak, as `describe_hardware` finds them."""
        return describe_hardware(self.args)
