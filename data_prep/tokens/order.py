"""The order of examples over all epochs of a run, computed by a Feistel shuffle and never stored."""

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

ROUNDS = 6


MASK = (1 << 64) - 1


class Epochs:
    """The examples of a whole run, epoch after epoch, each epoch in an order of its own.

    The example at position n of a run is a function of (`seed`, n): no order is stored, and a run resumes at any
    position. Positions end before `stop`; item i is position i + `shift`, for a run that resumes with another batch
    size. `about` names what the order depends on.

    After the last example come `blanks`, examples without targets, so that all processes get the same number.
    """

    def __init__(
        self, examples: Sequence, seed: int, stop: int, shift: int = 0, blanks: int = 0, about: dict | None = None
    ):
        self.examples, self.seed, self.stop, self.shift, self.blanks = examples, seed, stop, shift, blanks
        self.about = about or {}

    def __len__(self) -> int:
        return self.stop - self.shift + self.blanks

    def __getitem__(self, item: int) -> dict:
        position = range(len(self))[item] + self.shift
        if position < self.stop:
            return self.examples[self.example(position)]
        blank = self.examples[self.example(self.stop - 1)]
        return blank | {"prompt_length": len(blank["input_ids"])}

    def example(self, position: int) -> int:
        """The index of the example at a position of the run."""
        epoch, index = divmod(position, len(self.examples))
        return shuffled(index, len(self.examples), key(self.seed, epoch))

    def place(self, example: int, epoch: int) -> int:
        """The position of an example within an epoch; the inverse of `example`."""
        return place_of(example, len(self.examples), key(self.seed, epoch))

    def repetitions(self) -> np.ndarray:
        """How often each example occurs in the run."""
        count = len(self.examples)
        epochs, rest = divmod(self.stop, count)
        times = np.full(count, epochs)
        times[first_shuffled(rest, count, key(self.seed, epochs))] += 1
        return times

    def passes(self, position: int) -> float:
        """Passes over the data completed before a position."""
        return position / len(self.examples)

    @property
    def is_known(self) -> bool:
        """Whether the number of examples is known."""
        return True

    @property
    def tokens_per_pass(self) -> int | None:
        """Tokens of all examples, if known."""
        return len(self.examples.ids)


def shuffled(index: int, size: int, chosen: int) -> int:
    """The image of `index` under a permutation of `size` things, that a 64-bit number, `chosen`, selects.

    A Feistel network over the next larger power of four, iterated until it lands inside (Black and Rogaway, 2002).
    """
    while True:
        index = _permuted(index, size, chosen)
        if index < size:
            return index


def first_shuffled(count: int, size: int, chosen: int) -> np.ndarray:
    """`shuffled` for the indices 0 to `count` - 1, vectorised."""
    places = np.arange(count, dtype=np.uint64)
    outside = np.arange(count)
    while len(outside):
        places[outside] = _permuted(places[outside], size, chosen)
        outside = outside[places[outside] >= size]
    return places.astype(np.int64)


def place_of(thing: int, size: int, chosen: int) -> int:
    """The index that `shuffled` maps to `thing`; its inverse."""
    half = _half(size)
    mask = (1 << half) - 1
    while True:
        left, right = thing >> half, thing & mask
        for turn in reversed(range(ROUNDS)):
            left, right = right ^ (_mixed(left + (turn << half) ^ chosen) & mask), left
        thing = left << half | right
        if thing < size:
            return thing


def _permuted(index, size: int, chosen: int):
    """A permutation of the next power of four of at least `size`; `index` may be an array of uint64."""
    half = _half(size)
    mask = (1 << half) - 1
    left, right = index >> half, index & mask
    for turn in range(ROUNDS):
        left, right = right, left ^ (_mixed(right + (turn << half) ^ chosen) & mask)
    return left << half | right


def _half(size: int) -> int:
    """Bits of each half of an index."""
    return max(1, ((size - 1).bit_length() + 1) // 2)


def _mixed(value: int) -> int:
    """A 64-bit hash of a 64-bit number (the finaliser of SplitMix64, Steele et al., 2014)."""
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & MASK
    value = (value ^ value >> 27) * 0x94D049BB133111EB & MASK
    return value ^ value >> 31


@lru_cache(maxsize=8)
def key(seed: int, epoch: int, block: int = 0) -> int:
    """The 64-bit key of the permutation of an epoch, or of one block of it."""
    digest = hashlib.blake2b(f"{seed} {epoch}".encode(), digest_size=8, salt=block.to_bytes(16))
    return int.from_bytes(digest.digest())
