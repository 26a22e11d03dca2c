"""Publishes a run on the Hub, with what it takes to load it anywhere, and without what belongs on this machine alone.

    python -m training.publish runs/demo                             as the model `demo` of whoever is logged in
    python -m training.publish runs/demo --to USER/NAME --private

Of a run that is not finished it is the newest checkpoint. Only files whose names `MODEL` and `RUN` list ever leave,
and those of `RESUME`, the state of training, with a checkpoint that is kept as one; no pickle. Paths of this machine
and the token are taken out of the texts.
"""

import argparse
import hashlib
import json
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import yaml
from huggingface_hub import HfApi, constants, get_session, get_token, hf_hub_download

import hub
from config import ROOT, one_sentence
from sections import ConfigError

from .checkpoint import MANIFEST, RANDOM_STATE, STATE, seal

CODE = {
    "configuration_kindling.py", "layers.py", "attention.py", "generation.py", "modeling_kindling.py", "accounting.py",
}  # fmt: skip
MODEL = CODE | {
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "chat_template.jinja", "model.safetensors", "model.safetensors.index.json",
}  # fmt: skip
SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
CARD, PROVENANCE, EXPERIMENT = "README.md", "provenance.json", "experiment.yaml"
RUN = {CARD, PROVENANCE, EXPERIMENT, "metrics.json", "metrics.jsonl", "samples.jsonl", "curves.png"}
RESUME = STATE
NEEDED = ("config.json", "tokenizer.json", CARD)

SNAPSHOT = ".publishing-"
PATH = re.compile(r"(?<![\w.:/~])/[^\s/'\"`,:;()\[\]{}|=]+(?:/[^\s/'\"`,:;()\[\]{}|=]+)+")


def snapshot(folder: Path, model: Path, kept_as: str | None = None) -> Path:
    """A folder below `folder`, a run's, with all that is published of it, and with `model`, a checkpoint of its.

    Weights are hard links, so it costs no space and outlives the checkpoint. `kept_as` is a subfolder that has the
    checkpoint once more, to resume from too. Whoever asks for a snapshot removes it.
    """
    there = Path(tempfile.mkdtemp(prefix=SNAPSHOT, dir=folder))
    try:
        for target in (there, there / (kept_as or ".")):
            target.mkdir(exist_ok=True)
            for path in model.iterdir():
                if _may_leave(path.name, is_kept=target != there) and not (target / path.name).exists():
                    _link(path, target / path.name)
        for name in RUN:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, there / name)
        _hide_this_machine(there, folder)
        if kept_as and (model / MANIFEST).exists():
            seal(there / kept_as)  # as it is now, without what is hidden
    except BaseException:
        shutil.rmtree(there)
        raise
    return there


def _may_leave(name: str, is_kept: bool) -> bool:
    state = name in RESUME or RANDOM_STATE.fullmatch(name)
    return bool(name in MODEL or SHARD.fullmatch(name) or (is_kept and state))


def _link(path: Path, target: Path):
    try:
        os.link(path, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, target)


def _hide_this_machine(there: Path, folder: Path):
    """Write the texts of a snapshot without paths, of which the last part stays, and without the token."""
    texts = [path for path in there.rglob("*") if path.suffix in (".json", ".jsonl", ".md", ".yaml")]
    private = _private_words(there) | {str(folder.resolve()): folder.name}
    for path in texts:
        old = path.read_text(encoding="utf-8")
        new = old
        for word in sorted(private, key=len, reverse=True):
            new = new.replace(word, private[word])
        if new != old:
            path.unlink()  # a link, whose other end stays as it is
            path.write_text(new, encoding="utf-8")


def _private_words(there: Path) -> dict[str, str]:
    """What is told to nobody, and what stands in its place."""
    places = {Path.cwd(): ".", ROOT: ".", Path.home(): "~", Path(constants.HF_HOME): "~"}
    words = {str(path): instead for path, instead in places.items() if len(path.parts) > 1}
    for text in _settings_of(there):
        paths = [text] if Path(text).is_absolute() else PATH.findall(text)
        words |= {path: Path(path).name for path in paths if len(Path(path).parts) > 1}
    return words | ({token: "hf_***"} if (token := get_token()) else {})


def _settings_of(there: Path) -> Iterator[str]:
    """Every text in a run's settings and in what is known of how it came about, commands in parts."""
    for name in (EXPERIMENT, PROVENANCE):
        if (there / name).exists():
            for text in _texts_in(yaml.safe_load((there / name).read_text(encoding="utf-8"))):
                yield text
                with suppress(ValueError):  # not every text is a command
                    yield from (part for word in shlex.split(text) for part in (word, word.partition("=")[2]))


def _texts_in(value) -> Iterator[str]:
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list):
        for one in value:
            yield from _texts_in(one)
    elif isinstance(value, str):
        yield value


def push(there: Path, name: str, private: bool) -> str:
    """Push a snapshot as the model `name`, USER/NAME or NAME, which is made if there is none; return its address.

    Nothing of anybody else's is touched, and a card that was changed there is kept.
    """
    repository = HfApi().create_repo(name, private=private or None, exist_ok=True).repo_id
    known = set(HfApi().list_repo_files(repository))
    if EXPERIMENT not in known and known - {".gitattributes", CARD}:
        raise ConfigError(f"{repository} holds something else already; publish under another name")
    card = (there / CARD).read_text(encoding="utf-8")
    card = re.sub(r'model="[^"]*"', f'model="{repository}"', card, count=1)
    (there / CARD).write_text(card, encoding="utf-8")
    about = _read(there / PROVENANCE) if (there / PROVENANCE).exists() else {}
    (there / PROVENANCE).write_text(json.dumps(about | {"card": _hash(card)}, indent=2) + "\n", encoding="utf-8")
    HfApi().upload_folder(
        repo_id=repository,
        folder_path=there,
        ignore_patterns=[] if _is_our_card(repository, known) else [CARD],
        # what was in other files before
        delete_patterns=["model*.safetensors*", *[f"{one.name}/*" for one in there.iterdir() if one.is_dir()]],
        commit_message=f"{Path(name).name} by Kindling",
    )
    return f"{constants.ENDPOINT}/{repository}"


def _is_our_card(repository: str, known: set[str]) -> bool:
    """Whether there is no card yet, or the one that was pushed last."""
    if not {CARD, PROVENANCE} <= known:
        return CARD not in known
    card, about = (Path(hf_hub_download(repository, name)) for name in (CARD, PROVENANCE))
    return _hash(card.read_text(encoding="utf-8")) == _read(about).get("card")


def _read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def model_of(folder: Path) -> Path:
    """Where the model of a run folder is: in itself once it is finished, before that in its newest checkpoint.

    `ConfigError` if there is none, or no model card.
    """
    checkpoints = [path for path in folder.glob("checkpoint-*") if path.name.partition("-")[2].isdigit()]
    newest = sorted(checkpoints, key=lambda path: int(path.name.partition("-")[2]), reverse=True)
    for model in (folder, *newest):
        if any((model / name).exists() for name in ("model.safetensors", "model.safetensors.index.json")):
            if missing := [name for name in NEEDED if not ((model / name).exists() or (folder / name).exists())]:
                raise ConfigError(f"{folder} has no {missing[0]}; give a folder that a training script has written")
            return model
    raise ConfigError(f"{folder} holds no model; give the folder of a run that has saved one")


def publish(folder: Path, name: str | None, private: bool) -> str:
    """Publish a run folder, or push a snapshot as it is. `ConfigError` if that cannot be done, or not now."""
    hub.refuse_anonymous()
    is_snapshot, name = folder.name.startswith(SNAPSHOT), name or folder.resolve().name
    refuse_name(name)
    there = folder if is_snapshot else snapshot(folder, model_of(folder))
    try:
        return hub.patiently(name, lambda: push(there, name, private), "published")
    finally:
        if not is_snapshot:
            shutil.rmtree(there)


def refuse_name(name: str):
    """`ConfigError` if no model can have this name."""
    if not hub.is_hub_name(name):
        raise ConfigError(
            f"{name!r} is no name for a model, which has letters, digits, - _ and .; give NAME or USER/NAME as "
            "training.hub_model_id, or as --to"
        )


def main():
    parser = argparse.ArgumentParser(prog="python -m training.publish", description="Publish a run on the Hub.")
    parser.add_argument("run", type=Path, help="folder of a run, finished or not")
    parser.add_argument("--to", metavar="NAME", help="USER/NAME, or NAME below your own (default: the folder's name)")
    parser.add_argument("--private", action="store_true", help="for nobody else to see, if it is new")
    parser.add_argument("--tries", type=int, default=hub.ATTEMPTS, help="how often, with growing waits (default: 8)")
    parser.add_argument("--timeout", type=float, default=60, help="seconds of silence to put up with (default: 60)")
    arguments = parser.parse_args()
    with one_sentence("training.publish"):
        if not arguments.run.is_dir():
            raise ConfigError(f"there is no folder {arguments.run}; give the folder of a run")
        hub.ATTEMPTS = max(arguments.tries, 1)
        get_session().timeout = arguments.timeout  # by default a Hub that says nothing is waited for without end
        print(f"published   {publish(arguments.run, arguments.to, arguments.private)}", file=sys.stdout)


if __name__ == "__main__":
    main()
