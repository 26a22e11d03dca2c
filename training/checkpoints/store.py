"""Checkpoints that are whole or do not count: written aside, hashed, flushed to the disk, and only then given a name.

A checkpoint is written as `.staging-checkpoint-N`. `checkpoint.json`, which has the size and hash of each of its files,
comes last; when all is on the disk, the folder is renamed to `checkpoint-N`. Whatever a kill leaves of that is removed
by the next save. A folder whose files are not as its `checkpoint.json` says, or that has none, is never resumed and
never counted.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from tqdm import tqdm

from settings.checks import ConfigError
from storage.checkpoint_manifest import STAGING_PREFIX, checkpoint_folders, find_damage, write_manifest
from storage.files import flush

FAILURES = 3
"""Saves in a row that may fail before the run ends."""


@contextmanager
def exchanged(folder: Path) -> Iterator[Path]:
    """An empty folder to write into. At the end its files take the places of those of `folder`, each one whole."""
    staging = folder / f"{STAGING_PREFIX}files"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        yield staging
        written = [*staging.iterdir()]
        for path in written:
            flush(path)
        for path in written:
            path.replace(folder / path.name)
        flush(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def newest_whole(run: Path) -> Path | None:
    """The newest checkpoint that is as it was written, after a line on those that are not; None if there are none.

    `ConfigError` if there are checkpoints and none of them is whole.
    """
    wrong = []
    for path in checkpoint_folders(run):
        why = find_damage(path)
        if why is None:
            if wrong:
                _say_once(f"{'; '.join(wrong)}: going on from {path.name}")
            return path
        wrong.append(f"{path.name} is damaged ({why})")
    if wrong:
        raise ConfigError(
            f"{run} has no checkpoint to go on from: {'; '.join(wrong)}; restore one, or choose another "
            "training.output_dir"
        )
    return None


def refuse_damaged(checkpoint: Path):
    """`ConfigError` if a checkpoint is not as it was written."""
    if why := find_damage(checkpoint):
        raise ConfigError(
            f"training.resume_from_checkpoint={checkpoint} is damaged: {why}; give another one, or "
            "training.resume_from_checkpoint=true for the newest of the run that is whole"
        )


def _say_once(line: str):
    """To the screen, by one process of the run."""
    if int(os.environ.get("RANK", 0)) == 0:
        tqdm.write(line, file=sys.stderr)


def sweep(run: Path):
    """Remove what kills and full disks have left of checkpoints that were being written or removed."""
    for left in run.glob(f"{STAGING_PREFIX}*"):
        shutil.rmtree(left, ignore_errors=True)


class Checkpoints:
    """The checkpoints of a run as it writes them. Of several processes one does; all count the failures."""

    def __init__(self, run: Path, limit: int | None):
        """`limit` is how many whole ones to keep; None or 0 keeps all."""
        self.run, self.limit = run, limit
        self.failures = 0
        self._seen = {}

    def staging(self, step: int) -> Path:
        """Where a checkpoint is written."""
        return self.run / f"{STAGING_PREFIX}checkpoint-{step}"

    def begin(self, staging: Path):
        """Make an empty folder to write into; remove what was left of others."""
        sweep(self.run)
        staging.mkdir(parents=True)

    def commit(self, step: int) -> Path:
        """Seal what was written, and give it its name; one of the same name, of another attempt, goes."""
        final = self.run / f"checkpoint-{step}"
        write_manifest(self.staging(step))
        if final.exists():
            self._remove(final)
        self.staging(step).rename(final)
        flush(self.run)
        self._seen[final] = _stamp(final)
        return final

    def rotate(self, last: Path, best: Path | None):
        """Remove the oldest while there are more than `limit` that are whole; never `last`, the newest, or `best`."""
        if not self.limit or len(checkpoint_folders(self.run)) <= self.limit:
            return
        whole = [path for path in checkpoint_folders(self.run) if self._is_whole(path)]
        kept = {last, best, *whole[:1]}
        for path in reversed(whole[1:]):
            if len(whole) > self.limit and path not in kept:
                self._remove(path)
                whole.remove(path)

    def failed(self, step: int, why: str):
        """Say so and make room; end the run if that was once too often."""
        self.failures += 1
        if int(os.environ.get("RANK", 0)) == 0:
            sweep(self.run)
        if self.failures == FAILURES:
            sys.exit(f"step {step:,}: {FAILURES} checkpoints in a row could not be saved ({why}); the run ends")
        _say_once(f"step {step:,}: no checkpoint could be saved ({why}); the last one stays, training goes on")

    def refuse_unsaved(self):
        """At the end of a run: exit with code 1 if its last checkpoint could not be saved."""
        if self.failures:
            sys.exit(f"the run is finished, but its last {self.failures} checkpoint(s) could not be saved")

    def _is_whole(self, path: Path) -> bool:
        """Files that have not been touched since they were hashed are not hashed again."""
        stamp = _stamp(path)
        if self._seen.get(path) != stamp:
            self._seen[path] = stamp if find_damage(path) is None else None
        return self._seen[path] == stamp

    def _remove(self, path: Path):
        """In one event out of sight, and then for good: a kill in between leaves what the next save removes."""
        gone = path.with_name(f"{STAGING_PREFIX}removed-{path.name}")
        path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def _stamp(folder: Path) -> dict[str, tuple[int, int]]:
    """When each file was written last, and its size."""
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


@contextmanager
def ending_where_the_disk_is_full() -> Iterator[None]:
    """What a finished run keeps is written here; if it cannot be, exit with code 1 and say what to do."""
    try:
        yield
    except Exception as error:
        if not disk_error(error):
            raise
        sys.exit(
            f"what came out could not be written ({error}); see to that, and go on with "
            "training.resume_from_checkpoint=true: no step that was saved is made again"
        )


def disk_error(error: Exception) -> bool:
    """Whether an error is of the disk: Rust's, of safetensors and tokenizers, are not all `OSError`s."""
    return isinstance(error, OSError | SafetensorError) or "os error" in str(error)
