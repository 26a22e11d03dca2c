"""Prepared folders as data sets: opened as they are, from disk or from the Hub, and published there.

A prepared folder brings its own tokenizer and its own choice of documents. One of the Hub is fetched whole into
`data.cache_dir`, and used from there once all of its shards are what its manifest says.
"""

import json
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path

from huggingface_hub import HfApi, constants, errors, get_token, hf_hub_download, snapshot_download

from sections import ConfigError, DataSection, TokenizerSection

from .files import sha256, write_json
from .shards import patiently
from .sources import SOURCES, HubDataset, LocalFiles, find_source
from .stream import lock_of

FORMAT = 4
MANIFEST, REQUEST = "manifest.json", "request.json"
FILES = ["tokenizer/*", "*/?????.npy", "*/?????.documents.npy"]
"""What of a prepared folder is published. Journals and quarantined records stay: they name paths of this machine."""

CARD = """---
{licence}tags: [kindling, tokens]
---

# {name}

Tokens of {origin}, prepared with Kindling (`kindling-lm`) to train language models on.

```sh
python train_lm.py CONFIG data.source={name}
```

| split | documents | tokens | MB of text |
|---|---|---|---|
{splits}

The tokenizer in `tokenizer/` has {vocabulary:,} tokens ({bytes_per_token} bytes of validation text a token) and loads
with `AutoTokenizer`. A split's ids lie in its folder in arrays of numpy, `00000.npy` and so on, in a row that reads
`end document end document end`; `00000.documents.npy` has where each document begins. `manifest.json` has the counts,
the SHA-256 of each shard and the revision of what was read, `request.json` the settings it was prepared with.

The texts are those of {origin}, and so is their licence.
"""


def request(data: DataSection, section: TokenizerSection) -> dict:
    """The settings that decide what is in a prepared folder."""
    return {"format": FORMAT, "data": data.contents(), "tokenizer": asdict(section)}


def find_prepared(data: DataSection, section: TokenizerSection) -> Path | None:
    """The finished folder that an experiment uses as it is: `data.source`, on disk or on the Hub.

    Offline (HF_HUB_OFFLINE=1) also one that was prepared with the same settings before, or begun if it is streamed; its
    source is not looked at. None if there is none. `ConfigError` if the folder was prepared with other settings.
    """
    folder = None if data.mixture else _named(data)
    if folder is not None:
        _refuse_other_settings(folder, data, section)
        return folder
    return _made_before(data, section) if constants.HF_HUB_OFFLINE else None


def _named(data: DataSection) -> Path | None:
    """The finished folder that `data.source` is the path or the Hub id of."""
    name, folder = data.source, Path(data.source).expanduser()
    if is_prepared(folder):
        return folder
    is_id = name not in SOURCES and name.count("/") == 1 and name[0] not in "./~" and not LocalFiles(name).files()
    return _fetched(data) if is_id else None


def is_prepared(folder: Path) -> bool:
    """Whether a folder holds finished tokens."""
    return (folder / MANIFEST).is_file() and (folder / "tokenizer").is_dir()


def _read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def _made_before(data: DataSection, section: TokenizerSection) -> Path | None:
    """The newest folder of the same settings, if they need the Hub."""
    if not any(isinstance(find_source(name), HubDataset) for name in data.mixture or [data.source]):
        return None
    needed = "train/journal.json" if data.streaming else MANIFEST
    made = sorted(Path(data.cache_dir).glob(f"*/{needed}"), key=lambda path: path.stat().st_mtime, reverse=True)
    folders = [Path(data.cache_dir) / path.relative_to(data.cache_dir).parts[0] for path in made]
    wanted = request(data, section)
    return next((one for one in folders if (one / REQUEST).exists() and _read(one / REQUEST) == wanted), None)


def _refuse_other_settings(folder: Path, data: DataSection, section: TokenizerSection):
    """What is left out is as the folder says; what is given must be so too."""
    made = _read(folder / REQUEST) if (folder / REQUEST).exists() else {}
    if made.get("format") != FORMAT:
        raise ConfigError(f"{data.source} was prepared by another version of Kindling; prepare the source anew")
    if data.streaming:
        raise ConfigError(f"{data.source} is prepared already, data.streaming has no effect; leave it out")
    for name, given, default in [("data", data, DataSection()), ("tokenizer", section, TokenizerSection())]:
        for key, value in made[name].items():
            if key != "source" and getattr(given, key) not in (value, getattr(default, key)):
                raise ConfigError(
                    f"{data.source} was prepared with {name}.{key}={value}, and {getattr(given, key)} is given; "
                    "leave it out, or prepare the source anew"
                )


def _fetched(data: DataSection) -> Path | None:
    """A prepared folder of the Hub in the cache, fetched unless it is there; None if the data set is none."""
    cache, name = Path(data.cache_dir), data.source.replace("/", "--")
    if constants.HF_HUB_OFFLINE:
        return max(cache.glob(f"{name}-{'[0-9a-f]' * 12}"), key=lambda path: path.stat().st_mtime, default=None)
    where = {"repo_id": data.source, "repo_type": "dataset"}
    try:
        manifest = patiently(data.source, lambda: _manifest(where | {"revision": data.revision}))
    except ConfigError as error:
        if isinstance(error.__cause__, errors.RepositoryNotFoundError | errors.RemoteEntryNotFoundError):
            return None  # for `data_prep.sources` to read, or to say what is wrong
        raise
    commit = manifest.parent.name
    folder = cache / f"{name}-{commit[:12]}"
    with lock_of(folder):
        if not folder.exists():
            staging = cache / f".{folder.name}"
            patterns = [*FILES, MANIFEST, REQUEST]
            options = where | {"revision": commit, "local_dir": staging, "allow_patterns": patterns}
            patiently(data.source, lambda: snapshot_download(**options))
            _refuse_damage(staging, data.source)
            shutil.rmtree(staging / ".cache", ignore_errors=True)
            staging.rename(folder)
    return folder


def _manifest(where: dict) -> Path:
    """The manifest of a data set, in a folder that is named by its commit."""
    return Path(hf_hub_download(filename=MANIFEST, **where))


def _refuse_damage(folder: Path, name: str):
    for split, about in _read(folder / MANIFEST)["splits"].items():
        for index, shard in enumerate(about["shards"]):
            path = folder / split / f"{index:05}.npy"
            if not path.exists() or sha256(path) != shard["sha256"]:
                path.unlink(missing_ok=True)
                raise ConfigError(f"{name}: {split}/{path.name} is not what its manifest says; ask who published it")


def publish(folder: Path, name: str):
    """Push a finished prepared folder to the Hub as the data set `name`. `ConfigError` if that fails.

    Paths of this machine are not told: of a local source, only the name.
    """
    if not is_prepared(folder):
        raise ConfigError(f"{folder} is not finished; prepare all of it first, with data.streaming=false")
    if get_token() is None:
        raise ConfigError("nobody is logged in to the Hub; run `hf auth login`, or set HF_TOKEN")
    manifest, settings = _read(folder / MANIFEST), _without_paths(_read(folder / REQUEST))
    manifest["source"] = _without_paths(manifest["source"])
    with tempfile.TemporaryDirectory() as staging:
        for pattern in FILES:
            for path in folder.glob(pattern):
                link = Path(staging) / path.relative_to(folder)
                link.parent.mkdir(exist_ok=True)
                link.symlink_to(path.resolve())
        write_json(Path(staging) / MANIFEST, manifest)
        write_json(Path(staging) / REQUEST, settings)
        (Path(staging) / "README.md").write_text(_card(name, manifest, settings), "utf-8")
        patiently(name, lambda: _push(staging, name), "pushed")


def _push(folder: str, name: str):
    HfApi().create_repo(name, repo_type="dataset", exist_ok=True)
    message = "Tokens prepared with Kindling"
    HfApi().upload_folder(repo_id=name, repo_type="dataset", folder_path=folder, commit_message=message)


def _without_paths(value):
    """A setting, in which local files are called by their names alone."""
    if isinstance(value, dict):
        return {_without_paths(key): _without_paths(inner) for key, inner in value.items()}
    is_local = isinstance(value, str) and value not in SOURCES and (Path(value).exists() or LocalFiles(value).files())
    return Path(value).name if is_local else value


def _card(name: str, manifest: dict, settings: dict) -> str:
    origin = DataSection(source=settings["data"]["source"], mixture=settings["data"]["mixture"]).origin
    known = getattr(SOURCES.get(origin), "licence", "")
    rows = (
        f"| {split} | {about['documents']:,} | {about['tokens']:,} | {about['text_bytes'] / 1e6:,.1f} |"
        for split, about in manifest["splits"].items()
    )
    about = manifest["tokenizer"]
    return CARD.format(
        name=name,
        origin=origin,
        splits="\n".join(rows),
        licence=f"license: {known.lower()}\n" if known and " " not in known else "",
        vocabulary=about["vocabulary"],
        bytes_per_token=about["bytes_per_token"],
    )
