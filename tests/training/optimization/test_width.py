"""muP's learning rates: their formulas, and that the base model learns as the standard one to the last bit."""

import itertools
from dataclasses import replace

import pytest
import torch
from transformers.training_args import OptimizerNames

from modeling.configuration_kindling import KindlingGPTConfig, KindlingLlamaConfig
from modeling.modeling_kindling import KindlingGPTForCausalLM, KindlingLlamaForCausalLM
from settings.sections import OptimizerSection
from tests.training.optimization.test_optimizers import SIZES, Arguments
from training.optimization.optimizers import MATRIX_OPTIMIZERS, build_optimizer
from training.optimization.width import SIGN_LIKE, groups_by_width

MODELS = {
    "llama": (KindlingLlamaForCausalLM, KindlingLlamaConfig, {"qk_norm": True}),
    "llama-tied": (KindlingLlamaForCausalLM, KindlingLlamaConfig, {"tie_word_embeddings": True}),
    "gpt": (KindlingGPTForCausalLM, KindlingGPTConfig, {}),
}


def build(variant="llama", **given):
    model, config, own = MODELS[variant]
    torch.manual_seed(0)
    return model(config(**SIZES | own | given))


def settings_of(optimizer):
    return {id(weight): group for group in optimizer.param_groups for weight in group["params"]}


@pytest.mark.parametrize("variant", MODELS)
@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_rates_decays_and_epsilons_are_the_formulas(variant, kind):
    """4 times as wide as its base: under AdamW the matrices of blocks have rate / 4 and decay x 4, all have eps / 4."""
    model = build(variant, parametrization="mup", mup_base_width=8)
    arguments = Arguments(learning_rate=0.01, weight_decay=0.3, adam_epsilon=1e-6)
    section = OptimizerSection(kind=kind, muon_learning_rate=0.05, muon_weight_decay=0.7)
    groups = settings_of(build_optimizer([(model, arguments, section)]))
    assert len(groups) == len(list(model.parameters()))
    for name, weight in model.named_parameters():
        group = groups[id(weight)]
        if kind == "muon" and name.endswith("_proj.weight"):
            assert (group["lr"], group["weight_decay"]) == (0.05, 0.7), name
            continue
        inside = name.endswith("_proj.weight")
        decay = 0.3 if weight.ndim == 2 else 0.0
        assert group["lr"] == pytest.approx(0.01 / 4 if inside else 0.01), name
        assert group["weight_decay"] == pytest.approx(4 * decay if inside else decay), name
        assert group["eps"] == pytest.approx(1e-6 / 4), name


def test_decay_per_step_is_the_same_at_every_width():
    """The product of rate and decay, by which torch's AdamW shrinks a weight."""
    group = {"params": [], "lr": 0.01, "weight_decay": 0.3, "eps": 1e-8}
    for width in (0.5, 1, 4, 16):
        model = build(parametrization="mup", mup_base_width=round(32 / width))
        for scaled in groups_by_width([group | {"params": list(model.parameters())}], model, width):
            assert scaled["lr"] * scaled["weight_decay"] == pytest.approx(0.003)


def test_an_optimiser_of_ones_own_is_scaled_unless_it_scales_itself(monkeypatch):
    """A new row of MATRIX_OPTIMIZERS follows the width as AdamW does, as long as it doesn't say otherwise."""
    monkeypatch.setitem(MATRIX_OPTIMIZERS, "muon", replace(MATRIX_OPTIMIZERS["muon"], scales_itself=False))
    model, section = build(parametrization="mup", mup_base_width=8), OptimizerSection(kind="muon")
    groups = settings_of(build_optimizer([(model, Arguments(), section)]))
    group = groups[id(model.model.layers[0].mlp.up_proj.weight)]
    assert (group["lr"], group["weight_decay"]) == (pytest.approx(0.02 / 4), pytest.approx(0.4))


def train(model, section, steps=4):
    optimizer = build_optimizer([(model, Arguments(), section)])
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        ids = torch.randint(20, (4, 12), generator=generator)
        model(ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.state_dict()


@pytest.mark.parametrize("variant", MODELS)
@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_the_base_model_learns_as_the_standard_one(variant, kind):
    section = OptimizerSection(kind=kind, grokfast_lambda=0.5)
    standard = train(build(variant), section)
    mup = train(build(variant, parametrization="mup", mup_base_width=SIZES["hidden_size"]), section)
    assert all(torch.equal(weight, mup[name]) for name, weight in standard.items())


def test_replicas_have_rates_of_their_own_width():
    """Models trained together: each by its own configuration."""
    models = [build(parametrization="mup", mup_base_width=width) for width in (8, 16)]
    sections = itertools.repeat(OptimizerSection())
    groups = settings_of(build_optimizer(list(zip(models, itertools.repeat(Arguments()), sections, strict=False))))
    rates = [groups[id(model.model.layers[0].mlp.up_proj.weight)]["lr"] for model in models]
    assert rates == [pytest.approx(1e-2 / 4), pytest.approx(1e-2 / 2)]


def test_which_optimisers_are_like_adamw():
    """By transformers' names; each class there is a decision, so a new name is to be looked at."""
    others = {name.value for name in OptimizerNames if not SIGN_LIKE.match(name.value)}
    assert {"sgd", "adafactor", "adagrad", "lomo", "adalomo", "galore_adamw", "apollo_adamw"} <= others
    assert not {"adamw_torch", "adamw_torch_fused", "adamw_bnb_8bit", "paged_lion_32bit", "ademamix"} & others
