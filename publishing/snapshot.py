"""What of a run is published: files on a list, without what belongs on this machine alone."""

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
NEEDED = ("config.json", "tokenizer.json", CARD)
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
"""What may tell a path. In a tokenizer, one is a word of the vocabulary."""

SNAPSHOT = ".publishing-"
REMEDY = "put back what the run has written, or take it away"
PATH = re.compile(r"(?<![\w.:/~])/[^\s/'\"`,:;()\[\]{}|=]+(?:/[^\s/'\"`,:;()\[\]{}|=]+)+")


def snapshot(folder: Path, model: Path, kept_as: str | None = None) -> Path:
    """A folder below `folder`, a run's, with all that is published of it, and with `model`, a checkpoint of its.

    Weights are hard links, so it costs no space and outlives the checkpoint. `kept_as` is a subfolder that has the
    checkpoint once more, with all that it takes to resume it. Whoever asks for a snapshot removes it.
    """
    there = Path(tempfile.mkdtemp(prefix=f"{SNAPSHOT}{os.getpid()}-", dir=folder))
    try:
        for target in [there, there / kept_as] if kept_as else [there]:
            target.mkdir(exist_ok=True)
            for path in model.iterdir():
                if _is_of_model(path.name) or (target != there and _is_of_training(path.name)):
                    _link(path, target / path.name)
        for name in RUN if model == folder else RUN - {METRICS}:  # which are a finished run's
            if (folder / name).is_file():
                shutil.copyfile(folder / name, there / name)
        _hide_this_machine(there, folder)
        if kept_as:
            write_manifest(there / kept_as)  # as it is now, without what is hidden
    except BaseException:
        shutil.rmtree(there)
        raise
    return there


def _is_of_model(name: str) -> bool:
    return bool(name in MODEL or SHARD.fullmatch(name))


def _is_of_training(name: str) -> bool:
    return bool(name in STATE_FILES or RANDOM_STATE.fullmatch(name))


def remove_left_snapshots(folder: Path):
    """Those of processes that were killed."""
    for left in folder.glob(f"{SNAPSHOT}*"):
        if not psutil.pid_exists(int(left.name.removeprefix(SNAPSHOT).partition("-")[0])):
            shutil.rmtree(left, ignore_errors=True)


def _link(path: Path, target: Path):
    try:
        os.link(path, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, target)


def _hide_this_machine(there: Path, folder: Path):
    """Write the texts of a snapshot without paths, of which the last part stays, and without the token."""
    private = _private_words(there) | {str(folder.resolve()): folder.name}
    for path in (path for path in there.rglob("*") if path.name in TEXTS):
        old = _read(path, there)
        if (new := _without(private, old)) != old:
            path.unlink()  # a link, whose other end stays as it is
            path.write_text(FORMATS[path.suffix][1](new), encoding="utf-8")


def _read(path: Path, there: Path):
    """A text of a snapshot, as its kind of file is read. `ConfigError` names the file that it is of in the run."""
    with report_file_errors(there.parent / path.name, REMEDY):
        value = FORMATS[path.suffix][0](path.read_text(encoding="utf-8"))
        if path.name in (EXPERIMENT, PROVENANCE) and not isinstance(value, dict):
            raise TypeError("it holds no keys and values")
        return value


def _without(private: dict[str, str], value):
    """The same value with other words for the private ones, the longest first."""
    if isinstance(value, dict):
        return {_without(private, key): _without(private, one) for key, one in value.items()}
    if isinstance(value, list):
        return [_without(private, one) for one in value]
    if isinstance(value, str):
        for word in sorted(private, key=len, reverse=True):
            value = value.replace(word, private[word])
    return value


def _private_words(there: Path) -> dict[str, str]:
    """What is told to nobody, and what stands in its place: of two paths with the same last part, another name each."""
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
    """Every absolute path in a run's settings and in the commands it was started by; prompts are none."""
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


def model_of(folder: Path) -> Path:
    """Where the model of a run folder is: in itself once it is finished, else in its newest whole checkpoint.

    `ConfigError` if there is none, or no model card.
    """
    newest = next((path for path in checkpoint_folders(folder) if find_damage(path) is None), None)
    steps = checkpoint_step(newest) if newest else 0
    finished = read_mapping(folder / METRICS, REMEDY).get("steps", 0) if (folder / METRICS).exists() else -1
    for model in filter(None, [folder, newest] if finished >= steps else [newest, folder]):
        if any((model / name).exists() for name in ("model.safetensors", "model.safetensors.index.json")):
            if missing := [name for name in NEEDED if not ((model / name).exists() or (folder / name).exists())]:
                raise ConfigError(f"{folder} has no {missing[0]}; give a folder that a training script has written")
            return model
    raise ConfigError(f"{folder} holds no model; give the folder of a run that has saved one")
