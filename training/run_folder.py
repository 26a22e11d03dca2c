"""The run folder, which one run at a time may have."""

import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from settings.checks import ConfigError
from storage.files import remove_new_empty_folders

LOCK = ".lock"


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Hold a run folder, made if there is none, until the block is left or the process ends, in whatever way.

    `ConfigError` if another process holds it, or nothing can be written there. A folder that was made here and that
    nothing was put into is removed again. Of several processes of one run, the first holds it for all.
    """
    if int(os.environ.get("RANK", 0)) > 0:
        yield
        return
    with remove_new_empty_folders(folder):
        lock = _lock(folder)
        try:
            yield
        finally:
            (folder / LOCK).unlink(missing_ok=True)  # while it is held: who waits for it finds that it is gone
            lock.release()


def _lock(folder: Path) -> FileLock:
    """The lock of a folder, held, with who holds it written in its file."""
    lock = FileLock(folder / LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
        about = {"process": os.getpid(), "host": platform.node(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        (folder / LOCK).write_text(json.dumps(about) + "\n", encoding="utf-8")
    except Timeout:
        raise ConfigError(
            f"{folder} is in use by {_in_words(_holder(folder))}; wait for it, stop it, or choose another "
            "training.output_dir"
        ) from None
    except OSError as error:
        if lock.is_locked:
            (folder / LOCK).unlink(missing_ok=True)
            lock.release()
        raise ConfigError(
            f"training.output_dir={folder} cannot be written to ({error.strerror}); choose another"
        ) from None
    return lock


def _holder(folder: Path) -> dict:
    """Who has written the lock's file; empty where nobody has yet."""
    with suppress(OSError, ValueError):
        return json.loads((folder / LOCK).read_text(encoding="utf-8"))
    return {}


def _in_words(about: dict) -> str:
    return "process {process} on {host} since {since}".format(**about) if about else "another process"
