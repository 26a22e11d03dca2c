"""The provenance of a run: settings, command, commit, package versions, hardware."""

import importlib.metadata
import platform
import shutil
import subprocess
import uuid
from pathlib import Path

from omegaconf import OmegaConf
from transformers import TrainingArguments

from modeling.configuration_kindling import KindlingConfig
from settings.experiment import Experiment
from settings.overrides import escape_interpolation
from settings.paths import ROOT
from storage.files import read_mapping, write_atomically, write_json
from training.model import model_settings
from training.pretrained import describe_start
from training.processes import command
from training.run import Run

PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "accelerate", "evaluate", "numpy")


def record_start(run: Run, config: KindlingConfig):
    """Before the first step, record everything needed to repeat the run."""
    settings = resolve(run.experiment, run.args, config)
    write_provenance(settings, run.folder, run.hardware, run.checkpoint)


def resolve(experiment: Experiment, args: TrainingArguments, config: KindlingConfig) -> dict:
    """All settings of a run, with the values that hardware, tokenizer and defaults have determined."""
    settings = experiment.as_dict()
    settings["model"] |= model_settings(experiment.model, config)
    settings["training"] |= {name: getattr(args, name) for name in ("bf16", "fp16", "use_cpu", "seed")}
    settings["training"].pop("resume_from_checkpoint", None)
    settings.pop("resume")
    return settings


def write_provenance(settings: dict, folder: Path, hardware: dict, checkpoint: str | None):
    """Write `experiment.yaml`, and `provenance.json` with everything else needed to repeat the run.

    A resumed run keeps both and adds its command.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if checkpoint is not None and all((folder / name).exists() for name in ("experiment.yaml", "provenance.json")):
        about = read_provenance(folder)
        about.setdefault("resumed_by", []).append(command())
        return write_json(folder / "provenance.json", about)
    about = {
        "id": uuid.uuid4().hex,
        "command": command(),
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain")),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "hardware": hardware,
    }
    if path := settings["model"].get("path"):
        about["started_from"] = describe_start(path)
    if checkpoint is not None:
        about["resumed_from"] = str(Path(checkpoint).resolve())
    write_json(folder / "provenance.json", about)
    write_settings(settings, folder)


def write_settings(settings: dict, folder: Path):
    """Write `experiment.yaml`, from which the scripts make the same run."""
    write_atomically(folder / "experiment.yaml", OmegaConf.to_yaml(OmegaConf.create(escape_interpolation(settings))))


def read_provenance(folder: Path) -> dict:
    """The provenance of the run in a folder."""
    return read_mapping(folder / "provenance.json", "restore the run's file, or remove it")


def _git(*arguments) -> str | None:
    if shutil.which("git") is None:
        return None
    result = subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    return result.stdout.strip() if result.returncode == 0 else None
