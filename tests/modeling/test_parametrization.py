"""muP: the base model is the standard one, formulas against references in float64, export, and what a width changes."""

import math

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoModelForCausalLM

from modeling.configuration_kindling import FAMILIES, KindlingLlamaConfig
from modeling.conversion import to_native
from modeling.native import convert

CLOSE = {"atol": 1e-5, "rtol": 0}
HEADS = {
    "as many heads": {},
    "heads of one size": {"mup_base_head_dim": 4, "num_attention_heads": 8},
    "grouped": {"num_key_value_heads": 2, "mup_base_head_dim": 2},
}
NATIVE = {
    "llama": ("kindling_llama", {}),
    "llama-tied-biased-grouped": (
        "kindling_llama", {"tie_word_embeddings": True, "bias": True, "num_key_value_heads": 2}
    ),
    "llama-heads-of-one-size": ("kindling_llama", {"mup_base_head_dim": 8}),
    "gpt": ("kindling_gpt", {}),
    "gpt-untied": ("kindling_gpt", {"tie_word_embeddings": False}),
}  # fmt: skip


def test_the_base_model_is_the_standard_one(axes, start, tokens):
    """To the last bit: weights, logits and gradients, in every pair of axes."""
    ids, found = tokens(), []
    for parametrization in ("standard", "mup"):
        model = start(**axes | {"parametrization": parametrization, "mup_base_width": 32})
        outputs = model(ids, labels=ids)
        outputs.loss.backward()
        gradients = {f"{name}.grad": weight.grad for name, weight in model.named_parameters()}
        found.append(model.state_dict() | gradients | {"logits": outputs.logits})
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        assert torch.equal(value, found[1][name]), name


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("residual_init", ["plain", "scaled"])
@pytest.mark.parametrize("linear_init", ["normal", "uniform_fan_in"])
def test_a_wider_model_starts_from_the_base_models_deviations(start, linear_init, residual_init, tied):
    """Matrices inside the blocks 1/sqrt(m) of the base model's deviation, everything else the same: within 2 %."""
    given = {"linear_init": linear_init, "residual_init": residual_init, "tie_word_embeddings": tied,
             "vocab_size": 2048, "num_hidden_layers": 2, "bias": True, "initializer_range": 0.05}  # fmt: skip
    base = start(hidden_size=128, intermediate_size=320, **given)
    width = {"hidden_size": 512, "intermediate_size": 1280, "mup_base_width": 128}
    wide = dict(start(parametrization="mup", **width, **given).named_parameters())
    for name, weight in base.named_parameters():
        inside = name.endswith("_proj.weight")
        expected = weight.std().item() / math.sqrt(4) if inside else weight.std().item()
        assert wide[name].std().item() == pytest.approx(expected, rel=0.02), name


def reference_logits(model, ids):
    """The logits of a Kindling Llama with muP in float64, written out: scores 1/head_dim, logits divided by m."""
    config, weights = model.config, {name: value.double() for name, value in model.state_dict().items()}
    m = config.hidden_size / config.mup_base_width
    base_head = config.mup_base_head_dim or config.head_dim / m

    def norm(x, name):
        return x / (x.pow(2).mean(-1, keepdim=True) + config.norm_eps).sqrt() * weights[f"{name}.weight"]

    def heads(x, name):
        projected = x @ weights[f"{name}.weight"].T
        return projected.unflatten(-1, (-1, config.head_dim)).transpose(1, 2)

    def turned(x):
        angles = torch.arange(x.shape[2]).double()[:, None] * config.rope_theta ** -(
            torch.arange(0, config.head_dim, 2).double() / config.head_dim
        )
        a, b = x.chunk(2, -1)
        return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], -1)

    x = weights["model.embed_tokens.weight"][ids]
    mask = torch.full((ids.shape[1], ids.shape[1]), -torch.inf).triu(1)
    for i in range(config.num_hidden_layers):
        layer = f"model.layers.{i}"
        h = norm(x, f"{layer}.input_layernorm")
        q, k, v = (heads(h, f"{layer}.self_attn.{part}_proj") for part in "qkv")
        k, v = (part.repeat_interleave(q.shape[1] // k.shape[1], 1) for part in (k, v))
        scores = turned(q) @ turned(k).mT * math.sqrt(base_head) / config.head_dim
        mixed = ((scores + mask).softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = x + mixed @ weights[f"{layer}.self_attn.o_proj.weight"].T
        h = norm(x, f"{layer}.post_attention_layernorm")
        gate, up = (h @ weights[f"{layer}.mlp.{part}_proj.weight"].T for part in ("gate", "up"))
        x = x + (gate * gate.sigmoid() * up) @ weights[f"{layer}.mlp.down_proj.weight"].T
    return norm(x, "model.norm") @ weights["lm_head.weight"].T / m


@pytest.mark.parametrize("heads", HEADS)
def test_scales_are_the_formulas(build, tokens, heads, attention):
    model = build(parametrization="mup", num_hidden_layers=2, **HEADS[heads])
    model.set_attn_implementation(attention)
    torch.testing.assert_close(model(tokens()).logits.double(), reference_logits(model, tokens()), **CLOSE)


def test_a_new_vocabulary_keeps_the_scale_of_the_logits(build, tokens):
    model = build(parametrization="mup")
    before = model(tokens()).logits
    model.resize_token_embeddings(600)
    torch.testing.assert_close(model(tokens()).logits[..., :512], before)


# ---- export


@pytest.mark.parametrize("variant", NATIVE)
def test_a_stock_model_computes_the_same(build, tokens, variant, tmp_path):
    family, given = NATIVE[variant]
    model = build(family, parametrization="mup", num_hidden_layers=2, **given)
    native = to_native(model)
    torch.testing.assert_close(native(tokens()).logits, model(tokens()).logits, **CLOSE)
    assert native.config.tie_word_embeddings == model.config.tie_word_embeddings
    assert native.num_parameters() == model.num_parameters()
    assert not any("mup" in name or name == "parametrization" for name in native.config.to_dict())

    model.save_pretrained(tmp_path / "ours")
    convert(str(tmp_path / "ours"), tmp_path / "native")
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "native")
    torch.testing.assert_close(stock(tokens()).logits, model(tokens()).logits, **CLOSE)


def test_what_no_stock_model_has_is_refused_with_mup_too(build):
    with pytest.raises(ValueError, match=r"^qk_norm=True has no place in a stock Llama"):
        to_native(build(parametrization="mup", qk_norm=True))


def test_standard_weights_leave_unchanged(build):
    model = build()
    native = to_native(model).state_dict()
    assert all(torch.equal(weight, native[name]) for name, weight in model.state_dict().items())


# ---- the configuration


def test_mup_without_a_base_is_refused():
    with pytest.raises(StrictDataclassError, match="parametrization=mup needs mup_base_width, the hidden_size that"):
        KindlingLlamaConfig(parametrization="mup")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_configuration_from_before_is_standard(family):
    """Of a file without the fields; and what a wider model is to vLLM, which reads `logit_scale`."""
    saved = FAMILIES[family]().to_dict()
    for name in ("parametrization", "mup_base_width", "mup_base_head_dim"):
        del saved[name]
    old = FAMILIES[family].from_dict(saved)
    assert (old.parametrization, old.width_multiplier, old.logit_scale) == ("standard", 1.0, 1.0)
    assert FAMILIES[family](parametrization="mup", mup_base_width=192).logit_scale == 0.25


def test_the_head_is_a_plain_linear_layer(start):
    """Tools that look for one, such as those that resize it or add adapters, find it as in any model."""
    assert type(start(parametrization="mup").lm_head) is nn.Linear
