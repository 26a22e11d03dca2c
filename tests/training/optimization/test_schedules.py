"""Schedules of weight decay and dropout against their formula, as the optimiser and the model had them at each step."""

import pytest
from torch import nn
from transformers import AutoModelForCausalLM, TrainerCallback

from settings.checks import ConfigError
from settings.loading import load_experiment
from settings.recipe_sections import SchedulesSection
from settings.sections import OptimizerSection
from tests.training.checkpoints.test_data_position import CONFIG, prepare
from tests.training.grokking.test_trainer import make_experiment, make_trainer  # noqa: F401
from training.optimization.schedules import multiple

# ruff: noqa: F811

STEPS = 8
SECTION = SchedulesSection(weight_decay={0: 1, 0.5: 3, 1: 0}, dropout={1: 1, 0.25: 0})
DECAYS = [1.0, 1.5, 2.0, 2.5, 3.0, 2.25, 1.5, 0.75]
DROPS = [0, 0, 0, 1 / 6, 1 / 3, 1 / 2, 2 / 3, 5 / 6]


class Seen(TrainerCallback):
    """Decays and dropouts with which each step was made."""

    def __init__(self):
        self.decays, self.drops = [], []

    def on_optimizer_step(self, args, state, control, model=None, optimizer=None, **kwargs):  # noqa: ARG002
        self.decays.append([group["weight_decay"] for group in optimizer.param_groups])
        modules = list(model.modules())
        drops = [one.p for one in modules if isinstance(one, nn.Dropout)]
        self.drops.append(drops + [one.attention_dropout for one in modules if hasattr(one, "attention_dropout")])


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_every_decay_and_every_dropout_follows_its_schedule(tmp_path, kind):
    model = AutoModelForCausalLM.from_config(CONFIG)
    parts = {"schedules": SECTION, "optimizer": OptimizerSection(kind=kind, muon_weight_decay=0.3)}
    trainer, _ = prepare(tmp_path, model=model, parts=parts, max_steps=STEPS, weight_decay=0.2)
    seen = Seen()
    trainer.add_callback(seen)
    trainer.train()
    first = {"adamw": [0.2, 0.0], "muon": [0.3, 0.2, 0.0]}[kind]
    assert seen.decays == [pytest.approx([value * factor for value in first]) for factor in DECAYS]
    drops = [CONFIG.embedding_dropout, CONFIG.hidden_dropout, CONFIG.attention_dropout]
    assert max(drops) > 0
    for found, factor in zip(seen.drops, DROPS, strict=True):
        assert len(found) > 3
        assert all(any(one == pytest.approx(value * factor) for value in drops) for one in found)
    rows = [row for row in trainer.state.log_history if "loss" in row]
    assert [row["weight_decay_multiple"] for row in rows] == pytest.approx(DECAYS)
    assert [row["dropout_multiple"] for row in rows] == pytest.approx(DROPS)


def test_replicas_keep_their_own_decays_under_a_schedule(make_experiment):
    experiment = make_experiment({"training": {"seed": [3], "weight_decay": [0.5, 2.0]}}, max_steps=STEPS)
    trainer, seen = make_trainer(experiment, schedules=SchedulesSection(weight_decay={0: 1, 0.5: 3, 1: 0})), Seen()
    trainer.add_callback(seen)
    trainer.train()
    assert [sorted(set(one)) for one in seen.decays] == [pytest.approx([0.0, 0.5 * x, 2.0 * x]) for x in DECAYS]


def test_outside_of_its_points_a_schedule_is_constant():
    assert [multiple({0.5: 2.0}, step, 4) for step in range(4)] == [2.0] * 4
    assert [multiple({0.25: 1.0, 0.75: 0.0}, step, 4) for step in range(4)] == [1.0, 1.0, 0.5, 0.0]


def test_a_schedule_is_the_same_however_its_numbers_are_written(tmp_path):
    """JSON, which sweeps write overrides in, has text for keys."""
    (tmp_path / "tiny.yaml").write_text("training: {weight_decay: 0.1}")
    for text in ("{0: 1, 1: 0}", '{"0": 1, "1": 0}', "{0.0: 1.0, 1: 0}"):
        experiment = load_experiment(str(tmp_path / "tiny.yaml"), [f"schedules.weight_decay={text}"])
        assert experiment.schedules.weight_decay == {0.0: 1.0, 1.0: 0.0}
    for wrong in (
        {},
        {"a": 1},
        {0: "x"},
        {0: True},
        {-0.1: 1},
        {1.1: 1},
        {0: -1},
        {0: float("inf")},
        {float("nan"): 1},
    ):
        with pytest.raises(ConfigError, match=r"^schedules.weight_decay=.* is not a schedule"):
            SchedulesSection(weight_decay=wrong)


def test_without_schedules_nothing_is_touched_or_logged(tmp_path):
    trainer, _ = prepare(tmp_path, max_steps=2)
    trainer.train()
    assert trainer.schedules.places == []
    assert not any("weight_decay_multiple" in row for row in trainer.state.log_history)
