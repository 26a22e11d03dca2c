"""Files that a crash leaves as they were, or as they are to be; never torn."""

import hashlib
import json
import os
from pathlib import Path


def write_whole(path: Path, text: str):
    """Write a text file, on the disk when it returns; until then the one that was there before is whole."""
    staging = path.with_name(f".{path.name}.new")
    try:
        with staging.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        staging.replace(path)
    except BaseException:
        staging.unlink(missing_ok=True)
        raise


def append_whole(path: Path, text: str):
    """Add to a text file; where the disk takes not all of it, the file stays as it was."""
    with path.open("ab") as file:
        before = file.tell()
        try:
            file.write(text.encode())
            file.flush()
        except OSError:
            os.truncate(path, before)
            raise


def write_json(path: Path, value):
    """As `write_whole`, a value that a person may want to read."""
    write_whole(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def sha256(path: Path) -> str:
    """The hash of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
