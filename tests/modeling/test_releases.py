"""What differs between releases of transformers: the cache's name, keywords, and how a newer release is met."""

import inspect
from typing import Unpack

import pytest
import torch
from transformers import DynamicCache, GenerationMixin, StaticCache
from transformers.utils import TransformersKwargs, logging

from modeling import releases
from modeling.modeling_kindling import KindlingGPTForCausalLM, KindlingLlamaForCausalLM
from modeling.releases import CACHE, KindlingKwargs

NAMES = ("cache", "past_key_values")


@pytest.mark.parametrize("part", ["language model", "backbone"])
@pytest.mark.parametrize("kind", [DynamicCache, StaticCache])
@pytest.mark.parametrize("name", NAMES)
def test_a_cache_is_read_and_filled_under_either_name(model, tokens, name, kind, part):
    """In two steps, as in one; positions and the mask follow from the cache."""
    called, ids = model if part == "language model" else model.model, tokens()
    cache = kind(config=model.config, **({"max_cache_len": 32} if kind is StaticCache else {}))
    for steps in ids.split([10, 6], dim=1):
        outputs = called(steps, **{name: cache})
    assert outputs[CACHE] is cache
    assert cache.get_seq_length() == 16
    torch.testing.assert_close(outputs[0], called(ids)[0][:, 10:], atol=1e-5, rtol=0)


def test_two_caches_are_refused(model, tokens):
    caches = {name: DynamicCache(config=model.config) for name in NAMES}
    with pytest.raises(ValueError, match="two names of one input"):
        model(tokens(), **caches)


@pytest.mark.parametrize("name", ["kv_cache", "past", "attention_masks", "position_id", "token_type_ids"])
@pytest.mark.parametrize("part", ["language model", "backbone"])
def test_a_keyword_that_nothing_reads_is_an_error(model, tokens, part, name):
    """Whatever its value: a release that renames an input must not go unnoticed."""
    called = model if part == "language model" else model.model
    with pytest.raises(TypeError, match=rf"{type(called).__name__}.*unexpected keyword argument '{name}'"):
        called(tokens(), **{name: None})


def test_keywords_of_transformers_are_known(model, tokens):
    """All that it names for any model, and they change nothing where they say nothing; `labels` is the head's alone."""
    given = dict.fromkeys(TransformersKwargs.__annotations__)
    assert torch.equal(model(tokens(), **given).logits, model(tokens()).logits)
    with pytest.raises(TypeError, match="labels"):
        model.model(tokens(), labels=tokens())


@pytest.mark.parametrize("family", [KindlingGPTForCausalLM, KindlingLlamaForCausalLM])
def test_tools_read_off_the_class_what_it_can_do(family):
    """transformers' own tests look at the bases, and at the annotation of a forward's keywords."""
    assert GenerationMixin in family.__bases__
    for forward in (family.forward, family.__mro__[1].forward):
        assert inspect.signature(forward).parameters["kwargs"].annotation == Unpack[KindlingKwargs]
    assert {"output_attentions", "output_hidden_states", "num_items_in_batch"} <= KindlingKwargs.__annotations__.keys()


@pytest.mark.parametrize(
    ("version", "told"),
    [("5.13.0", False), ("5.24.9", False), ("5.25.0", True), ("5.25.0.dev0", True), ("6.0.0", True)],
)
def test_a_newer_release_is_warned_of_once(version, told, monkeypatch):
    said = []
    monkeypatch.setattr(releases, "NEWEST", "5.24")
    logger = logging.get_logger()
    monkeypatch.setattr(logger, "warning", lambda text, *_, **__: said.append(text))
    type(logger).warning_once.cache_clear()
    for _ in range(2):
        releases.warn_if_untested(version)
    assert len(said) == told
    assert all(f"up to 5.24, and {version} is newer" in text for text in said)
