"""The lock of a run folder: only one run at a time may use it."""

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
def locked_run_folder(folder: Path) -> Iterator[None]:
    """Lock a run folder, which is created if missing, until the block or the process ends.

    `ConfigError` if another process has locked it, or it is not writable. A new folder that is still empty at the end
    is removed. Of several processes of one run, the first locks it for all.
    """
    if int(os.environ.get("RANK", 0)) > 0:
        yield
        return
    with remove_new_empty_folders(folder):
        lock = _lock(folder)
        try:
            yield
        finally:
            (folder / LOCK).unlink(missing_ok=True)  # while locked: whoever waits for it finds it gone
            lock.release()


def _lock(folder: Path) -> FileLock:
    """Acquire the lock of a folder and record its holder in the lock file."""
    lock = FileLock(folder / LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
        about = {"process": os.getpid(), "host": platform.node(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        (folder / LOCK).write_text(json.dumps(about) + "\n", encoding="utf-8")
    except Timeout:
        raise ConfigError(
            f"{folder} is in use by {_describe_holder(_holder(folder))}; wait for it, stop it, or choose another "
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
    """The recorded holder of the lock; empty if there is none yet."""
    with suppress(OSError, ValueError):
        return json.loads((folder / LOCK).read_text(encoding="utf-8"))
    return {}


def _describe_holder(about: dict) -> str:
    return "process {process} on {host} since {since}".format(**about) if about else "another process"
