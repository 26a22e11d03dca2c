"""Replicas compute what each of their models computes by itself."""

import pytest
import torch
from transformers import AutoModelForCausalLM

import modeling  # noqa: F401
from modeling.configuration_kindling import FAMILIES
from training.grokking.replicas import Replicas

AXES = [
    {"type": "kindling_gpt"},
    {"type": "kindling_gpt", "mlp": "relu", "bias": False, "tie_word_embeddings": False},
    {"type": "kindling_llama"},
    {"type": "kindling_llama", "num_key_value_heads": 1, "qk_norm": True, "norm_placement": "post"},
    {"type": "kindling_llama", "norm": "none", "position": "none", "mlp": "silu", "tie_word_embeddings": True},
]


def build(axes, count=3):
    axes = dict(axes)
    config = FAMILIES[axes.pop("type")](
        vocab_size=19, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=8, **axes
    )
    models = []
    for seed in range(count):
        torch.manual_seed(seed)
        models.append(AutoModelForCausalLM.from_config(config, attn_implementation="eager"))
    return models


def rows():
    """Ids (3, 6, 5) whose first two tokens are one of two beginnings, the beginnings, and which row has which."""
    generator = torch.Generator().manual_seed(0)
    beginnings = torch.tensor([[1, 9], [2, 9]])
    which = torch.randint(0, 2, (3, 6), generator=generator)
    rest = torch.randint(0, 19, (3, 6, 3), generator=generator)
    return torch.cat([beginnings[which], rest], dim=-1), beginnings, which


@pytest.mark.parametrize("kept", [1, 2])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("axes", AXES, ids=str)
def test_logits_and_gradients_are_those_of_each_model(axes, shared, kept):
    models, (ids, beginnings, which) = build(axes), rows()
    replicas = Replicas(models, beginnings if shared else None)
    logits = replicas(ids, which, logits_to_keep=kept)
    assert logits.shape == (3, 6, kept, 19)
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
    (logits * weights).sum().backward()
    ours = [{name: p.grad.clone() for name, p in model.named_parameters()} for model in models]
    for i, model in enumerate(models):
        model.zero_grad()
        own = model(ids[i], logits_to_keep=kept).logits
        torch.testing.assert_close(logits[i], own, rtol=1e-5, atol=1e-5)
        (own * weights[i]).sum().backward()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(ours[i][name], parameter.grad, rtol=1e-4, atol=1e-5, msg=name)


def test_in_bfloat16_weights_are_rounded_and_nothing_else_is_lost():
    models, (ids, beginnings, which) = build(AXES[1]), rows()
    with torch.autocast("cpu", torch.bfloat16):
        logits = Replicas(models, beginnings)(ids, which, logits_to_keep=1)
    assert logits.dtype == torch.bfloat16
    for i, model in enumerate(models):
        torch.testing.assert_close(logits[i].float(), model(ids[i], logits_to_keep=1).logits, rtol=0.05, atol=0.02)
        assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
