"""One run: its model, its folder, what is kept of how it came about."""

from pathlib import Path

from transformers import TrainerState, TrainingArguments

from settings.experiment import Experiment


def start_of(experiment: Experiment, checkpoint: str | None) -> str | None:
    """The checkpoint that the model is read from: `model.path`, or what such a run is resumed from; or None."""
    path = experiment.model.get("path")
    return path and (checkpoint or path)


def folder_of(experiment: Experiment) -> Path:
    """The run folder."""
    return Path(experiment.training["output_dir"])


def read_state_of(checkpoint: str) -> TrainerState:
    """What the Trainer knew when it wrote a checkpoint."""
    return TrainerState.load_from_json(str(Path(checkpoint) / "trainer_state.json"))


def batch_size(args: TrainingArguments) -> int:
    """Examples a step, of all devices."""
    return args.train_batch_size * args.gradient_accumulation_steps * args.world_size
