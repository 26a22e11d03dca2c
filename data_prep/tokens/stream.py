"""Trains while the corpus is still being prepared: a separate process writes tokens, which the run reads.

The tokens are those of `data_prep.tokens`, in the same folder: a later run continues what a stream has written, and a
stream that reached the end of its source is an ordinary prepared folder.
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
"""Windows of the first pass are shuffled within blocks of this many tokens, about 35 MB of English."""


PATIENCE_SECONDS = 600.0
"""How long a process without its own writer waits when nobody is writing."""


@dataclass(frozen=True)
class Writer:
    """The process that writes tokens, and the file for its error message."""

    process: int
    complaint: Path

    def is_alive(self) -> bool:
        """Whether the process is still running."""
        try:
            return psutil.Process(self.process).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


class GrowingTokens(TokenArray):
    """The ids in the complete shards of a split that may still be growing."""

    def __init__(self, folder: Path, shards: list[dict], finished: bool):
        """`folder` is the split's; `shards` and `finished` describe what is written so far."""
        super().__init__([], [])
        self.folder = folder
        self.writer: Writer | None = None
        self._set(shards, finished)
        self._last = None

    def _set(self, shards: list[dict], finished: bool):
        so_far = TokenArray.of_shards(self.folder, shards)
        self.parts, self.ends, self.finished = so_far.parts, so_far.ends, finished

    def refresh(self):
        """Read the present state; `ConfigError` if there are prompts, on which windows would put a loss."""
        about = (self.folder / "journal.json").stat()
        if self._last == (about.st_mtime_ns, about.st_size):
            return
        journal = Journal.load(self.folder)
        if journal.prompt_tokens:
            raise ConfigError(
                "the data has prompts, on which data.streaming=true would put a loss; leave it out and give "
                "data.layout=documents"
            )
        self._set(journal.shards, journal.finished)
        self._last = about.st_mtime_ns, about.st_size

    def has(self, count: int) -> bool:
        """Whether there are `count` ids, or the split is finished."""
        return self.finished or len(self) >= count

    def wait_for(self, count: int):
        """Wait until there are `count` ids, or the split is finished.

        `ConfigError` with the writer's error message, or if there is no writer.
        """
        patience = PATIENCE_SECONDS
        while not self.has(count):
            # Checked before refreshing, so that nothing written in between is missed.
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
            f"{self.folder} holds {len(self):,} tokens, the run needs {count:,}, and the process that writes them has "
            "ended; resume the run, which starts it again"
        )


class Stream(Epochs):
    """The windows of a whole run over a split that may still be growing; reading an example waits until it is written.

    In the first pass windows are shuffled within blocks of `BLOCK_TOKENS`, because the rest is not written yet; later
    passes are shuffled as a whole. So the order is a function of (`seed`, position), however fast the writer is.
    """

    def __init__(self, examples: Windows, **positions):
        """`examples` are windows of `GrowingTokens`; `positions` are the other arguments of `Epochs`."""
        super().__init__(examples, **positions)
        self.tokens, self.stride = examples.ids, examples.length - 1
        self.block = max(1, BLOCK_TOKENS // self.stride)

    @property
    def horizon(self) -> int:
        """Ids that the run needs, in whole blocks, so that a longer run reads the same windows."""
        return self.end_of_block((self.stop - 1) // self.block)

    def example(self, position: int) -> int:
        """The index of the window at a position of the run."""
        block, index = divmod(position, self.block)
        self.tokens.wait_for(self.end_of_block(block))
        if self.tokens.finished and position >= len(self.examples):
            return super().example(position)
        before = block * self.block
        size = min(self.block, len(self.examples) - before) if self.tokens.finished else self.block
        return before + shuffled(index, size, key(self.seed, 0, block))

    def place(self, example: int, epoch: int) -> int:
        """As `Epochs.place`, once the split is finished."""
        if epoch:
            return super().place(example, epoch)
        block, index = divmod(example, self.block)
        before = block * self.block
        size = min(self.block, len(self.examples) - before)
        return before + place_of(index, size, key(self.seed, 0, block))

    def passes(self, position: int) -> float:
        """Completed passes; a pass counts once an example of the next is read."""
        return float(max(position - 1, 0) // len(self.examples)) if self.tokens.finished else 0.0

    @property
    def is_known(self) -> bool:
        """Whether the split is finished."""
        return self.tokens.finished

    @property
    def tokens_per_pass(self) -> int | None:
        """Tokens of all windows, if the run reads all of them."""
        return len(self.tokens) if self.tokens.finished and self.stop > len(self.examples) else None

    def end_of_block(self, block: int) -> int:
        """The number of ids that completes a block."""
        return (block + 1) * self.block * self.stride + 1


def in_order(examples: Windows | Documents, **positions) -> Epochs:
    """All examples of a run in order: a `Stream` if they grow, or else `Epochs`, made with `positions`."""
    return (Stream if isinstance(examples.ids, GrowingTokens) else Epochs)(examples, **positions)
