"""The lock of a prepared folder, held by the process that writes into it."""

from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from settings.checks import ConfigError

POLL_SECONDS = 0.05


LOCKS = ".locks"


def lock_of(folder: Path) -> FileLock:
    """The lock that the writer of a prepared folder holds; `ConfigError` if the cache is not writable."""
    locks = folder.parent / LOCKS
    try:
        locks.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"data.cache_dir={folder.parent} cannot be written to: {error.strerror}; give another folder"
        ) from None
    return FileLock(locks / folder.name)


def is_locked(folder: Path) -> bool:
    with suppress(Timeout), lock_of(folder).acquire(timeout=0):
        return False
    return True
