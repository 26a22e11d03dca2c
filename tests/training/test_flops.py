"""What a run records of its FLOPs is what torch's counter sees in its steps, padding and recomputed layers aside."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, TrainingArguments, set_seed

import modeling  # noqa: F401
from data_prep.collator import CausalLMCollator
from data_prep.tokens.windows import Documents, TokenArray, Windows
from modeling.accounting import matmul_flops
from modeling.configuration_kindling import KindlingLlamaConfig
from settings.sections import OptimizerSection
from tests.training.grokking.test_trainer import make_experiment, make_trainer  # noqa: F401
from training.optimization.optimizers import Muon, orthogonalization_flops
from training.trainer import KindlingTrainer

SIZES = {
    "vocab_size": 32,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 16,
    "pad_token_id": 1,
}
LENGTHS = [5, 12, 3, 8, 16, 2, 9, 9]


def documents(lengths):
    ids = np.random.default_rng(0).integers(2, 32, size=sum(lengths)).astype(np.uint16)
    ids[0], ids[-1] = 2, 3  # the first and the last differ: documents do not overlap
    starts = np.cumsum([0, *lengths[:-1]])
    about = np.zeros(len(lengths), dtype=[("start", np.int64), ("prompt", np.int64), ("group", np.int64)])
    about["start"], about["prompt"] = starts, 1
    return Documents(TokenArray([ids], [len(ids)]), about, 16)


def counted(train):
    with FlopCounterMode(display=False) as counter:
        train()
    return counter.get_total_flops()


@pytest.fixture
def train(tmp_path):
    """A function: examples, a collator and arguments to the trainer and the FLOPs that torch saw it make."""

    def run(examples, collate=None, muon=False, **arguments):
        set_seed(0)
        settings = {"output_dir": str(tmp_path), "use_cpu": True, "save_strategy": "no", "disable_tqdm": True}
        settings |= {"report_to": "none", "remove_unused_columns": False, "logging_steps": 1, "max_steps": 2}
        settings |= {"train_sampling_strategy": "sequential", "per_device_train_batch_size": 4}
        trainer = KindlingTrainer(
            model=AutoModelForCausalLM.from_config(KindlingLlamaConfig(**SIZES), attn_implementation="eager"),
            args=TrainingArguments(**settings | arguments),
            train_dataset=examples,
            data_collator=collate or CausalLMCollator(pad_token_id=1),
            text_bytes=None,
            peak_flops=1e9,
            optimizer=OptimizerSection(kind="muon") if muon else OptimizerSection(),
        )
        return trainer, counted(trainer.train)

    return run


def alone(lengths):
    """What torch counts for each example by itself, without a batch to be padded for: forward and backward."""
    model = AutoModelForCausalLM.from_config(KindlingLlamaConfig(**SIZES), attn_implementation="eager")
    rows = [torch.randint(2, 32, (1, length)) for length in lengths]
    return counted(lambda: [model(row, labels=row).loss.backward() for row in rows])


def test_full_windows(train):
    ids = np.arange(8 * 15 + 1, dtype=np.uint16) % 30
    trainer, seen = train(Windows(TokenArray([ids], [len(ids)]), 16))
    assert trainer.state.total_flos == seen
    assert "optimizer_flops" not in trainer.state.log_history[-1]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_padding_is_left_out(train, accumulation):
    per_device = {"per_device_train_batch_size": 4 // accumulation, "gradient_accumulation_steps": accumulation}
    trainer, seen = train(documents(LENGTHS), **per_device)
    assert trainer.state.total_flos == alone(LENGTHS) < seen


def test_the_models_own_count_leaves_padding_out_too():
    model = AutoModelForCausalLM.from_config(KindlingLlamaConfig(**SIZES))
    collate, examples = CausalLMCollator(pad_token_id=1), documents(LENGTHS)
    batch = collate([examples[i] for i in range(len(LENGTHS))])
    assert model.floating_point_ops(batch) == alone(LENGTHS)
    assert model.floating_point_ops({"input_ids": batch["input_ids"]}) == alone([16] * 8)


def test_the_end_of_packed_documents_is_padded(train):
    """With resets at documents there are positions in place of a mask; the last window is shorter."""
    ids = np.arange(7 * 15 + 4, dtype=np.uint16) % 30
    collate = CausalLMCollator(pad_token_id=1, document_start_id=0)
    trainer, seen = train(Windows(TokenArray([ids], [len(ids)]), 16), collate)
    assert trainer.state.total_flos == alone([16] * 7 + [4]) < seen


def test_masked_tokens_are_computed_and_blanks_are_not_counted(train):
    """A row without a target is what fills up the last batches of several processes."""

    class Filled(torch.utils.data.Dataset):
        def __len__(self):
            return 8

        def __getitem__(self, i):
            return {"input_ids": list(range(2, 14)), "prompt_length": 12 if i > 5 else 5}

    trainer, _ = train(Filled())
    assert trainer.state.total_flos == alone([12] * 6)
    assert trainer.state.num_input_tokens_seen == 6 * 7


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing. is deprecated")
def test_what_checkpointing_computes_again_is_left_out(train):
    ids = np.arange(8 * 15 + 1, dtype=np.uint16) % 30
    windows = Windows(TokenArray([ids], [len(ids)]), 16)
    trainer, seen = train(windows, gradient_checkpointing=True)
    forward = matmul_flops(trainer.model.config, length=16, batch=8)
    last_of_blocks = forward["feedforward"] // 3  # which the backward pass does not need
    again = sum(forward.values()) - forward["head"] - last_of_blocks
    assert trainer.state.total_flos == seen - again


def test_muons_products_are_counted_apart(train):
    trainer, seen = train(Windows(TokenArray([np.arange(121, dtype=np.uint16) % 30], [121]), 16), muon=True)
    last = trainer.state.log_history[-1]
    assert last["total_flos"] + last["optimizer_flops"] == seen
    assert last["optimizer_flops"] > 0


@pytest.mark.parametrize("shape", [(1, 6, 4), (3, 4, 6), (2, 5, 5)])
def test_orthogonalisation(shape):
    weights = [torch.nn.Parameter(torch.randn(shape[1:])) for _ in range(shape[0])]
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    muon = Muon(weights, lr=0.1, weight_decay=0.0, dtype=torch.float32)
    assert counted(muon.step) == orthogonalization_flops(*shape) == muon.flops


@pytest.mark.parametrize("batch", [8, 40])  # of 66 equations: each row whole, and with shared beginnings
@pytest.mark.parametrize("replicas", [None, {"training": {"seed": [0, 1, 2]}}])
def test_equations(make_experiment, batch, replicas):  # noqa: F811
    muon = {"kind": "muon"}
    trainer = make_trainer(
        make_experiment(replicas, optimizer=muon, max_steps=2, per_device_train_batch_size=batch, logging_steps=1)
    )
    seen = counted(trainer.train)
    assert trainer.model.shares(batch) == (batch == 40)
    assert trainer.state.total_flos + trainer.optimizer_work.flops == seen


def test_equations_of_several_lengths(make_experiment):  # noqa: F811
    """As characters: each row counts to its own end, and the head at its answer alone."""
    data = {"tokens": "characters", "modulus": 11}
    trainer = make_trainer(make_experiment(data=data, max_steps=1, per_device_train_batch_size=16))
    rows, config = trainer.train_dataset.__getitems__(range(16)), trainer.model.config
    seen = counted(trainer.train)
    flops = 0
    for labels in rows["labels"][0]:
        end, targets = int((labels != -100).nonzero().max()), int((labels != -100).sum())
        parts = matmul_flops(config, end)
        flops += 3 * (sum(parts.values()) - parts["head"] + targets * parts["head"] // end)
    assert trainer.state.total_flos == flops < seen


def test_the_optimisers_count_goes_on_after_a_resume(make_experiment, tmp_path):  # noqa: F811
    experiment = make_experiment(
        optimizer={"kind": "muon"}, max_steps=4, save_strategy="steps", save_steps=2, save_total_limit=None
    )
    whole = make_trainer(experiment)
    whole.train()
    resumed = make_trainer(experiment)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-2"))
    assert resumed.optimizer_work.flops == whole.optimizer_work.flops > 0
    assert resumed.state.total_flos == whole.state.total_flos > 0


def test_a_skipped_step_is_none_of_the_optimisers(make_experiment):  # noqa: F811
    trainer = make_trainer(make_experiment(optimizer={"kind": "muon"}, max_steps=2))
    weight = trainer.members[0].model.model.norm.weight
    weight.register_hook(lambda gradient: gradient * (float("nan") if trainer.state.global_step == 0 else 1.0))
    trainer.train()
    made = [tuple(p.shape) for _, p in trainer.model.named_parameters() if ".layers." in _ and p.ndim == 2]
    assert trainer.guard.skipped == 1
    assert trainer.optimizer_work.flops == sum(orthogonalization_flops(1, *shape) for shape in made)
