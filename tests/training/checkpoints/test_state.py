"""A training's state comes back to the bit, without a pickle: any values, every optimiser, every schedule."""

import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers import TrainingArguments, get_scheduler
from transformers.trainer_utils import SchedulerType

from settings.sections import OptimizerSection
from tests.training.checkpoints.test_data_position import train
from tests.training.checkpoints.test_store import OPTIONS, same
from training.checkpoints.state import read_state, write_state
from training.optimization.optimizers import build_optimizer

NUMBERS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
TENSORS = st.builds(
    lambda shape, dtype, seed: torch.rand(shape, generator=torch.Generator().manual_seed(seed)).mul(100).to(dtype),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool]),
    st.integers(0, 99),
)
TREES = st.recursive(
    NUMBERS | TENSORS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.integers() | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=12,
)


def equal(one, other) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, dict):
        return [*one] == [*other] and all(map(equal, one.values(), other.values()))
    return repr(one) == repr(other)  # -0.0 is not 0.0


@given(state=TREES)
def test_any_state_comes_back_to_the_bit(tmp_path_factory, state):
    path = tmp_path_factory.getbasetemp() / "state.safetensors"
    write_state(path, state)
    assert equal(read_state(path), state)


def test_parts_of_memory_and_numbers_that_are_none(tmp_path):
    whole = torch.arange(12.0).view(3, 4)
    state = {"t": whole.T, "row": whole[1], "inf": -float("inf"), "numbers": [float("nan"), 0.1 + 0.2]}
    write_state(tmp_path / "x", state)
    assert equal(read_state(tmp_path / "x"), state)
    with pytest.raises(TypeError, match="a object of the training state cannot be saved without a pickle"):
        write_state(tmp_path / "x", {"x": object()})


@pytest.mark.parametrize("section", [{}, {"kind": "muon"}, {"kind": "muon", "grokfast_lambda": 2.0}], ids=str)
@pytest.mark.parametrize(
    "schedule", [kind for kind in SchedulerType if kind.value not in ("greedy", "reduce_lr_on_plateau")]
)
def test_optimisers_and_schedules_go_on(tmp_path, section, schedule):
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, learning_rate=0.1 / 3)
    extra = {"warmup_stable_decay": {"num_decay_steps": 3}, "cosine_warmup_with_min_lr": {"min_lr": 1e-3}}
    extra["cosine_with_min_lr"] = {"min_lr": 1e-3}

    def parts():
        torch.manual_seed(0)
        model = nn.ModuleDict({"a": nn.ModuleDict({"layers": nn.Linear(4, 3)}), "b": nn.Linear(3, 2)})
        model.config = SimpleNamespace(width_multiplier=1.0)
        optimizer = build_optimizer([(model, args, OptimizerSection(**section))])
        specific = extra.get(schedule.value)
        return model, optimizer, get_scheduler(schedule, optimizer, 2, 9, scheduler_specific_kwargs=specific)

    def step(model, optimizer, scheduler, seed):
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
        scheduler.step()

    ones = parts()
    for seed in range(3):
        step(*ones, seed)
    others = parts()
    others[0].load_state_dict(ones[0].state_dict())
    for name, one, other in zip(("o", "s"), ones[1:], others[1:], strict=True):
        write_state(tmp_path / name, one.state_dict())
        other.load_state_dict(read_state(tmp_path / name))
    for seed in range(3, 6):
        step(*ones, seed)
        step(*others, seed)
    assert same([*ones[0].parameters()], [*others[0].parameters()])
    assert equal(ones[2].get_last_lr(), others[2].get_last_lr())


@given(seed=st.integers(0, 2**32 - 1), drawn=st.integers(0, 5))
def test_random_states_go_on(tmp_path_factory, seed, drawn):
    trainer = trainer_of(tmp_path_factory.getbasetemp() / "random")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    draw = lambda: (random.gauss(0, 1), np.random.randn(), torch.randn(3).tolist())  # noqa: E731
    for _ in range(drawn):  # a normal number is kept for the next draw
        draw()
    trainer.save_random_state(Path(trainer.args.output_dir))
    ahead = [draw() for _ in range(3)]
    trainer.load_random_state(trainer.args.output_dir)
    assert [draw() for _ in range(3)] == ahead


def trainer_of(folder, made=[]):  # noqa: B006
    """One trainer, for all examples."""
    if not made:
        made.append(train(folder, stop=1, **OPTIONS)[0])
    return made[0]
