"""The parts a block is chosen from: norms, residual placements, MLPs, rotary positions.

Each axis is a table. A part is looked up once, in a constructor; no forward asks which variant it is.
Shapes: B batch, T positions, D width of the residual stream, F width inside the MLP, N heads, H size of a head.
"""

import torch
from torch import nn

from .configuration_kindling import KindlingConfig


def rms_norm(config: KindlingConfig, size: int) -> nn.Module:
    """Root-mean-square normalisation (Zhang and Sennrich, 2019): a scale, no mean, no bias."""
    return nn.RMSNorm(size, eps=config.norm_eps)


def layer_norm(config: KindlingConfig, size: int) -> nn.Module:
    """Layer normalisation (Ba et al., 2016); its bias follows `config.bias`."""
    return nn.LayerNorm(size, eps=config.norm_eps, bias=config.bias)


def no_norm(_config: KindlingConfig, _size: int) -> nn.Module:
    """The identity, for measuring what normalisation buys; trains only at a lower learning rate."""
    return nn.Identity()


NORMS = {"rmsnorm": rms_norm, "layernorm": layer_norm, "none": no_norm}


def build_norm(config: KindlingConfig, size: int) -> nn.Module:
    """The norm that the configuration names, over a last dimension of `size`."""
    return NORMS[config.norm](config, size)


def pre_norm(x_BTD, norm, sublayer):
    """GPT-2 and LLaMA: normalise the sublayer's input, leave the residual stream untouched."""
    return x_BTD + sublayer(norm(x_BTD))


def post_norm(x_BTD, norm, sublayer):
    """The original Transformer: normalise the sum."""
    return norm(x_BTD + sublayer(x_BTD))


RESIDUALS = {"pre": pre_norm, "post": post_norm}


class MLP(nn.Module):
    """Widen, bend, narrow: `down(activation(up(x)))`."""

    def __init__(self, config: KindlingConfig, activation: nn.Module):
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.bias)
        self.down_proj.writes_residual = True
        self.activation = activation
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, x_BTD):
        return self.dropout(self.down_proj(self.activation(self.up_proj(x_BTD))))


class GatedMLP(MLP):
    """Like MLP, except that the activation bends a gate which multiplies the widened input (Shazeer, 2020)."""

    def __init__(self, config: KindlingConfig, activation: nn.Module):
        super().__init__(config, activation)
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.bias)

    def forward(self, x_BTD):
        return self.dropout(self.down_proj(self.activation(self.gate_proj(x_BTD)) * self.up_proj(x_BTD)))


MLPS = {
    "gelu": lambda config: MLP(config, nn.GELU()),
    "gelu_new": lambda config: MLP(config, nn.GELU(approximate="tanh")),
    "relu": lambda config: MLP(config, nn.ReLU()),
    "silu": lambda config: MLP(config, nn.SiLU()),
    "swiglu": lambda config: GatedMLP(config, nn.SiLU()),
}


class RotaryPositions(nn.Module):
    """Cosines and sines of rotary positions (Su et al., 2021), in LLaMA's half-split layout.

    Computed from the positions in each forward rather than kept in a buffer: `from_pretrained` builds models on the
    meta device, where a buffer that is not in the checkpoint would be garbage.
    """

    def __init__(self, config: KindlingConfig):
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
    """Turn each pair (i, i + H/2) of a head by its position's angle."""
    first, second = heads_BNTH.chunk(2, dim=-1)
    cos_B1TH, sin_B1TH = cos_B1TH.to(heads_BNTH.dtype), sin_B1TH.to(heads_BNTH.dtype)
    return heads_BNTH * cos_B1TH + torch.cat([-second, first], dim=-1) * sin_B1TH
