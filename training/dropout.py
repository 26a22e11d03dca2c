"""Dropout as a function of the seed, the step and the row in the batch, however the batch is split.

`nn.Dropout` draws from a generator, so its masks depend on the number of processes, on accumulation and on padding.
Here a mask is a hash of each element's position: any number of processes, with or without accumulation, draws the same
masks, and a resumed run has no state to restore.
"""

import hashlib

import torch
from torch import nn
from transformers import TrainingArguments

WRAP = 1 << 32


def mixed(x: torch.Tensor) -> torch.Tensor:
    """Hash 32-bit integers (`lowbias32`, Wellons, 2018); products wrap around."""
    x = (x ^ (x >> 16 & 0xFFFF)) * 0x7FEB352D
    x = (x ^ (x >> 15 & 0x1FFFF)) * (0x846CA68B - WRAP)
    return x ^ (x >> 16 & 0xFFFF)


def hashed(*parts) -> int:
    """A hash of numbers and texts, as a signed 32-bit integer."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=4).digest(), "little", signed=True)


class Place:
    """The position of a forward pass in its run: a key for each token of its batch, (B, T), and for each column.

    Until it is set, masks come from PyTorch's generator.
    """

    def __init__(self, width: int):
        """`width` is the largest number of columns that a tensor (B, T, columns) can have."""
        self.width = width
        self.keys_BT = self.columns = None

    def set(self, batch: torch.Tensor, first: int, *run: int):
        """Set the position: `batch` (B, T) has the rows from `first` on of the step that `run`, (seed, step), names."""
        rows = [hashed(*run, row) for row in range(first, first + batch.shape[0])]
        rows_B1 = torch.tensor(rows, dtype=torch.int32, device=batch.device)[:, None]
        most = max(self.width, batch.shape[1])
        self.columns = mixed(torch.arange(1, most + 1, dtype=torch.int32, device=batch.device))
        self.keys_BT = mixed(rows_B1 + self.columns[: batch.shape[1]])

    def is_of(self, x: torch.Tensor) -> bool:
        """Whether a tensor (B, T, ...) has the shape of the present batch."""
        return self.keys_BT is not None and self.keys_BT.shape == x.shape[:2]

    def mask(self, keys: torch.Tensor, width: int, p: float, dtype: torch.dtype) -> torch.Tensor:
        """Factors (..., width), one per key (...) and column: 0 with probability `p`, else 1 / (1 - p)."""
        x = keys[..., None] + self.columns[:width]
        x ^= (x >> 16).bitwise_and_(0xFFFF)
        x *= 0x7FEB352D
        x ^= (x >> 15).bitwise_and_(0x1FFFF)
        x *= 0x846CA68B - WRAP
        return (x >= int(p * WRAP) - WRAP // 2).to(dtype).mul_(1 / (1 - p))

    def mask_heads(self, key: int, shape: torch.Size, p: float, dtype: torch.dtype) -> torch.Tensor:
        """The same for attention weights of `shape` (B, N, T, S)."""
        heads_BNT = mixed(self.keys_BT[:, None] + self.columns[: shape[1], None] + key)
        return self.mask(heads_BNT, shape[3], p, dtype)


class RowDropout(nn.Dropout):
    """Dropout of a tensor (B, T, D) by the position of its tokens; `key` separates its masks from other modules'."""

    def __init__(self, p: float, place: Place, key: int):
        super().__init__(p)
        self.place, self.key = place, key

    def forward(self, x_BTD):
        if not (self.training and self.p and self.place.is_of(x_BTD)):
            return super().forward(x_BTD)
        return x_BTD * self.place.mask(self.place.keys_BT + self.key, x_BTD.shape[2], self.p, x_BTD.dtype)


def use_row_dropout(model: nn.Module) -> Place:
    """Replace the model's dropout by one that depends on the returned `Place`; attention modules get it too."""
    place = Place(max(model.config.hidden_size, model.config.num_attention_heads))
    for name, module in [*model.named_modules()]:
        if hasattr(module, "attention_dropout"):
            module.place, module.key = place, hashed(name)
        for part, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, part, RowDropout(child.p, place, hashed(f"{name}.{part}")))
    return place


def per_process_randomness(args: TrainingArguments, attention_dropout: float | None) -> str | None:
    """A note on random numbers that are drawn per process, so that they depend on how a batch is split; or None.

    They are a function of the seed, the step and the process's first row: a resume with the same split is exact.
    """
    found = [f"training.neftune_noise_alpha={args.neftune_noise_alpha}"] if args.neftune_noise_alpha else []
    if attention_dropout and args.device.type != "cpu":
        found.append(f"model.attention_dropout={attention_dropout} on a GPU")
    if not found:
        return None
    return f"{' and '.join(found)}: random numbers are drawn per process, so results depend on how a batch is split"
