"""Dropout by row: masks that are as random as PyTorch's, and the same however a batch is shared out."""

import shutil
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, TrainingArguments, set_seed

import modeling  # noqa: F401
from data_prep.collator import CausalLMCollator
from data_prep.tokens.order import Epochs
from modeling.configuration_kindling import KindlingGPTConfig, KindlingLlamaConfig
from training.attention import attention_implementation, dropout_by_row, sdpa_float32
from training.checkpoints.data_position import DataPosition, run_positions
from training.dropout import Place, RowDropout, per_process_randomness, use_row_dropout
from training.trainer import KindlingTrainer

P = 0.3
SIZES = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "pad_token_id": 0}
DROPOUTS = {"attention_dropout": P, "hidden_dropout": P, "embedding_dropout": P}


def place_of(rows: int = 4, length: int = 6, first: int = 0, step: int = 1, width: int = 64) -> Place:
    place = Place(width)
    place.set(torch.zeros(rows, length), first, 0, step)
    return place


def dropped(place: Place, key: int = 7, width: int = 64) -> torch.Tensor:
    """Which elements of a tensor of ones are gone."""
    return RowDropout(P, place, key)(torch.ones(*place.keys_BT.shape, width)) == 0


def test_a_mask_is_that_of_its_row_whatever_else_is_in_the_batch():
    whole = dropped(place_of(rows=4, length=9))
    parts = [dropped(place_of(rows=2, length=6, first=first)) for first in (0, 2)]  # padded less
    assert torch.equal(torch.cat(parts), whole[:, :6])
    assert torch.equal(dropped(place_of(rows=4, length=9)), whole)


@pytest.mark.parametrize("other", [{"step": 2}, {"first": 4}, {"key": 8}])
def test_other_steps_rows_and_modules_have_masks_of_their_own(other):
    key = other.pop("key", 7)
    one, two = dropped(place_of(length=32)).float(), dropped(place_of(length=32, **other), key).float()
    assert torch.corrcoef(torch.stack([one.flatten(), two.flatten()]))[0, 1].abs() < 0.05


def test_masks_are_as_random_as_those_of_the_generator():
    """Rates by element, row, token and column; no two rows, tokens or columns that go together, near or far."""
    gone = dropped(place_of(rows=32, length=128, width=128), width=128).float()
    elements = gone.numel()
    assert gone.mean() == pytest.approx(P, abs=5 * (P * (1 - P) / elements) ** 0.5)
    for kept in (0, 1, 2):
        rates = gone.movedim(kept, 0).flatten(1).mean(1)
        assert (rates - P).abs().max() < 6 * (P * (1 - P) * gone.shape[kept] / elements) ** 0.5
        series = gone.movedim(kept, 0).flatten(1)
        between = torch.corrcoef(series).fill_diagonal_(0)
        assert between.abs().max() < 6 / series.shape[1] ** 0.5
        assert between.square().mean() * series.shape[1] == pytest.approx(1, abs=0.2)  # as of independent ones


def test_what_is_kept_is_scaled_as_pytorch_does():
    values = RowDropout(P, place_of(), 7)(torch.ones(4, 6, 64, dtype=torch.bfloat16))
    assert values.dtype == torch.bfloat16
    assert set(values.unique().tolist()) == {0.0, torch.tensor(1 / (1 - P), dtype=torch.bfloat16).item()}


def test_without_a_place_of_the_same_tokens_it_is_pytorchs():
    for place in (Place(64), place_of(rows=3)):
        torch.manual_seed(0)
        ours = RowDropout(P, place, 7)(torch.ones(4, 6, 64))
        torch.manual_seed(0)
        assert torch.equal(ours, nn.Dropout(P)(torch.ones(4, 6, 64)))
    x = torch.ones(4, 6, 64)
    assert RowDropout(P, place_of(), 7).eval()(x) is x


def model_of(kind=KindlingGPTConfig, attention="dropout_by_row", **settings) -> nn.Module:
    set_seed(0)
    return AutoModelForCausalLM.from_config(kind(**SIZES | settings), attn_implementation=attention)


@pytest.mark.parametrize("padded", [False, True])
def test_attention_written_out_is_sdpas_but_for_the_mask(padded):
    """With none dropped, against sdpa; with some, against the weights themselves times the factors."""
    torch.manual_seed(0)
    place, module = place_of(rows=2, length=6), nn.Module()
    module.place, module.key, module.num_key_value_groups, module.is_causal = place, 3, 2, True
    q, k, v = torch.randn(2, 4, 6, 8), torch.randn(2, 2, 6, 8), torch.randn(2, 2, 6, 8)
    mask = torch.ones(6, 6, dtype=torch.bool).tril().expand(2, 1, 6, 6).clone()
    mask[1, :, :, 5] = False
    given = mask if padded else None
    plain = sdpa_float32(module, q, k, v, given, scaling=0.3)[0]
    assert torch.equal(dropout_by_row(module, q, k, v, given, scaling=0.3)[0], plain)
    hardly = dropout_by_row(module, q, k, v, given, scaling=0.3, dropout=1e-12)[0]
    assert torch.allclose(hardly, plain, atol=1e-6)
    scores = torch.einsum("bntd,bnsd->bnts", q, k.repeat_interleave(2, 1)) * 0.3
    visible = mask if padded else torch.ones(6, 6, dtype=torch.bool).tril()
    weights = scores.masked_fill(~visible, -torch.inf).softmax(-1)
    factors = place.mask_heads(3, weights.shape, P, torch.float32)
    wanted = torch.einsum("bnts,bnsd->btnd", weights * factors, v.repeat_interleave(2, 1))
    assert torch.allclose(dropout_by_row(module, q, k, v, given, scaling=0.3, dropout=P)[0], wanted, atol=1e-6)


def test_heads_and_columns_do_not_mirror_each_other():
    factors = place_of(length=4).mask_heads(3, torch.Size((4, 4, 4, 4)), P, torch.float32)
    assert not torch.equal(factors, factors.transpose(1, 3))


def test_every_dropout_of_a_model_is_one_of_rows():
    model = model_of(**DROPOUTS)
    place = use_row_dropout(model)
    kinds = [type(module) for module in model.modules() if isinstance(module, nn.Dropout)]
    assert kinds == [RowDropout] * 5  # the embedding's, and two a layer
    assert len({module.key for module in model.modules() if hasattr(module, "key")}) == 5 + 2
    ids = torch.arange(1, 13).view(2, 6)
    place.set(ids, 0, 0, 0)
    torch.manual_seed(0)
    one = model.train()(ids).logits
    torch.manual_seed(1)
    assert torch.equal(model(ids).logits, one)
    place.set(ids, 0, 0, 1)
    assert not torch.allclose(model(ids).logits, one)


def test_recomputed_activations_are_those_that_were_dropped():
    gradients = []
    for checkpointing in (False, True):
        model = model_of(**DROPOUTS).train()
        place = use_row_dropout(model)
        if checkpointing:
            model.gradient_checkpointing_enable()
        ids = torch.arange(1, 13).view(2, 6)
        place.set(ids, 0, 0, 0)
        model(ids, labels=ids).loss.backward()
        gradients.append([weight.grad for weight in model.parameters()])
    assert all(torch.equal(one, two) for one, two in zip(*gradients, strict=True))


@pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor needs a C++ compiler")
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_once_it_drops_the_same_at_every_step(backend):
    model = model_of(KindlingLlamaConfig, **DROPOUTS).train()
    place = use_row_dropout(model)
    ids = torch.arange(1, 13).view(2, 6)
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for step in range(3):
            place.set(ids, 0, 0, step)
            assert torch.allclose(compiled(ids).logits, model(ids).logits, atol=1e-5)


class Rows(Sequence):
    """Examples of different lengths, so that parts of a batch are padded differently."""

    def __len__(self):
        return 40

    def __getitem__(self, index):
        return {"input_ids": np.arange(1 + index % 5, 8 + index % 11 * 3)}


def losses_of(folder, batch: int, accumulation: int, **changes) -> list[float]:
    settings = {"output_dir": str(folder), "use_cpu": True, "save_strategy": "no", "disable_tqdm": True}
    settings |= {"report_to": "none", "remove_unused_columns": False, "logging_steps": 1, "learning_rate": 1e-2}
    settings |= {"train_sampling_strategy": "sequential", "max_steps": 3}
    args = TrainingArguments(
        **settings, per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation, **changes
    )
    args.max_steps, positions = run_positions(40, {}, args, None)
    order = Epochs(Rows(), **positions)
    attention = attention_implementation(args, KindlingLlamaConfig(attention_dropout=P))
    trainer = KindlingTrainer(
        model=model_of(attention=attention, **DROPOUTS, max_position_embeddings=64),
        args=args, train_dataset=order, data_collator=CausalLMCollator(0), callbacks=[DataPosition(order)],
        text_bytes=None, peak_flops=1e9,
    )  # fmt: skip
    trainer.train()
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


def test_an_accumulated_batch_drops_what_the_whole_one_does(tmp_path):
    whole = losses_of(tmp_path, 8, 1)
    assert losses_of(tmp_path, 2, 4) == pytest.approx(whole, rel=1e-6)
    assert losses_of(tmp_path, 8, 1) == whole
    assert losses_of(tmp_path, 8, 1, seed=1) != pytest.approx(whole, rel=1e-3)


@pytest.mark.parametrize(
    ("device", "dropout", "noise", "named"),
    [
        ("cpu", 0.1, None, None),
        ("cuda", 0.0, None, None),
        ("cuda", 0.1, None, "model.attention_dropout=0.1 on a GPU: "),
        ("cpu", 0.1, 5.0, "training.neftune_noise_alpha=5.0: "),
        ("cuda", 0.1, 5.0, "training.neftune_noise_alpha=5.0 and model.attention_dropout=0.1 on a GPU: "),
    ],
)
def test_what_is_not_drawn_by_row_is_named(device, dropout, noise, named):
    args = SimpleNamespace(device=torch.device(device), neftune_noise_alpha=noise)
    line = per_process_randomness(args, dropout)
    assert line is None if named is None else line.startswith(named)


def test_noise_is_another_for_other_rows_and_exact_for_the_same(tmp_path):
    """The generator is a function of the first row: accumulated in another way, the noise is another one."""
    whole = losses_of(tmp_path, 8, 1, neftune_noise_alpha=5.0)
    assert losses_of(tmp_path, 8, 1, neftune_noise_alpha=5.0) == whole
    first = losses_of(tmp_path, 2, 4, neftune_noise_alpha=5.0)
    assert first != pytest.approx(whole, rel=1e-6)
