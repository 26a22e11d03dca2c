"""A run goes on at the very next example: in any epoch, with any accumulation, and with batches of another size."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, TrainerCallback, TrainerState, TrainingArguments, set_seed

import modeling  # noqa: F401
from data_prep.collator import CausalLMCollator
from data_prep.tokens.order import Epochs
from data_prep.tokens.windows import TokenArray, Windows
from modeling.configuration_kindling import KindlingGPTConfig
from settings.checks import ConfigError
from tests.night import by_day
from training.checkpoints.data_position import DataPosition, run_positions
from training.trainer import KindlingTrainer

LENGTH = 6
CONFIG = KindlingGPTConfig(
    vocab_size=500, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=LENGTH,
    pad_token_id=499, bos_token_id=0, eos_token_id=0, hidden_dropout=0.1,
)  # fmt: skip


class Ledger(CausalLMCollator):
    """A collator that notes which windows it has seen, by their first id."""

    def __call__(self, examples):
        self.seen.extend(int(example["input_ids"][0]) for example in examples)
        return super().__call__(examples)


def collator() -> Ledger:
    ledger = Ledger(pad_token_id=499)
    object.__setattr__(ledger, "seen", [])
    return ledger


class StopAt(TrainerCallback):
    """Ends a run after a step, as an interruption does, with a checkpoint behind it."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):  # noqa: ARG002
        if state.global_step == self.step:
            control.should_save = control.should_training_stop = True


def windows_of(count: int) -> Windows:
    ids = np.arange(count * (LENGTH - 1) + 1, dtype=np.uint16)
    return Windows(TokenArray([ids], [len(ids)]), LENGTH)


def train(folder, checkpoint=None, **arguments):
    """Train a tiny model on numbered windows; return the trainer and the windows in the order they came."""
    trainer, ledger = prepare(folder, checkpoint=checkpoint, **arguments)
    trainer.train(resume_from_checkpoint=checkpoint)
    return trainer, [first // (LENGTH - 1) for first in ledger.seen]


def prepare(
    folder, count=7, checkpoint=None, stop=None, data="data", length=LENGTH, model=None, parts=None, **arguments
):
    """A trainer that is about to do so; `parts` are more of its arguments."""
    set_seed(0)
    settings = {"output_dir": str(folder), "use_cpu": True, "save_strategy": "no", "disable_tqdm": True, "seed": 0}
    settings |= {"report_to": "none", "remove_unused_columns": False, "logging_steps": 1, "learning_rate": 1e-2}
    settings |= {"train_sampling_strategy": "sequential", "per_device_train_batch_size": 2}
    args = TrainingArguments(**settings | arguments)
    examples = windows_of(count)
    about = {"data": data, "data.context_length": length}
    args.max_steps, positions = run_positions(len(examples), about, args, checkpoint)
    order = Epochs(examples, **positions)
    ledger = collator()
    trainer = KindlingTrainer(
        model=model or AutoModelForCausalLM.from_config(CONFIG),
        args=args,
        train_dataset=order,
        data_collator=ledger,
        callbacks=[DataPosition(order), *([StopAt(stop)] if stop else [])],
        text_bytes=None,
        peak_flops=1e9,
        **(parts or {}),
    )
    return trainer, ledger


def weights(trainer) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in trainer.model.parameters()]


@pytest.mark.parametrize(
    ("stop", "workers", "accumulation"),
    by_day([(1, 0, 1), (3, 0, 3), (5, 0, 3), (1, 2, 3), (5, 2, 1)], [1, 3, 5], [0, 2], [1, 3]),
)
def test_resuming_is_exact_in_any_epoch(tmp_path, stop, workers, accumulation):
    options = {"max_steps": 6, "gradient_accumulation_steps": accumulation}
    if workers:  # the collator of a worker notes nothing here: weights alone are compared
        options["dataloader_num_workers"] = workers
    whole, order = train(tmp_path / "whole", **options)
    _, before = train(tmp_path / "parts", stop=stop, **options)
    resumed, after = train(tmp_path / "parts", checkpoint=str(tmp_path / "parts" / f"checkpoint-{stop}"), **options)
    for one, other in zip(weights(whole), weights(resumed), strict=True):
        assert torch.equal(one, other)
    if not workers:
        done = stop * 2 * accumulation
        assert before[:done] + after == order
        assert sorted(order[:7]) == list(range(7))
        assert resumed.state.epoch == whole.state.epoch == 6 * 2 * accumulation / 7


@pytest.mark.parametrize(("first", "second"), [((2, 1), (3, 1)), ((2, 3), (1, 1)), ((1, 1), (4, 2))])
def test_another_batch_size_goes_on_at_the_same_example(tmp_path, first, second):
    batches = [
        {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation, "num_train_epochs": 3}
        for size, accumulation in (first, second)
    ]
    _, order = train(tmp_path / "whole", **batches[0])
    _, before = train(tmp_path / "parts", stop=2, **batches[0])
    trainer, after = train(tmp_path / "parts", checkpoint=str(tmp_path / "parts" / "checkpoint-2"), **batches[1])
    assert before[: 2 * first[0] * first[1]] + after == order
    assert len(order) == 21
    assert trainer.state.epoch == 3


@pytest.mark.parametrize(
    ("count", "accumulation"),
    by_day(
        [*((count, 3) for count in range(1, 13)), (1, 1), (12, 1), (5, 2), (8, 2), (7, 4), (9, 4), (12, 4)],
        range(1, 13),
        range(1, 5),
    ),
)
def test_the_end_of_a_pass_weighs_every_token_once(tmp_path, count, accumulation):
    """Each step's gradient is that of its own windows, each token once, at the end of the run as elsewhere."""
    gradients, batches = [], []

    class Gradients(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):  # noqa: ARG002
            gradients.append([parameter.grad.clone() for parameter in model.parameters()])

    set_seed(0)
    config = KindlingGPTConfig(**CONFIG.to_dict() | {"hidden_dropout": 0.0})
    model = AutoModelForCausalLM.from_config(config)
    args = TrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, save_strategy="no", disable_tqdm=True, report_to="none",
        max_grad_norm=0, remove_unused_columns=False, learning_rate=0.0, per_device_train_batch_size=2,
        num_train_epochs=1,
        gradient_accumulation_steps=accumulation, train_sampling_strategy="sequential",
    )  # fmt: skip
    examples = windows_of(count)
    args.max_steps, positions = run_positions(count, {}, args, None)
    order = Epochs(examples, **positions)
    trainer = KindlingTrainer(
        model=model, args=args, train_dataset=order, data_collator=CausalLMCollator(499), callbacks=[Gradients()],
        text_bytes=None, peak_flops=1e9,
    )  # fmt: skip
    trainer.train()
    starts = [*range(0, count, 2 * accumulation), count]
    for start, stop in pairwise(starts):
        batches.append(CausalLMCollator(499)([order[i] for i in range(start, stop)]))
    assert len(gradients) == len(batches)
    for found, batch in zip(gradients, batches, strict=True):
        model.zero_grad()
        targets = (batch["labels"][:, 1:] != -100).sum()
        model(**batch, num_items_in_batch=targets).loss.backward()
        for one, parameter in zip(found, model.parameters(), strict=True):
            torch.testing.assert_close(one, parameter.grad, atol=1e-6, rtol=1e-4)


def test_evaluation_by_epochs_is_by_epochs_of_the_data(tmp_path):
    trainer, _ = train(tmp_path, num_train_epochs=3, save_strategy="epoch")
    saved = sorted(int(path.name.split("-")[1]) for path in tmp_path.glob("checkpoint-*"))
    assert saved == [4, 7, 11]  # 7 windows an epoch, 2 a step: the steps in which an epoch ends, and the last
    assert trainer.state.max_steps == 11


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"seed": 1}, "training.seed=0 and is resumed with 1"),
        ({"data_seed": 5}, "training.seed=0 and is resumed with 5"),
        ({"data": "others"}, "data=data and is resumed with others"),
        ({"length": 8}, "data.context_length=6 and is resumed with 8"),
    ],
)
def test_other_data_or_another_order_is_refused(tmp_path, changes, complaint):
    train(tmp_path, stop=2, max_steps=4)
    checkpoint = tmp_path / "checkpoint-2"
    state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    assert state.stateful_callbacks["DataPosition"]["attributes"]["position"] == 4
    with pytest.raises(ConfigError, match=complaint):
        train(tmp_path, checkpoint=str(checkpoint), max_steps=4, **changes)


@pytest.mark.parametrize("name", ["ignore_data_skip", "dataloader_drop_last"])
def test_what_would_lose_examples_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match=f"training.{name} would lose or repeat examples"):
        train(tmp_path, max_steps=2, **{name: True})


def test_a_checkpoint_of_unknown_position_is_refused(tmp_path):
    train(tmp_path, stop=2, max_steps=4)
    path = tmp_path / "checkpoint-2" / "trainer_state.json"
    path.write_text(path.read_text().replace("DataPosition", "AnotherCallback"))
    with pytest.raises(ConfigError, match="does not record its position in the data"):
        train(tmp_path, checkpoint=str(path.parent), max_steps=4)


def test_fewer_epochs_than_were_seen_are_refused(tmp_path):
    train(tmp_path, stop=6, num_train_epochs=2)
    with pytest.raises(ConfigError, match="has seen 12 examples, more than the 7 requested"):
        train(tmp_path, checkpoint=str(tmp_path / "checkpoint-6"), num_train_epochs=1, per_device_train_batch_size=1)
