"""Muon, Grokfast and their chain against torch's own optimisers, exact formulas and uninterrupted runs."""

import copy

import pytest
import torch
from torch import nn

from modeling.configuration_kindling import KindlingGPTConfig, KindlingLlamaConfig
from modeling.modeling_kindling import KindlingGPTForCausalLM, KindlingLlamaForCausalLM
from settings.schema import section_fields
from settings.sections import OptimizerSection
from training.optimization.optimizers import MATRIX_OPTIMIZERS, Chain, Grokfast, Muon, build_optimizer, orthogonalize

SIZES = {"vocab_size": 20, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


class Arguments:
    """What `build_optimizer` reads of TrainingArguments."""

    def __init__(self, **values):
        self.__dict__ = {
            "learning_rate": 1e-2, "weight_decay": 0.1, "adam_beta1": 0.9, "adam_beta2": 0.98, "adam_epsilon": 1e-8,
            "bf16": False,
        } | values  # fmt: skip


def matrices(count=4, rows=24, columns=16):
    return [nn.Parameter(torch.randn(rows, columns)) for _ in range(count)]


def fill_gradients(parameters, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("shape", [(16, 16), (64, 16), (16, 64), (96, 32)])
def test_muon_is_torchs_muon(shape):
    torch.manual_seed(0)
    ours = [nn.Parameter(torch.randn(shape)) for _ in range(3)]
    theirs = [nn.Parameter(parameter.detach().clone()) for parameter in ours]
    mine = Muon(ours, lr=0.02, weight_decay=0.3, momentum=0.9)
    reference = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.3, momentum=0.9)
    for step in range(10):
        fill_gradients(ours, step)
        fill_gradients(theirs, step)
        mine.step()
        reference.step()
    for one, other in zip(ours, theirs, strict=True):
        # Both orthogonalise in bfloat16, in products of other shapes: each of ten updates of norm lr may differ by 1 %.
        assert (one - other).norm() < 0.01 * 10 * 0.02 * min(shape) ** 0.5


@pytest.mark.parametrize("shape", [(8, 8), (40, 8), (8, 40)])
def test_orthogonalized_matrices_keep_directions_and_lose_scales(shape):
    torch.manual_seed(1)
    batch = torch.randn(5, *shape) * torch.tensor([1e-3, 1.0, 10.0, 100.0, 1e4])[:, None, None]
    result = orthogonalize(batch, torch.float32)
    for before, after in zip(batch, result, strict=True):
        left, _, right = torch.linalg.svd(before, full_matrices=False)
        inside = left.T @ after @ right.T
        values = inside.diagonal()
        assert (values > 0.3).all()
        assert (values < 1.3).all()
        assert (inside - values.diag()).abs().max() < 1e-3


def test_matrices_of_one_shape_do_not_feel_each_other():
    torch.manual_seed(2)
    together = matrices()
    alone = [nn.Parameter(parameter.detach().clone()) for parameter in together]
    joint = Muon([{"params": [p], "lr": 0.01 * (i + 1)} for i, p in enumerate(together)], lr=0, weight_decay=0.1,
                 dtype=torch.float32)  # fmt: skip
    single = [Muon([p], lr=0.01 * (i + 1), weight_decay=0.1, dtype=torch.float32) for i, p in enumerate(alone)]
    for step in range(5):
        fill_gradients(together, step)
        fill_gradients(alone, step)
        joint.step()
        for optimizer in single:
            optimizer.step()
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_a_matrix_without_gradient_direction_stays_finite():
    weight = nn.Parameter(torch.ones(4, 4))
    weight.grad = torch.zeros(4, 4)
    Muon([weight], lr=0.1, weight_decay=0.0).step()
    assert torch.equal(weight.detach(), torch.ones(4, 4))


def test_grokfast_adds_the_running_mean():
    weight, alpha, lamb = nn.Parameter(torch.zeros(3)), 0.8, 2.0
    optimizer = Grokfast([weight], alpha=alpha, lamb=lamb)
    mean = None
    for step in range(6):
        gradient = torch.randn(3, generator=torch.Generator().manual_seed(step))
        mean = gradient if mean is None else alpha * mean + (1 - alpha) * gradient
        weight.grad = gradient.clone()
        optimizer.step()
        torch.testing.assert_close(weight.grad, gradient + lamb * mean)


def chain(parameters):
    optimizers = [Muon(parameters[:2], lr=0.02, weight_decay=0.1), torch.optim.AdamW(parameters[2:], lr=0.01)]
    return Chain(optimizers, Grokfast(parameters, alpha=0.9, lamb=1.0))


def test_a_chain_goes_on_from_its_state_exactly():
    torch.manual_seed(3)
    whole = matrices()
    optimizer = chain(whole)
    for step in range(4):
        fill_gradients(whole, step)
        optimizer.step()
    halted = [nn.Parameter(parameter.detach().clone()) for parameter in whole]
    resumed = chain(halted)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for step in range(4, 8):
        for parameters, each in ((whole, optimizer), (halted, resumed)):
            fill_gradients(parameters, step)
            each.step()
    for one, other in zip(whole, halted, strict=True):
        assert torch.equal(one, other)


def test_a_schedule_reaches_every_group_also_after_loading():
    optimizer = chain(matrices())
    optimizer.load_state_dict(optimizer.state_dict())
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 0.5)
    schedule.step()
    muon, adamw = optimizer.optimizers
    assert muon.param_groups[0]["lr"] == pytest.approx(0.01)
    assert adamw.param_groups[0]["lr"] == pytest.approx(0.005)


def test_every_kind_of_optimiser_is_in_the_table():
    (kinds,) = section_fields("optimizer")["kind"].accepts
    assert set(kinds) == MATRIX_OPTIMIZERS.keys(), (
        "optimizer.kind (settings/sections.py) and MATRIX_OPTIMIZERS (training/optimization/) must have the same names"
    )
    for kind in kinds:
        has_settings = bool(OptimizerSection(kind=kind).matrix_settings)
        assert has_settings == (MATRIX_OPTIMIZERS[kind] is not None), (
            f"optimizer.{kind}_learning_rate: section or table"
        )


@pytest.mark.parametrize("spared", [False, True])
@pytest.mark.parametrize("kind", ["adamw", "muon"])
@pytest.mark.parametrize(
    ("model_class", "config"),
    [
        (KindlingGPTForCausalLM, KindlingGPTConfig(**SIZES)),
        (KindlingLlamaForCausalLM, KindlingLlamaConfig(**SIZES, qk_norm=True)),
    ],
)
def test_every_parameter_has_one_optimiser_and_its_own_settings(kind, model_class, config, spared):
    """Embeddings are decayed like other matrices, unless the second model's settings say otherwise."""
    models = [model_class(config) for _ in range(2)]
    sections = [OptimizerSection(kind=kind, muon_learning_rate=rate) for rate in (0.03, 0.05)]
    sections[1].decay_embeddings = not spared
    arguments = [Arguments(weight_decay=decay) for decay in (0.5, 2.0)]
    optimizer = build_optimizer(list(zip(models, arguments, sections, strict=True)))
    where = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert len(where) == sum(len(group["params"]) for group in optimizer.param_groups)
    for model, args, section in zip(models, arguments, sections, strict=True):
        assert len(set(map(id, model.parameters())) - where.keys()) == 0
        for name, parameter in model.named_parameters():
            group = where[id(parameter)]
            if kind == "muon" and name.endswith("_proj.weight"):
                assert (group["lr"], group["momentum"]) == (section.muon_learning_rate, 0.95)
            else:
                assert group["lr"] == args.learning_rate
                decays = parameter.ndim >= 2 and (section.decay_embeddings or ".embed_" not in name)
                assert group["weight_decay"] == (args.weight_decay if decays else 0)
