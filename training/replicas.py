"""Many models of one architecture, trained as one batch of models.

Shapes: R replicas, B batch, T positions, K positions of an answer, V vocabulary; P beginnings of t tokens.
"""

from functools import partial

import torch
from torch import nn
from torch.func import functional_call, vmap

from modeling.releases import CACHE


class Replicas(nn.Module):
    """Ordinary causal language models, run together: their weights stacked, their forward passes one, by `torch.vmap`.

    Weights and gradients stay those of the models given, so that each is optimised and saved by itself. Two savings,
    measured in `benchmarks/replicas.py`:
    - Rows that begin alike share the work on their beginning, through the models' own key-value cache, in batches of
      more than 2 P rows; `beginnings` (P, t) are all that there are. Exact, but for dropout, which would drop the same
      in all of them.
    - Under autocast weights are rounded once and activations, norms included, stay in its type; autocast itself would
      round the input of each product anew.
    """

    accepts_loss_kwargs = True  # makes the Trainer count targets

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

    def _predict(self, kept: int, weights: dict, ids_BT, beginning_B):
        """One model's logits (B, K, V)."""
        call = partial(functional_call, self.models[0], weights)
        if self.beginnings is None or len(ids_BT) <= 2 * len(self.beginnings):
            return call((ids_BT,), {"use_cache": False, "logits_to_keep": kept}).logits
        cache = call((self.beginnings,), {"use_cache": True, "logits_to_keep": 1})[CACHE]
        for layer in cache.layers:
            layer.keys, layer.values = (_pick(states, beginning_B) for states in (layer.keys, layer.values))
        rest_BT = ids_BT[:, self.beginnings.shape[1] :]
        return call((rest_BT,), {CACHE: cache, "use_cache": True, "logits_to_keep": kept}).logits


def _pick(states, rows_B):
    """Rows of a tensor; as an embedding, whose backward pass is far quicker than that of indexing."""
    return nn.functional.embedding(rows_B, states.flatten(1)).unflatten(1, states.shape[1:])
