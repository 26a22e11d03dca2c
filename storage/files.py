"""Files that a crash leaves as they were, or as they are to be, never torn; and what is wrong with those of a user."""

import dataclasses
import errno
import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import yaml

from settings.checks import ConfigError


def write_atomically(path: Path, content: str | bytes):
    """Write a file, on the disk when it returns; until then the one that was there before is whole."""
    staging = path.with_name(f".{path.name}.new")
    try:
        staging.write_bytes(content.encode() if isinstance(content, str) else content)
        flush(staging)
        staging.replace(path)
        flush(path.parent)
    except BaseException:
        staging.unlink(missing_ok=True)
        raise


def flush(path: Path):
    """Have the system write a file, or a folder's names, to the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def append_or_restore(path: Path, text: str):
    """Add to a text file; where the disk takes not all of it, the file stays as it was."""
    with path.open("ab", buffering=0) as file:
        before, left = file.tell(), text.encode()
        try:
            while left:
                left = left[file.write(left) :]
        except OSError:
            file.truncate(before)
            raise


def write_json(path: Path, value):
    """As `write_atomically`, a value that a person may want to read."""
    write_atomically(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def sha256(path: Path) -> str:
    """The hash of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def report_file_errors(path: Path, remedy: str) -> Iterator[None]:
    """Whatever goes wrong with a file in the block is said of it, in one sentence: a `ConfigError`."""
    try:
        yield
    except ConfigError:  # which says it all
        raise
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}; {remedy}") from error
    except KeyError as error:
        raise ConfigError(f"{path} is damaged: it has no {error}; {remedy}") from error
    except Exception as error:  # as broad as what can be wrong with files: tokenizers raises nothing narrower
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ConfigError(f"{path} is damaged: {reason}; {remedy}") from error


def read_mapping(path: Path, remedy: str) -> dict:
    """Keys and values of a file, JSON or YAML as its name says. `ConfigError` with the `remedy` if it holds none."""
    with report_file_errors(path, remedy):
        text = path.read_text(encoding="utf-8")
        return _mapping(json.loads(text) if path.suffix == ".json" else yaml.safe_load(text))


def read_json_lines(path: Path, remedy: str) -> list[dict]:
    """Those of each line of a JSON lines file. `ConfigError` as above."""
    with report_file_errors(path, remedy):
        return [_mapping(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def _mapping(value) -> dict:
    if not isinstance(value, dict):
        raise TypeError("it holds no keys and values")
    return value


def is_disk_full(error: Exception) -> bool:
    """Whether an error says that a disk, or a quota, is full: Rust's and Arrow's tell the number in their text."""
    number = re.search(r"(?:os error|errno) (\d+)", str(error))
    return (getattr(error, "errno", None) or (number and int(number[1]))) in (errno.ENOSPC, errno.EDQUOT)


def from_saved(cls: type, values: dict):
    """An instance of a dataclass from what was saved, by this version or one that saves more."""
    names = {field.name for field in dataclasses.fields(cls)}
    return cls(**{name: value for name, value in values.items() if name in names})


@contextmanager
def report_full_disk(what: str, path: Path | str, remedy: str) -> Iterator[None]:
    """A full disk in the block is a `ConfigError` that says it of `path`, and `what` it is called."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        if not is_disk_full(error):
            raise
        raise ConfigError(f"{what}{path} has no room left ({error}); {remedy}") from error


@contextmanager
def report_system_errors() -> Iterator[None]:
    """What the system refuses to any command: a name that is too long is a `ConfigError`, a full disk the exit code 1
    and a sentence."""
    try:
        yield
    except Exception as error:
        if getattr(error, "errno", None) == errno.ENAMETOOLONG:
            raise ConfigError(f"{str(error.filename)[:60]}... is too long a name; give a shorter one") from None
        if not is_disk_full(error):
            raise
        sys.exit(f"there is no room left ({error}); make room, and give the same command again")


def check_writable(folder: Path, what: str):
    """`ConfigError` unless `folder`, which need not be there yet, can be written to; `what` it is called."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        raise ConfigError(f"{what} cannot be written to: {error.strerror}; give another") from None


@contextmanager
def remove_new_empty_folders(folder: Path) -> Iterator[None]:
    """Afterwards, of `folder` and those above it, remove what was made in the block and is empty."""
    made = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
    try:
        yield
    finally:
        for path in made:
            with suppress(OSError):  # something is in there, or it was never made
                path.rmdir()
