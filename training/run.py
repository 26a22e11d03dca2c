"""What a run is: its experiment, transformers' arguments, and the checkpoint that it is resumed from."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from transformers import TrainingArguments

from settings.experiment import Experiment

from .checkpoints.fingerprint import RunFingerprint
from .hardware import describe_hardware


@dataclass
class Run:
    """One run of an experiment; `open_run` makes it."""

    experiment: Experiment
    args: TrainingArguments
    checkpoint: str | None
    """The folder that it is resumed from, or None."""
    fingerprint: RunFingerprint

    @property
    def folder(self) -> Path:
        """Where everything goes that it writes."""
        return self.experiment.folder

    @property
    def start(self) -> str | None:
        """The checkpoint that its model is read from: `model.path`, or the one that such a run is resumed from."""
        path = self.experiment.model.get("path")
        return path and (self.checkpoint or path)

    @cached_property
    def hardware(self) -> dict:
        """Device, precision, processes and peak, as `describe_hardware` finds them."""
        return describe_hardware(self.args)
