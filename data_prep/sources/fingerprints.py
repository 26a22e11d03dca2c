"""What files hold, wherever they lie and whenever they were last written to: hashes of their content.

Sampled hashes find what was prepared of a corpus without reading all of it; whole ones, taken before a file is read,
tell whether it still is what was read. A file's status (inode, size, times) is no part of its identity: it only spares
reading a file once more that nobody has written to since.
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
"""Bytes of a sample; a file of up to three samples is read whole."""
BLOCK = 1 << 22
SETTLED_NANOSECONDS = 2_000_000_000
"""Within so long of a write a file system's clock may not tell a second one apart."""
HASH_CACHE = "seen.json"
SHORT_HASH_DIGITS = 16
"""Digits of a hash that a checkpoint keeps."""
MAX_NAMED_FILES = 3
"""Files that an error names."""


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
    """Hashes of whole files, by the status that each file had when it was read."""

    def __init__(self):
        self.known: dict[str, str] = {}

    def of(self, path: Path) -> str:
        """A hash of all that a file holds, read now unless its status says that it was read before."""
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
        """Take over what a prepared folder has noted; what cannot be read is computed again."""
        with suppress(OSError, ValueError):
            self.known |= json.loads((folder / HASH_CACHE).read_text(encoding="utf-8"))

    def save(self, folder: Path, paths: Sequence[Path]):
        """Note what is known of these files in a prepared folder, if it can be written to."""
        with suppress(OSError):
            statuses = filter(None, map(self._status, paths))
            seen = {status: self.known[status] for status in statuses if status in self.known}
            text = json.dumps(seen, indent=1)
            if seen and (
                not (folder / HASH_CACHE).exists() or (folder / HASH_CACHE).read_text(encoding="utf-8") != text
            ):
                write_atomically(folder / HASH_CACHE, text)

    def _status(self, path: Path) -> str | None:
        """What any write to the file changes; None if one might not, yet."""
        about = path.stat()
        if time.time_ns() - about.st_ctime_ns < SETTLED_NANOSECONDS:
            return None
        return f"{about.st_ino}-{about.st_size}-{about.st_mtime_ns}-{about.st_ctime_ns}"


CONTENTS = Contents()


@dataclass(frozen=True)
class TrainedData:
    """What the data of a checkpoint were: where from, a hash of the tokens, and of each file that was read."""

    checkpoint: str
    origin: str
    tokens: str
    folder: str
    """Of the prepared tokens, in `data.cache_dir`."""
    files: list[str | None]
    """In order, None for a file that was not come to. Nothing at all where it is not known."""

    def check_unchanged(self, shards: Sequence, origin: str, cache: Path):
        """`ConfigError` if these files, which `origin` has, are not those that the checkpoint was trained on.

        What was prepared of those may be in `cache`.
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
            f"{self.checkpoint} was trained on other text than {origin} holds now: {what}; put it back{tokens}, or "
            "choose another training.output_dir"
        )


def short_hash(content: str) -> str:
    """As much of a hash as tells files apart."""
    return content[:SHORT_HASH_DIGITS]
