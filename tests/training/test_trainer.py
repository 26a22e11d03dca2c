"""What the Trainer reports is what a direct computation gives."""

import copy

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, TrainingArguments, set_seed

import modeling  # noqa: F401
from data_prep.collator import CausalLMCollator
from data_prep.tokens.windows import TokenArray, Windows
from modeling.accounting import training_flops
from modeling.configuration_kindling import KindlingGPTConfig
from training.trainer import KindlingTrainer

CONFIG = KindlingGPTConfig(
    vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=16,
    pad_token_id=1,
)  # fmt: skip
LENGTH = 12


@pytest.fixture
def make_trainer(tmp_path):
    def make(config=CONFIG, **arguments):
        set_seed(0)
        ids = np.random.default_rng(0).integers(0, 64, size=397).astype(np.uint16)
        settings = {"output_dir": str(tmp_path), "use_cpu": True, "save_strategy": "no", "disable_tqdm": True}
        settings |= {"report_to": "none", "remove_unused_columns": False, "logging_steps": 1, "max_steps": 4}
        return KindlingTrainer(
            model=AutoModelForCausalLM.from_config(config),
            args=TrainingArguments(**settings | arguments),
            train_dataset=Windows(TokenArray([ids], [len(ids)]), LENGTH),
            eval_dataset=Windows(TokenArray([ids], [200]), LENGTH),
            data_collator=CausalLMCollator(pad_token_id=1),
            text_bytes=300,
            peak_flops=1e9,
        )

    return make


@pytest.mark.parametrize("batch", [1, 3, 8, 50])
def test_validation_does_not_depend_on_the_batch_size(make_trainer, batch):
    trainer = make_trainer(per_device_eval_batch_size=batch)
    metrics = trainer.evaluate()
    ids = torch.as_tensor(trainer.eval_dataset.ids.read(0, 200))
    nats = targets = 0
    with torch.no_grad():
        for start in range(0, len(ids) - 1, LENGTH - 1):
            window = ids[None, start : start + LENGTH]
            log_p = trainer.model(window).logits.double().log_softmax(-1)
            nats -= log_p[0, :-1].gather(1, window[0, 1:, None]).sum().item()
            targets += window.shape[1] - 1
    assert targets == 199
    assert metrics["eval_loss"] == pytest.approx(nats / targets, abs=1e-6)
    assert metrics["eval_bits_per_byte"] == pytest.approx(nats / (300 * np.log(2)), abs=1e-6)
    assert metrics["eval_perplexity"] == pytest.approx(np.exp(nats / targets), rel=1e-5)


def test_a_decay_longer_than_the_run_takes_all_of_it(make_trainer):
    schedule = {"lr_scheduler_type": "warmup_stable_decay", "learning_rate": 0.1, "warmup_steps": 2}
    trainer = make_trainer(lr_scheduler_kwargs={"num_decay_steps": 300, "decay_type": "linear"}, **schedule)
    trainer.train()
    rates = [row["learning_rate"] for row in trainer.state.log_history if "learning_rate" in row]
    assert rates == pytest.approx([0, 0.05, 0.1, 0.05])
    assert trainer.args.lr_scheduler_kwargs["num_decay_steps"] == 300  # what a longer run, resumed from it, has


def test_without_groups_there_are_totals_alone(make_trainer):
    trainer = make_trainer()
    seen = []
    trainer.model.register_forward_pre_hook(lambda *call: seen.append(set(call[-1])), with_kwargs=True)
    totals = {"eval_loss", "eval_loss_standard_error", "eval_perplexity", "eval_bits_per_byte"}
    metrics = trainer.evaluate()
    assert {name for name in metrics if name.startswith("eval_") and not name.endswith(("time", "second"))} == totals
    assert seen
    assert all(names == {"input_ids", "attention_mask", "use_cache"} for names in seen)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_tokens_and_flops_are_exact(make_trainer, accumulation):
    trainer = make_trainer(per_device_train_batch_size=4, gradient_accumulation_steps=accumulation)
    trainer.train()
    rows = 4 * 4 * accumulation
    assert trainer.state.num_input_tokens_seen == rows * (LENGTH - 1)
    assert trainer.state.total_flos == training_flops(CONFIG, LENGTH, rows)
    logs = [row for row in trainer.state.log_history if "loss" in row]
    assert [row["tokens"] for row in logs] == [(i + 1) * 4 * accumulation * (LENGTH - 1) for i in range(4)]
    assert all(row["tokens_per_second"] > 0 and row["mfu"] > 0 for row in logs)
    assert [row["seconds"] for row in logs] == sorted(row["seconds"] for row in logs)


def test_accumulation_weighs_every_token_once(make_trainer):
    losses = []
    for batch, accumulation in ((8, 1), (4, 2), (1, 8)):
        trainer = make_trainer(per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation)
        trainer.train()
        losses.append([row["loss"] for row in trainer.state.log_history if "loss" in row])
    np.testing.assert_allclose(losses[1:], [losses[0]] * 2, atol=1e-5)


def test_matrices_alone_are_decayed(make_trainer):
    trainer = make_trainer(weight_decay=0.1)
    decayed = set(trainer.get_decay_parameter_names(trainer.model))
    for name, _ in trainer.model.named_parameters():
        assert (name in decayed) == (not name.endswith("bias") and "norm" not in name), name


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_fused", "rmsprop"])
def test_matrices_of_a_wider_model_have_rates_of_their_own(make_trainer, optim):
    """muP with any optimiser of transformers like AdamW; what is logged is the rate of the settings."""
    config = copy.deepcopy(CONFIG)
    config.update({"parametrization": "mup", "mup_base_width": 4})
    trainer = make_trainer(config, optim=optim, learning_rate=0.01, weight_decay=0.3, lr_scheduler_type="constant")
    trainer.train()
    groups = {id(one): group for group in trainer.optimizer.param_groups for one in group["params"]}
    for name, parameter in trainer.model.named_parameters():
        inside, decayed = name.endswith("_proj.weight"), parameter.ndim == 2
        found = [groups[id(parameter)][key] for key in ("lr", "weight_decay", "eps")]
        expected = [0.01 / 4 if inside else 0.01, 0.3 * decayed * (4 if inside else 1), 1e-8 / 4]
        assert found == pytest.approx(expected), name
    assert [row["learning_rate"] for row in trainer.state.log_history if "loss" in row] == [0.01] * 4


def test_evaluation_time_is_no_training_time(make_trainer):
    trainer = make_trainer(eval_strategy="steps", eval_steps=2)
    trainer.train()
    assert trainer._evaluation_seconds > 0
