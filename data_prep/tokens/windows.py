"""Training examples from tokens on disk, by index arithmetic.

The classes are map-style data sets for PyTorch's loaders: a length, and items by index.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from settings.checks import ConfigError

MAX_MAPPED_FILES = 100
"""Maximum number of files mapped at once; a process may open about a thousand."""


class TokenArray:
    """A flat array of ids in several parts: `.npy` files, memory-mapped on demand, or arrays.

    `lengths` are the lengths of the parts.
    """

    def __init__(self, parts: Sequence[Path | np.ndarray], lengths: Sequence[int]):
        self.parts = list(parts)
        self.ends = np.cumsum([0, *lengths])
        self._mapped = {}

    @classmethod
    def of_shards(cls, folder: Path, shards: Sequence[dict]) -> "TokenArray":
        """The ids of a prepared split; `shards` are its entries in a journal or manifest."""
        return cls([folder / f"{index:05}.npy" for index in range(len(shards))], [shard["tokens"] for shard in shards])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def read(self, start: int, stop: int) -> np.ndarray:
        """Ids `start` to `stop`, as int64; fewer at the end of the array."""
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
        return vars(self) | {"_mapped": {}}  # each worker maps the files itself


class Windows:
    """A flat array of tokens cut into windows of `length`, each starting with the last token of the one before.

    A causal model predicts T - 1 tokens of a window of T; because of the shared token, each adjacent pair of the array
    is predicted exactly once. The last window may be shorter.

    With `documents` (the `start` of each in `ids`, and its `group`), an example also has `groups`, one per token: the
    group of the document that the token belongs to. A token between two documents belongs to the one that it ends.
    """

    def __init__(self, ids: TokenArray, length: int, documents: np.ndarray | None = None):
        self.ids = ids
        self.length = length
        self.groups = None
        if documents is not None:
            self.starts, self.groups = np.ascontiguousarray(documents["start"]), documents["group"]
            self.side = (
                "left" if _share_boundary_token(ids) else "right"
            )  # a shared boundary token belongs to the document that it ends

    @property
    def targets(self) -> int:
        """Number of targets in one epoch."""
        return len(self.ids) - 1

    def __len__(self) -> int:
        return max(1, math.ceil((len(self.ids) - 1) / (self.length - 1)))

    def __getitem__(self, index: int) -> dict:
        start = range(len(self))[index] * (self.length - 1)
        ids = self.ids.read(start, start + self.length)
        if self.groups is None:
            return {"input_ids": ids}
        owners = np.searchsorted(self.starts, np.arange(start, start + len(ids)), self.side) - 1
        return {"input_ids": ids, "groups": self.groups[np.maximum(owners, 0)]}  # the first token ends no document


class Documents:
    """One example per document, from its start token to its end token; `ConfigError` if one is longer than `length`.

    `documents` has the `start` of each in `ids` and the number of its `prompt` tokens. Examples also have `groups` if
    `with_groups`: the document's `group`, once per token.
    """

    def __init__(self, ids: TokenArray, documents: np.ndarray, length: int, with_groups: bool = False):
        self.ids, self.starts, self.prompts = ids, documents["start"], documents["prompt"]
        self.groups = documents["group"] if with_groups else None
        self.stops = np.append(self.starts[1:] + _share_boundary_token(ids), len(ids))
        longest = int((self.stops - self.starts).max())
        if longest > length:
            raise ConfigError(
                f"the longest document has {longest} tokens, more than data.context_length={length}; "
                f"raise it and model.max_position_embeddings to {longest}, or use data.layout=packed"
            )

    @property
    def targets(self) -> int:
        """Number of targets in one epoch: all tokens but the first of each document and its prompt."""
        return int((self.stops - self.starts - np.maximum(self.prompts, 1)).sum())

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> dict:
        ids = self.ids.read(int(self.starts[index]), int(self.stops[index]))
        example = {"input_ids": ids, "prompt_length": int(self.prompts[index])}
        return example if self.groups is None else example | {"groups": np.full(len(ids), self.groups[index])}


def _share_boundary_token(ids: TokenArray) -> bool:
    """Whether adjacent documents share the token between them: exactly if the first id equals the last."""
    return bool(ids.read(0, 1)[0] == ids.read(len(ids) - 1, len(ids))[0])
