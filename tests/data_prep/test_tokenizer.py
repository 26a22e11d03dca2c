"""Tokenizers lose nothing, never read special ids out of text, and load as any Hugging Face tokenizer does."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from data_prep.tokenizer import build_tokenizer, load_tokenizer, report, save, train_bpe, train_characters, wrap
from sections import ConfigError, TokenizerSection

TEXTS = ["the cat sat on the mat", "the dog sat on the log", "a longer cat sat down again and again"] * 3
SPECIALS = ["<|endoftext|>", "<|pad|>"]


@pytest.fixture(scope="module")
def bpe():
    return wrap(train_bpe(TEXTS, 280))


any_text = st.text(st.characters(exclude_categories=["Cs"]))
spliced = st.lists(any_text | st.sampled_from(SPECIALS)).map("".join)


@given(spliced)
@example("<|endoftext|>")
@example("\x00\r\n\t  é漢\U0001f600<|pad|>")
def test_round_trip_of_any_text(bpe, text):
    ids = bpe(text, add_special_tokens=False)["input_ids"]
    assert bpe.decode(ids) == text
    assert not {bpe.eos_token_id, bpe.pad_token_id} & set(ids)


@given(spliced)
def test_a_prompt_begins_with_the_start_token_alone(bpe, text):
    ids = bpe(text)["input_ids"]
    assert ids[0] == bpe.bos_token_id
    assert ids[1:] == bpe(text, add_special_tokens=False)["input_ids"]
    assert bpe.decode(ids, skip_special_tokens=True) == text


def test_all_bytes_are_in_the_alphabet(bpe):
    assert set(pre_tokenizers.ByteLevel.alphabet()) <= bpe.get_vocab().keys()
    assert len(bpe) == 280


def test_pad_and_end_are_tokens_of_their_own(bpe):
    assert bpe.pad_token_id != bpe.eos_token_id == bpe.bos_token_id


def test_training_is_deterministic(bpe):
    assert wrap(train_bpe(TEXTS, 280)).backend_tokenizer.to_str() == bpe.backend_tokenizer.to_str()


def test_the_pre_tokenizer_is_gpt2s(bpe):
    assert bpe.backend_tokenizer.pre_tokenizer.pre_tokenize_str("I've 12 cats!") == pre_tokenizers.ByteLevel(
        add_prefix_space=False
    ).pre_tokenize_str("I've 12 cats!")


def test_saved_it_loads_as_any_other(bpe, tmp_path):
    save(bpe, {}, tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    for text in ["the cat <|endoftext|> sat", ""]:
        assert again(text)["input_ids"] == bpe(text)["input_ids"]
    assert (again.bos_token, again.eos_token, again.pad_token) == ("<|endoftext|>", "<|endoftext|>", "<|pad|>")


def test_characters_round_trip_and_name_what_they_do_not_know():
    tokenizer = wrap(train_characters(["I love\nmachine learning"], 0))
    ids = tokenizer("love me\nlove", add_special_tokens=False)["input_ids"]
    assert len(ids) == len("love me\nlove")
    assert tokenizer.decode(ids) == "love me\nlove"
    assert tokenizer("z", add_special_tokens=False)["input_ids"] == [tokenizer.unk_token_id]


def test_numbers_are_one_token_each_however_they_are_spaced():
    tokenizer, _ = build_tokenizer(TokenizerSection(kind="numbers"), [{"text": "91 / 7 = 13"}], [])
    ids = tokenizer("91 / 7 =", add_special_tokens=False)["input_ids"]
    assert ids == tokenizer("91/7=", add_special_tokens=False)["input_ids"]
    assert len(ids) == 4
    assert tokenizer.decode(ids) == "91 / 7 ="


def test_report_says_what_was_learnt():
    documents = [{"text": text} for text in TEXTS]
    _, about = build_tokenizer(TokenizerSection(vocab_size=280), documents, [{"text": "the cat sat é"}])
    assert about["documents"] == 9
    assert about["vocabulary"] == 280
    assert about["longest_tokens"] == [" again"]
    assert about["longest_token_bytes"] == 6
    assert 1 < about["bytes_per_token"] <= 14 / 4
    assert about["seconds"] >= 0
    assert about["peak_memory_megabytes"] > 0


def test_longest_tokens_list_all_ties(bpe):
    about = report(bpe, [])
    sizes = {token: len(bpe.decode([i]).encode()) for token, i in bpe.get_vocab().items() if i > 1}
    assert len(about["longest_tokens"]) == list(sizes.values()).count(max(sizes.values()))


def test_an_existing_tokenizer_gets_a_pad_of_its_own(tmp_path):
    PreTrainedTokenizerFast(
        tokenizer_object=train_bpe(TEXTS, 270), eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    ).save_pretrained(tmp_path / "gpt2-like")
    tokenizer = load_tokenizer(str(tmp_path / "gpt2-like"))
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert tokenizer("<|endoftext|>", add_special_tokens=False)["input_ids"] != [tokenizer.eos_token_id]


def test_a_tokenizer_without_an_end_is_refused(tmp_path):
    PreTrainedTokenizerFast(tokenizer_object=train_bpe(TEXTS, 270)).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="no end-of-text token"):
        load_tokenizer(str(tmp_path))


@pytest.mark.parametrize(
    ("section", "complaint"),
    [
        (TokenizerSection(kind="pretrained", path="/nowhere"), "cannot be loaded"),
    ],
)
def test_impossible_tokenizers_are_refused(section, complaint):
    with pytest.raises(ConfigError, match=complaint):
        build_tokenizer(section, [{"text": "a"}], [])


def test_no_documents_is_an_error():
    with pytest.raises(ConfigError, match="no training documents"):
        build_tokenizer(TokenizerSection(), [], [])
