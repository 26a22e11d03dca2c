"""Tokens on disk to training examples by index arithmetic, and the order of examples, computed and never stored.

Each class here is a data set as PyTorch's loaders take them: a length and items by number.
"""

import hashlib
import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from sections import ConfigError

MOST_MAPPED = 100
"""Files that are open at a time, of the thousand or so that a process may have."""
ROUNDS = 6
MASK = (1 << 64) - 1


class TokenArray:
    """A flat array of ids in several parts: `.npy` files, mapped into memory and read where they are needed, or arrays.

    `lengths` are those of the parts.
    """

    def __init__(self, parts: Sequence[Path | np.ndarray], lengths: Sequence[int]):
        self.parts = list(parts)
        self.ends = np.cumsum([0, *lengths])
        self._mapped = {}

    @classmethod
    def of_shards(cls, folder: Path, shards: Sequence[dict]) -> "TokenArray":
        """The ids of a prepared split, in its folder, of whose shards a journal or a manifest tells `tokens`."""
        return cls([folder / f"{index:05}.npy" for index in range(len(shards))], [shard["tokens"] for shard in shards])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def read(self, start: int, stop: int) -> np.ndarray:
        """Ids `start` to `stop`, as int64; fewer where the array ends."""
        stop = min(stop, len(self))
        first, last = np.searchsorted(self.ends, [start, stop - 1], side="right") - 1
        pieces = [
            self._part(index)[max(start - self.ends[index], 0) : stop - self.ends[index]]
            for index in range(first, last + 1)
        ]
        return np.concatenate(pieces).astype(np.int64)

    def _part(self, index: int) -> np.ndarray:
        if not isinstance(self.parts[index], Path):
            return self.parts[index]
        if index not in self._mapped:
            if len(self._mapped) == MOST_MAPPED:
                self._mapped.pop(next(iter(self._mapped)))
            self._mapped[index] = np.load(self.parts[index], mmap_mode="r")
        return self._mapped[index]

    def __getstate__(self) -> dict:
        return vars(self) | {"_mapped": {}}  # a worker maps the files itself


class Windows:
    """A flat array of tokens cut into windows of `length`, each beginning with the last token of the one before.

    A causal model predicts from a window of T tokens T - 1; the shared token makes each adjacent pair of the array a
    target exactly once. The last window may be shorter.

    With `documents`, where each one begins in `ids` (`start`) and its `group`, an example also has `groups`, as long as
    its `input_ids`: the group of the document whose text or end each token is, or whose start where that is a token of
    its own.
    """

    def __init__(self, ids: TokenArray, length: int, documents: np.ndarray | None = None):
        self.ids = ids
        self.length = length
        self.groups = None
        if documents is not None:
            self.starts, self.groups = np.ascontiguousarray(documents["start"]), documents["group"]
            self.side = "left" if _are_joined(ids) else "right"  # the token at a start ends the document before

    @property
    def targets(self) -> int:
        """Tokens to predict in one epoch."""
        return len(self.ids) - 1

    def __len__(self) -> int:
        return max(1, math.ceil((len(self.ids) - 1) / (self.length - 1)))

    def __getitem__(self, index: int) -> dict:
        start = range(len(self))[index] * (self.length - 1)
        ids = self.ids.read(start, start + self.length)
        if self.groups is None:
            return {"input_ids": ids}
        owners = np.searchsorted(self.starts, np.arange(start, start + len(ids)), self.side) - 1
        return {"input_ids": ids, "groups": self.groups[np.maximum(owners, 0)]}  # the first token ends nothing


class Documents:
    """One document an example, from its start token to its end token; one too long for `length` is a `ConfigError`.

    `documents` has where each one begins in `ids` (`start`) and how many of its tokens are a prompt (`prompt`). An
    example also has `groups` if asked for: the document's `group`, for each of its tokens.
    """

    def __init__(self, ids: TokenArray, documents: np.ndarray, length: int, with_groups: bool = False):
        self.ids, self.starts, self.prompts = ids, documents["start"], documents["prompt"]
        self.groups = documents["group"] if with_groups else None
        self.stops = np.append(self.starts[1:] + _are_joined(ids), len(ids))
        longest = int((self.stops - self.starts).max())
        if longest > length:
            raise ConfigError(
                f"a document has {longest} tokens and data.context_length is {length}; "
                f"raise it and model.max_position_embeddings to {longest}, or use data.layout=packed"
            )

    @property
    def targets(self) -> int:
        """Tokens to predict in one epoch: all but the first of each document and its prompt."""
        return int((self.stops - self.starts - np.maximum(self.prompts, 1)).sum())

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> dict:
        ids = self.ids.read(int(self.starts[index]), int(self.stops[index]))
        example = {"input_ids": ids, "prompt_length": int(self.prompts[index])}
        return example if self.groups is None else example | {"groups": np.full(len(ids), self.groups[index])}


def _are_joined(ids: TokenArray) -> bool:
    """Whether documents overlap by the token between them: if and only if the first id of all is also the last."""
    return bool(ids.read(0, 1)[0] == ids.read(len(ids) - 1, len(ids))[0])


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
    def tokens_a_pass(self) -> int | None:
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


def shuffled_first(count: int, size: int, chosen: int) -> np.ndarray:
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
