"""The parts a block is built from: norms, residuals, MLPs, options of attention, rotary positions, scales of width.

Each axis of the configuration is a table here, and the table is the only list of its values: the configuration, the
counts of parameters, FLOPs and memory, and `--help` read it. A part is looked up once, in a constructor; no forward
asks which variant it is. `docs/adding-a-part.md` shows how to add one.
Shapes: B batch, T positions, D width of the residual stream, F width inside the MLP, N heads, H size of a head.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class NormKind:
    """A normalisation: how to build it, and what it costs in memory."""

    build: Callable[..., nn.Module]
    """Of the configuration and the size of the last dimension."""
    saved_floats: Callable[[int], int]
    """Numbers per token that autograd keeps for the backward pass, of the size."""


def rms_norm(config, size: int) -> nn.Module:
    """Root-mean-square normalisation (Zhang and Sennrich, 2019): a scale, no mean, no bias."""
    return nn.RMSNorm(size, eps=config.norm_eps)


def layer_norm(config, size: int) -> nn.Module:
    """Layer normalisation (Ba et al., 2016); its bias follows `config.bias`."""
    return nn.LayerNorm(size, eps=config.norm_eps, bias=config.bias)


def no_norm(_config, _size: int) -> nn.Module:
    """The identity, to measure the effect of normalisation; trains only at a lower learning rate."""
    return nn.Identity()


NORMS = {
    "rmsnorm": NormKind(rms_norm, saved_floats=lambda size: 3 * size + 1),
    "layernorm": NormKind(layer_norm, saved_floats=lambda size: 2 * size + 2),
    "none": NormKind(no_norm, saved_floats=lambda size: size),  # the input of the next matrix product
}


def build_norm(config, size: int) -> nn.Module:
    """The norm that the configuration selects, over a last dimension of `size`."""
    return NORMS[config.norm].build(config, size)


def pre_norm(x_BTD, norm, sublayer):
    """GPT-2 and LLaMA: normalise the sublayer's input, leave the residual stream untouched."""
    return x_BTD + sublayer(norm(x_BTD))


def post_norm(x_BTD, norm, sublayer):
    """The original Transformer: normalise the sum."""
    return norm(x_BTD + sublayer(x_BTD))


RESIDUALS = {"pre": pre_norm, "post": post_norm}


class MLP(nn.Module):
    """The feed-forward network `down(activation(up(x)))`."""

    def __init__(self, config, activation: nn.Module):
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.bias)
        self.down_proj.writes_residual = True
        self.activation = activation
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, x_BTD):
        return self.dropout(self.down_proj(self.activation(self.up_proj(x_BTD))))


class GatedMLP(MLP):
    """A gated linear unit: `down(activation(gate(x)) * up(x))` (Shazeer, 2020)."""

    def __init__(self, config, activation: nn.Module):
        super().__init__(config, activation)
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.bias)

    def forward(self, x_BTD):
        return self.dropout(self.down_proj(self.activation(self.gate_proj(x_BTD)) * self.up_proj(x_BTD)))


@dataclass(frozen=True)
class MLPKind:
    """A feed-forward network: its activation function, whether it is gated, and what it costs in memory."""

    activation: Callable[[], nn.Module]
    saved_tensors: int
    """Tensors of the inner width that autograd keeps for the backward pass."""
    gated: bool = False

    def build(self, config) -> nn.Module:
        """The module of one block."""
        return (GatedMLP if self.gated else MLP)(config, self.activation())


MLPS = {
    "gelu": MLPKind(nn.GELU, saved_tensors=2),
    "gelu_new": MLPKind(lambda: nn.GELU(approximate="tanh"), saved_tensors=2),
    "relu": MLPKind(nn.ReLU, saved_tensors=1),  # the backward pass of ReLU needs its output only
    "silu": MLPKind(nn.SiLU, saved_tensors=2),
    "swiglu": MLPKind(nn.SiLU, saved_tensors=4, gated=True),
}


@dataclass(frozen=True)
class AttentionOption:
    """An optional part of attention, which the configuration field of the same name sets; null turns it off."""

    keyword: str
    """The name by which attention functions take the value of the field."""
    mask: Callable[..., Callable] | None = None
    """Of the value: a mask function `(batch, head, query, key) -> bool` as transformers' `and_mask_function`."""
    implementations: tuple[str, ...] | None = None
    """The attention implementations that apply the keyword, if only some do (sdpa applies none); None for a mask."""


ATTENTION_OPTIONS: dict[str, AttentionOption] = {}
"""By configuration field. Each is a field of `KindlingConfig` whose default is null."""


@dataclass(frozen=True)
class ParametrizationKind:
    """How much larger a model is than its base model, the one that its settings were tuned for."""

    width: Callable[..., float]
    """Of the configuration: the ratio of the widths."""
    head: Callable[..., float]
    """Of the configuration: the ratio of the sizes of a head."""


def _width_ratio(config) -> float:
    return config.hidden_size / config.mup_base_width


def _head_ratio(config) -> float:
    return config.head_dim / config.mup_base_head_dim if config.mup_base_head_dim else _width_ratio(config)


PARAMETRIZATIONS = {
    "standard": ParametrizationKind(width=lambda _config: 1.0, head=lambda _config: 1.0),
    "mup": ParametrizationKind(width=_width_ratio, head=_head_ratio),
}
"""The maximal update parametrization, muP (Yang et al., 2022, arXiv:2203.03466, table 8), relative to a base model.

With m the ratio of the widths: matrices inside the blocks start with 1/sqrt(m) of their standard deviation and, under
AdamW, have 1/m of the learning rate; logits are divided by m; attention scores by the size of a head, where standard
has its square root; embeddings, positions, norms, biases and the head start and learn as in the base model. The
matrices must grow with the width in both dimensions. `training/optimization/width.py` has the learning rates.
"""


def width_multiplier(config) -> float:
    """The ratio m of the model's width and its base model's; 1 with standard parametrization."""
    return PARAMETRIZATIONS[config.parametrization].width(config)


def attention_multiplier(config) -> float:
    """The factor of attention scores beside 1/sqrt(head_dim), so that they scale as 1/head_dim from the base on."""
    return PARAMETRIZATIONS[config.parametrization].head(config) ** -0.5


class Scale(nn.Module):
    """Multiplication by a constant."""

    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return x * self.factor


class SoftCap(nn.Module):
    """`cap * tanh(logits / cap)`: logits never exceed the cap (Gemma 2, 2024)."""

    def __init__(self, cap: float):
        super().__init__()
        self.cap = cap

    def forward(self, logits):
        return self.cap * torch.tanh(logits / self.cap)


class RotaryPositions(nn.Module):
    """Cosines and sines of rotary positions (Su et al., 2021), in LLaMA's half-split layout.

    Computed from the positions in each forward rather than kept in a buffer: `from_pretrained` builds models on the
    meta device, where a buffer that is not in the checkpoint would be garbage.
    """

    def __init__(self, config):
        super().__init__()
        self.head_dim = config.head_dim
        self.theta = config.rope_theta

    def forward(self, position_ids_BT):
        """Return cosines and sines, float32, (B, 1, T, H), ready to multiply (B, N, T, H) heads."""
        exponents_H2 = torch.arange(0, self.head_dim, 2, device=position_ids_BT.device).float() / self.head_dim
        angles_BTH2 = position_ids_BT[..., None].float() * (1.0 / self.theta**exponents_H2)
        angles_B1TH = torch.cat([angles_BTH2, angles_BTH2], dim=-1)[:, None]
        return angles_B1TH.cos(), angles_B1TH.sin()


def rotate(heads_BNTH, cos_B1TH, sin_B1TH):
    """Rotate each pair (i, i + H/2) of a head by the angle of its position."""
    first, second = heads_BNTH.chunk(2, dim=-1)
    cos_B1TH, sin_B1TH = cos_B1TH.to(heads_BNTH.dtype), sin_B1TH.to(heads_BNTH.dtype)
    return heads_BNTH * cos_B1TH + torch.cat([-second, first], dim=-1) * sin_B1TH
