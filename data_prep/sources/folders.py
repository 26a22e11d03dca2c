"""Finds the files of a local corpus and their splits; other files are reported with the reason and skipped.

Links are followed. Hidden files and Kindling's own folders are skipped: runs, sweeps, prepared tokens, tokenizers.
"""

import filecmp
import glob
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from settings.checks import ConfigError
from storage.files import read_mapping, report_file_errors

from .records import DECOMPRESSORS, PROMPT_FIELDS, SUFFIXES, csv_columns, format_of

SPLIT_WORDS = {
    "validation": {"validation", "valid", "val", "dev"},
    "train": {"train", "training"},
    "test": {"test", "testing", "eval", "evaluation"},
}
"""Words in the name of a file, or of a folder that contains it, that determine its split."""
KINDLING_FILES = {
    "a run": ("experiment.yaml", "provenance.json"),
    "prepared tokens": ("request.json", "tokenizer"),
    "a tokenizer": ("tokenizer.json",),
    "a report": ("cells.json", "table.md"),
}
"""Files by which Kindling's own folders are recognised."""
METADATA_FILES = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json"}
"""Metadata files of data sets; `save_to_disk` of `datasets` writes them, and `state.json`, beside the data."""
MAX_NAMES = 3
READABLE = (
    f"supported files are {', '.join(SUFFIXES)}, compressed ({', '.join(DECOMPRESSORS)}) or not; rename "
    "plain text of another name to end in .txt"
)


@dataclass
class Listing:
    """A local source: its files by split, in reading order, and the skipped files by reason."""

    source: str
    top: Path = Path()
    """The folder that names are relative to."""
    is_one_file: bool = False
    splits: dict[str, list[Path]] = field(default_factory=lambda: {"train": [], "validation": []})
    unread: dict[str, list[str]] = field(default_factory=dict)

    def skip(self, path: Path, reason: str):
        """Note that a file, or a whole folder, is skipped."""
        self.unread.setdefault(reason, []).append(str(path.relative_to(self.top)))

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the user; none if the source is a single file."""
        if self.is_one_file:
            return ()
        counts = [
            f"{len(files):,} for {'training' if name == 'train' else name}" for name, files in self.splits.items()
        ]
        return (f"{self.source}: files read: {', '.join(counts)}{self.not_read('; not read: ')}",)

    def not_read(self, before: str) -> str:
        """The skipped files with the reasons, after the text `before`; empty if there are none."""
        skipped = ", ".join(f"{_first_names(names)} ({reason})" for reason, names in self.unread.items())
        return before + skipped if skipped else ""


def is_local_source(source: str) -> bool:
    """Whether a source is an existing file or folder, or a pattern that matches some."""
    path = os.path.expanduser(source)
    return os.path.lexists(path) or bool(glob.glob(path, recursive=True))


def list_files(source: str, cache: Path, text: str) -> Listing:
    """The files of `source`, a folder, a file or a pattern; `text` is the text column of tables.

    The folder `cache` is skipped. `ConfigError` if no file can be read, a link is broken, a name matches two splits, or
    all of validation is also in training.
    """
    path, listing = Path(os.path.expanduser(source)), Listing(source)
    if path.is_dir():
        listing.top = path
        files = [*_walk(path, os.path.realpath(cache), (os.path.realpath(path),), listing)]
        files = _without_other_tables(listing, files, text)
        _assign_splits(listing, {file: _split_of_name(file.relative_to(path)) for file in files})
    elif os.path.lexists(path):
        _check_readable_file(path)
        listing.splits["train"], listing.is_one_file = [path], True
    else:
        _assign_pattern_splits(
            listing, sorted(map(Path, glob.glob(str(path), recursive=True))), os.path.realpath(cache)
        )
    listing.splits = {name: _without_duplicates(listing, files) for name, files in listing.splits.items() if files}
    if not listing.splits:
        raise ConfigError(f"{source} holds no files that can be read{listing.not_read(': ')}; {READABLE}")
    _check_validation_differs(**listing.splits)
    return listing


def kindling_folder_kind(folder: Path) -> str | None:
    """Which kind of Kindling's own folders this is; None for any other folder."""
    return next(
        (what for what, names in KINDLING_FILES.items() if all((folder / name).exists() for name in names)), None
    )


def _walk(folder: Path, cache: str, above: tuple[str, ...], listing: Listing) -> Iterator[Path]:
    """The files below a folder that can be read; `above` are the real paths of it and of its parents."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise ConfigError(f"{folder} cannot be read: {error.strerror}; allow it, or remove it") from None
    saved = _saved_dataset_files(folder, {path.name for path in entries})
    for path in entries:
        real = os.path.realpath(path) if path.is_dir() else None
        if (
            why := _reason_to_skip_file(path, saved)
            if real is None
            else _reason_to_skip_folder(path, real, cache, above)
        ):
            listing.skip(path, why)
        elif real is None:
            _check_readable_file(path)
            yield path
        else:
            yield from _walk(path, cache, (*above, real), listing)


def _reason_to_skip_file(path: Path, saved: set[str] | None) -> str | None:
    """Why a file is skipped; None if it is read. `saved` are the files of a data set saved in the same folder."""
    about = METADATA_FILES if saved is None else METADATA_FILES | {"state.json"}
    reasons = {
        "hidden": path.name.startswith("."),
        "data set metadata": path.name in about or _is_readme(path),
        "of a sweep": _is_of_a_sweep(path),
        "not part of the saved data set": saved is not None and path.name not in saved,
        "unsupported file type": not format_of(path) and (path.suffix or path.exists()),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _is_readme(path: Path) -> bool:
    """Whether a file is a README, such as a data set's card."""
    return path.name.lower().partition(".")[0] == "readme" and format_of(path) == "text"


def _is_of_a_sweep(path: Path) -> bool:
    """Whether a file is a sweep's record of a cell, beside the log of the cell."""
    if path.suffix != ".json" or not path.with_suffix(".log").is_file() or not path.is_file():
        return False
    return b'"config_sha256"' in path.read_bytes()


def _reason_to_skip_folder(folder: Path, real: str, cache: str, above: Sequence[str]) -> str | None:
    """Why a folder is skipped; None if it is read."""
    if folder.name.startswith("."):
        return "hidden"
    if real in above:
        return "a link to a parent folder"
    return "data.cache_dir" if real == cache else kindling_folder_kind(folder)


def _check_readable_file(path: Path):
    """`ConfigError` if the path is a broken link, a pipe or a device, or cannot be read."""
    if not path.exists():
        raise ConfigError(f"{path} is a link to {os.readlink(path)}, which does not exist; fix or remove it")
    if not path.is_file():
        raise ConfigError(f"{path} is a pipe or a device, not a file; write its contents to a file")
    if not os.access(path, os.R_OK):
        raise ConfigError(f"{path} cannot be read: Permission denied; allow it, or remove it")


def _saved_dataset_files(folder: Path, names: set[str]) -> set[str] | None:
    """The files of a data set that `datasets` has saved in a folder; None if there is none."""
    state = folder / "state.json"
    if not {state.name, "dataset_info.json"} <= names:
        return set() if "dataset_dict.json" in names else None
    with report_file_errors(state, "save the data set again"):
        files = {file["filename"] for file in read_mapping(state, "save the data set again")["_data_files"]}
    if missing := sorted(files - names):
        raise ConfigError(f"{folder} is a saved data set without its {_first_names(missing)}; save it again")
    return files


def _without_other_tables(listing: Listing, files: list[Path], text: str) -> list[Path]:
    """Skip CSV files without the text column: they are often metadata of the texts beside them."""
    kept = []
    for file in files:
        with report_file_errors(file, "download or copy the file again"):
            columns = (
                csv_columns(file, [text, text.split(".")[0], *PROMPT_FIELDS]) if format_of(file) == "csv" else {text}
            )
        if {text, text.split(".")[0]} & columns or set(PROMPT_FIELDS) <= columns:
            kept.append(file)
        else:
            listing.skip(file, f"without a column {text}")
    return kept


def _assign_splits(listing: Listing, named: dict[Path, str | None]):
    """Assign files to splits by their names; others are for training, and test files too if there are no others."""
    is_all_tests = set(named.values()) == {"test"}
    for file, split in named.items():
        if split == "test" and not is_all_tests:
            listing.skip(file, "for testing")
        else:
            listing.splits["validation" if split == "validation" else "train"].append(file)


def _assign_pattern_splits(listing: Listing, matches: list[Path], cache: str):
    """As `_assign_splits` for the files of a pattern; all are for training if it matches validation files only."""
    files = [path for path in matches if not path.is_dir()]
    top = listing.top = Path(os.path.commonpath([file.parent for file in files])) if files else Path()
    named = {}
    for file in files:
        above = [parent for parent in file.parents if parent.is_relative_to(top) and parent != top]
        if why := next(
            filter(None, (_reason_to_skip_folder(one, os.path.realpath(one), cache, ()) for one in above)), None
        ):
            listing.skip(file, f"in {why}")
        else:
            _check_readable_file(file)
            named[file] = _split_of_name(file.relative_to(top))
    is_mixed = "validation" in named.values() and {"train", None} & set(named.values())
    _assign_splits(listing, named if is_mixed else dict.fromkeys(named))


def _split_of_name(path: Path) -> str | None:
    """The split that a path's names say: the nearest folder that says one, or else the file name."""
    several = False
    for name in (*reversed(path.parts[:-1]), path.name):
        words = set(re.split(r"[^a-z]+", name.lower()))
        told = [split for split, known in SPLIT_WORDS.items() if words & known]
        if told and (len(told) == 1 or "train" not in told):
            return told[0]
        several = several or bool(told)
    if several:
        raise ConfigError(f"{path} has a name that matches two splits; rename it to match one")
    return None


def _without_duplicates(listing: Listing, files: list[Path]) -> list[Path]:
    """The files without those that are listed under another name already."""
    known = {}
    for file in files:
        about = file.stat()
        key = (about.st_dev, about.st_ino) if about.st_ino else file  # some file systems have no inode numbers
        if key in known:
            listing.skip(file, f"same file as {known[key].name}")
        else:
            known[key] = file
    return [*known.values()]


def _check_validation_differs(train: Sequence[Path] = (), validation: Sequence[Path] = ()):
    """`ConfigError` if all validation files are also training files."""
    by_size = {}
    for file in train:
        by_size.setdefault(file.stat().st_size, []).append(file)
    twins = [
        next((file for file in by_size.get(other.stat().st_size, []) if _is_the_same(file, other)), None)
        for other in validation
    ]
    if twins and all(twins):
        raise ConfigError(
            f"{validation[0]} is for validation but has the same content as {twins[0]}, which is for training, and all "
            "of validation is such a copy; remove it, so that the first documents are held out"
        )


def _is_the_same(file: Path, other: Path) -> bool:
    """Whether two files have the same content and are not empty."""
    return file.stat().st_size > 0 and (file.samefile(other) or filecmp.cmp(file, other, shallow=False))


def _first_names(names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMES:,} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more
