"""Replicas train as they would alone, what is measured is what the models say, and a resumed run is the same run."""

import itertools
import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, set_seed

import modeling  # noqa: F401
from data_prep.algorithmic.equations import prepare_equations
from data_prep.collator import CausalLMCollator
from settings.checks import ConfigError
from settings.data_sections import EquationsSection
from settings.experiment import ALGORITHMIC_TRAINING, AlgorithmicExperiment
from settings.sections import CardSection, EvaluationSection, GuardSection, OptimizerSection, ResumeSection
from tests.night import by_day
from training.grokking.callbacks import EvaluateLogSpaced, StopWhenGrokked, log_spaced
from training.grokking.members import Member
from training.grokking.tables import Batches
from training.grokking.trainer import AlgorithmicTrainer
from training.preflight.arguments import training_arguments


@pytest.fixture
def make_experiment(tmp_path):
    def make(replicas=None, data=None, model=None, optimizer=None, **training):
        sizes = {"type": "kindling_gpt", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        quick = {"output_dir": str(tmp_path / "run"), "use_cpu": True, "bf16": False, "max_steps": 50, "seed": 0}
        quick |= {"per_device_train_batch_size": 32, "learning_rate": 3e-3, "disable_tqdm": True, "log_level": "error"}
        return AlgorithmicExperiment(
            name="task",
            overrides={},
            model=sizes | (model or {}),
            data=EquationsSection(**{"operation": "add", "modulus": 11, "train_fraction": 0.6} | (data or {})),
            training=ALGORITHMIC_TRAINING | quick | training,
            optimizer=OptimizerSection(**optimizer or {}),
            guard=GuardSection(),
            resume=ResumeSection(),
            card=CardSection(),
            evaluation=EvaluationSection(),
            replicas=replicas or {},
        )

    return make


def make_trainer(experiment, callbacks=(), **parts):
    members = [Member.build(one) for one in experiment.replicated()]
    collate = CausalLMCollator(members[0].equations.tokenizer.pad_token_id)
    args = training_arguments(experiment)
    return AlgorithmicTrainer(
        members, args=args, data_collator=collate, callbacks=list(callbacks), peak_flops=1e9, **parts
    )


def evaluations(trainer, name):
    return [row for row in trainer.state.log_history if row.get("replica") == name]


SEEDS = {"training": {"seed": [3, 4, 5]}}
ADAMW = {"training": {"seed": [3], "learning_rate": [1e-3, 4e-3], "weight_decay": [0.0, 2.0]}}
MUON = {"optimizer": {"muon_learning_rate": [0.01, 0.04], "muon_weight_decay": [0.0, 0.5]}}


@pytest.mark.parametrize(
    ("replicas", "settings"),
    [
        (ADAMW, {}),
        (SEEDS, {"max_grad_norm": 0.5, "data": {"tokens": "characters"}}),
        (SEEDS, {"data": {"tokens": "padded", "validation_fraction": 0.2}, "model": {"tie_word_embeddings": False}}),
        (MUON, {"optimizer": {"kind": "muon"}, "lr_scheduler_type": "linear"}),
        ({"training": {"seed": [1]}, "optimizer": {"grokfast_lambda": [0.0, 2.0]}}, {"model": {"mlp": "relu"}}),
        ({"training": {"seed": [1, 2]}, "model": {"embedding_init_std": [0.5, 1.0]}}, {"data": {"seed": 7}}),
    ],
    ids=["adamw", "clipped characters", "padded untied", "muon", "grokfast", "initialisation"],
)
def test_each_replicas_numbers_are_those_of_the_same_run_alone(make_experiment, replicas, settings):
    experiment = make_experiment(replicas, max_steps=20, **settings)
    together = make_trainer(experiment, [EvaluateLogSpaced(10, 20)])
    together.train()
    members = experiment.replicated()
    assert len(together.members) == math.prod(len(v) for lists in replicas.values() for v in lists.values())
    for member, one in zip(members, together.members, strict=True):
        alone = make_trainer(member, [EvaluateLogSpaced(10, 20)])
        alone.train()
        for name, parameter in alone.members[0].model.named_parameters():
            torch.testing.assert_close(one.model.get_parameter(name), parameter, rtol=1e-5, atol=1e-5, msg=name)
        rows, own_rows = evaluations(together, member.name), evaluations(alone, member.name)
        assert [row["step"] for row in rows] == sorted(log_spaced(10, 20))
        for row, own in zip(rows, own_rows, strict=True):
            assert row["train_loss"] == pytest.approx(own["train_loss"], abs=1e-5, rel=1e-5)
            assert row["test_loss"] == pytest.approx(own["test_loss"], abs=1e-5, rel=1e-5)
            assert row["weight_norm"] == pytest.approx(own["weight_norm"], rel=1e-5)


def test_a_run_is_a_plain_loop_over_a_stock_model_and_optimiser(make_experiment):
    # Without biases: the loss does not depend on the keys' at all, and Adam would blow up what rounding leaves of it.
    settings = {"warmup_steps": 0, "lr_scheduler_type": "constant", "weight_decay": 0.5}
    experiment = make_experiment(model={"bias": False}, **settings)
    trainer = make_trainer(experiment)
    trainer.train()

    equations = prepare_equations(experiment.data, seed=0)
    table = CausalLMCollator(equations.tokenizer.pad_token_id)(equations.splits["train"])
    config = trainer.members[0].model.config
    set_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    groups = [{"params": decayed, "weight_decay": 0.5}, {"params": [p for p in model.parameters() if p.ndim < 2]}]
    optimizer = torch.optim.AdamW(groups, lr=3e-3, betas=(0.9, 0.98), weight_decay=0.0)
    order = Batches({"input_ids": table["input_ids"][None]}, seeds=[0])
    batches_an_epoch = len(order) // 32
    for step in range(50):
        order.set_epoch(step // batches_an_epoch)
        start = step % batches_an_epoch * 32
        rows = order.orders_Rn[0, start : start + 32]
        loss = model(**{name: tensor[rows] for name, tensor in table.items()}).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for name, parameter in model.named_parameters():
        ours = trainer.members[0].model.get_parameter(name)
        torch.testing.assert_close(ours, parameter, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("tokens", ["numbers", "characters", pytest.param("padded", marks=pytest.mark.slow)])
def test_accuracy_is_what_the_model_generates(make_experiment, tokens):
    experiment = make_experiment(data={"tokens": tokens, "modulus": 13, "train_fraction": 0.5}, max_steps=120)
    trainer = make_trainer(experiment)
    trainer.train()
    trainer.evaluate()
    row, member = trainer.state.log_history[-1], trainer.members[0]
    assert 0.1 < row["train_accuracy"] < 1, "too easy or too hard to tell anything"
    tokenizer, model = member.equations.tokenizer, member.model.eval()
    for split in ("train", "test"):
        right = 0
        for prompt, answer in member.equations.texts[split]:
            ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
            drawn = model.generate(ids, do_sample=False, max_length=model.config.max_position_embeddings)
            said = tokenizer.decode(drawn[0, ids.shape[1] :], skip_special_tokens=True)
            right += said.isdigit() and (int(said) == int(answer))
        assert right == round(row[f"{split}_accuracy"] * len(member.equations.texts[split]))


def test_losses_are_nats_a_target_as_the_stock_model_has_them(make_experiment):
    trainer = make_trainer(make_experiment(data={"tokens": "characters"}, per_device_eval_batch_size=7))
    trainer.evaluate()
    row, member = trainer.state.log_history[-1], trainer.members[0]
    collate = CausalLMCollator(member.equations.tokenizer.pad_token_id)
    for split, examples in member.equations.splits.items():
        with torch.no_grad():
            loss = member.model(**collate(examples)).loss.item()
        assert row[f"{split}_loss"] == pytest.approx(loss, rel=1e-5)
    norm = math.sqrt(sum(float((p.detach() ** 2).sum()) for p in member.model.parameters()))
    assert row["weight_norm"] == pytest.approx(norm, rel=1e-5)


@given(seed=st.integers(0, 9), rows=st.integers(1, 40), epoch=st.integers(0, 5))
def test_each_epoch_is_a_permutation_of_its_own(seed, rows, epoch):
    table = {"input_ids": torch.arange(2 * rows).view(2, rows, 1)}
    batches = Batches(table, seeds=[seed, seed + 1])
    batches.set_epoch(epoch)
    seen = batches.__getitems__(list(range(rows)))["input_ids"]
    assert torch.equal(seen.sort(dim=1).values, table["input_ids"])
    again = Batches(table, seeds=[seed, seed + 1])
    again.set_epoch(epoch)
    assert torch.equal(again.orders_Rn, batches.orders_Rn)
    assert torch.equal(Batches({"input_ids": table["input_ids"][:1]}, [seed]).orders_Rn[0], _first_order(batches))
    if rows > 20:
        batches.set_epoch(epoch + 1)
        assert not torch.equal(batches.orders_Rn, again.orders_Rn)
        assert not torch.equal(batches.orders_Rn[0], batches.orders_Rn[1])


def _first_order(batches):
    batches.set_epoch(0)
    return batches.orders_Rn[0]


FILTERED_MUON, TWO = {"kind": "muon", "grokfast_lambda": 1.0}, {"training": {"seed": [0, 1]}}


@pytest.mark.parametrize(
    ("replicas", "optimizer", "step"),  # in the middle of an epoch, and between two
    by_day([(None, {}, 7), (TWO, FILTERED_MUON, 14), (TWO, {}, 7)], [None, TWO], [{}, FILTERED_MUON], [7, 14]),
)
def test_a_resumed_run_is_the_uninterrupted_run(make_experiment, tmp_path, optimizer, replicas, step):
    saving = {"save_strategy": "steps", "save_steps": 7, "max_steps": 20, "save_total_limit": None}
    experiment = make_experiment(replicas, optimizer=optimizer, lr_scheduler_type="linear", **saving)
    whole = make_trainer(experiment, [EvaluateLogSpaced(10, 20)])
    whole.train()
    resumed = make_trainer(experiment, [EvaluateLogSpaced(10, 20)])
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / f"checkpoint-{step}"))
    for one, other in zip(whole.members, resumed.members, strict=True):
        for mine, theirs in zip(one.model.parameters(), other.model.parameters(), strict=True):
            assert torch.equal(mine, theirs)
        timeless = [
            [{k: v for k, v in row.items() if k != "seconds"} for row in evaluations(trainer, one.name)]
            for trainer in (whole, resumed)
        ]
        assert timeless[0] == timeless[1]


def test_every_checkpoint_loads_as_a_model(make_experiment, tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 5, "max_steps": 5}
    trainer = make_trainer(make_experiment({"training": {"seed": [0, 1]}}, **saving))
    trainer.train()
    for member in trainer.members:
        folder = tmp_path / "run" / "checkpoint-5" / member.name
        model = AutoModelForCausalLM.from_pretrained(folder)
        for mine, loaded in zip(member.model.parameters(), model.parameters(), strict=True):
            assert torch.equal(mine, loaded)
        assert "auto_map" in json.loads((folder / "config.json").read_text())


@given(per_decade=st.integers(1, 50), last=st.integers(1, 20_000))
def test_log_spaced_steps(per_decade, last):
    steps = sorted(log_spaced(per_decade, last))
    assert steps[0] == 1
    assert steps[-1] == last
    ratios = [after / before for before, after in itertools.pairwise(steps)]
    # Steps are whole numbers: each may be off by a half.
    limit = 10 ** (1 / per_decade)
    assert all(ratio <= (limit * before + 0.5) / (before - 0.5) for ratio, before in zip(ratios, steps, strict=False))


def test_dropout_shares_no_beginnings(make_experiment):
    assert make_trainer(make_experiment()).model.beginnings is not None
    assert make_trainer(make_experiment(model={"hidden_dropout": 0.1})).model.beginnings is None
    assert make_trainer(make_experiment(data={"tokens": "characters"})).model.beginnings is None


def test_a_batch_is_never_larger_than_the_training_split(make_experiment):
    experiment = make_experiment(data={"train_fraction": 0.2}, per_device_train_batch_size=512, max_steps=2)
    trainer = make_trainer(experiment)
    trainer.train()
    assert trainer.state.num_input_tokens_seen == 2 * 24


def test_positions_must_hold_an_equation(make_experiment):
    with pytest.raises(ConfigError, match="max_position_embeddings=3 is too small for equations of 5 tokens"):
        make_trainer(make_experiment(model={"max_position_embeddings": 3}))


def test_replicas_whose_longest_rows_are_in_different_splits(make_experiment):
    """Modulo 101 only 100 + 100 = 99 has so many characters; seed 1 tests on it, seed 2 trains on it."""
    data = {"tokens": "characters", "modulus": 101}
    trainer = make_trainer(make_experiment({"training": {"seed": [1, 2]}}, data=data, max_steps=2))
    trainer.train()
    assert trainer.splits["train"]["input_ids"].shape[-1] == trainer.splits["test"]["input_ids"].shape[-1] == 11


def test_stopping_when_grokked_survives_a_resume(make_experiment, tmp_path, monkeypatch):
    monkeypatch.setattr("training.grokking.callbacks.GROKKED", 0.0)  # so that the third evaluation is the last
    experiment = make_experiment(save_strategy="steps", save_steps=1, save_total_limit=None)
    whole = make_trainer(experiment, [EvaluateLogSpaced(10, 50), StopWhenGrokked()])
    whole.train()
    assert [row["step"] for row in evaluations(whole, "task")] == [1, 2, 3]
    resumed = make_trainer(experiment, [EvaluateLogSpaced(10, 50), StopWhenGrokked()])
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert resumed.state.global_step == 3


@pytest.mark.parametrize("limit", [0.0, 1.0])
def test_a_replica_without_a_gradient_is_left_as_it_is(make_experiment, tmp_path, capfd, limit):
    """From step 4 on; the others train on as if it were not there, and it is told of three times."""
    experiment = make_experiment(SEEDS, max_steps=20, max_grad_norm=limit)
    healthy, trainer = make_trainer(experiment), make_trainer(experiment)
    healthy.train()
    weight = next(trainer.members[1].model.parameters())
    weight.register_hook(lambda gradient: gradient * (math.nan if trainer.state.global_step >= 3 else 1))
    short = make_trainer(make_experiment(SEEDS, max_steps=3, max_grad_norm=limit))
    short.train()
    capfd.readouterr()
    trainer.train()
    for number, expected in enumerate((healthy, short, healthy)):
        for one, other in zip(
            trainer.members[number].model.parameters(), expected.members[number].model.parameters(), strict=True
        ):
            assert torch.equal(one, other)
    assert capfd.readouterr().err.count("is skipped by seed=4: its gradient norm is nan") == 3
    assert trainer.guard.skipped == 17
    assert trainer.guard.in_a_row == {"seed=3": 0, "seed=4": 17, "seed=5": 0}
    assert [trainer.guard.diverged(member.name, 20) for member in trainer.members] == [None, 4, None]
    assert not (tmp_path / "run" / "diverged.json").exists()
    assert len((tmp_path / "run" / "skipped.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize("limit", [0.0, math.inf, 1e9])
def test_the_norm_of_replicas_is_the_largest_of_each(make_experiment, limit):
    trainer = make_trainer(make_experiment(SEEDS, max_grad_norm=limit))
    for number, member in enumerate(trainer.members, start=3):
        for weight in member.model.parameters():
            weight.grad = torch.zeros_like(weight)
        next(member.model.parameters()).grad.view(-1)[0] = number
    assert trainer.clip_gradients(trainer.model.parameters(), limit or math.inf, None).item() == 5


def test_replicas_none_of_which_has_a_gradient_end_the_run(make_experiment, tmp_path):
    trainer = make_trainer(make_experiment(SEEDS))
    for member in trainer.members:
        next(member.model.parameters()).register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(SystemExit, match="the last 3 steps were skipped"):
        trainer.train()
    assert trainer.state.global_step == 3
    assert json.loads((tmp_path / "run" / "diverged.json").read_text())["step"] == 1
