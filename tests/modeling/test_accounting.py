"""Counting without building, against published tables, real models and torch's FLOP counter."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from modeling import accounting

# Forward FLOPs, element-wise work included, of a model with SwiGLU, RMSNorm, RoPE and an untied head over GPT-2's
# vocabulary: layers, width, heads, MLP width, tokens. The second is printed elsewhere as 1,035,328,290,816, with a
# softmax of 12 heads.
PUBLISHED = {
    (12, 768, 12, 3072, 1024): 350_690_476_032,
    (24, 1024, 16, 4096, 1024): 1_035_932_270_592,
    (36, 1280, 20, 5120, 1024): 2_263_044_587_520,
    (48, 1600, 25, 6400, 1024): 4_522_151_116_800,
    (48, 1600, 25, 6400, 16_384): 151_475_768_524_800,
}
PUBLISHED_BY_PART = {
    "feedforward": 3_019_898_880_000,
    "attention projections": 1_006_632_960_000,
    "attention mechanism": 322_122_547_200,
    "head": 164_682_137_600,
    "softmax": 7_549_747_200,
    "norms": 635_699_200,
    "rotary positions": 471_859_200,
    "residual adds": 157_286_400,
}


@pytest.fixture
def published(configure):
    """A function: layers, width, heads and MLP width to the configuration of the published tables."""

    def build(layers, width, heads, mlp_width, length=1024):
        return configure(
            vocab_size=50257,
            num_hidden_layers=layers,
            hidden_size=width,
            num_attention_heads=heads,
            intermediate_size=mlp_width,
            max_position_embeddings=length,
        )

    return build


@pytest.mark.parametrize(("shape", "flops"), PUBLISHED.items())
def test_published_totals(published, shape, flops):
    assert sum(accounting.forward_flops(published(*shape), length=shape[-1]).values()) == flops


def test_published_parts_and_parameters(published):
    config = published(48, 1600, 25, 6400)
    counted = {part: flops for part, flops in accounting.forward_flops(config, length=1024).items() if flops}
    assert counted == PUBLISHED_BY_PART
    assert sum(accounting.parameters(config).values()) == 2_127_057_600


def test_elementwise_work_that_no_table_publishes(configure):
    """Two tokens, by hand, in the module's conventions: a GPT of one layer, width 4, 2 heads of 2, MLP of width 8."""
    shape = {"hidden_size": 4, "num_attention_heads": 2, "intermediate_size": 8, "num_key_value_heads": 1}
    assert accounting.elementwise_flops(configure("kindling_gpt", **shape, qk_norm=True), length=2) == {
        "softmax": 6 * 2 * (2 * 2),
        "norms": 3 * 4 * (2 * 4),
        "query-key norms": 4 * (2 * 4) + 4 * (2 * 2),
        "rotary positions": 0,
        "learned positions": 2 * 4,
        "residual adds": 2 * (2 * 4),
        "biases": 2 * (4 + 2 + 2 + 4) + 2 * (8 + 4),
    }


def test_flops_are_linear_in_the_batch(configure):
    one, three = (accounting.forward_flops(configure(), length=16, batch=batch) for batch in (1, 3))
    assert {part: 3 * value for part, value in one.items()} == three


PARTS = {
    "embedding": "embed_tokens",
    "positions": "embed_positions",
    "query-key norms": "q_norm k_norm",
    "attention": "self_attn",
    "feedforward": "mlp",
    "norms": "norm",
    "head": "lm_head",
}


def part_of(parameter_name):
    """The first of `PARTS` with a word that the name contains."""
    return next(part for part, words in PARTS.items() if any(word in parameter_name for word in words.split()))


@pytest.mark.parametrize("layers", [1, 3])
def test_parameters_are_those_of_the_model(configure, axes, layers):
    config = configure(**axes, num_hidden_layers=layers)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    counted = dict.fromkeys(PARTS, 0)
    for name, parameter in model.named_parameters():
        counted[part_of(name)] += parameter.numel()
    assert accounting.parameters(config) == counted
    embeddings = [module.weight.numel() for module in model.modules() if isinstance(module, nn.Embedding)]
    assert accounting.embedding_parameters(config) == sum(embeddings)


def test_matmul_flops_are_those_of_the_model(build, tokens, axes):
    """Forward, and with the backward pass exactly three times that, to the last FLOP."""
    model, ids = build(**axes, num_hidden_layers=2), tokens(3, 16)
    model.set_attn_implementation("eager")  # torch counts products, and does not look inside a fused CPU kernel
    with FlopCounterMode(display=False) as forward:
        loss = model(ids, labels=ids).loss
    assert forward.get_total_flops() == sum(accounting.matmul_flops(model.config, length=16, batch=3).values())
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    step = forward.get_total_flops() + backward.get_total_flops()
    assert step == accounting.training_flops(model.config, length=16, batch=3)
    assert step == model.floating_point_ops({"input_ids": ids})
