"""A budget is resolved to the run that spends it: compared with going through the run, example by example."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import TrainingArguments

from data_prep.collator import CausalLMCollator
from data_prep.tokens.order import Epochs
from data_prep.tokens.windows import Documents, TokenArray, Windows
from modeling.accounting import training_flops
from modeling.configuration_kindling import KindlingGPTConfig
from settings.checks import ConfigError
from settings.loading import load_experiment
from training.budgets.batch import split_batch
from training.budgets.length import budgeted_examples
from training.checkpoints.data_position import run_positions
from training.reporting.budget import describe_spending

CONFIG = KindlingGPTConfig(
    vocab_size=50, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=99
)
SEED = 3


def documents_of(lengths: list[int]) -> Documents:
    ids = np.full(sum(lengths), 7)
    ids[0], ids[-1] = 2, 3
    about = np.zeros(len(lengths), dtype=[("start", np.int64), ("prompt", np.int64)])
    about["start"] = np.cumsum([0, *lengths[:-1]])
    return Documents(TokenArray([ids], [len(ids)]), about, 99)


def windows_of(count: int, length: int) -> Windows:
    ids = np.zeros(count * (length - 1) + 1, dtype=np.uint16)
    return Windows(TokenArray([ids], [len(ids)]), length)


def spent_by(examples, count: int, name: str, masked: int) -> int:
    """Targets or FLOPs of the first examples of a run, each by itself."""
    run, spent = Epochs(examples, seed=SEED, stop=max(count, 1)), 0
    for item in range(count):
        length = len(run[item]["input_ids"])
        targets = length - max(masked, 1)
        if targets > 0:
            spent += targets if name == "tokens" else training_flops(CONFIG, length)
    return spent


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(2, 60), min_size=1, max_size=9), st.floats(0.01, 40), st.sampled_from(["tokens", "flops"]),
    st.integers(0, 3),
)  # fmt: skip
def test_no_other_number_of_documents_spends_a_budget_better(lengths, epochs, name, masked):
    lengths = [*lengths, 9]  # at least one has a target
    examples, collate = documents_of(lengths), CausalLMCollator(pad_token_id=1, mask_first_n=masked)
    amount = epochs * spent_by(examples, len(lengths), name, masked)
    count = budgeted_examples({name: amount}, examples, SEED, collate, CONFIG)
    off, *others = (abs(spent_by(examples, n, name, masked) - amount) for n in (count, max(count - 1, 0), count + 1))
    assert off <= min(others) * (1 + 1e-9)


@pytest.mark.parametrize(("name", "amount"), [("tokens", 16 * 1000), ("flops", 1000 * training_flops(CONFIG, 17))])
def test_windows_spend_a_budget_exactly(name, amount):
    collate = CausalLMCollator(pad_token_id=1)
    assert budgeted_examples({name: amount}, windows_of(50, 17), SEED, collate, CONFIG) == 1000
    assert budgeted_examples({}, windows_of(50, 17), SEED, collate, CONFIG) is None


def test_what_has_no_target_spends_nothing():
    collate = CausalLMCollator(pad_token_id=1, mask_first_n=20)
    with pytest.raises(ConfigError, match=r"budget\.tokens=100 is never spent"):
        budgeted_examples({"tokens": 100}, documents_of([5, 7]), SEED, collate, CONFIG)


@pytest.mark.parametrize(("wanted", "steps"), [(1, 1), (11, 1), (12, 2), (80, 10), (83, 10), (84, 10), (85, 11)])
def test_a_run_ends_at_the_step_nearest_to_its_budget(tmp_path, wanted, steps):
    args = TrainingArguments(output_dir=str(tmp_path), per_device_train_batch_size=8, use_cpu=True)
    found, positions = run_positions(20, {}, args, None, wanted)
    assert (found, positions["stop"]) == (steps, 8 * steps)


def test_a_run_has_an_end(tmp_path):
    args = TrainingArguments(output_dir=str(tmp_path), per_device_train_batch_size=1, use_cpu=True)
    with pytest.raises(ConfigError, match=r"the budget is that of 1,000,000,001 steps, and a run has at most"):
        run_positions(20, {}, args, None, 10**9 + 1)
    with pytest.raises(ConfigError, match=r"budget\.batch_tokens=1,000,000,000,000 needs .* lower it"):
        split_batch(args, experiment_of(tmp_path, "budget.batch_tokens=1e12"), None)


def experiment_of(tmp_path, *overrides: str):
    path = tmp_path / "budget.yaml"
    path.write_text("model: {max_position_embeddings: 64}\ntraining: {per_device_train_batch_size: 16}\n")
    return load_experiment(str(path), list(overrides))


@pytest.mark.parametrize(
    ("tokens", "size", "accumulated"),
    [(64 * 16, 16, 1), (64 * 64, 16, 4), (64 * 24, 12, 2), (64 * 4, 4, 1), (64, 1, 1), (2, 1, 1), (64 * 34, 2, 17)],
)
def test_a_batch_of_tokens_is_split(tmp_path, tokens, size, accumulated, capsys):
    args = TrainingArguments(output_dir=str(tmp_path), per_device_train_batch_size=16, use_cpu=True)
    split_batch(args, experiment_of(tmp_path, f"budget.batch_tokens={tokens}"), None)
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps) == (size, accumulated)
    complaint = capsys.readouterr().err
    assert ("no whole number of windows" in complaint) == (tokens % 64 != 0)
    assert ("only 2 are computed at a time" in complaint) == (size == 2)


def test_the_command_line_replaces_the_length_in_the_file(tmp_path):
    path = tmp_path / "long.yaml"
    path.write_text("budget: {tokens: 1e9}\n")
    short = load_experiment(str(path), ["training.max_steps=5"])
    assert (short.budget.amounts, short.training["max_steps"]) == ({}, 5)
    path.write_text("training: {max_steps: 1000}\n")
    by_tokens = load_experiment(str(path), ["budget.tokens=1e6"])
    assert (by_tokens.budget.amounts, by_tokens.training.get("max_steps")) == ({"tokens": 1e6}, None)
    assert load_experiment(str(path), ["training.num_train_epochs=2"]).training.get("max_steps") is None
    path.write_text("training: {max_steps: 1000}\nbudget: {tokens: 1e6}\n")
    with pytest.raises(ConfigError, match=r"budget\.tokens=1e\+06 and training\.max_steps=1000 each set the length"):
        load_experiment(str(path), [])


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ({"budget_tokens": 1e6, "tokens": 999_000}, "999,000 of 1,000,000 tokens spent (99.9%)"),
        ({"budget_flops": 1e15, "total_flos": 10**15}, "1e+15 of 1e+15 FLOPs spent (100.0%)"),
        ({"budget_minutes": 10.0, "seconds": 588}, "9.8 of 10 minutes spent (98.0%)"),
        ({"budget_epochs": 2.5, "epochs": 2.5}, "2.5 of 2.5 epochs spent (100.0%)"),
        ({"tokens": 7}, ""),
    ],
)
def test_what_was_spent_is_said(metrics, said):
    assert describe_spending(metrics) == said
