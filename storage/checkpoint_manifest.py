"""Checkpoint folders: their names, and the manifest of hashes that verifies them."""

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path

import xxhash

from .files import flush

MANIFEST = "checkpoint.json"


STATE_FILES = {
    *("optimizer.safetensors", "scheduler.safetensors", "scaler.safetensors", "averages.safetensors"),
    "trainer_state.json",
}


RANDOM_STATE = re.compile(r"rng_state(_\d+)?\.safetensors")


CHECKPOINT_NAME = re.compile(r"checkpoint-(\d+)")


STAGING_PREFIX = ".staging-"


NOTE_SUFFIXES = (".md", ".txt", ".log", ".csv", ".png", ".svg", ".pdf", ".html")
"""Suffixes of files that people add to a checkpoint; no loader reads them, except `VOCABULARY_FILES`."""


VOCABULARY_FILES = ("vocab.txt", "merges.txt")


# ---- one folder


def write_manifest(folder: Path):
    """Write the manifest of a folder's present files, and flush everything to disk."""
    manifest = folder / MANIFEST
    manifest.unlink(missing_ok=True)
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            files[path.relative_to(folder).as_posix()] = {"size": path.stat().st_size, "xxh3_128": _hash(path)}
        flush(path)
    manifest.write_text(json.dumps({"files": files}, indent=2) + "\n", encoding="utf-8")
    flush(manifest)
    flush(folder)


def find_damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint and in which file; None if it matches its manifest."""
    if not (folder / MANIFEST).is_file():
        return f"{MANIFEST} is missing"
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        expected = {name: (known["size"], known["xxh3_128"]) for name, known in files.items()}
        differences = (_find_difference(folder, name, *known) for name, known in expected.items())
        found = next(filter(None, differences), None) if expected else f"{MANIFEST} is damaged"
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return f"{MANIFEST} is damaged"
    return found or _unexpected_file(folder, expected)


def _find_difference(folder: Path, name: str, size: int, known_hash: str) -> str | None:
    """How a file differs from its manifest entry; None if it does not."""
    path = folder / name
    if not path.is_file():
        return f"{name} is missing"
    if (found := path.stat().st_size) != size:
        return f"{name} has {found:,} bytes, not {size}"
    try:
        return None if _hash(path) == known_hash else f"{name} does not match its hash"
    except OSError as error:
        return f"{name} cannot be read, {error.strerror}"


def _unexpected_file(folder: Path, expected: Iterable[str]) -> str | None:
    """An unexpected file that a loader might read, as a sentence; hidden files and notes are allowed."""
    known = {folder / MANIFEST, *(folder / name for name in expected)}
    known |= {parent for path in known for parent in path.parents}
    strange = {path.relative_to(folder) for path in folder.rglob("*") if path not in known}
    hidden = {path for path in strange if any(part.startswith(".") for part in path.parts)}
    names = sorted(
        path.as_posix()
        for path in strange - hidden
        if path.suffix not in NOTE_SUFFIXES or path.name in VOCABULARY_FILES
    )
    return f"{names[0]} is none of its files" if names else None


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()


# ---- the folders of a run


def checkpoint_folders(run: Path) -> list[Path]:
    """The checkpoint folders of a run, newest (most steps) first."""
    return sorted(
        (path for path in run.glob("checkpoint-*") if CHECKPOINT_NAME.fullmatch(path.name)),
        key=checkpoint_step,
        reverse=True,
    )


def checkpoint_step(path: Path) -> int:
    """The training step in the name of a checkpoint folder."""
    return int(CHECKPOINT_NAME.fullmatch(path.name)[1])
