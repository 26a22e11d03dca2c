"""Each part against its textbook formula, in float64, and the rules that keep parts interchangeable."""

import ast
import math
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch import nn

from modeling import configuration_kindling as configuration
from modeling.attention import KindlingAttention
from modeling.layers import MLPS, NORMS, RESIDUALS, RotaryPositions, build_norm, rotate

EXACT = {"atol": 1e-12, "rtol": 1e-12}
SOURCES = sorted(Path(configuration.__file__).parent.glob("*.py"))


@pytest.fixture
def x_BTD():
    return torch.randn(2, 16, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def part():
    """A function: a module in float64 with random weights."""

    def randomise(module):
        torch.manual_seed(0)
        for parameter in module.double().parameters():
            nn.init.normal_(parameter, std=0.3)
        return module

    return randomise


@pytest.mark.parametrize(
    ("table", "choices"),
    [
        (NORMS, configuration.Norm),
        (RESIDUALS, configuration.NormPlacement),
        (MLPS, configuration.MLPName),
    ],
)
def test_tables_hold_what_can_be_configured(table, choices):
    assert table.keys() == set(get_args(choices))


def test_rms_norm(configure, part, x_BTD):
    norm = part(build_norm(configure(norm="rmsnorm", norm_eps=1e-3), 32))
    expected = x_BTD / (x_BTD.square().mean(-1, keepdim=True) + 1e-3).sqrt() * norm.weight
    torch.testing.assert_close(norm(x_BTD), expected, **EXACT)


@pytest.mark.parametrize("bias", [False, True])
def test_layer_norm(configure, part, x_BTD, bias):
    norm = part(build_norm(configure(norm="layernorm", norm_eps=1e-3, bias=bias), 32))
    centred = x_BTD - x_BTD.mean(-1, keepdim=True)
    expected = centred / (centred.square().mean(-1, keepdim=True) + 1e-3).sqrt() * norm.weight
    torch.testing.assert_close(norm(x_BTD), expected + norm.bias if bias else expected, **EXACT)
    assert (norm.bias is not None) == bias


def test_no_norm(configure, x_BTD):
    assert build_norm(configure(norm="none"), 32)(x_BTD) is x_BTD


def test_residuals(x_BTD):
    assert torch.equal(RESIDUALS["pre"](x_BTD, torch.exp, torch.sin), x_BTD + x_BTD.exp().sin())
    assert torch.equal(RESIDUALS["post"](x_BTD, torch.exp, torch.sin), (x_BTD + x_BTD.sin()).exp())


def gelu_tanh(x):
    return x / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def gelu(x):
    return x / 2 * (1 + torch.erf(x / math.sqrt(2)))


def silu(x):
    return x / (1 + torch.exp(-x))


FORMULAS = {"gelu": gelu, "gelu_new": gelu_tanh, "relu": lambda x: x.clamp(min=0), "silu": silu}
"""For each ungated row of `MLPS`, its activation function."""


def test_every_mlp_has_a_formula():
    assert FORMULAS.keys() == {name for name, kind in MLPS.items() if not kind.gated}, "FORMULAS and MLPS differ"


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("kind", "activation"), FORMULAS.items())
def test_ungated_mlp(configure, part, x_BTD, kind, activation, bias):
    mlp = part(MLPS[kind].build(configure(mlp=kind, bias=bias)))
    up, down = mlp.up_proj, mlp.down_proj
    up_bias, down_bias = (up.bias, down.bias) if bias else (0, 0)
    expected = activation(x_BTD @ up.weight.T + up_bias) @ down.weight.T + down_bias
    torch.testing.assert_close(mlp(x_BTD), expected, **EXACT)


@pytest.mark.parametrize("bias", [False, True])
def test_swiglu(configure, part, x_BTD, bias):
    mlp = part(MLPS["swiglu"].build(configure(mlp="swiglu", bias=bias)))
    gate, up, down = mlp.gate_proj, mlp.up_proj, mlp.down_proj
    biases = (gate.bias, up.bias, down.bias) if bias else (0, 0, 0)
    widened = silu(x_BTD @ gate.weight.T + biases[0]) * (x_BTD @ up.weight.T + biases[1])
    torch.testing.assert_close(mlp(x_BTD), widened @ down.weight.T + biases[2], **EXACT)


# ---- rotary positions


def test_rotary_angles(configure):
    """Position p turns pair i by p / theta**(2i / H); cosines and sines are float32, hence the tolerance."""
    positions = torch.tensor([[0, 1, 5, 63]])
    cos, sin = RotaryPositions(configure(rope_theta=100.0))(positions)
    angles = torch.tensor([[p / 100.0 ** (2 * i / 8) for i in range(4)] * 2 for p in positions[0].tolist()])
    torch.testing.assert_close(cos, angles.cos()[None, None], atol=1e-5, rtol=0)
    torch.testing.assert_close(sin, angles.sin()[None, None], atol=1e-5, rtol=0)


@pytest.fixture
def heads_BNTH():
    return torch.randn(2, 4, 16, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def angles_B1TH():
    """Angles of our own in float64, because `RotaryPositions` rounds its to float32."""
    angles = torch.arange(16, dtype=torch.float64)[:, None] / 10.0 ** torch.arange(4, dtype=torch.float64)
    return angles.repeat(1, 2)[None, None]


def test_rotation_is_complex_multiplication(heads_BNTH, angles_B1TH):
    turned = rotate(heads_BNTH, angles_B1TH.cos(), angles_B1TH.sin())
    pairs, turn = torch.complex(*heads_BNTH.chunk(2, dim=-1)), torch.exp(1j * angles_B1TH[..., :4])
    torch.testing.assert_close(torch.complex(*turned.chunk(2, dim=-1)), pairs * turn, **EXACT)


def test_rotated_scores_depend_on_distance_only(heads_BNTH, angles_B1TH):
    """One query and one key, put at every position: their score is the same along each diagonal."""
    query, key = (heads_BNTH[:, :, i : i + 1].expand_as(heads_BNTH) for i in (0, 1))
    query, key = (rotate(one, angles_B1TH.cos(), angles_B1TH.sin()) for one in (query, key))
    scores_BNTS = query @ key.transpose(2, 3)
    torch.testing.assert_close(scores_BNTS[:, :, 1:, 1:], scores_BNTS[:, :, :-1, :-1], **EXACT)
    assert not torch.allclose(scores_BNTS[:, :, 1:], scores_BNTS[:, :, :-1])


# ---- attention


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("groups", [4, 2, 1])
@pytest.mark.parametrize("qk_norm", [False, True])
def test_attention(configure, part, x_BTD, implementation, groups, qk_norm):
    """Against loops over heads and tokens; float32 where eager takes its softmax."""
    config = configure(num_key_value_heads=groups, qk_norm=qk_norm)
    config._attn_implementation = implementation
    attention = part(KindlingAttention(config, layer_idx=0))
    mask = torch.full((16, 16), -torch.inf, dtype=torch.float64).triu(1)[None, None]
    attended, _ = attention(x_BTD, attention_mask=mask)

    query, key, value = (
        layer(x_BTD).unflatten(-1, (-1, 8)) for layer in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    query, key = attention.q_norm(query), attention.k_norm(key)
    expected = torch.empty(2, 16, 4, 8, dtype=torch.float64)
    for head in range(4):
        shared = head * groups // 4
        for t in range(16):
            scores = (key[:, : t + 1, shared] @ query[:, t, head, :, None])[..., 0] / math.sqrt(8)
            expected[:, t, head] = (scores.softmax(-1)[..., None] * value[:, : t + 1, shared]).sum(1)
    close = EXACT if implementation == "sdpa" else {"atol": 1e-6, "rtol": 0}
    torch.testing.assert_close(attended, attention.o_proj(expected.flatten(2)), **close)


# ---- decide in the constructor, never in forward


def forwards(source):
    return [
        node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef) and node.name == "forward"
    ]


def is_config(node):
    return (isinstance(node, ast.Attribute) and node.attr == "config") or (
        isinstance(node, ast.Name) and node.id == "config"
    )


def config_accesses(forward):
    """What a forward does with the configuration: the names of the fields it reads, and of the calls it hands it to."""
    accesses, explained = [], set()
    for node in ast.walk(forward):
        if isinstance(node, ast.Attribute) and is_config(node.value):
            accesses.append(node.attr)
            explained.add(node.value)
        elif isinstance(node, ast.keyword) and node.arg == "config":
            explained.add(node.value)
    return accesses + [ast.unparse(node) for node in ast.walk(forward) if is_config(node) and node not in explained]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_forward_reads_the_configuration(path):
    allowed = {"_attn_implementation", "use_cache", "vocab_size"}
    for forward in forwards(path.read_text()):
        assert set(config_accesses(forward)) <= allowed


@pytest.mark.parametrize("statement", ["self.config.mlp", "config.norm", "c = self.config", "getattr(config, name)"])
def test_a_forward_that_would_is_caught(statement):
    (forward,) = forwards(f"def forward(self):\n    {statement}\n    mask(config=self.config)")
    assert len(config_accesses(forward)) == 1


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_forward_compares_strings(path):
    for forward in forwards(path.read_text()):
        for comparison in (node for node in ast.walk(forward) if isinstance(node, ast.Compare)):
            compared = [comparison.left, *comparison.comparators]
            assert not any(isinstance(one, ast.Constant) and isinstance(one.value, str) for one in compared)
