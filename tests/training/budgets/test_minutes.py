"""A budget in minutes: the steps that fit, counted as a run makes them; a resumed run keeps its length."""

import json
import shutil
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import TrainingArguments

import train_lm
from settings.checks import ConfigError
from training.budgets import minutes
from training.budgets.calibration import StepTimes
from training.budgets.minutes import occurrences, steps_in_time

TIMES = StepTimes(
    first_step=3.0, step=0.5, evaluation_start=1.0, evaluation=2.0, report=0.25, save=0.75, steps=9
)  # fmt: skip
TINY = """
model: {hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, max_position_embeddings: 32}
tokenizer: {vocab_size: 300, train_documents: 50}
data: {source: fables, train_documents: 60, validation_documents: 5, cache_dir: %(here)s/prepared}
training: {output_dir: %(here)s/run, per_device_train_batch_size: 8, use_cpu: true, bf16: false, save_steps: 0.5}
budget: {minutes: 0.5}
sample: {max_new_tokens: 4}
"""


def going_through(times: StepTimes, steps: int, args: TrainingArguments) -> float:
    """Seconds of a run, step by step."""
    clock, evaluated = args.eval_on_start * times.evaluation, False
    for step in range(1, steps + 1):
        clock += times.first_step if step == 1 else times.step
        for strategy, interval in ((args.eval_strategy, args.eval_steps), (args.save_strategy, args.save_steps)):
            is_evaluation = strategy is args.eval_strategy and interval is args.eval_steps
            every = interval if interval >= 1 else -(-steps * interval // 1)
            if strategy.value == "no" or not (step % every == 0 or step == steps):
                continue
            clock += times.evaluation + times.report if is_evaluation else times.save
            clock += times.evaluation_start if is_evaluation and not evaluated else 0
            evaluated |= is_evaluation
    return clock


@pytest.mark.parametrize("intervals", [(5, 10), (0.25, 0.5), (3, 0.1), (1, 1)])
@given(seconds=st.floats(0, 200))
def test_the_steps_are_the_most_that_fit(tmp_path_factory, intervals, seconds):
    folder = str(tmp_path_factory.getbasetemp())
    settings = {"eval_strategy": "steps", "eval_steps": intervals[0], "save_steps": intervals[1]}
    args = TrainingArguments(output_dir=folder, use_cpu=True, per_device_train_batch_size=8, **settings)
    steps = steps_in_time(TIMES, seconds, args, examples=1000)
    assert steps == 0 or going_through(TIMES, steps, args) <= seconds
    assert going_through(TIMES, steps + 1, args) > seconds


def test_evaluations_and_saves_are_counted():
    assert occurrences("no", None, 100, 7) == 1  # at the end
    assert occurrences("epoch", None, 100, 25) == 4
    assert occurrences("steps", 0.3, 10, 5) == 4
    assert occurrences("steps", 4, 10, 5) == 3


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Train with measured times as given; return the folder's metrics."""
    (tmp_path / "tiny.yaml").write_text(TINY % {"here": tmp_path})

    def train(times: StepTimes, *overrides: str) -> dict:
        monkeypatch.setattr(minutes, "calibrate", lambda *_, **__: times)
        train_lm.main(str(tmp_path / "tiny.yaml"), list(overrides))
        return json.loads((tmp_path / "run" / "metrics.json").read_text())

    return train


def test_a_resumed_run_keeps_the_length_that_was_measured(run, tmp_path, capsys):
    settings = ["training.eval_strategy=no"]
    first = run(TIMES, *settings)
    # 30 s: 3 for the first step, 3.25 for the evaluation at the end, 1.5 for two checkpoints
    assert first["steps"] == 1 + int((30 - 3 - 3.25 - 1.5) / 0.5)
    assert first["budget_minutes"] == 0.5
    assert "budget      0.5 minutes: 45 steps of 0.5 s" in (told := capsys.readouterr().out)
    assert "of 0.5 minutes spent (" in told
    folder = tmp_path / "run"
    shutil.rmtree(folder / "checkpoint-45")
    (folder / "metrics.json").unlink()
    slower = replace(TIMES, step=5.0)
    resume = "training.resume_from_checkpoint=true"
    with pytest.raises(ConfigError, match=r"was to end at budget\.minutes=0\.5 and is resumed with 1\.0"):
        run(slower, *settings, resume, "budget.minutes=1")
    assert run(slower, *settings, resume)["steps"] == 45
    longer = run(TIMES, *settings, resume, "budget.minutes=1", "resume.extend=true")
    spent = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert longer["steps"] > 45
    assert all(row["step"] <= longer["steps"] for row in spent)


def test_a_branch_has_minutes_of_its_own(run, tmp_path):
    constant = ["training.eval_strategy=no", "training.lr_scheduler_type=constant", "training.warmup_steps=0"]
    assert run(TIMES, *constant, "training.max_steps=8")["steps"] == 8
    branch = [*constant[:1], f"resume.decay_from={tmp_path / 'run' / 'checkpoint-4'}", "budget.minutes=0.5"]
    run(replace(TIMES, step=1.0), *branch, f"training.output_dir={tmp_path / 'branch'}")
    metrics = json.loads((tmp_path / "branch" / "metrics.json").read_text())
    assert 4 < metrics["steps"] != 8
    assert metrics["steps"] <= 4 + 30


def test_a_budget_without_a_step_is_refused_before_any_work(run, tmp_path):
    with pytest.raises(ConfigError, match=r"budget\.minutes=0\.01 is over before the first step: it takes 3 s"):
        run(TIMES, "budget.minutes=0.01")
    assert not list((tmp_path / "run").glob("*.safetensors"))


def test_minutes_are_measured_on_real_steps(tmp_path):
    (tmp_path / "tiny.yaml").write_text(TINY % {"here": tmp_path})
    train_lm.main(str(tmp_path / "tiny.yaml"), ["budget.minutes=0.05"])
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert (tmp_path / "run" / f"checkpoint-{metrics['steps']}").exists()
