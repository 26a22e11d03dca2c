"""Options of attention, added as in `docs/adding-a-part.md`: a window against Mistral, a soft-cap by formula."""

from types import SimpleNamespace

import pytest
import torch
from huggingface_hub.dataclasses import strict
from transformers import AttentionInterface, AttentionMaskInterface, MistralConfig, MistralForCausalLM
from transformers.masking_utils import eager_mask
from transformers.models.gemma2.modeling_gemma2 import eager_attention_forward

from modeling.attention import KindlingAttention
from modeling.configuration_kindling import KindlingLlamaConfig
from modeling.conversion import to_native
from modeling.layers import ATTENTION_OPTIONS, AttentionOption
from modeling.modeling_kindling import KindlingLlamaForCausalLM
from training.attention import attention_implementation

CLOSE = {"atol": 1e-5, "rtol": 0}
WINDOW = AttentionOption("sliding_window", mask=lambda window: lambda _b, _n, t, s: t - s < window)
SOFT_CAP = AttentionOption("softcap", implementations=("gemma2",))
AttentionInterface.register("gemma2", eager_attention_forward)
AttentionMaskInterface.register("gemma2", eager_mask)


@strict
class OptionalLlama(KindlingLlamaConfig):
    """Two fields that the shared configuration does not have."""

    sliding_window: int | None = None
    attn_logit_softcapping: float | int | None = None


@pytest.fixture
def optional(configure, build, monkeypatch):
    """A function: options to a tiny Llama with them, both rows being in the table."""
    monkeypatch.setitem(ATTENTION_OPTIONS, "sliding_window", WINDOW)
    monkeypatch.setitem(ATTENTION_OPTIONS, "attn_logit_softcapping", SOFT_CAP)

    def with_options(**given):
        fields = configure(num_hidden_layers=2, num_key_value_heads=2, pad_token_id=0).to_diff_dict()
        model = KindlingLlamaForCausalLM(OptionalLlama(**fields | given)).eval()
        model.load_state_dict(build(num_hidden_layers=2, num_key_value_heads=2).state_dict())
        return model

    # The plain models that give the weights know nothing of the two fields.
    for name in ATTENTION_OPTIONS:
        monkeypatch.setattr(KindlingLlamaConfig, name, None, raising=False)
    return with_options


def mistral(ours):
    """Mistral with the same weights and window."""
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
             "intermediate_size", "max_position_embeddings", "sliding_window")  # fmt: skip
    fields = {name: getattr(ours.config, name) for name in names}
    model = MistralForCausalLM(MistralConfig(**fields, rope_theta=10000.0, pad_token_id=0)).eval()
    model.load_state_dict(ours.state_dict())
    return model


def test_a_sliding_window_is_mistrals(optional, tokens, attention):
    """Logits and gradients, with a padded row, and the tokens of greedy decoding with a cache."""
    ours = optional(sliding_window=5)
    theirs, ids, mask = mistral(ours), tokens() % 511 + 1, torch.ones(2, 16, dtype=torch.long)
    mask[0, :3] = 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    for model in (ours, theirs):
        model.set_attn_implementation(attention)
        (model(ids, attention_mask=mask, position_ids=positions).logits * mask[..., None]).square().sum().backward()
    logits = [model(ids, attention_mask=mask, position_ids=positions).logits[mask.bool()] for model in (ours, theirs)]
    torch.testing.assert_close(*logits, **CLOSE)
    gradients = [{name: one.grad for name, one in model.named_parameters()} for model in (ours, theirs)]
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-4)
    greedy = {"max_new_tokens": 12, "do_sample": False}
    assert torch.equal(ours.generate(ids, **greedy), theirs.generate(ids, **greedy))
    assert not torch.allclose(logits[0], optional()(ids, attention_mask=mask).logits[mask.bool()], **CLOSE)


def test_a_window_ends_at_the_start_of_a_document(optional, tokens, attention):
    model = optional(sliding_window=5)
    model.set_attn_implementation(attention)
    ids, positions = tokens(), torch.cat([torch.arange(7), torch.arange(9)])[None]
    packed = model(ids, position_ids=positions.expand(2, -1)).logits
    torch.testing.assert_close(packed, torch.cat([model(ids[:, :7]).logits, model(ids[:, 7:]).logits], 1), **CLOSE)
    masked = model(ids, position_ids=positions.expand(2, -1), attention_mask=torch.ones_like(ids)).logits
    torch.testing.assert_close(masked, packed, **CLOSE)


def test_a_soft_cap_reaches_the_attention_function(optional):
    model = optional(attn_logit_softcapping=0.5)
    model.set_attn_implementation("gemma2")
    attention = model.model.layers[0].self_attn
    states = torch.randn(2, 16, 32, generator=torch.Generator().manual_seed(0))
    hidden = torch.full((16, 16), -torch.inf).triu(1)
    attended, _ = attention(states, attention_mask=hidden[None, None])
    query, key, value = (
        layer(states).unflatten(-1, (-1, 8)).transpose(1, 2)
        for layer in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    scores = query @ key.repeat_interleave(2, 1).transpose(2, 3) / 8**0.5
    weights = (0.5 * torch.tanh(scores / 0.5) + hidden).softmax(-1)
    expected = attention.o_proj((weights @ value.repeat_interleave(2, 1)).transpose(1, 2).flatten(2))
    torch.testing.assert_close(attended, expected, **CLOSE)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_an_implementation_that_ignores_an_option_is_refused(optional, tokens, implementation):
    model = optional(attn_logit_softcapping=0.5)
    assert model.config._attn_implementation == "eager", "sdpa has no soft-cap"
    model.config._attn_implementation = implementation
    with pytest.raises(ValueError, match=f"{implementation} ignores attn_logit_softcapping; use gemma2"):
        model(tokens())


def test_training_chooses_an_implementation_that_applies_every_option(optional):
    args = SimpleNamespace(device=torch.device("cpu"), bf16=True)
    assert attention_implementation(args, optional(sliding_window=5).config) == "sdpa_float32"
    assert attention_implementation(args, optional(attn_logit_softcapping=0.5).config) == "eager"


@pytest.mark.parametrize("given", [{"sliding_window": 5}, {"attn_logit_softcapping": 0.5}])
def test_no_native_model_has_an_option(optional, given):
    (name,) = given
    with pytest.raises(ValueError, match=f"{name}={given[name]} has no place in a stock Llama, which has {name}=None"):
        to_native(optional(**given))
    assert to_native(optional()).config.model_type == "llama"


@pytest.mark.parametrize("name", ATTENTION_OPTIONS)
def test_every_option_changes_the_logits(build, tokens, all_axes, name):
    off, value = all_axes[name]
    implementations = ATTENTION_OPTIONS[name].implementations or ("eager", "sdpa")
    for implementation in {"eager", "sdpa"} & set(implementations):
        models = [build(**{name: choice}) for choice in (off, value)]
        logits = [model(tokens()).logits for model in models if not model.set_attn_implementation(implementation)]
        assert not torch.allclose(*logits, **CLOSE), f"{implementation} ignores {name}: mend ATTENTION_OPTIONS"


def test_without_options_nothing_is_handed_on(configure):
    assert KindlingAttention(configure(), layer_idx=0).keywords == {}
