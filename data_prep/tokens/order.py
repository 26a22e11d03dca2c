"""The order of examples over all epochs of a run, computed by a Feistel shuffle and never stored."""

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

ROUNDS = 6


MASK = (1 << 64) - 1


class Epochs:
    """The examples of a whole run, epoch after epoch, each epoch in an order of its own.

    The example at position n of a run is a function of (`seed`, n): no order is stored, and a run goes on from any
    position. Positions end before `stop`; item i is position i + `shift`, for a run that goes on with batches of
    another size and so has made other items of the positions before. `about` names what the order depends on.

    After the last one come `blanks`, examples all of which is prompt, for several processes take the same number each.
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
        """Which example stands at a position of the run."""
        epoch, index = divmod(position, len(self.examples))
        return shuffled(index, len(self.examples), key(self.seed, epoch))

    def place(self, example: int, epoch: int) -> int:
        """Where an epoch has an example; the inverse of `example`."""
        return place_of(example, len(self.examples), key(self.seed, epoch))

    def passes(self, position: int) -> float:
        """How often the data has been gone through before a position."""
        return position / len(self.examples)

    @property
    def is_known(self) -> bool:
        """Whether all examples are there."""
        return True

    @property
    def tokens_per_pass(self) -> int | None:
        """Ids of all examples, where it is known how many there are."""
        return len(self.examples.ids)


def shuffled(index: int, size: int, chosen: int) -> int:
    """Where a permutation of `size` things, chosen by a 64-bit `key`, has put the one at `index`.

    A Feistel network over the next larger power of four, walked until it lands inside (Black and Rogaway, 2002).
    """
    while True:
        index = _permuted(index, size, chosen)
        if index < size:
            return index


def first_shuffled(count: int, size: int, chosen: int) -> np.ndarray:
    """The first `count` of what `shuffled` says for the indices 0, 1, ..., at once."""
    places = np.arange(count, dtype=np.uint64)
    outside = np.arange(count)
    while len(outside):
        places[outside] = _permuted(places[outside], size, chosen)
        outside = outside[places[outside] >= size]
    return places.astype(np.int64)


def place_of(thing: int, size: int, chosen: int) -> int:
    """The index of which `shuffled` says that it has this thing."""
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
    """A permutation of the next power of four from `size` on; `index` may be an array of uint64."""
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
    """What chooses the permutation of an epoch, or of one block of it."""
    digest = hashlib.blake2b(f"{seed} {epoch}".encode(), digest_size=8, salt=block.to_bytes(16))
    return int.from_bytes(digest.digest())
