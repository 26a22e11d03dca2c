"""Atomic checkpoints: written to a staging folder, hashed, flushed to the disk, and then renamed.

A checkpoint is written as `.staging-checkpoint-N`. `checkpoint.json`, with the size and hash of each file, comes last;
when everything is on the disk, the folder is renamed to `checkpoint-N`. What a killed process leaves behind is removed
by the next save. A folder without `checkpoint.json`, or whose files differ from it, is never resumed and never counted.
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
from storage.checkpoint_manifest import STAGING_PREFIX, checkpoint_folders, checkpoint_step, find_damage, write_manifest
from storage.files import flush

MAX_FAILURES = 3
"""Consecutive failed saves after which the run ends."""


@contextmanager
def atomic_replace(folder: Path) -> Iterator[Path]:
    """An empty folder to write into; on success each of its files atomically replaces the one in `folder`."""
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


def latest_valid(run: Path) -> Path | None:
    """The newest valid checkpoint, or None if there are no checkpoints; damaged ones are reported and skipped.

    `ConfigError` if there are checkpoints and all of them are damaged.
    """
    wrong = []
    for path in checkpoint_folders(run):
        why = find_damage(path)
        if why is None:
            if wrong:
                _print_once(f"{'; '.join(wrong)}: resuming from {path.name}")
            return path
        wrong.append(f"{path.name} is damaged ({why})")
    if wrong:
        raise ConfigError(
            f"{run} has no checkpoint to resume from: {'; '.join(wrong)}; restore one, or choose another "
            "training.output_dir"
        )
    return None


def _print_once(line: str):
    """Print a line to stderr from the first process only."""
    if int(os.environ.get("RANK", 0)) == 0:
        tqdm.write(line, file=sys.stderr)


def remove_stale(run: Path):
    """Remove staging folders that killed processes and full disks have left behind."""
    for left in run.glob(f"{STAGING_PREFIX}*"):
        shutil.rmtree(left, ignore_errors=True)


class Checkpoints:
    """Writes and rotates the checkpoints of a run. One process writes; all count failures."""

    def __init__(self, run: Path, limit: int | None):
        """`limit` is how many valid checkpoints to keep; None or 0 keeps all."""
        self.run, self.limit = run, limit
        self.kept: set[int] = set()
        """Steps of checkpoints that are kept besides those."""
        self.failures = 0
        self._verified = {}

    def staging(self, step: int) -> Path:
        """Where a checkpoint is written."""
        return self.run / f"{STAGING_PREFIX}checkpoint-{step}"

    def begin(self, staging: Path):
        """Make an empty staging folder; remove stale ones."""
        remove_stale(self.run)
        staging.mkdir(parents=True)

    def commit(self, step: int) -> Path:
        """Write the manifest and rename the staging folder; a checkpoint of the same name is replaced."""
        final = self.run / f"checkpoint-{step}"
        write_manifest(self.staging(step))
        if final.exists():
            self._remove(final)
        self.staging(step).rename(final)
        flush(self.run)
        self._verified[final] = _stamp(final)
        return final

    def rotate(self, last: Path, best: Path | None):
        """Remove the oldest while more than `limit` are valid; never `last`, the newest, `best`, or those to be kept,
        which do not count."""
        folders = [path for path in checkpoint_folders(self.run) if checkpoint_step(path) not in self.kept]
        if not self.limit or len(folders) <= self.limit:
            return
        valid = [path for path in folders if self._is_valid(path)]
        kept = {last, best, *valid[:1]}
        for path in reversed(valid[1:]):
            if len(valid) > self.limit and path not in kept:
                self._remove(path)
                valid.remove(path)

    def record_failure(self, step: int, why: str):
        """Report a failed save and remove its files; exit with code 1 after `MAX_FAILURES` in a row."""
        self.failures += 1
        if int(os.environ.get("RANK", 0)) == 0:
            remove_stale(self.run)
        if self.failures == MAX_FAILURES:
            sys.exit(f"step {step:,}: {MAX_FAILURES} checkpoints in a row could not be saved ({why}); the run ends")
        _print_once(
            f"step {step:,}: the checkpoint could not be saved ({why}); the previous one is kept, training continues"
        )

    def exit_if_unsaved(self):
        """At the end of a run: exit with code 1 if its last checkpoint could not be saved."""
        if self.failures:
            sys.exit(f"the run is finished, but its last {self.failures} checkpoint(s) could not be saved")

    def _is_valid(self, path: Path) -> bool:
        """Whether a checkpoint is valid; files that have not changed since they were hashed are not hashed again."""
        stamp = _stamp(path)
        if self._verified.get(path) != stamp:
            self._verified[path] = stamp if find_damage(path) is None else None
        return self._verified[path] == stamp

    def _remove(self, path: Path):
        """Rename to a staging name first: a kill in between leaves what the next save removes."""
        gone = path.with_name(f"{STAGING_PREFIX}removed-{path.name}")
        path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def _stamp(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and modification time of each file."""
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


@contextmanager
def exit_on_disk_error() -> Iterator[None]:
    """Within, a finished run writes its results; on a disk error exit with code 1 and say what to do."""
    try:
        yield
    except Exception as error:
        if not is_disk_error(error):
            raise
        sys.exit(
            f"the results could not be written ({error}); free some space and resume with "
            "training.resume_from_checkpoint=true: no saved step is repeated"
        )


def is_disk_error(error: Exception) -> bool:
    """Whether an error comes from the disk; those of safetensors and tokenizers are not all `OSError`s."""
    return isinstance(error, OSError | SafetensorError) or "os error" in str(error)
