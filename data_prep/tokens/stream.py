"""Training while the corpus is still being prepared: a process of its own writes tokens, the run reads them behind it.

The tokens are those of `data_prep.tokens`, in the same folder: what a stream leaves, a later run goes on with, and a
stream that came to its source's end is a prepared folder like any other.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from settings.checks import ConfigError

from .lock import POLL_SECONDS, is_locked
from .order import Epochs, key, place_of, shuffled
from .windows import Documents, TokenArray, Windows
from .writer import Journal

BLOCK_TOKENS = 1 << 23
"""Windows of a first pass are shuffled within so many tokens, about 35 MB of English."""


PATIENCE_SECONDS = 600.0
"""How long nobody may be writing before a process that has no writer of its own gives up."""


@dataclass(frozen=True)
class Writer:
    """A process that writes, and the file that it leaves its complaint in."""

    process: int
    complaint: Path

    def is_alive(self) -> bool:
        """Whether it has not ended yet."""
        try:
            return psutil.Process(self.process).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


class GrowingTokens(TokenArray):
    """The ids of a split that may still be being written, as far as they are in whole shards."""

    def __init__(self, folder: Path, shards: list[dict], finished: bool):
        """`folder` is the split's, in a prepared folder; `shards` and `finished` tell what there is so far."""
        super().__init__([], [])
        self.folder = folder
        self.writer: Writer | None = None
        self._set(shards, finished)
        self._last = None

    def _set(self, shards: list[dict], finished: bool):
        so_far = TokenArray.of_shards(self.folder, shards)
        self.parts, self.ends, self.finished = so_far.parts, so_far.ends, finished

    def refresh(self):
        """Look at what there is by now. `ConfigError` if there are prompts, which a window would count."""
        about = (self.folder / "journal.json").stat()
        if self._last == (about.st_mtime_ns, about.st_size):
            return
        journal = Journal.load(self.folder)
        if journal.prompt_tokens:
            raise ConfigError(
                "the data has prompts, whose loss data.streaming=true would count; leave it out and give "
                "data.layout=documents"
            )
        self._set(journal.shards, journal.finished)
        self._last = about.st_mtime_ns, about.st_size

    def has(self, count: int) -> bool:
        """Whether there are `count` ids, or all that there will ever be."""
        return self.finished or len(self) >= count

    def wait_for(self, count: int):
        """Return once there are `count` ids, or all that there will ever be.

        `ConfigError` with the writer's complaint, or if there is no writer.
        """
        patience = PATIENCE_SECONDS
        while not self.has(count):
            # Asked before looking: what they have written by then is seen.
            is_alive, is_written = self.writer and self.writer.is_alive(), is_locked(self.folder.parent)
            self.refresh()
            if self.has(count):
                return
            if not is_written and not is_alive:
                patience -= POLL_SECONDS
                if self.writer or patience <= 0:
                    raise ConfigError(self._writer_error(count))
            time.sleep(POLL_SECONDS)

    def _writer_error(self, count: int) -> str:
        if self.writer and self.writer.complaint.stat().st_size:
            return self.writer.complaint.read_text(encoding="utf-8")
        return (
            f"{self.folder} holds {len(self):,} tokens, the run needs {count:,}, and the process that writes them is "
            "gone; resume the run, which starts another"
        )


class Stream(Epochs):
    """The windows of a whole run over a split that may still be being written: an example waits until it is there.

    In the first pass windows are shuffled within blocks of `BLOCK_TOKENS`, for the rest is not there yet; each further
    pass is shuffled as a whole. So the order is a function of (`seed`, position) here too, however fast the writer is.
    """

    def __init__(self, examples: Windows, **positions):
        """`examples` are windows of `GrowingTokens`; `positions` are the other arguments of `Epochs`."""
        super().__init__(examples, **positions)
        self.tokens, self.stride = examples.ids, examples.length - 1
        self.block = max(1, BLOCK_TOKENS // self.stride)

    @property
    def horizon(self) -> int:
        """Ids that the run will ask for, if there are so many: whole blocks, so that a longer run reads the same."""
        return self.end_of_block((self.stop - 1) // self.block)

    def example(self, position: int) -> int:
        """Which window stands at a position of the run."""
        block, index = divmod(position, self.block)
        self.tokens.wait_for(self.end_of_block(block))
        if self.tokens.finished and position >= len(self.examples):
            return super().example(position)
        before = block * self.block
        size = min(self.block, len(self.examples) - before) if self.tokens.finished else self.block
        return before + shuffled(index, size, key(self.seed, 0, block))

    def place(self, example: int, epoch: int) -> int:
        """As `Epochs.place`, once there is all of the split."""
        if epoch:
            return super().place(example, epoch)
        block, index = divmod(example, self.block)
        before = block * self.block
        size = min(self.block, len(self.examples) - before)
        return before + place_of(index, size, key(self.seed, 0, block))

    def passes(self, position: int) -> float:
        """How many passes have ended: one has when an example of the next is read, which tells how long it is."""
        return float(max(position - 1, 0) // len(self.examples)) if self.tokens.finished else 0.0

    @property
    def is_known(self) -> bool:
        """Whether all of the split has been written."""
        return self.tokens.finished

    @property
    def tokens_per_pass(self) -> int | None:
        """Ids of all windows, where the run goes through all of them."""
        return len(self.tokens) if self.tokens.finished and self.stop > len(self.examples) else None

    def end_of_block(self, block: int) -> int:
        """How many ids there must be for a block to be whole."""
        return (block + 1) * self.block * self.stride + 1


def in_order(examples: Windows | Documents, **positions) -> Epochs:
    """All examples of a run as `Epochs`, a `Stream` of those that grow; `positions` are its other arguments."""
    return (Stream if isinstance(examples.ids, GrowingTokens) else Epochs)(examples, **positions)
