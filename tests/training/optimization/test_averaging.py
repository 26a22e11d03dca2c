"""Averages of the weights against means in float64 over the stored trajectory; what is evaluated and saved by them."""

import math

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, TrainerCallback

import modeling  # noqa: F401
from settings.recipe_sections import AveragingSection
from settings.sections import GuardSection
from tests.training.checkpoints.test_data_position import prepare, windows_of
from tests.training.checkpoints.test_store import OPTIONS
from tests.training.grokking.test_trainer import evaluations, make_experiment, make_trainer  # noqa: F401
from tests.training.resilience.test_guard import spoil
from training.checkpoints.state import read_state
from training.optimization.averaging import KINDS

# ruff: noqa: F811

STEPS = 9
SECTION = AveragingSection(ema=0.4, tail=0.5, save="tail")


class Trajectory(TrainerCallback):
    """The weights of models after each step, in float64; None for a step that a model has skipped."""

    def __init__(self, trainer):
        self.trainer, self.points = trainer, {name: [] for name in trainer.averages.models}

    def on_step_end(self, args, state, control, **kwargs):  # noqa: ARG002
        for name, model in self.trainer.averages.models.items():
            made = self.trainer.guard.in_a_row[name] == 0
            point = {key: weight.detach().double().clone() for key, weight in model.named_parameters()}
            self.points[name].append(point if made else None)


def reference(points: list, kind: str, section: AveragingSection, steps: int = STEPS) -> dict[str, torch.Tensor]:
    """The average after the last of the points, written out."""
    fraction = section.fractions[kind]
    first = {"ema": 1, "tail": steps - round(fraction * steps) + 1}[kind]
    decay = {"ema": 1 - 1 / (fraction * steps), "tail": 1.0}[kind]
    counted = [point for step, point in enumerate(points, start=1) if step >= first and point is not None]
    shares = [decay ** (len(counted) - i) for i in range(1, len(counted) + 1)]
    return {
        key: sum(share * point[key] for share, point in zip(shares, counted, strict=True)) / sum(shares)
        for key in counted[0]
    }


def close(found: dict, expected: dict) -> bool:
    return all(torch.allclose(found[key].double(), expected[key], rtol=1e-6, atol=1e-7) for key in expected)


def run(folder, spoilt: bool = False, section=SECTION, **options):
    parts = {"averaging": section, "guard": GuardSection(), "eval_dataset": windows_of(5)}
    trainer, _ = prepare(folder, parts=parts, **OPTIONS | {"max_steps": STEPS} | options)
    trajectory = Trajectory(trainer)
    trainer.add_callback(trajectory)
    if spoilt:
        spoil(trainer, 6, "loss", math.nan, last=7)
    trainer.train()
    return trainer, trajectory.points[""]


@pytest.mark.parametrize(
    ("spoilt", "options"),
    [
        (False, {}),
        (True, {}),
        (False, {"bf16": True}),
        (False, {"gradient_accumulation_steps": 3, "per_device_train_batch_size": 1}),
    ],
    ids=["plain", "two steps skipped", "bf16", "accumulated"],
)
def test_averages_are_those_of_the_trajectory(tmp_path, spoilt, options):
    trainer, points = run(tmp_path, spoilt, **options)
    assert [point is None for point in points] == [spoilt and step in (6, 7) for step in range(1, STEPS + 1)]
    for kind in KINDS:
        average = trainer.averages.averages[kind][""]
        assert close(average.weights, reference(points, kind, SECTION))
        assert not close(average.weights, points[-1])
        assert all(weight.dtype == torch.float32 for weight in average.weights.values())
    saved = read_state(tmp_path / f"checkpoint-{STEPS}" / "averages.safetensors")
    for kind in KINDS:
        kept = trainer.averages.averages[kind][""]
        assert saved[kind][""]["mass"] == kept.mass
        assert all(torch.equal(saved[kind][""]["weights"][key], kept.weights[key]) for key in kept.weights)


def loss_of(trainer, weights: dict) -> float:
    """The validation loss of other weights, by a model of its own."""
    model = AutoModelForCausalLM.from_config(trainer.model.config).eval()
    for key, value in model.named_parameters():
        value.data.copy_(weights[key])
    nats = targets = 0
    with torch.no_grad():
        for row in trainer.eval_dataset:
            ids = torch.as_tensor(row["input_ids"])[None]
            log_p = model(ids).logits.double().log_softmax(-1)[0, :-1]
            nats -= log_p.gather(1, ids[0, 1:, None]).sum().item()
            targets += ids.shape[1] - 1
    return nats / targets


def test_each_average_is_evaluated_beside_the_raw_weights(tmp_path):
    trainer, points = run(tmp_path)
    before = {key: weight.detach().clone() for key, weight in trainer.model.named_parameters()}
    metrics = trainer.evaluate()
    assert all(torch.equal(before[key], weight) for key, weight in trainer.model.named_parameters())
    assert metrics["eval_loss"] == pytest.approx(loss_of(trainer, points[-1]), rel=1e-5)
    for kind in KINDS:
        assert metrics[f"eval_{kind}_loss"] == pytest.approx(
            loss_of(trainer, reference(points, kind, SECTION)), rel=1e-5
        )
        assert metrics[f"eval_{kind}_perplexity"] == pytest.approx(math.exp(metrics[f"eval_{kind}_loss"]))
    assert len({metrics[f"eval_{kind}loss"] for kind in ("", "ema_", "tail_")}) == 3


def test_a_tail_is_evaluated_once_it_has_begun(tmp_path):
    trainer, _ = run(tmp_path, eval_strategy="steps", eval_steps=2)
    rows = {row["step"]: row for row in trainer.state.log_history if "eval_loss" in row}
    assert [step for step in rows if "eval_ema_loss" in rows[step]] == [2, 4, 6, 8, 9]
    assert [step for step in rows if "eval_tail_loss" in rows[step]] == [6, 8, 9]


def test_the_run_comes_to_the_weights_that_were_asked_for(tmp_path):
    """Its checkpoints have the raw weights, to go on from; so does the model after saving."""
    trainer, points = run(tmp_path)
    trainer.save_model()
    tied = trainer.model.all_tied_weights_keys
    found, raw = (load_file(folder / "model.safetensors") for folder in (tmp_path, tmp_path / f"checkpoint-{STEPS}"))
    assert close(found | {key: found[key] for key in tied if key in found}, reference(points, "tail", SECTION))
    assert close(raw, points[-1])
    assert close(dict(trainer.model.named_parameters()), points[-1])


def test_a_run_that_ends_before_its_tail_has_the_raw_weights(tmp_path, capsys):
    trainer, _ = run(tmp_path, section=AveragingSection(tail=0.1, save="tail"), max_steps=30, eval_strategy="no")
    assert trainer.averages.result == "tail"
    trainer.averages.averages["tail"][""].mass = 0.0
    assert trainer.averages.result == "raw"
    assert "the raw weights are saved" in capsys.readouterr().err


def test_the_best_model_has_its_own_averages(tmp_path):
    """The learning rate is such that the loss rises towards the end."""
    options = {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 1, "save_steps": 1}
    options |= {
        "metric_for_best_model": "ema_loss",
        "greater_is_better": False,
        "learning_rate": 3.0,
        "lr_scheduler_type": "constant",
    }
    trainer, points = run(tmp_path, section=AveragingSection(ema=0.4), **options)
    rows = [row for row in trainer.state.log_history if "eval_ema_loss" in row]
    best = min(rows, key=lambda row: row["eval_ema_loss"])["step"]
    assert trainer.state.best_global_step == best < STEPS
    section = AveragingSection(ema=0.4)
    assert close(dict(trainer.model.named_parameters()), points[best - 1])
    assert close(trainer.averages.averages["ema"][""].weights, reference(points[:best], "ema", section))


def test_an_extended_runs_tail_is_that_of_its_new_length(tmp_path):
    run(tmp_path, section=AveragingSection(tail=0.5))
    parts = {"averaging": AveragingSection(tail=0.5)}
    longer, last = 3 * STEPS, str(tmp_path / f"checkpoint-{STEPS}")
    trainer, _ = prepare(tmp_path, checkpoint=last, parts=parts, **OPTIONS | {"max_steps": longer})
    trajectory = Trajectory(trainer)
    trainer.add_callback(trajectory)
    trainer.train(resume_from_checkpoint=last)
    points = [None] * STEPS + trajectory.points[""]
    expected = reference(points, "tail", AveragingSection(tail=0.5), longer)
    assert close(trainer.averages.averages["tail"][""].weights, expected)


def test_a_replica_that_skips_a_step_has_averages_of_the_others(make_experiment):
    """Each replica's averages are those of its own trajectory; rows of the log have its accuracies by them."""
    experiment = make_experiment({"training": {"seed": [3, 4]}}, max_steps=STEPS)
    trainer = make_trainer(experiment, averaging=SECTION)
    trajectory = Trajectory(trainer)
    trainer.add_callback(trajectory)
    first = next(trainer.members[0].model.parameters())
    first.register_hook(lambda gradient: gradient * (math.nan if trainer.state.global_step == 7 else 1.0))
    trainer.train()
    points = list(trajectory.points.values())
    assert [[point is None for point in one].count(True) for one in points] == [1, 0]
    assert points[0][7] is None
    for kind in KINDS:
        for average, one in zip(trainer.averages.averages[kind].values(), points, strict=True):
            assert close(average.weights, reference(one, kind, SECTION))
    raw = [{key: weight.clone() for key, weight in member.model.named_parameters()} for member in trainer.members]
    names = {f"{kind}_{split}_{what}" for kind in KINDS for split in ("train", "test") for what in ("loss", "accuracy")}
    assert names < {*trainer.evaluate()}
    for member, before, one in zip(trainer.members, raw, points, strict=True):
        assert all(torch.equal(before[key], weight) for key, weight in member.model.named_parameters())
        norm = math.sqrt(sum((value**2).sum().item() for value in reference(one, "ema", SECTION).values()))
        logged = evaluations(trainer, member.name)[-1]
        assert logged["ema_weight_norm"] == pytest.approx(norm, rel=1e-5)
