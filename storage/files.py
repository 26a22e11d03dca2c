"""Atomic writes, and one-sentence errors for files that cannot be read or written."""

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
    """Write a file atomically and flush it to disk; a crash leaves either the old file or the new one."""
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
    """Flush a file, or the entries of a folder, to disk (fsync)."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def append_or_restore(path: Path, text: str):
    """Append to a text file; if the disk is full, the file is restored to what it was."""
    with path.open("ab", buffering=0) as file:
        before, left = file.tell(), text.encode()
        try:
            while left:
                left = left[file.write(left) :]
        except OSError:
            file.truncate(before)
            raise


def write_json(path: Path, value):
    """Write a value as indented JSON, as `write_atomically` does."""
    write_atomically(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def sha256(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def report_file_errors(path: Path, remedy: str) -> Iterator[None]:
    """Turn any error in the block into a `ConfigError` that names the file and the `remedy`."""
    try:
        yield
    except ConfigError:  # already a complete sentence
        raise
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}; {remedy}") from error
    except KeyError as error:
        raise ConfigError(f"{path} is damaged: it lacks {error}; {remedy}") from error
    except Exception as error:  # tokenizers raises nothing narrower
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ConfigError(f"{path} is damaged: {reason}; {remedy}") from error


def read_mapping(path: Path, remedy: str) -> dict:
    """The mapping in a JSON or YAML file; `ConfigError` with the `remedy` if it is not a mapping."""
    with report_file_errors(path, remedy):
        text = path.read_text(encoding="utf-8")
        return _mapping(json.loads(text) if path.suffix == ".json" else yaml.safe_load(text))


def read_json_lines(path: Path, remedy: str) -> list[dict]:
    """The mappings in a JSON lines file, one per line; `ConfigError` as for `read_mapping`."""
    with report_file_errors(path, remedy):
        return [_mapping(json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def _mapping(value) -> dict:
    if not isinstance(value, dict):
        raise TypeError("it is not a mapping of keys to values")
    return value


def is_disk_full(error: Exception) -> bool:
    """Whether an error means a full disk or quota; errors of Rust and Arrow have its number in their text."""
    number = re.search(r"(?:os error|errno) (\d+)", str(error))
    return (getattr(error, "errno", None) or (number and int(number[1]))) in (errno.ENOSPC, errno.EDQUOT)


def from_saved(cls: type, values: dict):
    """An instance of a dataclass from saved values; unknown ones, of a later version, are ignored."""
    names = {field.name for field in dataclasses.fields(cls)}
    return cls(**{name: value for name, value in values.items() if name in names})


@contextmanager
def report_full_disk(what: str, path: Path | str, remedy: str) -> Iterator[None]:
    """Turn a full disk in the block into a `ConfigError` about `what` (its name) and `path`."""
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
    """Report system errors of any command: a file name that is too long as a `ConfigError`, a full disk by a sentence
    and exit code 1."""
    try:
        yield
    except Exception as error:
        if getattr(error, "errno", None) == errno.ENAMETOOLONG:
            raise ConfigError(
                f"{str(error.filename)[:60]}... is too long for a file name; give a shorter one"
            ) from None
        if not is_disk_full(error):
            raise
        sys.exit(f"there is no room left ({error}); make room, and run the same command again")


def check_writable(folder: Path, what: str):
    """`ConfigError` unless `folder` can be written to; it may not exist yet. `what` is its name in the message."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        raise ConfigError(f"{what} cannot be written to: {error.strerror}; give another") from None


@contextmanager
def remove_new_empty_folders(folder: Path) -> Iterator[None]:
    """After the block, remove `folder` and its parents if they were created in it and are empty."""
    made = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
    try:
        yield
    finally:
        for path in made:
            with suppress(OSError):  # not empty, or never created
                path.rmdir()
