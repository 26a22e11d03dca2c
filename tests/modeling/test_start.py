"""How a model starts: at chance, in every combination of the axes, from weights distributed as promised."""

import itertools
import math
from dataclasses import fields
from typing import Literal, get_origin

import pytest
import torch
from torch import nn

from modeling.configuration_kindling import KindlingConfig


def test_axes_are_all_the_choices_of_the_configuration(all_axes):
    own = [field for field in fields(KindlingConfig) if field.name in KindlingConfig.__annotations__]
    choices = {field.name for field in own if get_origin(field.type) is Literal or field.type is bool}
    assert choices - {"use_cache"} == all_axes.keys() - {"num_key_value_heads", "final_logit_softcapping"}


def test_cover_meets_all_pairs(all_axes, cover):
    met = {frozenset(pair) for row in cover(all_axes) for pair in itertools.combinations(row.items(), 2)}
    for one, other in itertools.combinations(all_axes, 2):
        for values in itertools.product(all_axes[one], all_axes[other]):
            assert frozenset(zip((one, other), values, strict=True)) in met


@pytest.mark.parametrize("family", ["kindling_gpt", "kindling_llama"])
def test_family_starts_at_chance(start, tokens, family):
    ids = tokens(8, 64)
    assert start(family)(ids, labels=ids).loss.item() == pytest.approx(math.log(512), rel=0.05)


def test_every_combination_starts_at_chance(all_axes, start, tokens):
    """All of them, some thousands: each architecture is built once, and started again in each of the ways to start.

    The loss is averaged over every target that a token could have, which needs few tokens. muP only makes logits
    smaller; `test_parametrization.py` has its start.
    """
    ids = tokens(1, 16)
    starts = {name: values for name, values in all_axes.items() if name.endswith("_init")}
    architectures = {name: all_axes[name] for name in all_axes.keys() - starts.keys() - {"parametrization"}}
    for axes in combinations_of(architectures):
        model = start(hidden_size=16, intermediate_size=32, **axes)
        for ways in combinations_of(starts):
            model.config.update(ways)
            # The head first: where it is tied, the embedding's start is the one that counts.
            model.lm_head.apply(model._init_weights)
            model.model.apply(model._init_weights)
            with torch.no_grad():
                losses = -model(ids, use_cache=False).logits.log_softmax(-1)
            assert losses.mean().item() == pytest.approx(math.log(512), rel=0.05), model.config


def combinations_of(axes):
    return (dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values()))


@pytest.mark.parametrize("residual_init", ["plain", "scaled"])
@pytest.mark.parametrize("linear_init", ["normal", "uniform_fan_in"])
def test_weights_start_as_promised(start, linear_init, residual_init):
    """Standard deviations within 2 %, which is over 5 standard errors of the smallest matrix's."""
    large = {"hidden_size": 256, "num_hidden_layers": 3, "vocab_size": 1024, "embedding_init_std": 0.5, "bias": True}
    model = start(linear_init=linear_init, residual_init=residual_init, **large)
    assert model.model.embed_tokens.weight.std().item() == pytest.approx(0.5, rel=0.02)
    for name, weight in [(name, one.weight) for name, one in model.named_modules() if isinstance(one, nn.Linear)]:
        writes_residual = name.endswith(("o_proj", "down_proj"))
        scale = 1 / math.sqrt(6) if residual_init == "scaled" and writes_residual else 1
        bound = scale / math.sqrt(weight.shape[1])
        std = scale * 0.02 if linear_init == "normal" else bound / math.sqrt(3)
        assert weight.std().item() == pytest.approx(std, rel=0.02), name
        if linear_init == "uniform_fan_in":
            assert 0.999 * bound < weight.abs().max().item() <= bound, name


def test_biases_start_at_zero_norms_at_one_and_embeddings_at_the_initializer_range(start):
    model = start("kindling_gpt", hidden_size=256, qk_norm=True, initializer_range=0.1, linear_init="uniform_fan_in")
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert (parameter == 0).all(), name
        elif "norm" in name:
            assert (parameter == 1).all(), name
        elif "embed" in name:
            assert parameter.std().item() == pytest.approx(0.1, rel=0.02), name
