"""Generation as transformers' own tests ask for it: every way to decode and every cache, against the stock model.

The stock model has the same weights. Tokens are equal, not close. What cannot be continued is refused before the first
step, by every way to ask for it.
"""

import logging

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    ContinuousBatchingConfig,
    DynamicCache,
    GenerationConfig,
    PreTrainedTokenizerFast,
    StaticCache,
    pipeline,
)

from modeling.releases import CACHE

CLOSE = {"atol": 1e-5, "rtol": 0}
GREEDY = {"max_new_tokens": 8, "do_sample": False}


@pytest.fixture(params=["llama-grouped-tied", "gpt", "llama-nowhere"])
def model(request, vary):
    """A model of each kind of position."""
    return vary(request.param)


@pytest.fixture
def unequal(tokens):
    """Three prompts of 4, 9 and 16 tokens, and the same padded on the left with their mask."""
    prompts = [row[:length] % 511 + 1 for row, length in zip(tokens(3), (4, 9, 16), strict=True)]
    padded = [torch.nn.functional.pad(row, (16 - len(row), 0)) for row in prompts]
    mask = torch.stack([torch.arange(16) >= 16 - len(row) for row in prompts]).long()
    return prompts, {"input_ids": torch.stack(padded), "attention_mask": mask}


# ---- every way to decode


WAYS = {
    "greedy": {},
    "without cache": {"use_cache": False},
    "static cache": {"cache_implementation": "static", "disable_compile": True},
    "beams": {"num_beams": 3},
    "beams without cache": {"num_beams": 3, "use_cache": False},
    "several beams": {"num_beams": 4, "num_return_sequences": 2, "length_penalty": 0.5},
    "sampling": {"do_sample": True, "temperature": 0.7, "top_k": 20},
    "several samples": {"do_sample": True, "top_p": 0.9, "num_return_sequences": 3},
    "beam sampling": {"do_sample": True, "num_beams": 2},
    "prompt lookup": {"prompt_lookup_num_tokens": 3},
    "chunks of the prompt": {"prefill_chunk_size": 5},
    "no repeats": {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
}


@pytest.mark.parametrize("way", WAYS)
def test_tokens_are_the_stock_models(twins, tokens, way):
    settings = GREEDY | WAYS[way] | {"return_dict_in_generate": True, "output_logits": way != "prompt lookup"}
    batch = tokens(1) if way == "prompt lookup" else tokens()
    drawn = []
    for model in twins:
        torch.manual_seed(0)
        drawn.append(model.generate(batch, **settings))
    ours, stock = drawn
    assert torch.equal(ours.sequences, stock.sequences)
    assert ours.sequences.shape[1] == 24
    if ours.logits is not None:
        torch.testing.assert_close(ours.logits, stock.logits, **CLOSE)


@pytest.mark.parametrize("way", ["greedy", "static cache", "beams", "without cache"])
def test_batched_prompts_of_unequal_length_equal_one_by_one(model, unequal, way):
    prompts, batch = unequal
    settings = GREEDY | WAYS[way]
    together = model.generate(**batch, **settings)[:, 16:]
    alone = [model.generate(prompt[None], **settings)[0, len(prompt) :] for prompt in prompts]
    assert torch.equal(together, torch.stack(alone))


def test_an_assistant_changes_no_token(model, start, tokens):
    """Neither one that agrees now and then nor the model itself, which always does."""
    expected = model.generate(tokens(1), max_new_tokens=20, do_sample=False)
    assistant = start("kindling_llama", pad_token_id=0)
    for helper in (assistant, model):
        drawn = model.generate(tokens(1), max_new_tokens=20, do_sample=False, assistant_model=helper)
        assert torch.equal(drawn, expected)


def test_embeddings_are_a_prompt(model, tokens):
    """New tokens alone come back, after embeddings in place of ids, in either cache."""
    embedded = model.get_input_embeddings()(tokens())
    expected = model.generate(tokens(), **GREEDY)[:, 16:]
    for more in ({}, WAYS["static cache"]):
        assert torch.equal(model.generate(inputs_embeds=embedded, **GREEDY, **more), expected)


@pytest.mark.parametrize("cache", [DynamicCache, StaticCache])
def test_generation_goes_on_from_a_cache(model, unequal, cache):
    """Of a padded batch, in two calls, as in one."""
    _, batch = unequal
    whole = model.generate(**batch, **GREEDY)
    past = cache(config=model.config, **({"max_cache_len": 32} if cache is StaticCache else {}))
    first = model.generate(**batch, **GREEDY | {"max_new_tokens": 3, CACHE: past})
    mask = torch.nn.functional.pad(batch["attention_mask"], (0, 3), value=1)
    again = {"input_ids": first, "attention_mask": mask, CACHE: past, "disable_compile": True}
    assert torch.equal(model.generate(**again, **GREEDY | {"max_new_tokens": 5}), whole)


@pytest.mark.parametrize("family", ["kindling_llama", "kindling_gpt"])
def test_continuous_batching_says_what_single_prompts_do(start, family):
    """With its own cache of pages, which each release hands over in another way."""
    model = start(family, num_hidden_layers=2, num_key_value_heads=2, initializer_range=0.3)
    prompts = [[1, 5, 9, 7], [3, 4, 60, 61, 62, 63, 64]]
    alone = [model.generate(torch.tensor([ids]), **GREEDY)[0, len(ids) :].tolist() for ids in prompts]
    small = ContinuousBatchingConfig(num_blocks=8, max_batch_tokens=64)  # by default it takes nearly all memory
    settings = GenerationConfig(**GREEDY, eos_token_id=-1, pad_token_id=0)
    said = model.generate_batch(prompts, generation_config=settings, continuous_batching_config=small)
    assert sorted(one.generated_tokens for one in said.values()) == sorted(alone)


@pytest.mark.parametrize("way", ["greedy", "static cache", "beams", "without cache"])
def test_a_packed_row_goes_on_as_its_last_document(model, tokens, way):
    """Whose tokens begin at position 0 again, and see none of the documents before it while they are continued."""
    settings = GREEDY | WAYS[way]
    positions = torch.cat([torch.arange(6), torch.arange(10)]).repeat(2, 1)
    packed = model.generate(tokens(), position_ids=positions, **settings)[:, 16:]
    assert torch.equal(packed, model.generate(tokens()[:, 6:], **settings)[:, 10:])


def test_end_of_text_stops_each_row_by_itself(model, tokens):
    """The row that says it first is padded until the other ends; with both ended, nothing more is drawn."""
    free = model.generate(tokens(), **GREEDY)[:, 16:]
    first, second = free[0, 2].item(), free[1, 5].item()
    drawn = model.generate(tokens(), **GREEDY, eos_token_id=[first, second])[:, 16:]
    for row, said in zip(drawn, free, strict=True):
        end = next(i for i, token in enumerate(said.tolist()) if token in (first, second))
        assert torch.equal(row[: end + 1], said[: end + 1])
        assert (row[end + 1 :] == 0).all()
    assert drawn.shape[1] < 8


# ---- what cannot be continued


def calls_of(model):
    """The list that each call of the model makes longer."""
    calls = []
    model.model.register_forward_pre_hook(lambda *_: calls.append(1))
    return calls


def too_long(model, tokens, assistant):
    """Ways to ask for more than 64 positions: arguments, tokens of the prompt, and new tokens."""
    long, short = tokens(2, 70), tokens(2, 16)
    padded = torch.arange(70).expand(2, 70) >= torch.tensor([[60], [50]])
    embedded = model.get_input_embeddings()(short)
    return {
        "long prompt": ({"inputs": long}, 70, 1),
        "long prompt, few more": ({"inputs": long, "max_new_tokens": 2}, 70, 2),
        "full prompt": ({"inputs": tokens(2, 64)}, 64, 1),
        "many new": ({"input_ids": short, "max_new_tokens": 49}, 16, 49),
        "longer than positions": ({"input_ids": short, "max_length": 65}, 16, 49),
        "configuration": ({"inputs": short, "generation_config": GenerationConfig(max_new_tokens=50)}, 16, 50),
        "padded": ({"input_ids": long, "attention_mask": padded.long(), "max_new_tokens": 45}, 20, 45),
        "beams": ({"inputs": short, "max_new_tokens": 49, "num_beams": 2}, 16, 49),
        "samples": ({"inputs": short, "max_new_tokens": 49, "do_sample": True, "num_return_sequences": 2}, 16, 49),
        "assistant": ({"inputs": short[:1], "max_new_tokens": 20, "assistant_model": assistant}, 16, 20),
        "embeddings": ({"inputs_embeds": embedded, "max_new_tokens": 49}, 16, 49),
        "static": ({"inputs": short, "max_new_tokens": 49, "cache_implementation": "static"}, 16, 49),
    }


def test_more_tokens_than_positions_are_refused_before_the_first_step(model, start, tokens):
    assistant = start("kindling_llama", max_position_embeddings=32)
    calls = calls_of(model)
    for arguments, prompt, new in too_long(model, tokens, assistant).values():
        positions = 32 if "assistant_model" in arguments else 64
        said = rf"{prompt} tokens and {new} more are too many for the model's {positions} positions .*; shorten"
        with pytest.raises(ValueError, match=said):
            model.generate(**arguments)
    assert not calls


def test_the_last_position_is_used_and_pads_have_none(model, tokens, unequal):
    assert model.generate(tokens(), max_new_tokens=48, do_sample=False).shape == (2, 64)
    _, batch = unequal
    ids, mask = (torch.nn.functional.pad(batch[name], (60, 0)) for name in ("input_ids", "attention_mask"))
    drawn = model.generate(ids, attention_mask=mask, max_new_tokens=48, do_sample=False)
    assert torch.equal(drawn[:, 60:], model.generate(**batch, max_new_tokens=48, do_sample=False))


@pytest.mark.parametrize("wrong", [-1, 512])
def test_ids_outside_the_vocabulary_are_refused_before_the_first_step(model, tokens, wrong):
    ids, calls = tokens(), calls_of(model)
    ids[1, 3] = wrong
    for arguments in ({"inputs": ids}, {"input_ids": ids, "num_beams": 2, "attention_mask": torch.ones_like(ids)}):
        with pytest.raises(
            ValueError, match=rf"id {wrong} \(row 1, position 3 of the prompt\) is outside .* 512 tokens"
        ):
            model.generate(**arguments)
    assert not calls


def test_a_number_of_new_tokens_alone_is_no_warning(model, tokens, caplog, monkeypatch):
    """The limit that we set is not a second wish; two wishes of the caller's are."""
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    model.generate(tokens(), **GREEDY)
    assert not caplog.messages
    model.generate(tokens(), **GREEDY, max_length=30)
    assert "Both `max_new_tokens`" in caplog.text


# ---- through the pipeline


@pytest.fixture
def tell(model):
    """A text-generation pipeline over words "w1" to "w511", with its default settings."""
    words = {"<pad>": 0} | {f"w{i}": i for i in range(1, 512)}
    reader = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    reader.pre_tokenizer = pre_tokenizers.Whitespace()
    return pipeline(
        "text-generation", model, tokenizer=PreTrainedTokenizerFast(tokenizer_object=reader, pad_token="<pad>")
    )


def text_of(ids):
    return " ".join(f"w{i}" for i in ids.tolist())


def test_pipeline_tells_with_default_settings(tell, unequal):
    """To the end of the positions, and the same under a seed; batched prompts as one by one."""
    prompts = [text_of(prompt) for prompt in unequal[0]]
    torch.manual_seed(0)
    (told,) = tell(prompts[1], do_sample=True, return_tensors=True)
    assert len(told["generated_token_ids"]) == 64
    torch.manual_seed(0)
    assert tell(prompts[1], do_sample=True, return_tensors=True) == [told]

    together = tell(prompts, batch_size=3, **GREEDY)
    assert together == [tell(prompt, **GREEDY) for prompt in prompts]


def test_pipeline_refuses_a_prompt_longer_than_the_positions(tell, model, tokens):
    """Alone, in a batch of shorter ones, and as what is said in a chat."""
    calls, long = calls_of(model), text_of(tokens(1, 70)[0] % 511 + 1)
    tell.tokenizer.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    for prompt in (["w1 w2", long], [{"role": "user", "content": long}]):
        with pytest.raises(ValueError, match=r"70 tokens and 4 more are too many for the model's 64 positions"):
            tell(prompt, batch_size=2, max_new_tokens=4)
    for arguments in ({}, {"max_new_tokens": 4}, {"do_sample": True}, {"num_beams": 2}):
        with pytest.raises(ValueError, match=r"70 tokens and \d more are too many for the model's 64 positions"):
            tell(long, **arguments)
    assert not calls
