"""Uses prepared folders from disk or from the Hub as they are, and publishes them as data sets.

A prepared folder determines its tokenizer and documents. A published one has `kindling.json` with the SHA-256 of each
file: it is downloaded into `data.cache_dir`, and used once all files are verified.
"""

import json
import re
import shlex
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path, PurePosixPath

from huggingface_hub import HfApi, constants, errors, hf_hub_download, snapshot_download

from data_prep.sources.table import SOURCES, HubDataset, find_source
from data_prep.tokenizer import build as tokenizers
from settings.checks import ConfigError
from settings.data_sections import DataSection, TokenizerSection
from settings.wording import format_bytes
from storage.files import sha256, write_json
from storage.hub import check_hub_reachable, check_push_allowed, check_repository, is_hub_name, with_retries

from .lock import lock_of

FORMAT = 4
MANIFEST, REQUEST, HASHES_FILE, README = "manifest.json", "request.json", "kindling.json", "README.md"
FOLDERS = ["tokenizer/*", "train/*", "validation/*"]
PUBLISHED = re.compile(r"tokenizer/\w[\w.-]*|(train|validation)/\d+(\.documents)?\.npy|manifest\.json|request\.json")
"""The files of a prepared folder that are published; journals and quarantined records contain local paths."""

CARD = """---
{licence}tags: [kindling, tokens]
---

# {name}

Tokens of {origin}, prepared with Kindling (`kindling-lm`) for training language models.

```sh
python train_lm.py CONFIG {source}
```

| split | documents | tokens | text |
|---|---|---|---|
{splits}

The tokenizer in `tokenizer/` has {vocabulary:,} tokens ({bytes_per_token} bytes per token of validation text) and loads
with `AutoTokenizer`. The ids of a split are in its folder as NumPy arrays, `00000.npy` and so on, one sequence
`end document end document end`; `00000.documents.npy` has the start of each document. `manifest.json` has the counts,
the SHA-256 of each shard and the revisions that were read, `request.json` the settings it was prepared with.

The texts are those of {origin}, under the same licence.
"""


def request(data: DataSection, section: TokenizerSection) -> dict:
    """The settings that determine the contents of a prepared folder, as given."""
    return {"format": FORMAT, "data": data.contents(), "tokenizer": asdict(section)}


def find_prepared(data: DataSection, section: TokenizerSection) -> Path | None:
    """The prepared folder that `data.source` names, on disk or on the Hub; None if it names none.

    Offline (HF_HUB_OFFLINE=1), also a local folder prepared earlier with the same settings (or started, if streaming),
    without checking its source. `ConfigError` if `data.source` was prepared with other settings.
    """
    folder = Path(data.source).expanduser()
    if data.mixture is None and is_prepared(folder):
        _check_same_settings(folder / REQUEST, data, section)
    else:
        folder = _on_the_hub(data, section)
    if folder is not None and section.kind == "pretrained":
        _check_same_tokenizer(folder, data, section)
    sources = map(find_source, data.mixture or [data.source])
    if folder is None and constants.HF_HUB_OFFLINE and any(isinstance(source, HubDataset) for source in sources):
        folder = prepared_earlier(data, section)
    return folder


def _on_the_hub(data: DataSection, section: TokenizerSection) -> Path | None:
    """A published folder; `ConfigError` if a source does not exist on the Hub."""
    for source in map(find_source, data.mixture or [data.source]):
        if isinstance(source, HubDataset):
            check_repository(source.id, "dataset")  # switches to offline if the Hub cannot be reached
    is_named = data.mixture is None and data.source not in SOURCES
    return _download_published(data, section) if is_named and isinstance(find_source(data.source), HubDataset) else None


def is_prepared(folder: Path) -> bool:
    """Whether a folder holds finished tokens."""
    return all((folder / name).exists() for name in (MANIFEST, REQUEST, "tokenizer"))


def _read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def prepared_earlier(data: DataSection, section: TokenizerSection) -> Path | None:
    """The newest local folder prepared with the same settings; its source is not compared."""
    journals = sorted(Path(data.cache_dir).glob("[!.]*/train/journal.json"), key=lambda path: -path.stat().st_mtime)
    folders = [path.parent.parent for path in journals if (path.parent.parent / REQUEST).exists()]
    wanted = request(data, section)
    return next((one for one in folders if matches_request(one, wanted) and (data.streaming or is_prepared(one))), None)


def matches_request(folder: Path, wanted: dict) -> bool:
    """Whether a folder was prepared with this `request`."""
    made = _read(folder / REQUEST)
    return {key: made[key] for key in wanted} == wanted


def _check_same_settings(path: Path, data: DataSection, section: TokenizerSection):
    """`ConfigError` if a given setting differs from the folder's request; a tokenizer path is compared elsewhere."""
    made = _read(path)
    if made["format"] != FORMAT:
        raise ConfigError(f"{data.source} was prepared by another version of Kindling; prepare the source again")
    sections = [("data", data, DataSection()), ("tokenizer", section, TokenizerSection())]
    for name, given, default in sections[: 1 if section.kind == "pretrained" else 2]:
        for key in vars(default).keys() & made[name].keys() - {"source", "revision"}:
            if getattr(given, key) not in (made[name][key], getattr(default, key)):
                raise ConfigError(
                    f"{data.source} was prepared with {name}.{key}={made[name][key]}, and {getattr(given, key)} is "
                    "given; leave it out, or prepare the source again"
                )


def _check_same_tokenizer(folder: Path, data: DataSection, section: TokenizerSection):
    """`ConfigError` if the tokenizer at `tokenizer.path` exists and differs from the folder's own."""
    if _read(folder / REQUEST)["tokenizer"]["path"] == section.path and not Path(section.path).exists():
        return
    given, own = (
        tokenizers.load_tokenizer(path).backend_tokenizer.to_str() for path in (section.path, str(folder / "tokenizer"))
    )
    if given != own:
        raise ConfigError(
            f"{data.source} was prepared with another tokenizer than tokenizer.path={section.path}; leave that out, or "
            "prepare the source again"
        )


def _download_published(data: DataSection, section: TokenizerSection) -> Path | None:
    """A published folder in the cache, downloaded unless present; None if the data set is not a published folder."""
    cache, name = Path(data.cache_dir), data.source.replace("/", "--")
    if constants.HF_HUB_OFFLINE:
        wanted = data.revision[:12] if data.revision else "[0-9a-f]" * 12
        return max(cache.glob(f"{name}-{wanted}"), key=lambda path: path.stat().st_mtime, default=None)
    where = {"repo_id": data.source, "repo_type": "dataset"}
    try:
        mark = with_retries(data.source, lambda: hf_hub_download(filename=HASHES_FILE, revision=data.revision, **where))
    except ConfigError as error:
        if isinstance(error.__cause__, errors.RepositoryNotFoundError | errors.RemoteEntryNotFoundError):
            return None  # `data_prep.sources` then reads it, or reports what is wrong
        raise
    where |= {"revision": Path(mark).parent.name}
    hashes = _hashes(Path(mark), data.source)
    asked = Path(with_retries(data.source, lambda: hf_hub_download(filename=REQUEST, **where)))
    _check_hash(asked, hashes[REQUEST], f"{data.source}: {REQUEST}")
    _check_same_settings(asked, data, section)  # before everything is downloaded
    folder = cache / f"{name}-{where['revision'][:12]}"
    with lock_of(folder):
        if not folder.exists():
            staging = cache / f".{folder.name}"
            with_retries(
                data.source, lambda: snapshot_download(local_dir=staging, allow_patterns=list(hashes), **where)
            )
            for file, known in hashes.items():
                _check_hash(staging / file, known, f"{data.source}: {file}")
            shutil.rmtree(staging / ".cache", ignore_errors=True)
            staging.rename(folder)
    return folder


def _hashes(mark: Path, name: str) -> dict[str, str]:
    """SHA-256 by file, for the files that a prepared folder may have."""
    try:
        about = _read(mark)
    except ValueError:
        about = None
    files = about.get("files") if isinstance(about, dict) and about.get("format") == FORMAT else None
    if not isinstance(files, dict) or not {MANIFEST, REQUEST} <= files.keys():
        raise ConfigError(f"{name} was published by another version of Kindling; prepare the source again")
    if odd := [file for file in files if PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts]:
        raise ConfigError(f"{name} lists {odd[0]!r}, which is not in its folder; use another data set")
    return {file: known for file, known in files.items() if PUBLISHED.fullmatch(file)}  # a later version may add files


def _check_hash(path: Path, known: str, what: str):
    if not path.is_file() or sha256(path) != known:
        path.unlink(missing_ok=True)  # a copy, which would otherwise not be downloaded again
        raise ConfigError(f"{what} does not match the hash in its {HASHES_FILE}; ask its publisher")


def check_publishable(name: str, data: DataSection):
    """`ConfigError` if tokens cannot be published as `name`; called before any work."""
    if not is_hub_name(name) or "/" not in name:
        raise ConfigError(f"--push-to-hub {name!r} is not the name of a data set; write USER/NAME")
    if data.streaming:
        raise ConfigError("a stream may be incomplete; publish with data.streaming=false")
    check_push_allowed()
    check_hub_reachable(name)


def publish(folder: Path, name: str):
    """Push a finished prepared folder to the Hub as the data set `name`. `ConfigError` if that fails.

    Local paths are not published: of a local source, only the name. A data set with other content is not changed, and a
    card that was edited on the Hub is kept.
    """
    there = with_retries(name, lambda: _files_of(name))
    if there - {".gitattributes"} and HASHES_FILE not in there:
        raise ConfigError(f"{name} holds other files already; publish under another name")
    with tempfile.TemporaryDirectory() as temporary:
        staging = Path(temporary)
        _stage(folder, staging, name)
        if README in there and not with_retries(name, lambda: _is_our_card(name)):
            (staging / README).unlink()
        with_retries(name, lambda: _push(staging, name), "pushed")


def _files_of(name: str) -> set[str]:
    """The files of a data set, which is created if it does not exist."""
    HfApi().create_repo(name, repo_type="dataset", exist_ok=True)
    return set(HfApi().list_repo_files(name, repo_type="dataset"))


def _is_our_card(name: str) -> bool:
    mark, card = (Path(hf_hub_download(name, file, repo_type="dataset")) for file in (HASHES_FILE, README))
    return sha256(card) == _read(mark).get("card")


def _push(folder: Path, name: str):
    HfApi().upload_folder(
        repo_id=name,
        repo_type="dataset",
        folder_path=folder,
        delete_patterns=FOLDERS,  # removes shards of an earlier, longer version
        commit_message="Tokens prepared with Kindling",
    )


def _stage(folder: Path, staging: Path, name: str):
    """Collect the files to publish in a folder."""
    manifest, settings = _read(folder / MANIFEST), _read(folder / REQUEST)
    known = {one for about in manifest["splits"].values() for one in about["revisions"]} | SOURCES.keys()
    _hide_paths(settings, known)
    manifest["source"] = settings["data"]["mixture"] or settings["data"]["source"]
    write_json(staging / MANIFEST, manifest)
    write_json(staging / REQUEST, settings)
    for path in (path for pattern in FOLDERS for path in folder.glob(pattern)):
        file = path.relative_to(folder)
        if PUBLISHED.fullmatch(file.as_posix()):
            (staging / file).parent.mkdir(exist_ok=True)
            (staging / file).symlink_to(path.resolve())
    hashes = {path.relative_to(staging).as_posix(): sha256(path) for path in staging.rglob("*") if path.is_file()}
    for split, about in manifest["splits"].items():
        for index, shard in enumerate(about["shards"]):
            if hashes.get(f"{split}/{index:05}.npy") != shard["sha256"]:
                raise ConfigError(f"{folder}/{split}/{index:05}.npy is damaged; prepare it again")
    (staging / README).write_text(_card(name, manifest, settings), encoding="utf-8")
    write_json(staging / HASHES_FILE, {"format": FORMAT, "files": hashes, "card": sha256(staging / README)})


def _hide_paths(settings: dict, known: set[str]):
    """Replace local paths by file names; `known` are the sources that are not local."""

    def called(source: str) -> str:
        return source if source in known else f"local:{Path(source).name}"

    data, tokenizer = settings["data"], settings["tokenizer"]
    data["source"] = called(data["source"])
    data["validation_source"] = data["validation_source"] and called(data["validation_source"])
    if data["mixture"]:
        mixture = {}
        for source, share in data["mixture"].items():
            name = called(source)
            mixture[name if name not in mixture else f"{name} ({len(mixture)})"] = share
        data["mixture"] = mixture
    if tokenizer["path"] and not is_hub_name(tokenizer["path"]):
        tokenizer["path"] = f"local:{Path(tokenizer['path']).name}"


def _card(name: str, manifest: dict, settings: dict) -> str:
    origin = DataSection(source=settings["data"]["source"], mixture=settings["data"]["mixture"]).origin
    known = getattr(SOURCES.get(origin), "licence", "")
    rows = (
        f"| {split} | {about['documents']:,} | {about['tokens']:,} | {format_bytes(about['text_bytes'])} |"
        for split, about in manifest["splits"].items()
    )
    return CARD.format(
        name=name,
        source=shlex.quote(f"data.source={name}"),
        origin=origin,
        splits="\n".join(rows),
        licence=f"license: {known.lower()}\n" if known and " " not in known else "",
        vocabulary=manifest["tokenizer"]["vocabulary"],
        bytes_per_token=manifest["tokenizer"]["bytes_per_token"],
    )
