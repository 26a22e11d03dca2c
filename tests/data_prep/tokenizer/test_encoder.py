"""The fast encoder gives the tokenizer's own ids, whatever the text and however long it is."""

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import fables
from data_prep.tokenizer import encoder
from data_prep.tokenizer.bpe import train_bpe
from data_prep.tokenizer.build import train_characters, train_numbers, wrap
from data_prep.tokenizer.encoder import HARD_TEXTS, Encoder

STORIES = [fables.fable("0", index) for index in range(300)]
BPE = wrap(train_bpe(STORIES + HARD_TEXTS, 700))
FAST = Encoder(BPE)


def rows(encode, texts) -> list[list[int]]:
    ids, counts = encode(texts)
    return [row.tolist() for row in np.split(ids, np.cumsum(counts)[:-1])]


def right(tokenizer, texts) -> list[list[int]]:
    return tokenizer(texts, add_special_tokens=False)["input_ids"]


def test_it_is_fast_on_byte_level_bpe():
    assert FAST.is_fast
    assert not Encoder(wrap(train_characters(STORIES, 0))).is_fast


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), min_size=1, max_size=6))
@settings(max_examples=200)
def test_same_ids_for_any_text(texts):
    assert rows(FAST, texts) == right(BPE, texts)


@given(
    st.lists(st.sampled_from([*HARD_TEXTS, "<|endoftext|>", "<|pad|>", "it's", " \n", "x"]), max_size=12).map("".join)
)
def test_same_ids_where_special_tokens_are_spelled(text):
    assert rows(FAST, [text]) == right(BPE, [text])
    assert not set(rows(FAST, [text])[0]) & {BPE.eos_token_id, BPE.pad_token_id}


def test_letters_of_newer_unicode_have_the_tokenizers_ids():
    texts = ["plain", "new \ua7cf letter\ua7cf", "", "\U000323b0\U000323b1 x", "\u088f", "also plain"]
    assert rows(FAST, texts) == right(BPE, texts)


@given(st.text(st.sampled_from("ab1_. \n\t\u3000\u2028'"), max_size=200), st.integers(1, 30))
def test_cut_text_has_the_ids_of_uncut_text(text, piece):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoder, "PIECE_CHARACTERS", piece)
        assert rows(FAST, [text, text + text]) == right(BPE, [text, text + text])


@pytest.mark.parametrize("kind", [train_characters, train_numbers])
def test_other_tokenizers_encode_by_themselves(kind, monkeypatch):
    monkeypatch.setattr(encoder, "PIECE_CHARACTERS", 50)
    tokenizer = wrap(kind(STORIES, 0))
    assert rows(Encoder(tokenizer), STORIES[:20]) == right(tokenizer, STORIES[:20])


def test_a_wrong_encoder_is_given_up(monkeypatch, caplog):
    other = wrap(train_bpe(["something else entirely"] * 9, 300))
    monkeypatch.setattr(Encoder, "_new_fast", lambda _: encoder.gigatoken.Tokenizer.from_json(wrong))
    wrong = encoder._without_special_tokens(other)
    with caplog.at_level(logging.WARNING):
        slow = Encoder(BPE)
    assert not slow.is_fast
    assert "other ids than this tokenizer" in caplog.text
    assert rows(slow, STORIES[:5]) == right(BPE, STORIES[:5])


def test_it_starts_anew_and_goes_on(monkeypatch):
    monkeypatch.setattr(encoder, "RESTART_AFTER", 1000)
    encode = Encoder(BPE)
    first = encode._fast
    assert rows(encode, STORIES) == right(BPE, STORIES)
    assert rows(encode, STORIES[:3]) == right(BPE, STORIES[:3])
    assert encode._fast is not first


def test_real_samples_have_the_same_ids(samples):
    text = (samples / "shakespeare" / "input.txt").read_text()
    assert rows(FAST, [text]) == right(BPE, [text])
