"""Snapshots of a run for publishing: listed files only, without local paths and secrets."""

import json
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import yaml
from huggingface_hub import constants, get_token

from settings.checks import ConfigError
from settings.paths import ROOT
from storage.checkpoint_manifest import (
    RANDOM_STATE,
    STATE_FILES,
    checkpoint_folders,
    checkpoint_step,
    find_damage,
    write_manifest,
)
from storage.files import read_mapping, report_file_errors

CODE = {
    "configuration_kindling.py", "layers.py", "attention.py", "generation.py", "loading.py", "modeling_kindling.py",
    "accounting.py", "releases.py",
}  # fmt: skip
MODEL = CODE | {
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "chat_template.jinja", "model.safetensors", "model.safetensors.index.json",
}  # fmt: skip
SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
CARD, PROVENANCE, EXPERIMENT, METRICS = "README.md", "provenance.json", "experiment.yaml", "metrics.json"
RUN = {CARD, PROVENANCE, EXPERIMENT, METRICS, "metrics.jsonl", "samples.jsonl", "curves.png"}
REQUIRED_FILES = ("config.json", "tokenizer.json", CARD)
FORMATS = {
    ".json": (json.loads, lambda value: json.dumps(value, indent=2) + "\n"),
    ".jsonl": (
        lambda text: [json.loads(line) for line in text.splitlines()],
        lambda rows: "".join(json.dumps(row) + "\n" for row in rows),
    ),
    ".yaml": (yaml.safe_load, lambda value: yaml.safe_dump(value, sort_keys=False, allow_unicode=True)),
    ".md": (str, str),
}
"""How the texts of each kind of file are read and written."""
TEXTS = {name for name in MODEL | RUN | STATE_FILES if Path(name).suffix in FORMATS} - {"tokenizer.json"}
"""Texts that may contain paths; in a tokenizer, they would be part of the vocabulary."""

SNAPSHOT = ".publishing-"
REMEDY = "restore the run's file, or remove it"
PATH = re.compile(r"(?<![\w.:/~])/[^\s/'\"`,:;()\[\]{}|=]+(?:/[^\s/'\"`,:;()\[\]{}|=]+)+")


def snapshot(folder: Path, model: Path, kept_as: str | None = None) -> Path:
    """Make a folder within the run folder with everything to publish, and with the weights of the checkpoint `model`.

    Weights are hard links, so a snapshot takes no space and outlives the checkpoint. `kept_as` is a subfolder for a
    copy of the checkpoint with its training state. The caller removes the snapshot.
    """
    there = Path(tempfile.mkdtemp(prefix=f"{SNAPSHOT}{os.getpid()}-", dir=folder))
    try:
        for target in [there, there / kept_as] if kept_as else [there]:
            target.mkdir(exist_ok=True)
            for path in model.iterdir():
                if _is_of_model(path.name) or (target != there and _is_of_training(path.name)):
                    _link(path, target / path.name)
        for name in RUN if model == folder else RUN - {METRICS}:  # only a finished run has final metrics
            if (folder / name).is_file():
                shutil.copyfile(folder / name, there / name)
        _remove_private_words(there, folder)
        if kept_as:
            write_manifest(there / kept_as)  # as it is now, with private words removed
    except BaseException:
        shutil.rmtree(there)
        raise
    return there


def _is_of_model(name: str) -> bool:
    return bool(name in MODEL or SHARD.fullmatch(name))


def _is_of_training(name: str) -> bool:
    return bool(name in STATE_FILES or RANDOM_STATE.fullmatch(name))


def remove_stale_snapshots(folder: Path):
    """Remove the snapshots of processes that were killed."""
    for left in folder.glob(f"{SNAPSHOT}*"):
        if not psutil.pid_exists(int(left.name.removeprefix(SNAPSHOT).partition("-")[0])):
            shutil.rmtree(left, ignore_errors=True)


def _link(path: Path, target: Path):
    try:
        os.link(path, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, target)


def _remove_private_words(there: Path, folder: Path):
    """Replace paths by their last part in the texts of a snapshot, and remove the token."""
    private = _private_replacements(there) | {str(folder.resolve()): folder.name}
    for path in (path for path in there.rglob("*") if path.name in TEXTS):
        old = _read(path, there)
        if (new := _without(private, old)) != old:
            path.unlink()  # a link: the original stays unchanged
            path.write_text(FORMATS[path.suffix][1](new), encoding="utf-8")


def _read(path: Path, there: Path):
    """Read a text of a snapshot by its format. `ConfigError` names the file in the run."""
    with report_file_errors(there.parent / path.name, REMEDY):
        value = FORMATS[path.suffix][0](path.read_text(encoding="utf-8"))
        if path.name in (EXPERIMENT, PROVENANCE) and not isinstance(value, dict):
            raise TypeError("it holds no keys and values")
        return value


def _without(private: dict[str, str], value):
    """The same value with private words replaced, the longest first."""
    if isinstance(value, dict):
        return {_without(private, key): _without(private, one) for key, one in value.items()}
    if isinstance(value, list):
        return [_without(private, one) for one in value]
    if isinstance(value, str):
        for word in sorted(private, key=len, reverse=True):
            value = value.replace(word, private[word])
    return value


def _private_replacements(there: Path) -> dict[str, str]:
    """Private words and their replacements; two paths with the same last part get different names."""
    places = {Path.cwd(): ".", ROOT: ".", Path(os.path.expanduser("~")): "~", Path(constants.HF_HOME): "~"}
    words = {str(path): instead for path, instead in places.items() if len(path.parts) > 1}
    for path in dict.fromkeys(_paths_in(there)):
        name, count = Path(path).name, 1
        while name in words.values():
            count += 1
            name = f"{Path(path).name} ({count})"
        words.setdefault(path, name)
    return words | ({token: "hf_***"} if (token := get_token()) else {})


def _paths_in(there: Path) -> Iterator[str]:
    """All absolute paths in a run's settings and commands, prompts excluded."""
    for path in (there / name for name in (EXPERIMENT, PROVENANCE)):
        if path.exists():
            about = _read(path, there)
            texts = list(_texts_in({key: value for key, value in about.items() if key != "sample"}))
            words = [word for text in texts for word in _words_in(text) if not word.startswith("sample.")]
            for text in [*texts, *words, *(word.partition("=")[2] for word in words)]:
                found = [text] if Path(text).is_absolute() else PATH.findall(text)
                yield from (one for one in found if len(Path(one).parts) > 1)


def _words_in(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError:  # not every text is a command
        return []


def _texts_in(value) -> Iterator[str]:
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list):
        for one in value:
            yield from _texts_in(one)
    elif isinstance(value, str):
        yield value


def published_model(folder: Path, checkpoint: str | None = None) -> Path:
    """The folder with a run's model: the run folder once it is finished, else its newest valid checkpoint.

    With `checkpoint`, the one of that name. `ConfigError` if there is none, or no model card.
    """
    if checkpoint is not None:
        if why := find_damage(folder / checkpoint):
            raise ConfigError(f"{folder / checkpoint} cannot be published: {why}; give a checkpoint of the run")
        return folder / checkpoint
    newest = next((path for path in checkpoint_folders(folder) if find_damage(path) is None), None)
    steps = checkpoint_step(newest) if newest else 0
    finished = read_mapping(folder / METRICS, REMEDY).get("steps", 0) if (folder / METRICS).exists() else -1
    for model in filter(None, [folder, newest] if finished >= steps else [newest, folder]):
        if any((model / name).exists() for name in ("model.safetensors", "model.safetensors.index.json")):
            if missing := [
                name for name in REQUIRED_FILES if not ((model / name).exists() or (folder / name).exists())
            ]:
                raise ConfigError(f"{folder} has no {missing[0]}; give a folder that a training script has written")
            return model
    raise ConfigError(f"{folder} holds no model; give the folder of a run that has saved one")
