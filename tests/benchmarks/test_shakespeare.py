"""The benchmark of Tiny Shakespeare, against numbers worked out by hand and transformers' own losses."""

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from benchmarks.shakespeare import (
    CONTEXT,
    RandomWindows,
    build_sides,
    draw,
    full_loss,
    summarise,
    time_steps,
    train_stock,
)
from data_prep.tokens.windows import TokenArray


def text(length: int) -> TokenArray:
    ids = np.random.default_rng(0).integers(0, 9, length)
    return TokenArray([ids], [length])


@pytest.fixture
def model():
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=9, n_positions=CONTEXT, n_embd=16, n_layer=1, n_head=2)).eval()


def test_a_window_has_a_target_for_each_input(model):
    """The model's own loss with `shift_labels` is that of one token more, shifted by hand."""
    ids, example = text(200), RandomWindows(text(200), 3, seed=1)[2]
    start = RandomWindows(ids, 3, seed=1).starts[2]
    window = torch.as_tensor(ids.read(start, start + CONTEXT + 1))
    found = model(**{key: torch.as_tensor(value)[None] for key, value in example.items()})
    expected = torch.nn.functional.cross_entropy(found.logits[0], window[1:])
    assert len(example["input_ids"]) == CONTEXT
    assert found.loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_the_loss_counts_every_target_once(model):
    ids, nats = text(CONTEXT + 11), []
    for start, stop in ((0, CONTEXT + 1), (CONTEXT, CONTEXT + 11)):
        window = torch.as_tensor(ids.read(start, stop))
        log_p = model(window[None, :-1]).logits[0].log_softmax(-1)
        nats += (-log_p[torch.arange(len(window) - 1), window[1:]]).tolist()
    assert len(nats) == CONTEXT + 10
    assert full_loss(model, ids) == pytest.approx(sum(nats) / len(nats), rel=1e-5)


def test_the_stock_side_trains():
    found = train_stock(text(300), text(100), vocabulary=9, seed=0, steps=2)
    assert found["tokens"] == 2 * 12 * 64
    assert 1.5 < found["loss"] < 3


def test_both_sides_are_timed_as_they_train():
    sides = build_sides(vocabulary=9)
    assert [type(side.model).__name__ for side in sides.values()] == ["GPT2LMHeadModel", "KindlingLlamaForCausalLM"]
    assert [side.ids_BT.shape for side in sides.values()] == [(12, 64), (16, 128)]
    before = {name: side.model.get_input_embeddings().weight.clone() for name, side in sides.items()}
    for name, side in sides.items():
        side.step()
        assert not torch.equal(side.model.get_input_embeddings().weight, before[name])
    assert time_steps(9, rounds=1).keys() == sides.keys()


def test_time_is_a_share_of_the_stock_sides():
    """2,000 steps of 2 units are 4,000; 250 and 500 steps of 4 are a quarter and half of that."""
    names = {"stock": 2000, "ours, few steps": 250, "ours": 500}
    runs = [
        {"side": side, "seed": seed, "steps": steps, "tokens": 2, "loss": 2.0 + seed}
        for side, steps in names.items()
        for seed in (0, 1)
    ]
    units = ("milliseconds", "processor_milliseconds")
    found = summarise(runs, {"stock": dict.fromkeys(units, 2.0), "ours": dict.fromkeys(units, 4.0)})
    assert [found[side]["share_of_milliseconds"] for side in names] == [1.0, 0.25, 0.5]
    assert found["ours"]["loss"] == {"mean": 2.5, "range": [2.0, 3.0]}
    (axes,) = draw(runs, found).axes
    assert [tuple(line.get_xdata()) for line in axes.lines[:3]] == [(1, 1), (0.25, 0.25), (0.5, 0.5)]
