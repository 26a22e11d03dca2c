"""What a call does, as transformers' common tests ask of a causal language model: outputs, gradients, who sees whom.

In both families, against the stock model with the same weights; variants that no stock model has are compared with
themselves, run another way. `CLOSE` is float32's rounding.
"""

import pytest
import torch
from transformers import DynamicCache, StaticCache

CLOSE = {"atol": 1e-5, "rtol": 0}


def gradients(model):
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


# ---- what a call returns


def test_outputs_are_the_stock_models(twins, tokens):
    """Fields, hidden states and attentions, as a dict and as a tuple."""
    asked = {"input_ids": tokens(), "labels": tokens(), "output_hidden_states": True, "output_attentions": True}
    outputs = []
    for model in twins:
        model.set_attn_implementation("eager")
        outputs.append(model(**asked))
        for one, other in zip(model(**asked, return_dict=False)[:2], outputs[-1].to_tuple(), strict=False):
            assert torch.equal(one, other)
    ours, stock = outputs
    assert ours.keys() == stock.keys() - {"cross_attentions"}  # of which GPT-2 has none either
    for name in ("loss", "logits", "hidden_states", "attentions"):
        torch.testing.assert_close(ours[name], stock[name], **CLOSE)
    assert twins[0].config.return_dict


def test_gradients_reach_hidden_states_and_attentions(model, tokens):
    model.set_attn_implementation("eager")
    outputs = model(tokens(), output_hidden_states=True, output_attentions=True)
    asked = (*outputs.hidden_states, *outputs.attentions)
    for tensor in asked:
        tensor.retain_grad()
    outputs.logits.square().mean().backward()
    assert all(tensor.grad.abs().sum() > 0 for tensor in asked)


def test_which_logits_to_keep_may_be_named(twins, tokens):
    places = torch.tensor([0, 3, 15])
    ours, stock = (model(tokens(), logits_to_keep=places).logits for model in twins)
    assert ours.shape == (2, 3, 512)
    torch.testing.assert_close(ours, stock, **CLOSE)


def test_labels_may_be_shifted_already(twins, tokens):
    """As sequence parallelism hands them over; `labels` are then not looked at."""
    ids = tokens()
    shifted = torch.cat([ids[:, 1:], torch.full((2, 1), -100)], dim=1)
    ours, stock = (model(ids, labels=ids * 0, shift_labels=shifted).loss for model in twins)
    torch.testing.assert_close(ours, twins[0](ids, labels=ids).loss, **CLOSE)
    torch.testing.assert_close(ours, stock, **CLOSE)


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable:FutureWarning")
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_of_either_kind_changes_no_gradient(model, tokens, reentrant):
    """Also where only the inputs ask for gradients, as adapters need, and with the cache that a call has by default."""
    model.train().enable_input_require_grads()
    expected = {}
    for kind in (None, {"use_reentrant": reentrant}):
        if kind is not None:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=kind)
        model.zero_grad()
        model(tokens(), labels=tokens()).loss.backward()
        expected = expected or {name: gradient.clone() for name, gradient in gradients(model).items()}
    assert gradients(model).keys() == expected.keys() == dict(model.named_parameters()).keys()
    assert all(torch.equal(gradient, expected[name]) for name, gradient in gradients(model).items())


# ---- what a token sees


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_no_loss_and_no_gradient(model, tokens, attention, side):
    """Of two rows of unequal length, padded, and one by one; the pads' ids do not matter."""
    model.set_attn_implementation(attention)
    rows, longest = [tokens()[0, :9], tokens()[1]], 16
    ids, labels, mask = torch.full((2, longest), 5), torch.full((2, longest), -100), torch.zeros(2, longest).long()
    for i, row in enumerate(rows):
        place = slice(longest - len(row), None) if side == "left" else slice(0, len(row))
        ids[i, place], labels[i, place], mask[i, place] = row, row, 1
        labels[i, place.start] = -100  # else the last pad on the left is asked for the row's first token
    count = sum(len(row) - 1 for row in rows)

    padded = model(ids, attention_mask=mask, labels=labels, num_items_in_batch=count).loss
    padded.backward()
    expected_gradients = {name: gradient.clone() for name, gradient in gradients(model).items()}
    model.zero_grad()
    alone = sum(model(row[None], labels=row[None], num_items_in_batch=count).loss for row in rows)
    alone.backward()
    torch.testing.assert_close(padded, alone, **CLOSE)
    torch.testing.assert_close(gradients(model), expected_gradients, **CLOSE)


def test_a_mask_of_four_dimensions_is_taken_as_it_is(model, tokens, attention):
    """Booleans, as for sdpa: here two documents in a row, by a mask alone, in eager attention too."""
    model.set_attn_implementation(attention)
    ids = tokens(1, 16)
    own = torch.block_diag(torch.ones(6, 6), torch.ones(10, 10)).tril().bool()[None, None]
    positions = torch.cat([torch.arange(6), torch.arange(10)])[None]
    logits = model(ids, attention_mask=own, position_ids=positions, use_cache=False).logits
    apart = torch.cat([model(ids[:, :6]).logits, model(ids[:, 6:]).logits], dim=1)
    torch.testing.assert_close(logits, apart, **CLOSE)


CACHES = {
    "none": lambda _model: {"use_cache": False},
    "default": lambda _model: {},
    "static": lambda model: {"past_key_values": StaticCache(config=model.config, max_cache_len=32)},
}


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("masked", [False, True], ids=["no mask", "mask"])
def test_packed_documents_do_not_leak(model, tokens, attention, cache, masked):
    """Whatever stands beside the positions that begin again: any cache, a mask of ones, and pads on the left of a row.

    `create_causal_mask` alone keeps documents apart in the first of these six cases only.
    """
    model.set_attn_implementation(attention)
    ids = tokens()
    pads = 3 if masked else 0
    row = torch.cat([torch.zeros(pads), torch.arange(6), torch.arange(8), torch.arange(2)]).long()[None]
    padded = torch.cat([torch.zeros(2, pads, dtype=torch.long), ids], dim=1)
    mask = {"attention_mask": (torch.arange(16 + pads) >= pads).long().repeat(2, 1)} if masked else {}
    packed = model(padded, position_ids=row, **mask, **CACHES[cache](model)).logits[:, pads:]
    apart = torch.cat([model(document).logits for document in ids.split([6, 8, 2], dim=1)], dim=1)
    torch.testing.assert_close(packed, apart, **CLOSE)


@pytest.mark.parametrize("cache", [DynamicCache, StaticCache])
@pytest.mark.parametrize("steps", [[4, 12], [6, 10], [9, 7], [1] * 16], ids=str)
def test_packed_documents_do_not_leak_through_a_cache(model, tokens, cache, steps):
    """A row read in parts, cut within a document or between two: what the cache holds of the first stays unseen."""
    ids, positions = tokens(), torch.cat([torch.arange(6), torch.arange(10)])[None]
    past = cache(config=model.config, **({"max_cache_len": 24} if cache is StaticCache else {}))
    parts = zip(ids.split(steps, dim=1), positions.split(steps, dim=1), strict=True)
    logits = [model(part, position_ids=place, past_key_values=past).logits for part, place in parts]
    apart = torch.cat([model(ids[:, :6]).logits, model(ids[:, 6:]).logits], dim=1)
    torch.testing.assert_close(torch.cat(logits, dim=1), apart, **CLOSE)


def test_holes_and_gaps_are_not_documents(twins, tokens, attention):
    """A mask with a hole, and positions that jump ahead: as the stock model, which has no rule of ours."""
    ids, mask = tokens(), torch.ones(2, 16, dtype=torch.long)
    mask[0, 4:7] = mask[1, :2] = 0
    counted = (mask.cumsum(1) - 1).masked_fill(mask == 0, 0)
    jumping = torch.arange(16) + 20 * (torch.arange(16) > 5)
    for given in (
        {"attention_mask": mask, "position_ids": counted},
        {"attention_mask": mask, "position_ids": torch.arange(16)[None]},
        {"position_ids": jumping[None]},
    ):
        ours, stock = (
            model.eval()(ids, **given).logits for model in twins if not model.set_attn_implementation(attention)
        )
        seen = mask.bool() if "attention_mask" in given else torch.ones_like(mask).bool()
        torch.testing.assert_close(ours[seen], stock[seen], **CLOSE)
