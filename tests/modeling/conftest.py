"""Tiny models, the axes they vary on, and a cover of all pairs of axis values.

A test that asks for `axes` runs once for each row of the cover, so it meets every pair of values in about a dozen
models. All values come from the configuration's own types: a new one is tested from the day it is added.
"""

import itertools
from typing import get_args

import pytest
import torch

from modeling import configuration_kindling as configuration
from modeling.conversion import to_native
from modeling.layers import ATTENTION_OPTIONS
from modeling.modeling_kindling import KindlingGPTForCausalLM, KindlingLlamaForCausalLM

torch.set_num_threads(1)

AXES = {
    "norm": get_args(configuration.Norm),
    "norm_placement": get_args(configuration.NormPlacement),
    "position": get_args(configuration.Position),
    "mlp": get_args(configuration.MLPName),
    "qk_norm": (False, True),
    "final_logit_softcapping": (None, 1.0),
    "tie_word_embeddings": (False, True),
    "bias": (False, True),
    "num_key_value_heads": (4, 2),
    "residual_init": get_args(configuration.ResidualInit),
    "linear_init": get_args(configuration.LinearInit),
    "parametrization": get_args(configuration.Parametrization),
}
OPTION_VALUES = {}
"""For each row of `ATTENTION_OPTIONS`, a value to test it with."""
assert OPTION_VALUES.keys() == ATTENTION_OPTIONS.keys(), "OPTION_VALUES needs a value for each of ATTENTION_OPTIONS"
AXES |= {name: (None, value) for name, value in OPTION_VALUES.items()}
TINY = {
    "vocab_size": 512,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "mup_base_width": 8,
}
STOCK = {
    "llama": ("kindling_llama", {}),
    "llama-grouped-tied": ("kindling_llama", {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    "gpt": ("kindling_gpt", {}),
    "gpt-untied": ("kindling_gpt", {"tie_word_embeddings": False}),
}
VARIANTS = STOCK | {
    "llama-nowhere": ("kindling_llama", {"position": "none", "num_key_value_heads": 2}),
    "llama-learned-tied": ("kindling_llama", {"position": "learned", "tie_word_embeddings": True, "qk_norm": True}),
    "gpt-rotary-grouped": ("kindling_gpt", {"position": "rope", "num_key_value_heads": 2}),
}
MODELS = {"kindling_llama": KindlingLlamaForCausalLM, "kindling_gpt": KindlingGPTForCausalLM}


def pairs_of(row):
    """Every pair of (axis, value) items in a row."""
    return set(itertools.combinations(sorted(row.items(), key=lambda item: item[0]), 2))


def pairwise_cover(axes):
    """A few rows, one value an axis each, in which every two values of different axes meet: greedily, so not fewest."""
    candidates = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    missing = set().union(*(pairs_of(row) for row in candidates))
    rows = []
    while missing:
        # A row over all candidates would be slow: those that hold one missing pair are enough to choose from.
        (one, other) = min(missing, key=repr)
        fitting = [row for row in candidates if one in row.items() and other in row.items()]
        rows.append(max(fitting, key=lambda row: len(missing & pairs_of(row))))
        missing -= pairs_of(rows[-1])
    return rows


COVER = pairwise_cover(AXES)


def shake(model):
    """Add noise to every parameter, so that biases and norms, which start at 0 and 1, can be seen to do something."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def pytest_generate_tests(metafunc):
    if "axes" in metafunc.fixturenames:
        metafunc.parametrize("axes", COVER, ids=["-".join(map(str, row.values())) for row in COVER])


@pytest.fixture(scope="session")
def all_axes():
    """Every axis with its values."""
    return AXES


@pytest.fixture(scope="session")
def cover():
    """The function from axes to the rows of a pairwise cover."""
    return pairwise_cover


@pytest.fixture(scope="session")
def configure():
    """A function: family and fields to a tiny configuration."""
    return lambda family="kindling_llama", **given: configuration.FAMILIES[family](**TINY | given)


@pytest.fixture(scope="session")
def start(configure):
    """A function: family and fields to a tiny model as training would start it, in evaluation mode."""

    def build(family="kindling_llama", **given):
        torch.manual_seed(0)
        return MODELS[family](configure(family, **given)).eval()

    return build


@pytest.fixture(scope="session")
def build(start):
    """As `start`, with noise on every weight: large enough for each part to show in the logits."""
    return lambda *family, **given: shake(start(*family, **{"initializer_range": 0.2} | given))


@pytest.fixture(scope="session")
def vary(build):
    """A function: the name of a variant to a model of two layers."""

    def build_variant(name):
        family, given = VARIANTS[name]
        return build(family, num_hidden_layers=2, pad_token_id=0, **given)

    return build_variant


@pytest.fixture(params=VARIANTS)
def model(request, vary):
    """A model of each variant: every kind of position, tied or not, with grouped heads or not."""
    return vary(request.param)


@pytest.fixture(params=STOCK)
def twins(request, vary):
    """Each variant that is one of transformers' models in all but name, and that model, with the same weights."""
    ours = vary(request.param)
    return ours, to_native(ours)


@pytest.fixture(params=["eager", "sdpa"])
def attention(request):
    return request.param


@pytest.fixture(scope="session")
def tokens():
    """A function: a batch and a length to random ids of the tiny vocabulary."""

    def draw(batch=2, length=16):
        return torch.randint(TINY["vocab_size"], (batch, length), generator=torch.Generator().manual_seed(0))

    return draw
