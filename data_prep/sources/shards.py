"""The files of a corpus, on disk or on the Hub, each opened as a verified local file.

A shard of the Hub is downloaded, verified by the hash that the Hub publishes, read, and removed: a corpus of any size
needs the disk space of two shards, and no unverified data are trained on.
"""

import atexit
import hashlib
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from filelock import FileLock, Timeout
from huggingface_hub import HfApi, constants, hf_hub_download

from settings.checks import ConfigError
from storage.files import sha256
from storage.hub import with_retries

from .fingerprints import CONTENTS, sampled_hash
from .records import format_of

PATHS_PER_REQUEST = 500
PREFIX = ".kindling-shards-"


@dataclass(frozen=True)
class LocalShard:
    """A local file, which must not change while it is read."""

    path: Path
    size: int
    sample: str
    """A hash of its size and of samples of its content."""

    @classmethod
    def of(cls, path: Path) -> "LocalShard":
        """The file in its present state."""
        try:
            return cls(path, path.stat().st_size, sampled_hash(path))
        except PermissionError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}; allow it, or give another file") from error

    @property
    def name(self) -> str:
        """Its path."""
        return str(self.path)

    @property
    def identity(self) -> list:
        """What determines the tokens made from it, as far as known without reading all of it."""
        return [self.size, self.sample, format_of(self.path), self.path.suffix.lower()]

    @cached_property
    def content(self) -> str:
        """A hash of all of its content, computed on first access."""
        return CONTENTS.of(self.path)

    @property
    def known(self) -> str | None:
        """The same, or None if it has not been computed yet; it is, before the first read."""
        return vars(self).get("content")

    @contextmanager
    def open(self) -> Iterator[Path]:
        """The path; `ConfigError` if the file changes after the corpus was opened, before or during reading."""
        self._check_unchanged()
        yield self.path
        self._check_unchanged()

    def _check_unchanged(self):
        is_other = not self.path.exists() or (self.known is None and sampled_hash(self.path) != self.sample)
        if is_other or CONTENTS.of(self.path) != self.content:
            raise ConfigError(
                f"{self.path} has changed since the corpus was opened; start again with files that no longer change"
            )


@dataclass(frozen=True)
class Program:
    """Code that generates documents, in place of files."""

    name: str
    content: str

    @property
    def known(self) -> str:
        """A hash of it, which is known without running it."""
        return self.content


@dataclass(frozen=True)
class HubShard:
    """A file of a Hub data set at one commit."""

    repository: str
    commit: str
    file: str
    size: int
    sha256: str | None
    """Of large files; small ones only have a git hash."""
    git_hash: str

    @property
    def name(self) -> str:
        """Where it is on the Hub."""
        return f"{self.repository}/{self.file}"

    @property
    def identity(self) -> list:
        """What determines the tokens made from it; the same content at another commit is equal."""
        return [self.name, self.size, self.content]

    @property
    def content(self) -> str:
        """A hash of all of it."""
        return self.sha256 or self.git_hash

    known = content

    @contextmanager
    def open(self) -> Iterator[Path]:
        """A verified copy on disk, downloaded unless present; `ConfigError` if that fails."""
        yield SPOOL.fetch(self)

    def matches(self, path: Path) -> bool:
        """Whether a file has the published content."""
        if self.sha256:
            return sha256(path) == self.sha256
        with path.open("rb") as file:
            start = b"blob %d\0" % path.stat().st_size
            return hashlib.file_digest(file, lambda: hashlib.sha1(start)).hexdigest() == self.git_hash


class Spool:
    """Local copies of the last shards read; older ones are removed, and all of them when the process ends."""

    MAX_COPIES = 2

    def __init__(self):
        self.copies: dict[HubShard, Path] = {}
        self.folder: Path | None = None
        self.lock: FileLock | None = None

    def _open_folder(self):
        """Create a locked folder for this process, and remove those of killed processes."""
        cache = Path(constants.HF_HUB_CACHE)
        cache.mkdir(parents=True, exist_ok=True)
        for left in cache.glob(f"{PREFIX}*"):
            with suppress(Timeout), FileLock(left / "lock", timeout=0):
                shutil.rmtree(left, ignore_errors=True)
        self.folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=cache))
        self.lock = FileLock(self.folder / "lock")
        self.lock.acquire()
        atexit.register(self.clear)

    def fetch(self, shard: HubShard) -> Path:
        """A verified copy of a shard, downloaded unless present."""
        if self.folder is None:
            self._open_folder()
        if shard not in self.copies:
            copy = with_retries(f"shard {shard.name}", lambda: self._download(shard))
            if not shard.matches(copy):
                copy.unlink()
                raise ConfigError(
                    f"shard {shard.name} does not match the hash published for commit {shard.commit[:12]}: it was "
                    "damaged or replaced; try again later, or give another data.revision"
                )
            self.copies[shard] = copy
            while len(self.copies) > self.MAX_COPIES:
                self.copies.pop(next(iter(self.copies))).unlink(missing_ok=True)
        return self.copies[shard]

    def _download(self, shard: HubShard) -> Path:
        place = self.folder / shard.commit
        path = hf_hub_download(
            shard.repository, shard.file, repo_type="dataset", revision=shard.commit, local_dir=place, tqdm_class=None
        )
        return Path(path)

    def clear(self):
        """Remove all copies."""
        shutil.rmtree(self.folder, ignore_errors=True)


SPOOL = Spool()


def hub_shards(repository: str, commit: str, files: list[str]) -> list[HubShard]:
    """The files with the sizes and hashes that the Hub publishes, in the given order."""
    found = {}
    for first in range(0, len(files), PATHS_PER_REQUEST):
        part = files[first : first + PATHS_PER_REQUEST]
        rows = with_retries(
            repository,
            lambda part=part: HfApi().get_paths_info(repository, part, repo_type="dataset", revision=commit),
        )
        found |= {row.path: row for row in rows}
    rows = [found[file] for file in files]
    return [HubShard(repository, commit, row.path, row.size, row.lfs and row.lfs.sha256, row.blob_id) for row in rows]
