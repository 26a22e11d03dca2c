"""Tokens on disk to training examples by index arithmetic, and the order of examples, computed and never stored.

Each class here is a data set as PyTorch's loaders take them: a length and items by number.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from settings.checks import ConfigError

MAX_MAPPED_FILES = 100
"""Files that are open at a time, of the thousand or so that a process may have."""


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
            if len(self._mapped) == MAX_MAPPED_FILES:
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
            self.side = (
                "left" if _share_boundary_token(ids) else "right"
            )  # the token at a start ends the document before

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
        self.stops = np.append(self.starts[1:] + _share_boundary_token(ids), len(ids))
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


def _share_boundary_token(ids: TokenArray) -> bool:
    """Whether documents overlap by the token between them: if and only if the first id of all is also the last."""
    return bool(ids.read(0, 1)[0] == ids.read(len(ids) - 1, len(ids))[0])
