"""All parts of a recipe together, through the scripts: resumed exactly, and told of in the card."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

import train_algorithmic
import train_lm
from tests.training.checkpoints.test_resume import GO_ON, place, run  # noqa: F401
from training.checkpoints.state import read_state

# ruff: noqa: F811

LOGS = ("training.logging_steps=2", "training.eval_steps=2", "training.logging_strategy=steps")
AVERAGES = ("averaging.ema=0.4", "averaging.tail=0.7", "averaging.save=ema")
SCHEDULES = ("schedules.weight_decay={0: 1, 0.5: 3, 1: 0}", "schedules.dropout={0: 0, 1: 1}")
PARTS = {
    train_lm: (
        *AVERAGES,
        *LOGS,
        "optimizer.kind=muon",
        "optimizer.decay_embeddings=false",
        "loss.z_loss=0.01",
        *SCHEDULES,
    ),
    train_algorithmic: (*AVERAGES, "replicas.training.seed=[0,1]", "optimizer.decay_embeddings=false", SCHEDULES[0]),
}
CLOCKS = ("seconds", "tokens_per_second", "mfu", "runtime", "per_second")


def rows_of(folder) -> list[dict]:
    """The log without what depends on the time."""
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{key: value for key, value in row.items() if not key.endswith(CLOCKS)} for row in rows]


@pytest.fixture(scope="module")
def whole(place):
    """A run of each script with all parts, uninterrupted."""
    return {script: run(script, place, f"recipe-{script.__name__}", *parts) for script, parts in PARTS.items()}


@pytest.mark.parametrize("script", PARTS)
def test_every_part_is_resumed_exactly(place, whole, script):
    """Half-way, between two logs and after the tail has begun: weights, averages and logs are the same to the bit."""
    copy = shutil.copytree(whole[script], place / f"recipe-half-{script.__name__}")
    shutil.rmtree(copy / "checkpoint-10")
    (copy / "metrics.json").unlink()
    run(script, place, copy.name, *PARTS[script], GO_ON)
    assert rows_of(copy) == rows_of(whole[script])
    models = [path.relative_to(copy) for path in copy.rglob("model.safetensors")]
    assert len(models) == {train_lm: 3, train_algorithmic: 6}[script]
    for model in models:
        assert (copy / model).read_bytes() == (whole[script] / model).read_bytes(), model
    ones, others = (read_state(folder / "checkpoint-10" / "averages.safetensors") for folder in (copy, whole[script]))
    assert ones.keys() == {"ema", "tail"}
    for kind, models in ones.items():
        for name, average in models.items():
            assert average["mass"] == others[kind][name]["mass"] > 0
            assert all(torch.equal(others[kind][name]["weights"][key], one) for key, one in average["weights"].items())


def test_the_card_and_the_metrics_are_of_the_weights_that_are_saved(whole):
    folder = whole[train_lm]
    metrics, last = json.loads((folder / "metrics.json").read_text()), rows_of(folder)[-2]
    assert (metrics["eval_loss"], metrics["eval_raw_loss"]) == (last["eval_ema_loss"], last["eval_loss"])
    assert metrics["eval_loss"] != metrics["eval_raw_loss"]
    assert metrics["weights"] == "ema"
    card = (folder / "README.md").read_text()
    assert f"| validation loss | {metrics['eval_loss']:.4f} ±" in card
    assert f"| validation loss, weights after the last step | {metrics['eval_raw_loss']:.4f} nats" in card
    assert "| validation loss, exponential moving average" not in card
    assert "exponential moving average of the weights; averages kept: ema over 0.4 of the steps, tail over 0.7" in card
    parts = "z-loss 0.01; embeddings without weight decay; weight decay times 1 at 0%, 3 at 50%, 0 at 100% of the run"
    assert f"| parts of the recipe | {parts}; dropout times 0 at 0%, 1 at 100% of the run |" in card
    average = read_state(folder / "checkpoint-10" / "averages.safetensors")["ema"][""]["weights"]
    saved, raw = (load_file(path / "model.safetensors") for path in (folder, folder / "checkpoint-10"))
    assert all(torch.equal(saved[key], average[key]) for key in average)
    assert not any(torch.equal(saved[key], raw[key]) for key in average if "norm" not in key)


def test_replicas_come_to_their_averages(whole):
    folder = whole[train_algorithmic]
    states = read_state(folder / "checkpoint-10" / "averages.safetensors")["ema"]
    assert len(states) == 2
    for name, state in states.items():
        metrics, saved = (
            json.loads((folder / name / "metrics.json").read_text()),
            load_file(folder / name / "model.safetensors"),
        )
        last = [row for row in rows_of(folder) if row.get("replica") == name][-1]
        assert (metrics["test_loss"], metrics["raw_test_loss"]) == (last["ema_test_loss"], last["test_loss"])
        assert all(torch.equal(saved[key], state["weights"][key]) for key in state["weights"])
        assert "exponential moving average of the weights" in (folder / name / "README.md").read_text()
