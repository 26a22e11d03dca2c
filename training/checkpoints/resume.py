"""Which checkpoint a run resumes from, if any, and whether the run is finished already."""

import os
import sys
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from pathlib import Path

from transformers import TrainingArguments

from publishing.publisher import publish_finished
from settings.checks import ConfigError
from settings.experiment import Experiment
from storage.checkpoint_manifest import CHECKPOINT_NAME, checkpoint_folders, checkpoint_step, find_damage
from storage.files import read_mapping
from training.run_folder import LOCK

from .store import latest_valid


def checkpoint_to_resume(experiment: Experiment) -> str | None:
    """The valid checkpoint to resume from, a branch's trunk at first, or None for a new run.

    `ConfigError` if the folder holds another run.
    """
    resume, folder = experiment.training.get("resume_from_checkpoint", False), experiment.folder
    trunk = experiment.resume.decay_from
    if isinstance(resume, str):
        _check_checkpoint("training.resume_from_checkpoint", resume)
        _check_run_folder(Path(resume), folder)
        return resume
    if trunk is not None and Path(trunk).resolve().parent == folder.resolve():
        raise ConfigError(
            f"resume.decay_from={trunk} lies in {folder}, which stays the trunk's; choose another training.output_dir"
        )
    if resume and folder.is_dir():
        asked = experiment.training.get("max_steps") or -1
        is_finished = not experiment.resume.extend and _may_be_finished(folder, asked)
        with suppress(ConfigError) if is_finished else nullcontext():
            if checkpoint := latest_valid(folder) or _origin(folder):
                return str(checkpoint)
        if is_finished:
            _exit_finished(folder, experiment.training)
        if _read(folder / "metrics.json"):
            raise ConfigError(f"{folder} is finished and has no checkpoint to resume from; choose another folder")
    elif trunk is None and _holds_run(folder):
        raise ConfigError(
            f"{folder} holds a run already; continue it with training.resume_from_checkpoint=true, "
            "or choose another training.output_dir"
        )
    if trunk is not None:  # a branch without a checkpoint of its own
        _check_checkpoint("resume.decay_from", trunk)
        if not resume:
            _check_run_folder(Path(trunk), folder)
    return trunk


def _check_checkpoint(setting: str, given: str):
    """`ConfigError` unless a setting names the folder of a valid checkpoint."""
    if not Path(given).is_dir():
        raise ConfigError(f"{setting}={given} is not a folder; give a checkpoint's")
    check_undamaged(Path(given), setting)


def check_undamaged(checkpoint: Path, setting: str = "training.resume_from_checkpoint"):
    """`ConfigError` if a checkpoint that a setting names is damaged."""
    if why := find_damage(checkpoint):
        raise ConfigError(
            f"{setting}={checkpoint} is damaged: {why}; give another one, or training.resume_from_checkpoint=true for "
            "the newest valid one of the run"
        )


def _holds_run(folder: Path) -> bool:
    return folder.is_dir() and any(path.name != LOCK for path in folder.iterdir())


def _check_run_folder(checkpoint: Path, folder: Path):
    """`ConfigError` if the run folder holds another run, or later checkpoints than the one to resume from."""
    if checkpoint.resolve().parent != folder.resolve():
        if _holds_run(folder) and (checkpoint_folders(folder) or _origin(folder) != checkpoint.resolve()):
            raise ConfigError(f"{folder} holds a run already, not {checkpoint}'s; choose another training.output_dir")
    elif CHECKPOINT_NAME.fullmatch(checkpoint.name):
        later = [
            path.name for path in checkpoint_folders(folder) if checkpoint_step(path) > checkpoint_step(checkpoint)
        ]
        if later:
            raise ConfigError(
                f"{folder} has later checkpoints than {checkpoint.name}: {', '.join(later)}; move them away, or "
                "resume from it in another training.output_dir"
            )


def _origin(folder: Path) -> Path | None:
    """The checkpoint in another folder that a run was resumed from, as long as it has none of its own."""
    if (origin := _read(folder / "provenance.json").get("resumed_from")) is None:
        return None
    origin = Path(origin)
    beside = folder.resolve().parent / origin.parent.name / origin.name  # if both runs were moved together
    origin = beside if beside.is_dir() and not origin.is_dir() else origin
    if why := find_damage(origin):
        raise ConfigError(
            f"{folder} has no checkpoint yet and was resumed from {origin}, which is damaged ({why}); restore it, or "
            "choose another training.output_dir"
        )
    return origin


def _read(path: Path) -> dict:
    """The contents of a JSON file of a run; empty if it is missing or unreadable."""
    with suppress(ConfigError):
        return read_mapping(path, "it is skipped")
    return {}


def _may_be_finished(folder: Path, asked: int) -> bool:
    """Whether a run of `asked` steps looks finished from its files; then its checkpoints may be missing or damaged."""
    metrics = _read(folder / "metrics.json")
    return bool(metrics) and asked in (-1, metrics.get("max_steps", asked))


def _exit_finished(folder: Path, training: Mapping):
    """Exit with code 0, after publishing the run again if `training` asks for it: it may have failed before."""
    if int(os.environ.get("RANK", 0)) == 0:
        print(f"{folder} is finished, nothing is left to do; its results are in {folder / 'metrics.json'}")
        if training.get("push_to_hub"):
            publish_finished(
                folder, training.get("hub_model_id"), training.get("hub_private_repo"), training.get("hub_revision")
            )
    sys.exit(0)


def exit_if_finished(checkpoint: str | None, args: TrainingArguments):
    """Exit with code 0 if a resumed run has made all its steps and saved its results.

    `ConfigError` if it has steps left and its checkpoint cannot be resumed.
    """
    if checkpoint is None:
        return
    metrics = _read(Path(args.output_dir) / "metrics.json")
    if metrics.get("max_steps", metrics.get("steps")) == args.max_steps:  # else it is being extended
        _exit_finished(Path(args.output_dir), vars(args))
    if not any(Path(checkpoint).glob("optimizer*")):
        raise ConfigError(
            f"{checkpoint} holds only the model, because the run had training.save_only_model=True, and cannot be "
            "resumed; start a new run in another training.output_dir, from this model by model.path of train_lm.py"
        )
