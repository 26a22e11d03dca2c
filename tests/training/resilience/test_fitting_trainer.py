"""A batch that does not fit into memory is computed in parts: the run is the one that would have fitted."""

import gc
import json
import resource

import numpy as np
import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM, TrainerCallback, TrainingArguments, set_seed

from data_prep.collator import CausalLMCollator
from data_prep.tokens.order import Epochs
from data_prep.tokens.windows import Documents, TokenArray
from modeling.configuration_kindling import KindlingGPTConfig
from tests.training.checkpoints.test_store import in_children
from tests.training.processes import in_processes
from training.attention import attention_implementation
from training.resilience.fitting_trainer import split
from training.trainer import KindlingTrainer

ROWS, STEPS = 8, 4
CONFIG = {"vocab_size": 60, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "pad_token_id": 59}
DROPOUTS = {"hidden_dropout": 0.2, "embedding_dropout": 0.2, "attention_dropout": 0.2}


def documents() -> Documents:
    """Of different lengths, so that a batch has padding and parts have different numbers of targets."""
    lengths = np.random.default_rng(0).integers(3, 12, size=40)
    ids = np.random.default_rng(1).integers(5, 50, size=lengths.sum())
    ids[0], ids[-1] = 2, 3
    about = np.zeros(len(lengths), dtype=[("start", np.int64), ("prompt", np.int64)])
    about["start"] = np.cumsum([0, *lengths[:-1]])
    return Documents(TokenArray([ids], [len(ids)]), about, 99)


class Limit(TrainerCallback):
    """Lets a device have memory for so many rows from some step on, in forward or in backward passes."""

    def __init__(self, rows: int, in_backward: bool = False, from_step: int = 0, evaluation_rows: int = ROWS):
        self.rows, self.in_backward, self.from_step, self.step = rows, in_backward, from_step, 0
        self.evaluation_rows = evaluation_rows

    def watch(self, model):
        model.get_input_embeddings().register_forward_hook(self.look)

    def look(self, module, _, output):
        limit = self.rows if module.training else self.evaluation_rows
        if len(output) <= limit or self.step < self.from_step:
            return
        if self.in_backward and output.requires_grad:
            output.register_hook(self.fail)
        else:
            self.fail(None)

    def fail(self, _):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    def on_step_end(self, args, state, control, **kwargs):  # noqa: ARG002
        self.step = state.global_step


def train(folder, limit: Limit | None, fit_memory=True, accumulation=1, rows=ROWS, larger=None):
    """The trainer after a few steps, with dropout everywhere and an evaluation at the end."""
    set_seed(0)
    args = TrainingArguments(
        output_dir=str(folder), use_cpu=True, save_strategy="no", disable_tqdm=True, report_to="none", logging_steps=1,
        remove_unused_columns=False, train_sampling_strategy="sequential", per_device_train_batch_size=rows,
        gradient_accumulation_steps=accumulation, max_steps=STEPS, learning_rate=1.0, optim="sgd",
    )  # fmt: skip
    order = Epochs(documents(), seed=0, stop=STEPS * ROWS * accumulation)
    config = KindlingGPTConfig(**CONFIG | (larger or {}), **DROPOUTS, max_position_embeddings=16)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention_implementation(args, config))
    trainer = KindlingTrainer(
        model=model, args=args, train_dataset=order, eval_dataset=documents(), text_bytes=None, peak_flops=1e9,
        data_collator=CausalLMCollator(59), fit_memory=fit_memory, z_loss=1e-3, callbacks=[limit] if limit else None,
    )  # fmt: skip
    if limit:
        limit.watch(model)
    trainer.train()
    return trainer


def losses(trainer, name="loss") -> list[float]:
    return [row[name] for row in trainer.state.log_history if name in row]


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize(
    ("limit", "parts"),
    [
        (Limit(4), 2), (Limit(1), 8), (Limit(3), 4), (Limit(4, in_backward=True), 2),
        (Limit(2, in_backward=True, from_step=2), 4),
    ],
    ids=["half", "one row", "three rows", "in backward", "later"],
)  # fmt: skip
def test_the_run_is_the_one_that_would_have_fitted(tmp_path, capsys, accumulation, limit, parts):
    expected = train(tmp_path, None, accumulation=accumulation)
    found = train(tmp_path, limit, accumulation=accumulation)
    assert (expected.parts, found.parts) == (1, parts)
    assert losses(found) == pytest.approx(losses(expected), rel=1e-6)
    assert losses(found, "z_loss") == pytest.approx(losses(expected, "z_loss"), rel=1e-6)
    assert len(losses(found, "z_loss")) == STEPS
    for mine, theirs in zip(found.model.parameters(), expected.model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)
    assert found.state.num_input_tokens_seen == expected.state.num_input_tokens_seen
    assert found.state.total_flos == expected.state.total_flos
    told = capsys.readouterr().err
    assert told.count("memory ran out") == parts.bit_length() - 1
    assert f"after step {limit.from_step} memory ran out; from now on batches of 8 are computed in" in told
    limit.step = 0


def test_an_evaluation_fits_as_well(tmp_path):
    expected = train(tmp_path, None).evaluate()
    found = train(tmp_path, Limit(ROWS, evaluation_rows=2)).evaluate()
    assert found["eval_loss"] == pytest.approx(expected["eval_loss"], rel=1e-6)


@pytest.mark.parametrize(("fit_memory", "rows"), [(False, 4), (True, 0)])
def test_what_cannot_fit_or_is_not_to_be_fitted_ends_the_run(tmp_path, fit_memory, rows):
    with pytest.raises(torch.OutOfMemoryError):
        train(tmp_path, Limit(rows), fit_memory=fit_memory)


def test_other_errors_are_not_memory(tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(Limit, "fail", fail)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        train(tmp_path, Limit(4))


def test_every_row_is_in_one_part():
    inputs = {"input_ids": torch.arange(10).view(5, 2), "labels": torch.arange(5)}
    for parts in (1, 2, 3, 5, 9):
        pieces = split(inputs, parts)
        assert len(pieces) == min(parts, 5)
        assert all(torch.cat([one[key] for one in pieces]).equal(inputs[key]) for key in inputs)


def test_each_of_two_processes_splits_its_own(tmp_path):
    """One of them has less memory; the gradients that both exchange are those of one process with the whole batch."""

    def work(rank: int):
        trainer = train(tmp_path, Limit(1 if rank else ROWS, in_backward=True), rows=ROWS // 2, accumulation=2)
        about = {"losses": losses(trainer), "parts": trainer.parts}
        (tmp_path / f"{rank}.json").write_text(json.dumps(about))

    assert in_processes(2, work) == [0, 0]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert (first["parts"], second["parts"]) == (1, 4)
    expected = losses(train(tmp_path, None, accumulation=2))
    assert first["losses"] == second["losses"] == pytest.approx(expected, rel=1e-6)


def test_a_limit_of_the_operating_system(tmp_path):
    """A process that may not allocate more than half of what a batch takes computes it in parts."""

    vocabulary = 400_000
    logits, state = ROWS * 15 * vocabulary * 4, 5 * 8 * vocabulary * 4

    def work():
        torch.set_num_threads(1)
        gc.collect()
        limit = psutil.Process().memory_info().vms + state + 2 * logits
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        trainer = train(tmp_path, None, larger={"vocab_size": vocabulary})
        (tmp_path / "parts").write_text(str(trainer.parts))

    assert in_children([work]) == [0]
    assert int((tmp_path / "parts").read_text()) > 1
