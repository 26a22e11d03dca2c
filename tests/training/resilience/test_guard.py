"""A loss or a gradient that is no number reaches neither weights nor checkpoints; nor does a spike, where asked for."""

import json
import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import TrainerCallback

import train_lm
from experiments.cells import Cell
from experiments.runs import read_runs
from settings.checks import ConfigError
from settings.sections import GuardSection, OptimizerSection
from tests.training.checkpoints.test_data_position import prepare, weights
from tests.training.checkpoints.test_resume import place  # noqa: F401
from tests.training.checkpoints.test_resume import run as run_script
from tests.training.checkpoints.test_store import OPTIONS, kept, same
from training.checkpoints.store import latest_valid
from training.resilience.guard import Guard

# ruff: noqa: F811

SECTIONS = [{}, {"kind": "muon"}, {"kind": "muon", "grokfast_lambda": 2.0}]


def tensors_in(value):
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from tensors_in(one)


class Steps(TrainerCallback):
    """The weights and the optimiser's state after each step."""

    def __init__(self):
        self.weights, self.moments, self.rates = [], [], []

    def on_step_end(self, args, state, control, model=None, optimizer=None, **kwargs):  # noqa: ARG002
        self.weights.append([weight.detach().clone() for weight in model.parameters()])
        self.moments.append([tensor.clone() for tensor in tensors_in(optimizer.state_dict())])
        self.rates.append(optimizer.param_groups[0]["lr"])


def spoil(trainer, step: int, where: str, value: float, micro: int = 0, last: int = 10**9):
    """From `step` to `last`, have the loss, or the gradient alone, be no number in this micro-batch."""
    loss, seen = trainer.compute_loss, []

    def is_meant():
        return step <= trainer.state.global_step + 1 <= last and seen.count(trainer.state.global_step) == micro + 1

    def compute_loss(*arguments, **given):
        seen.append(trainer.state.global_step)
        result = loss(*arguments, **given)
        return result * value if where == "loss" and is_meant() else result

    trainer.compute_loss = compute_loss
    if where == "gradient":
        weight = next(trainer.model.parameters())
        weight.register_hook(
            lambda gradient: gradient.index_fill(0, torch.tensor([3]), value) if is_meant() else gradient
        )


def run(folder, where, value, step=3, last=3, micro=0, checkpoint=None, section=None, guard=None, **options):
    parts = {"optimizer": OptimizerSection(**section or {}), "guard": GuardSection(**guard or {})}
    trainer, ledger = prepare(folder, checkpoint=checkpoint and str(checkpoint), parts=parts, **OPTIONS | options)
    steps = Steps()
    trainer.add_callback(steps)
    spoil(trainer, step, where, value, micro, last)
    trainer.ledger = ledger
    trainer.steps = steps
    trainer.go = lambda: trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
    return trainer


@pytest.mark.parametrize("section", SECTIONS, ids=str)
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(("where", "accumulation", "micro"), [("loss", 1, 0), ("gradient", 1, 0), ("loss", 3, 1)])
def test_a_step_that_is_no_number_is_not_made(tmp_path, capfd, where, value, section, accumulation, micro):
    trainer = run(tmp_path, where, value, micro=micro, section=section, gradient_accumulation_steps=accumulation)
    trainer.go()
    steps = trainer.steps
    assert same(steps.weights[1], steps.weights[2])
    assert same(steps.moments[1], steps.moments[2])
    assert not same(steps.weights[2], steps.weights[3])
    assert all(weight.isfinite().all() for weight in steps.weights[-1])
    assert steps.rates == sorted(steps.rates, reverse=True)  # the schedule is one of steps, made or not
    assert len(set(steps.rates)) == 6
    (row,) = map(json.loads, (tmp_path / "skipped.jsonl").read_text().splitlines())
    assert row["step"] == 3
    assert row["process"] == 0
    firsts = trainer.ledger.seen[4 * accumulation : 6 * accumulation]
    assert [ids[0] for ids in row["input_ids"]] == firsts
    assert row["why"] == (f"its loss is {value}" if where == "loss" else row["why"])
    assert f"step 3 is skipped: {row['why']}; its batch is in {tmp_path / 'skipped.jsonl'}" in capfd.readouterr().err
    logs = {row["step"]: row for row in trainer.state.log_history if "loss" in row}
    assert math.isfinite(logs[3]["loss"]) == (where == "gradient")
    assert math.isfinite(logs[4]["loss"])
    assert [logs[step].get("skipped_steps") for step in logs] == [None, None, 1, 1, 1, 1]


def test_a_run_that_was_ended_goes_on_as_one_that_was_not(tmp_path):
    """One more such step is one, and is written down; a line that was torn off is forgotten."""
    with pytest.raises(SystemExit):
        run(tmp_path, "loss", math.nan, last=5, max_steps=9).go()
    with (tmp_path / "skipped.jsonl").open("a") as file:
        file.write('{"step": 5, "wh')
    trainer = run(tmp_path, "loss", math.nan, step=6, last=6, max_steps=9, checkpoint=tmp_path / "checkpoint-5")
    trainer.go()
    rows = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [3, 4, 5, 6]
    assert trainer.guard.skipped == 4


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_three_in_a_row_end_the_run(tmp_path, where):
    trainer = run(tmp_path, where, math.nan, last=9, max_steps=9)
    with pytest.raises(SystemExit, match=r"the last 3 steps were skipped \(.* is nan\), and the run ends after step 5"):
        trainer.go()
    assert same(trainer.steps.weights[1], weights(trainer))
    assert latest_valid(tmp_path).name == "checkpoint-5"
    end = json.loads((tmp_path / "diverged.json").read_text())
    assert (end["step"], end["why"].endswith("is nan")) == (3, True)
    assert trainer.guard.diverged("", 5) == 3
    healthy, _ = prepare(tmp_path, checkpoint=str(tmp_path / "checkpoint-5"), **OPTIONS | {"max_steps": 9})
    healthy.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert all(weight.isfinite().all() for weight in weights(healthy))
    assert healthy.state.log_history[-1]["skipped_steps"] == 3
    assert not (tmp_path / "diverged.json").exists()


def test_other_numbers_in_a_row_are_allowed(tmp_path):
    trainer = run(tmp_path, "loss", math.nan, last=5, guard={"skips_in_a_row": 4})
    trainer.go()
    assert trainer.guard.skipped == 3
    assert kept(tmp_path) == [4, 6]


@pytest.mark.parametrize("stop", [3, 4])
def test_a_resumed_run_counts_on(tmp_path, stop):
    """A run that is interrupted between skipped steps ends where the uninterrupted one does, in the same state."""
    ends = []
    for folder, stops in ((tmp_path / "whole", None), (tmp_path / "parts", stop)):
        first = run(folder, "loss", math.nan, last=9, max_steps=9, stop=stops, guard={"loss_spike": 1e6, "window": 2})
        if stops:
            first.go()
        last = latest_valid(folder) if stops else None
        trainer = run(
            folder, "loss", math.nan, last=9, max_steps=9, checkpoint=last, guard={"loss_spike": 1e6, "window": 2}
        )
        with pytest.raises(SystemExit):
            trainer.go()
        rows = (folder / "skipped.jsonl").read_text()
        ends.append((trainer.state.global_step, trainer.guard.state(), rows.count("\n")))
    assert ends[0] == ends[1]
    assert ends[0][0] == 5
    assert ends[0][2] == 3


def test_the_scaler_of_float16_is_left_to_find_its_scale(tmp_path):
    """Of the first four steps it passes over by itself, more than end a run."""
    trainer = run(tmp_path, "gradient", math.inf, step=1, last=4, max_grad_norm=0.0, optim="adamw_torch")
    scaler = trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    trainer.go()
    assert scaler.get_scale() == 2.0**12
    assert trainer.guard.skipped == 0
    assert same(trainer.steps.weights[0], trainer.steps.weights[3])
    assert not same(trainer.steps.weights[3], trainer.steps.weights[5])
    assert all(torch.isfinite(weight).all() for weight in weights(trainer))


def test_a_run_that_diverges_ends_saved_by_settings_alone(place, capfd):
    """Though its evaluations have no loss, and no sample can be drawn."""
    given = ("learning_rate=1e12", "lr_scheduler_type=constant", "warmup_steps=0", "eval_steps=1", "save_steps=20")
    with pytest.raises(SystemExit, match="the last 3 steps were skipped"):
        run_script(train_lm, place, "diverges", *(f"training.{one}" for one in given))
    assert "no sample: the logits are not finite" in capfd.readouterr().err
    last = latest_valid(place / "diverges")
    assert all(torch.isfinite(weight).all() for weight in load_file(last / "model.safetensors").values())
    assert (place / "diverges" / "skipped.jsonl").read_text().count("\n") == 3
    logged = [json.loads(line) for line in (place / "diverges" / "metrics.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in logged if "eval_loss" in row]
    assert steps == [*range(1, len(steps) + 1)]
    assert last.name == f"checkpoint-{len(steps) + 1}"  # whose evaluation is left for when the run goes on
    (found,) = read_runs(Cell("diverges", {}, "", {}, place / "diverges"))
    assert (found.diverged, [row["step"] for row in found.evaluations]) == (len(steps) - 1, steps)


@given(
    losses=st.lists(st.floats(0, 20), min_size=3, max_size=30),
    z=st.floats(0.1, 6),
    window=st.integers(2, 8),
)
def test_a_spike_is_what_the_last_losses_say(tmp_path_factory, losses, z, window):
    guard = Guard(GuardSection(loss_spike=z, window=window), tmp_path_factory.getbasetemp())
    made = []
    for loss in losses:
        last = made[-window:]
        limit = statistics.fmean(last) + z * statistics.pstdev(last) if len(last) == window else math.inf
        assert (guard.reason_to_skip(loss, 1.0) is not None) == (loss > limit)
        if loss <= limit:
            made.append(loss)
    assert guard.state()["attributes"]["losses"] == made[-window:]


def test_a_spike_is_skipped_as_a_step(tmp_path):
    trainer = run(tmp_path, "loss", 2.0, step=5, last=5, guard={"loss_spike": 3, "window": 3})
    trainer.go()
    assert trainer.guard.skipped == 1
    assert "a spike above" in (tmp_path / "skipped.jsonl").read_text()
    assert same(trainer.steps.weights[3], trainer.steps.weights[4])


@pytest.mark.parametrize(
    "values", [{"skips_in_a_row": 0}, {"window": 1}, {"loss_spike": 0.0}, {"loss_spike": math.nan}], ids=str
)
def test_a_guard_that_makes_no_sense_is_refused(values):
    with pytest.raises(ConfigError, match=f"guard.{next(iter(values))}="):
        GuardSection(**values)
