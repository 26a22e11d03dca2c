"""The language model in every variant: every part of it learns, no token sees the future, and it agrees with itself.

Itself padded or not, packed or not, checkpointed or not, eager or fused, saved or not. Tolerances of 1e-5 and 1e-12
are float32's and float64's rounding over sums taken in another order; everything else is equal to the bit.
"""

import math
import re
from typing import get_args

import pytest
import torch
from transformers import AutoModelForCausalLM, Trainer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from modeling.configuration_kindling import MLPName

CLOSE = {"atol": 1e-5, "rtol": 0}
EXACT = {"atol": 1e-12, "rtol": 0}  # in float64: without norms logits are near 10, and so is their rounding


def loss_and_gradients(model, ids):
    model.zero_grad()
    loss = model(ids, labels=ids).loss
    loss.backward()
    return loss.detach(), {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


# ---- learning


def test_every_parameter_learns(build, tokens, axes):
    """In float64, so that a gradient that is zero in exact arithmetic can be told from a small one.

    The one such: without rotary positions or query-key norms, a bias of the keys adds the same number to all the
    scores of a query, and softmax does not see it.
    """
    model = build(**axes).double()
    _, gradients = loss_and_gradients(model, tokens())
    for name, gradient in gradients.items():
        size = gradient.abs().max().item()
        if name.endswith("k_proj.bias") and axes["position"] != "rope" and not axes["qk_norm"]:
            assert size < 1e-12, name
        else:
            assert 1e-6 < size < math.inf, name


@pytest.mark.parametrize("family", ["kindling_gpt", "kindling_llama"])
def test_a_soft_cap_on_logits_is_its_formula(build, tokens, family):
    """In logits, loss and gradients, in float64; a configuration of a former version has none."""
    plain, cap, ids = build(family).double(), 0.1, tokens()
    capped = build(family, final_logit_softcapping=cap).double()
    capped.load_state_dict(plain.state_dict())
    raw = plain(ids).logits
    expected = cap * torch.tanh(raw / cap)
    assert raw.abs().max() > cap
    torch.testing.assert_close(capped(ids).logits, expected, rtol=1e-12, atol=1e-12)
    loss, gradients = loss_and_gradients(capped, ids)
    log_p = expected[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])
    (-log_p.mean()).backward()
    assert loss.item() == pytest.approx(-log_p.mean().item(), rel=1e-6)  # transformers' loss is of float32
    for name, weight in plain.named_parameters():
        torch.testing.assert_close(gradients[name], weight.grad, rtol=1e-4, atol=1e-7, msg=name)
    former = plain.config.to_dict()
    del former["final_logit_softcapping"]
    assert type(plain.config).from_dict(former).final_logit_softcapping is None


@pytest.mark.parametrize("family", ["kindling_gpt", "kindling_llama"])
def test_overfits_one_batch(start, tokens, family):
    model, ids = start(family), tokens()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        loss, _ = loss_and_gradients(model, ids)
        optimizer.step()
    assert loss < 0.1


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable:FutureWarning")  # its successor is not in 5.13
def test_gradient_checkpointing_changes_nothing(build, tokens, axes):
    model, ids = build(**axes, num_hidden_layers=2).train(), tokens()
    loss, gradients = loss_and_gradients(model, ids)
    model.gradient_checkpointing_enable()
    assert model.model.layers[0].gradient_checkpointing
    checkpointed_loss, checkpointed = loss_and_gradients(model, ids)
    assert torch.equal(loss, checkpointed_loss)
    assert all(torch.equal(gradient, checkpointed[name]) for name, gradient in gradients.items())


@pytest.mark.parametrize("dropout", ["attention_dropout", "hidden_dropout", "embedding_dropout"])
def test_dropout_acts_in_training_only(build, tokens, dropout):
    model, ids = build(**{dropout: 0.5}), tokens()
    plain = build()(ids).logits
    assert torch.equal(model(ids).logits, plain)
    model.train()
    assert not torch.allclose(model(ids).logits, plain)
    assert not torch.allclose(model(ids).logits, model(ids).logits)
    assert torch.equal(build().train()(ids).logits, plain)


@pytest.mark.parametrize(
    ("dropout", "where"),
    [
        ("hidden_dropout", "layers.0.self_attn"),
        ("hidden_dropout", "layers.0.mlp"),
        ("embedding_dropout", "dropout"),
    ],
)
@pytest.mark.parametrize("mlp", get_args(MLPName))
def test_dropout_stands_where_it_is_promised(build, tokens, dropout, where, mlp):
    model, outputs = build(**{dropout: 0.5}, mlp=mlp).train().model, []
    model.get_submodule(where).register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    model(tokens())
    (output,) = outputs
    states = output[0] if isinstance(output, tuple) else output
    assert (states == 0).float().mean().item() == pytest.approx(0.5, abs=0.1)


def test_num_items_in_batch_weights_tokens(build, tokens):
    model, ids = build(), tokens()
    labels = ids.clone()
    labels[0, :10] = -100
    count = (labels[:, 1:] != -100).sum()
    whole = model(ids, labels=labels).loss
    parts = [model(ids[i : i + 1], labels=labels[i : i + 1], num_items_in_batch=count).loss for i in range(2)]
    torch.testing.assert_close(sum(parts), whole, **CLOSE)


def test_weight_decay_spares_norms_and_biases(build, axes):
    model = build(**axes)
    decayed = set(Trainer.get_decay_parameter_names(None, model))
    spared = {name for name in dict(model.named_parameters()) if re.search(r"bias$|norm", name)}
    assert dict(model.named_parameters()).keys() - decayed == spared


# ---- the past, and only the past


def test_no_token_sees_the_future(build, tokens, axes):
    model, ids = build(**axes), tokens()
    logits = model(ids).logits
    for t in (1, 8, 15):
        changed = ids.clone()
        changed[:, t:] = (changed[:, t:] + 1) % 512
        changed_logits = model(changed).logits
        assert torch.equal(changed_logits[:, :t], logits[:, :t])
        assert not torch.allclose(changed_logits[:, t:], logits[:, t:])


@pytest.mark.parametrize("position", ["learned", "rope"])
def test_positions_matter(build, tokens, position):
    """Without them, the last token of a single layer sees a bag of tokens, in any order."""
    ids = tokens()
    shuffled = torch.cat([ids[:, :-1].flip(1), ids[:, -1:]], dim=1)
    for name in ("none", position):
        model = build(position=name)
        last, last_shuffled = model(ids).logits[:, -1], model(shuffled).logits[:, -1]
        assert torch.allclose(last, last_shuffled, **CLOSE) == (name == "none")


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(build, tokens, axes, side):
    model, ids = build(**axes, num_hidden_layers=2).double(), tokens(1, 10)
    pads, real = torch.zeros(1, 6, dtype=torch.long), torch.ones(1, 10, dtype=torch.long)
    padded, mask = (torch.cat(pair if side == "right" else pair[::-1], dim=1) for pair in ((ids, pads), (real, pads)))
    logits = model(padded, attention_mask=mask).logits[mask.bool()]
    torch.testing.assert_close(logits, model(ids).logits[0], **EXACT)


def test_packed_documents_do_not_see_each_other(build, tokens, axes):
    """Told apart by positions that start again; holds without a mask and without a cache, as in training."""
    model, ids = build(**axes, num_hidden_layers=2).double(), tokens(1, 16)
    positions = torch.cat([torch.arange(6), torch.arange(10)])[None]
    packed = model(ids, position_ids=positions, use_cache=False).logits
    apart = torch.cat([model(ids[:, :6]).logits, model(ids[:, 6:]).logits], dim=1)
    torch.testing.assert_close(packed, apart, **EXACT)


# ---- one model, several ways to run it


def test_eager_attention_equals_sdpa(build, tokens, axes):
    model, ids = build(**axes), tokens()
    fused = model(ids).logits
    model.set_attn_implementation("eager")
    torch.testing.assert_close(model(ids).logits, fused, **CLOSE)


def test_attention_kernels_hear_of_positions_and_of_what_the_caller_adds(build, tokens, monkeypatch):
    """Flash attention tells packed documents apart by `position_ids`; vLLM hands its own state through."""
    heard, model = [], build(num_hidden_layers=2)

    def listen(*arguments, **more):
        heard.append(more)
        return ALL_ATTENTION_FUNCTIONS["sdpa"](*arguments, **more)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, "listen", listen)
    model.config._attn_implementation = "listen"
    positions = torch.arange(16)[None] + 3
    model(tokens(), position_ids=positions, attention_instances={0: "one"})
    assert [more["attention_instances"] for more in heard] == [{0: "one"}] * 2
    assert all(torch.equal(more["position_ids"], positions) for more in heard)


def test_without_norms_placements_are_one(build, tokens):
    pre, post = (build(norm="none", norm_placement=placement)(tokens()).logits for placement in ("pre", "post"))
    assert torch.equal(pre, post)


def test_hidden_states_and_attentions_on_request(build, tokens):
    model, ids = build(num_hidden_layers=2), tokens()
    model.set_attn_implementation("eager")
    outputs = model(ids, output_hidden_states=True, output_attentions=True)
    assert [state.shape for state in outputs.hidden_states] == [(2, 16, 32)] * 3
    assert torch.equal(outputs.hidden_states[0], model.model.embed_tokens(ids))
    assert torch.equal(outputs.hidden_states[-1], model.model(ids).last_hidden_state)
    for weights in outputs.attentions:
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 16), **CLOSE)
        assert (weights.triu(1) == 0).all()
    assert model(ids).hidden_states is None
    assert model(ids).attentions is None


def test_inputs_are_ids_or_embeddings(build, tokens):
    model, ids = build("kindling_gpt"), tokens()
    embedded = model.model.embed_tokens(ids)
    assert torch.equal(model(inputs_embeds=embedded).logits, model(ids).logits)
    for wrong in ({}, {"input_ids": ids, "inputs_embeds": embedded}):
        with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
            model(**wrong)


def test_logits_to_keep(build, tokens):
    model, ids = build(), tokens()
    torch.testing.assert_close(model(ids, logits_to_keep=3).logits, model(ids).logits[:, -3:], **CLOSE)


def test_saved_and_loaded_is_the_same(build, tokens, axes, tmp_path):
    model, ids = build(**axes), tokens()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(loaded) is type(model)
    assert torch.equal(loaded(ids).logits, model(ids).logits)
    for one in (model, loaded):
        is_tied = one.lm_head.weight.data_ptr() == one.model.embed_tokens.weight.data_ptr()
        assert is_tied == axes["tie_word_embeddings"]
