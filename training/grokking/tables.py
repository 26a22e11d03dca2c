"""Equations as tensors: splits as tables, and batches of rows in each replica's own order.

Shapes: R replicas, n rows of a split, B batch, T tokens of an equation, P beginnings of t tokens.
"""

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.utils.data import Dataset


def tabulate(members: list, collate: Callable) -> tuple[dict[str, dict[str, torch.Tensor]], torch.Tensor | None]:
    """The equations of `Member`s as tables by split, and the beginnings (P, t) that rows share.

    A table has `input_ids` and `labels` (R, n, T), and `beginning` (R, n), the index of each row's beginning: what
    comes before the second number. Beginnings are None (and all indices 0) if their lengths differ, or with dropout,
    whose masks differ by row. Attention masks are left out: causal models need none for padding on the right.
    """
    splits = members[0].equations.splits
    # All splits of a member together: replicas must have the same length, whichever split the longest row is in.
    whole = [collate(list(itertools.chain(*member.equations.splits.values()))) for member in members]
    columns = {
        name: torch.stack([one[name] for one in whole]).split([len(rows) for rows in splits.values()], dim=1)
        for name in ("input_ids", "labels")
    }
    tables = {split: {name: parts[i] for name, parts in columns.items()} for i, split in enumerate(splits)}
    shared = 0 if _has_dropout(members[0].model.config) else members[0].equations.beginning_length
    if not shared:
        for table in tables.values():
            table["beginning"] = torch.zeros(table["input_ids"].shape[:2], dtype=torch.int64)
        return tables, None
    starts = [table["input_ids"][..., :shared] for table in tables.values()]
    beginnings, which = torch.unique(torch.cat([x.flatten(0, 1) for x in starts]), dim=0, return_inverse=True)
    for table, rows in zip(tables.values(), which.split([x.shape[0] * x.shape[1] for x in starts]), strict=True):
        table["beginning"] = rows.view(table["input_ids"].shape[:2])
    return tables, beginnings


def _has_dropout(config) -> bool:
    return any((config.attention_dropout, config.hidden_dropout, config.embedding_dropout))


class Batches(Dataset):
    """Tables of equations (R, n, ...) in a new order each epoch, which is a function of (seed, epoch).

    Each replica has the order of its own seed, the same as if trained alone. An item is one row of every replica;
    batches are selected at once, without a loop over rows.
    """

    def __init__(self, table: dict[str, torch.Tensor], seeds: Sequence[int]):
        self.table = table
        self.seeds = seeds
        self.set_epoch(0)

    def set_epoch(self, epoch: int):
        """Shuffle for an epoch; called by the data loader."""
        orders = [np.random.default_rng([seed, epoch]).permutation(len(self)) for seed in self.seeds]
        self.orders_Rn = torch.from_numpy(np.stack(orders))

    def __len__(self) -> int:
        return self.table["input_ids"].shape[1]

    def __getitems__(self, positions: list[int]) -> dict[str, torch.Tensor]:
        rows_RB = self.orders_Rn[:, positions]
        replicas_R1 = torch.arange(len(rows_RB))[:, None]
        return {name: tensor[replicas_R1, rows_RB] for name, tensor in self.table.items()}


def chunks(table: dict[str, torch.Tensor], size: int) -> list[dict[str, torch.Tensor]]:
    """Split a table into chunks of `size` rows per replica; the last may be smaller."""
    parts = {name: tensor.split(size, dim=1) for name, tensor in table.items()}
    return [dict(zip(parts, chunk, strict=True)) for chunk in zip(*parts.values(), strict=True)]
