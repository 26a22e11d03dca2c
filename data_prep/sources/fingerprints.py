"""Identifies files by hashes of their content, independent of their paths and times.

Sampled hashes find the tokens prepared from a corpus without reading all of it; full hashes, computed before a file is
read, detect later changes. A file's status (inode, size, times) is not part of its identity; it only avoids hashing a
file again that has not been written to.
"""

import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import xxhash

from settings.checks import ConfigError
from storage.files import write_atomically

SAMPLE_BYTES = 1 << 16
"""Bytes per sample; a file of up to three samples is read completely."""
BLOCK = 1 << 22
SETTLED_NANOSECONDS = 2_000_000_000
"""Two writes within this time may get the same timestamp from the file system."""
HASH_CACHE = "seen.json"
SHORT_HASH_DIGITS = 16
"""Digits of each hash that a checkpoint stores."""
MAX_NAMED_FILES = 3
"""Maximum number of files named in an error."""


def sampled_hash(path: Path) -> str:
    """A hash of a file's size and of its beginning, middle and end."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        hasher = xxhash.xxh3_128(str(size).encode())
        places = (
            (0, SAMPLE_BYTES, 2 * SAMPLE_BYTES)
            if size <= 3 * SAMPLE_BYTES
            else (0, (size - SAMPLE_BYTES) // 2, size - SAMPLE_BYTES)
        )
        for place in places:
            file.seek(place)
            hasher.update(file.read(SAMPLE_BYTES))
    return hasher.hexdigest()


class Contents:
    """A cache of full file hashes, by the status of each file when it was hashed."""

    def __init__(self):
        self.known: dict[str, str] = {}

    def of(self, path: Path) -> str:
        """The full hash of a file, computed unless it is cached for the file's status."""
        status = self._status(path)
        if status in self.known:
            return self.known[status]
        hasher = xxhash.xxh3_128()
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                hasher.update(block)
        if status is not None and self._status(path) == status:
            self.known[status] = hasher.hexdigest()
        return hasher.hexdigest()

    def load(self, folder: Path):
        """Load the hashes saved in a prepared folder; unreadable ones are computed again."""
        with suppress(OSError, ValueError):
            self.known |= json.loads((folder / HASH_CACHE).read_text(encoding="utf-8"))

    def save(self, folder: Path, paths: Sequence[Path]):
        """Save the known hashes of these files in a prepared folder, if it is writable."""
        with suppress(OSError):
            statuses = filter(None, map(self._status, paths))
            seen = {status: self.known[status] for status in statuses if status in self.known}
            text = json.dumps(seen, indent=1)
            if seen and (
                not (folder / HASH_CACHE).exists() or (folder / HASH_CACHE).read_text(encoding="utf-8") != text
            ):
                write_atomically(folder / HASH_CACHE, text)

    def _status(self, path: Path) -> str | None:
        """A status that any write to the file changes; None if it was written too recently to be sure."""
        about = path.stat()
        if time.time_ns() - about.st_ctime_ns < SETTLED_NANOSECONDS:
            return None
        return f"{about.st_ino}-{about.st_size}-{about.st_mtime_ns}-{about.st_ctime_ns}"


CONTENTS = Contents()


@dataclass(frozen=True)
class TrainedData:
    """The data that a checkpoint was trained on: their origin, and hashes of the tokens and of each file."""

    checkpoint: str
    origin: str
    tokens: str
    folder: str
    """The folder of the prepared tokens, in `data.cache_dir`."""
    files: list[str | None]
    """Hashes in order, None for a file that was not reached; an empty list if unknown."""

    def check_unchanged(self, shards: Sequence, origin: str, cache: Path):
        """`ConfigError` if the files of `origin` differ from those that the checkpoint was trained on.

        The message names the old tokens if they are still in `cache`.
        """
        if not self.files:
            return
        if len(shards) != len(self.files):
            what = f"it has {'more' if len(shards) > len(self.files) else 'fewer'} files"
        else:
            pairs = zip(shards, self.files, strict=True)
            changed = list(
                dict.fromkeys(shard.name for shard, was in pairs if was and short_hash(shard.content) != was)
            )
            if not changed:
                return
            others = f" and {len(changed) - MAX_NAMED_FILES:,} more" * (len(changed) > MAX_NAMED_FILES)
            what = f"{', '.join(changed[:MAX_NAMED_FILES])}{others} {'has' if len(changed) == 1 else 'have'} changed"
        if origin != self.origin:
            what = f"it was {self.origin}, and {what}"
        is_there = (cache / self.folder / "tokenizer").exists()
        tokens = f", give data.source={cache / self.folder}, which has its tokens" if is_there else ""
        raise ConfigError(
            f"{self.checkpoint} was trained on other text than {origin} holds now: {what}; restore it{tokens}, or "
            "choose another training.output_dir"
        )


def short_hash(content: str) -> str:
    """The beginning of a hash, long enough to tell files apart."""
    return content[:SHORT_HASH_DIGITS]
