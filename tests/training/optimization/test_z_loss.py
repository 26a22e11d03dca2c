"""The z-loss against its formula in float64: gradients, logs, masked targets, accumulation."""

import copy
import math

import pytest
import torch
from transformers import AutoModelForCausalLM, TrainerCallback

from tests.training.checkpoints.test_data_position import CONFIG, prepare
from tests.training.resilience.test_guard import spoil

COEFFICIENT = 0.1


class Gradients(TrainerCallback):
    """The weights before the first step and the gradients that it is made with, unclipped."""

    def on_step_begin(self, args, state, control, model=None, **kwargs):  # noqa: ARG002
        if state.global_step == 0:
            self.model = copy.deepcopy(model).double().eval()

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):  # noqa: ARG002
        if state.global_step == 0:
            self.found = {name: weight.grad.clone() for name, weight in model.named_parameters()}


def first_step(folder, masked: int = 0, coefficient: float = COEFFICIENT, **options):
    """Train a step, of which the collator is told to mask some targets; return its trainer, gradients and batches."""
    options |= {"max_steps": 1, "max_grad_norm": 0.0}
    config = copy.deepcopy(CONFIG)
    config.update({"hidden_dropout": 0.0, "embedding_dropout": 0.0, "attention_dropout": 0.0})
    model = AutoModelForCausalLM.from_config(config)
    trainer, collate = prepare(folder, model=model, parts={"z_loss": coefficient}, **options)
    seen, gradients = [], Gradients()

    def masking(rows):
        batch = collate(rows)
        batch["labels"][0, :masked] = -100
        seen.append({name: tensor.clone() for name, tensor in batch.items()})
        return batch

    trainer.data_collator = masking
    trainer.add_callback(gradients)
    trainer.train()
    return trainer, gradients, seen


def reference(model, batches: list[dict], coefficient: float) -> tuple[float, float, dict[str, torch.Tensor]]:
    """Cross-entropy, z-term and gradients of their sum over all targets of a step, in float64."""
    model.zero_grad()
    nats = squares = targets = 0
    for batch in batches:
        logits = model(batch["input_ids"]).logits[:, :-1]
        wanted = batch["labels"][:, 1:]
        kept = wanted != -100
        normalizer = logits.exp().sum(-1).log()
        chosen = logits.gather(-1, wanted.clamp(min=0)[..., None])[..., 0]
        nats = nats + (normalizer - chosen)[kept].sum()
        squares = squares + (normalizer[kept] ** 2).sum()
        targets += int(kept.sum())
    loss, term = nats / targets, coefficient * squares / targets
    (loss + term).backward()
    return loss.item(), term.item(), {name: weight.grad for name, weight in model.named_parameters()}


@pytest.mark.parametrize(
    ("masked", "options"),
    [
        (0, {}),
        (4, {"per_device_train_batch_size": 3}),
        (3, {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3}),
    ],
    ids=["plain", "masked", "accumulated, masked"],
)
def test_gradients_are_those_of_the_formula_and_the_loss_stays_the_cross_entropy(tmp_path, masked, options):
    trainer, gradients, batches = first_step(tmp_path, masked, **options)
    loss, term, expected = reference(gradients.model, batches, COEFFICIENT)
    (row,) = [row for row in trainer.state.log_history if "loss" in row]
    assert row["loss"] == pytest.approx(loss, rel=1e-6)
    assert row["z_loss"] == pytest.approx(term, rel=1e-6)
    for name, gradient in gradients.found.items():
        torch.testing.assert_close(gradient.double(), expected[name], rtol=1e-4, atol=1e-7, msg=name)
    _, _, without = reference(gradients.model, batches, 0.0)
    assert not all(torch.allclose(gradient.double(), without[name]) for name, gradient in gradients.found.items())


def test_without_a_coefficient_nothing_is_added_or_logged(tmp_path):
    trainer, gradients, batches = first_step(tmp_path, coefficient=0.0)
    _, _, expected = reference(gradients.model, batches, 0.0)
    for name, gradient in gradients.found.items():
        torch.testing.assert_close(gradient.double(), expected[name], rtol=1e-4, atol=1e-7, msg=name)
    assert not any("z_loss" in row for row in trainer.state.log_history)


def test_normalisers_come_to_1_sooner(tmp_path):
    """What the z-loss is for: log Z ends nearer to 0, and a log is the mean over its steps."""
    ends = []
    for coefficient in (1e-9, 1.0):
        parts = {"z_loss": coefficient}
        trainer, _ = prepare(tmp_path, parts=parts, max_steps=40, logging_steps=10, learning_rate=3e-2)
        trainer.train()
        ends.append([row["z_loss"] / coefficient for row in trainer.state.log_history if "loss" in row])
    assert all(len(one) == 4 for one in ends)
    assert ends[1][-1] < 0.5 * ends[0][-1]
    assert ends[1] == sorted(ends[1], reverse=True)


def test_a_step_that_is_skipped_spoils_no_later_log(tmp_path):
    trainer, _ = prepare(tmp_path, parts={"z_loss": COEFFICIENT}, max_steps=4)
    spoil(trainer, 2, "loss", math.nan, last=2)
    trainer.train()
    rows = [row for row in trainer.state.log_history if "loss" in row]
    assert [math.isfinite(row["loss"]) for row in rows] == [True, False, True, True]
    assert all(math.isfinite(row["z_loss"]) for row in rows)
