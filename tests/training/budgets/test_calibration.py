"""A calibration measures steps of a run and leaves nothing of it behind; the times themselves are not tested."""

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import TrainingArguments, set_seed

from data_prep.collator import CausalLMCollator
from data_prep.tokens.windows import Documents, TokenArray
from modeling.configuration_kindling import KindlingLlamaConfig
from settings.experiment import LanguageExperiment
from settings.loading import load_experiment
from tests.training.processes import in_processes
from training.budgets import calibration
from training.budgets.calibration import StepTimes, calibrate, random_windows
from training.model import build_model
from training.trainer import KindlingTrainer

CONFIG = KindlingLlamaConfig(
    vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=12
)
WINDOWS = random_windows(CONFIG, length=12, count=40)
COLLATE = CausalLMCollator(pad_token_id=1)


def experiment(folder: Path, *overrides: str) -> LanguageExperiment:
    (folder / "tiny.yaml").write_text("model: {hidden_size: 16}")
    return load_experiment(str(folder / "tiny.yaml"), list(overrides))


def arguments(folder: Path, **settings) -> TrainingArguments:
    given = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "remove_unused_columns": False, "max_steps": 3}
    return TrainingArguments(output_dir=str(folder / "run"), **given | settings)


def drawn() -> tuple:
    return random.random(), np.random.random(), torch.rand(1).item()


def trained(args: TrainingArguments) -> list[torch.Tensor]:
    """The weights after a run that accumulates and ends in the middle of the data."""
    trainer = KindlingTrainer(
        model=build_model(CONFIG, args), args=args, train_dataset=WINDOWS, data_collator=COLLATE, text_bytes=None,
        peak_flops=1e9,
    )  # fmt: skip
    trainer.train()
    return list(trainer.model.parameters())


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr(calibration, "STEPS", range(2, 5))


@pytest.mark.parametrize("overrides", [(), ("optimizer.kind=muon",)])
def test_a_calibration_leaves_everything_as_it_was(tmp_path, monkeypatch, capsys, overrides):
    monkeypatch.setattr(calibration.tempfile, "tempdir", str(tmp_path / "aside"))
    (tmp_path / "aside").mkdir()
    asked = experiment(tmp_path, *overrides)
    settings = {"gradient_accumulation_steps": 2, "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1}
    args = arguments(tmp_path, per_device_train_batch_size=4, **settings)
    before = dict(vars(args))
    set_seed(5)
    expected = drawn()
    set_seed(5)
    times = calibrate(asked, args, CONFIG, WINDOWS, WINDOWS, COLLATE)
    assert drawn() == expected
    assert vars(args) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["aside", "tiny.yaml"]
    assert not list((tmp_path / "aside").iterdir())
    assert capsys.readouterr().out == ""
    assert times.steps == 4
    assert all(0 < value < math.inf for value in (times.first_step, times.step, times.evaluation))


def test_a_run_after_a_calibration_is_the_run_without_it(tmp_path):
    args = arguments(tmp_path, per_device_train_batch_size=3, gradient_accumulation_steps=2, save_strategy="no")
    alone = trained(args)
    calibrate(experiment(tmp_path), args, CONFIG, WINDOWS, WINDOWS, COLLATE)
    assert all(map(torch.equal, trained(args), alone))


def test_the_steps_are_those_of_the_run(tmp_path, monkeypatch):
    """Its precision, batch, accumulation and optimiser; documents of several lengths, with groups; no validation."""
    seen = []

    class Seen(KindlingTrainer):
        def training_step(self, model, inputs, *arguments, **keywords):
            seen.append((len(inputs["input_ids"]), self.args.bf16, self.optimizer_section.kind))
            return super().training_step(model, inputs, *arguments, **keywords)

    monkeypatch.setattr(calibration, "KindlingTrainer", Seen)
    ids = np.arange(60, dtype=np.uint16)
    about = np.array(
        [(start, 0, 0) for start in range(0, 60, 6)], dtype=[("start", int), ("prompt", int), ("group", int)]
    )
    documents = Documents(TokenArray([ids], [60]), about, 12, with_groups=True)
    args = arguments(tmp_path, per_device_train_batch_size=5, gradient_accumulation_steps=2, bf16=True)
    asked = experiment(tmp_path, "optimizer.kind=muon")
    times = calibrate(asked, args, CONFIG, documents, [], COLLATE, seconds=0)
    assert seen == [(5, True, "muon")] * 2 * (1 + times.steps)
    assert times.steps == 2
    assert (times.evaluation_start, times.evaluation) == (0, 0)
    calibrate(asked, args, CONFIG, documents, documents, COLLATE, seconds=0)


def test_several_processes_measure_together_and_agree(tmp_path):
    def work(rank: int):
        args = arguments(tmp_path, per_device_train_batch_size=4)
        times = calibrate(experiment(tmp_path), args, CONFIG, WINDOWS, WINDOWS, COLLATE)
        (tmp_path / f"{rank}.json").write_text(json.dumps(vars(times)))

    assert in_processes(2, work) == [0, 0]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second


def test_the_seconds_of_a_run_are_those_of_its_steps_and_evaluations():
    times = StepTimes(first_step=10.0, step=2.0, evaluation_start=5.0, evaluation=3.0, report=0.5, save=7.0, steps=4)
    assert times.seconds(1) == 10
    assert times.seconds(100) == 10 + 99 * 2
    assert times.seconds(100, evaluations=4) == 10 + 99 * 2 + 5 + 4 * 3.5
    assert times.seconds(100, evaluations=4, saves=3) == 10 + 99 * 2 + 5 + 4 * 3.5 + 3 * 7
