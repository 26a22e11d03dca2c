"""Learning rates for every width from those of one: muP's groups of parameters.

The maximal update parametrization (`PARAMETRIZATIONS` in `modeling/layers.py`), with m the ratio of the widths of a
model and of the one that the settings were tuned for:

- AdamW changes each weight by about the learning rate, whatever the size of its gradient. A sum over m times as many
  inputs then changes m times as much, so the matrices inside the blocks have 1/m of the rate. Their weight decay is
  multiplied by m, because torch's AdamW multiplies it by the rate: the time over which weights are forgotten is the
  same at every width. Gradients are proportional to 1/m, and AdamW's epsilon, which is added to them, is so too.
- Muon's updates are semi-orthogonal, times sqrt(max(1, rows / columns)). muP asks for a spectral norm proportional to
  sqrt(rows / columns) (Yang, Simon and Bernstein, 2023, arXiv:2310.17813), a ratio that does not depend on the width
  where matrices grow in both dimensions. So its rate and decay are the same at every width.
- Everything else (embeddings, positions, norms, biases, head) has the rate of the base model.
"""

import re

from torch import nn

SIGN_LIKE = re.compile(r"(paged_)?(adamw|ademamix|lion|rmsprop)|stable_adamw|grokadamw|schedule_free_adamw")
"""How `training.optim` begins for optimisers that change each weight by about the learning rate, as AdamW does."""


def hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """The matrices inside the blocks, whose rows and columns both grow with the width."""
    return [weight for name, weight in model.named_parameters() if ".layers." in name and weight.ndim == 2]


def scale_to_width(group: dict, width: float) -> dict:
    """A parameter group of hidden matrices with the rate and the decay of a model `width` times as wide."""
    return group | {"lr": group["lr"] / width, "weight_decay": group["weight_decay"] * width}


def groups_by_width(groups: list[dict], model: nn.Module, width: float) -> list[dict]:
    """AdamW's groups of a model `width` times as wide as its base model; the hidden matrices come last.

    So the first group, whose rate is logged, has that of the settings. Empty groups are left out.
    """
    if width == 1:
        return groups
    hidden = set(map(id, hidden_matrices(model)))
    groups = [group | ({"eps": group["eps"] / width} if "eps" in group else {}) for group in groups]
    split = [
        (group | {"params": [one for one in group["params"] if (id(one) in hidden) is side]}, side)
        for side in (False, True)
        for group in groups
    ]
    return [scale_to_width(group, width) if side else group for group, side in split if group["params"]]
