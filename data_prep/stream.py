"""Training while the corpus is still being prepared: a process of its own writes tokens, the run reads them behind it.

The tokens are those of `data_prep.tokens`, in the same folder: what a stream leaves, a later run goes on with, and a
stream that came to its source's end is a prepared folder like any other.
"""

import atexit
import json
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from filelock import FileLock, Timeout

from config import ROOT
from sections import ConfigError, DataSection, TokenizerSection

from .files import write_whole
from .windows import Epochs, TokenArray, Windows, key, shuffled
from .writer import Journal

BLOCK_TOKENS = 1 << 23
"""Windows of a first pass are shuffled within so many tokens, about 35 MB of English."""
POLL_SECONDS = 0.05
PATIENCE_SECONDS = 60.0
"""How long nobody may be writing, as when a writer is just about to start, before a run that waits gives up."""


class GrowingTokens(TokenArray):
    """The ids of a split that may still be being written, as far as they are in whole shards."""

    def __init__(self, folder: Path):
        """`folder` is the split's, in a prepared folder."""
        super().__init__([], [])
        self.folder = folder
        self.finished = False
        self.refresh()

    def refresh(self):
        """Look at what there is by now."""
        journal = Journal.load(self.folder)
        so_far = TokenArray.of_shards(self.folder, journal.shards)
        self.parts, self.ends, self.finished = so_far.parts, so_far.ends, journal.finished

    def has(self, count: int) -> bool:
        """Whether there are `count` ids, or all that there will ever be."""
        return self.finished or len(self) >= count

    def wait_for(self, count: int):
        """Return once there are `count` ids, or all that there will ever be.

        `ConfigError` with the writer's complaint, or if there is no writer.
        """
        patience = PATIENCE_SECONDS
        while not self.has(count):
            is_written = _is_locked(self.folder.parent)  # asked first: what was written since then is seen
            self.refresh()
            if self.has(count):
                return
            if not is_written:
                patience -= POLL_SECONDS
                self._refuse_to_wait(count, patience)
            time.sleep(POLL_SECONDS)

    def _refuse_to_wait(self, count: int, patience: float):
        """For a writer that has complained, or has not been seen for too long."""
        failure = _failure(self.folder.parent)
        if failure.exists():
            raise ConfigError(failure.read_text(encoding="utf-8"))
        if patience <= 0:
            raise ConfigError(
                f"{self.folder} holds {len(self):,} tokens, the run needs {count:,}, and the process that writes "
                "them is gone; resume the run, which starts another"
            )


class Stream(Epochs):
    """The windows of a whole run over a split that may still be being written: an example waits until it is there.

    In the first pass windows are shuffled within blocks of `BLOCK_TOKENS`, for the rest is not there yet; each further
    pass is shuffled as a whole. So the order is a function of (`seed`, position) here too, however fast the writer is.
    """

    def __init__(self, tokens: GrowingTokens, length: int, **positions):
        """`positions` are the other arguments of `Epochs`."""
        super().__init__(Windows(tokens, length), **positions)
        self.tokens, self.stride = tokens, length - 1
        self.block = max(1, BLOCK_TOKENS // self.stride)

    @property
    def horizon(self) -> int:
        """Ids that the run will ask for, if there are so many: whole blocks, so that a longer run reads the same."""
        return self._end(self.stop // self.block)

    def example(self, position: int) -> int:
        """Which window stands at a position of the run."""
        block, index = divmod(position, self.block)
        self.tokens.wait_for(self._end(block))
        if self.tokens.finished and position >= len(self.examples):
            return super().example(position)
        before = block * self.block
        size = min(self.block, len(self.examples) - before) if self.tokens.finished else self.block
        return before + shuffled(index, size, key(self.seed, 0, block))

    def passes(self, position: int) -> float:
        """How often all of the data has been gone through; how long a pass is is not known before its end."""
        self.tokens.wait_for(self._end(position // self.block))
        return float(position // len(self.examples)) if self.tokens.finished else 0.0

    @property
    def tokens_a_pass(self) -> int | None:
        """Ids of all windows, once the last one is written."""
        return len(self.tokens) if self.tokens.finished else None

    def _end(self, block: int) -> int:
        """How many ids there must be for a block to be whole."""
        return (block + 1) * self.block * self.stride + 1


def lock_of(folder: Path) -> FileLock:
    """Held by whoever writes into a prepared folder."""
    locks = folder.parent / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    return FileLock(locks / folder.name)


def write_on(data: DataSection, section: TokenizerSection, run: Stream):
    """Start a process that prepares what the run will ask for; it ends with this one, however this one ends."""
    folder = run.tokens.folder.parent
    if run.tokens.has(run.horizon):
        return
    _failure(folder).unlink(missing_ok=True)
    task = {"data": asdict(data), "tokenizer": asdict(section), "folder": str(folder), "until": run.horizon}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(
        [sys.executable, "-m", __name__, json.dumps(task)],
        stdin=subprocess.PIPE,  # nothing is sent: that it is closed tells that this process has ended
        stdout=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": path, "TQDM_DISABLE": "1"},
    )
    atexit.register(_stop, process)


def _stop(process: subprocess.Popen):
    process.kill()  # at any moment: it goes on from its last whole shard
    process.wait()
    with suppress(OSError):
        process.stdin.close()


def _write(task: dict):
    """What the process does."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if hasattr(os, "nice"):
        os.nice(10)  # training comes first
    folder = Path(task["folder"])
    try:
        from .tokens import Preparation

        preparation = Preparation(DataSection(**task["data"]), TokenizerSection(**task["tokenizer"]))
        if preparation.folder != folder:
            raise ConfigError(f"{preparation.data.origin} has changed since the run began; start another run")
        preparation.make(task["until"])
    except Exception as error:
        write_whole(_failure(folder), str(error) or type(error).__name__)
        if not isinstance(error, ConfigError):
            raise


def _end_with_parent():
    os.read(sys.stdin.fileno(), 1)  # returns once the other end is closed
    os._exit(1)


def _failure(folder: Path) -> Path:
    return folder / "failure.txt"


def _is_locked(folder: Path) -> bool:
    with suppress(Timeout), lock_of(folder).acquire(timeout=0):
        return False
    return True


if __name__ == "__main__":
    _write(json.loads(sys.argv[1]))
