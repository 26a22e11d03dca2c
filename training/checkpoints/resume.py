"""Going on with a run: from which checkpoint, whether as the run that it was, and how much further."""

import os
import sys
from contextlib import nullcontext, suppress
from pathlib import Path

from publishing.publisher import publish_finished
from settings.checks import ConfigError
from settings.experiment import Experiment
from storage.checkpoint_manifest import CHECKPOINT_NAME, checkpoint_folders, checkpoint_step, find_damage
from storage.files import read_mapping
from training.run import Run
from training.run_folder import LOCK

from .store import newest_whole, refuse_damaged


def checkpoint_to_resume(experiment: Experiment) -> str | None:
    """The checkpoint to go on from, which is whole, or None to start; refuses to write into another run's folder."""
    resume, folder = experiment.training.get("resume_from_checkpoint", False), experiment.folder
    if isinstance(resume, str):
        if not Path(resume).is_dir():
            raise ConfigError(f"training.resume_from_checkpoint={resume} is no folder; give a checkpoint's, or true")
        refuse_damaged(Path(resume))
        _refuse_others(Path(resume), folder)
        return resume
    if resume and folder.is_dir():
        is_finished = _may_be_finished(experiment)
        with suppress(ConfigError) if is_finished else nullcontext():
            if checkpoint := newest_whole(folder) or _origin(folder):
                return str(checkpoint)
        if is_finished:
            _leave_finished(experiment)
        if _read(folder / "metrics.json"):
            raise ConfigError(f"{folder} is finished and has no checkpoint to go on from; choose another folder")
        return None
    if _is_taken(folder):
        raise ConfigError(
            f"{folder} holds a run already; continue it with training.resume_from_checkpoint=true, "
            "or choose another training.output_dir"
        )
    return None


def _is_taken(folder: Path) -> bool:
    return folder.is_dir() and any(path.name != LOCK for path in folder.iterdir())


def _refuse_others(checkpoint: Path, folder: Path):
    """`ConfigError` if the folder has another run, or the same as it went on from the checkpoint before."""
    if checkpoint.resolve().parent != folder.resolve():
        if _is_taken(folder) and (checkpoint_folders(folder) or _origin(folder) != checkpoint.resolve()):
            raise ConfigError(f"{folder} holds a run already, not {checkpoint}'s; choose another training.output_dir")
    elif CHECKPOINT_NAME.fullmatch(checkpoint.name):
        later = [
            path.name for path in checkpoint_folders(folder) if checkpoint_step(path) > checkpoint_step(checkpoint)
        ]
        if later:
            raise ConfigError(
                f"{folder} has later checkpoints than {checkpoint.name}: {', '.join(later)}; move them away, or go on "
                "from it in another training.output_dir"
            )


def _origin(folder: Path) -> Path | None:
    """The checkpoint of another folder that a run went on from, until it has its own."""
    if (origin := _read(folder / "provenance.json").get("resumed_from")) is None:
        return None
    origin = Path(origin)
    beside = folder.resolve().parent / origin.parent.name / origin.name  # as both runs are, if they were moved together
    origin = beside if beside.is_dir() and not origin.is_dir() else origin
    if why := find_damage(origin):
        raise ConfigError(
            f"{folder} has no checkpoint yet and went on from {origin}, which is damaged ({why}); restore that, or "
            "choose another training.output_dir"
        )
    return origin


def _read(path: Path) -> dict:
    """What a run has written down; nothing where it has not, or it is no longer to be read."""
    with suppress(ConfigError):
        return read_mapping(path, "it is passed over")
    return {}


def _may_be_finished(experiment: Experiment) -> bool:
    """Whether the run is, as far as can be told before any work; then its checkpoints may be gone or damaged."""
    metrics, asked = _read(experiment.folder / "metrics.json"), experiment.training.get("max_steps") or -1
    return bool(metrics) and not experiment.resume.extend and asked in (-1, metrics.get("max_steps", asked))


def _leave_finished(experiment: Experiment):
    """Publish the run if that is wanted, for that may have failed before."""
    folder, training = experiment.folder, experiment.training
    if int(os.environ.get("RANK", 0)) == 0:
        print(f"{folder} is finished, nothing is left to do; what came out is in {folder / 'metrics.json'}")
        if training.get("push_to_hub"):
            publish_finished(folder, training.get("hub_model_id"), training.get("hub_private_repo"))
    sys.exit(0)


def leave_if_finished(run: Run):
    """End with exit code 0, nothing touched, if the run has made all its steps and is written down.

    `ConfigError` if it has steps to make, and a checkpoint that cannot be resumed.
    """
    if run.checkpoint is None:
        return
    metrics = _read(run.folder / "metrics.json")
    if metrics.get("max_steps", metrics.get("steps")) == run.args.max_steps:  # else it is being extended
        _leave_finished(run.experiment)
    if not any(Path(run.checkpoint).glob("optimizer*")):
        raise ConfigError(
            f"{run.checkpoint} has the model alone, for the run had training.save_only_model=True, so that nothing can "
            "go on from it as it was; train anew, or train_lm.py with model.path, in another training.output_dir"
        )
