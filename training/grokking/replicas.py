"""Many models of one architecture, computed as one batch.

Shapes: R replicas, B batch, T positions, K positions of an answer, V vocabulary; P beginnings of t tokens.
"""

from functools import partial

import torch
from torch import nn
from torch.func import functional_call, vmap

from modeling.accounting import key_value_flops, product_flops
from modeling.releases import CACHE


class Replicas(nn.Module):
    """Causal language models run together: weights are stacked, and `torch.vmap` makes one forward pass.

    Weights and gradients stay those of the given models, so each is optimised and saved by itself. Two optimisations,
    measured in `benchmarks/replicas.py`:
    - In batches of more than 2 P rows, rows with the same beginning share its computation, through the models' own
      key-value cache; `beginnings` (P, t) lists all of them. Exact, except with dropout, whose masks would be shared.
    - Under autocast weights are rounded once and activations, norms included, stay in the lower precision; autocast
      itself would round the input of each product again.
    """

    accepts_loss_kwargs = True  # has the Trainer count targets

    def __init__(self, models: list[nn.Module], beginnings: torch.LongTensor | None = None):
        super().__init__()
        self.models = nn.ModuleList(models)
        self.config = models[0].config
        self.register_buffer("beginnings", beginnings, persistent=False)

    def forward(self, input_ids: torch.LongTensor, beginning: torch.LongTensor, logits_to_keep: int):
        """Logits (R, B, K, V) at the last K positions of `input_ids` (R, B, T).

        Row i begins with `beginnings[beginning[i]]`. No mask is needed where rows are padded on the right: a causal
        model does not look there.
        """
        device = input_ids.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32
        named = [dict(model.named_parameters()) for model in self.models]
        stacked = {name: torch.stack([weights[name] for weights in named]).to(dtype) for name in named[0]}
        predict = vmap(partial(self._predict, logits_to_keep), randomness="different")
        with torch.autocast(device, enabled=False):
            return predict(stacked, input_ids, beginning)

    def shares(self, rows: int) -> bool:
        """Whether a batch of `rows` rows computes each beginning once."""
        return self.beginnings is not None and rows > 2 * len(self.beginnings)

    def beginning_flops(self) -> int:
        """FLOPs of a training step on the shared beginnings, of all replicas, counted as `modeling.accounting` does.

        Only keys and values of the last layer are used: the rest of it is computed, but has no backward pass.
        """
        count, length = self.beginnings.shape
        parts = product_flops(self.config, count * length, count * length**2, logits=count)
        head, layers = parts.pop("head"), self.config.num_hidden_layers
        blocks = sum(parts.values())
        backward = 2 * (blocks // layers * (layers - 1) + key_value_flops(self.config, count * length))
        return len(self.models) * (blocks + head + backward)

    def _predict(self, kept: int, weights: dict, ids_BT, beginning_B):
        """One model's logits (B, K, V)."""
        call = partial(functional_call, self.models[0], weights)
        if not self.shares(len(ids_BT)):
            return call((ids_BT,), {"use_cache": False, "logits_to_keep": kept}).logits
        cache = call((self.beginnings,), {"use_cache": True, "logits_to_keep": 1})[CACHE]
        for layer in cache.layers:
            layer.keys, layer.values = (_pick(states, beginning_B) for states in (layer.keys, layer.values))
        rest_BT = ids_BT[:, self.beginnings.shape[1] :]
        return call((rest_BT,), {CACHE: cache, "use_cache": True, "logits_to_keep": kept}).logits


def _pick(states, rows_B):
    """Select rows of a tensor as an embedding, whose backward pass is far faster than that of indexing."""
    return nn.functional.embedding(rows_B, states.flatten(1)).unflatten(1, states.shape[1:])
