"""What is announced of a run is what comes of going through it, example by example."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.collator import CausalLMCollator
from data_prep.tokens import stream
from data_prep.tokens.counts import Tally, prompt_ends, tally
from data_prep.tokens.order import Epochs, first_shuffled, place_of, shuffled
from data_prep.tokens.stream import GrowingTokens, Stream
from data_prep.tokens.windows import Documents, TokenArray, Windows
from settings.checks import ConfigError

SEPARATOR = 7


def by_going_through(run, collate):
    """Each example of the run collated by itself; what has no target counts 0."""
    sums = np.zeros(3, dtype=np.int64)
    for item in range(len(run)):
        labels = collate([run[item]])["labels"][0, 1:]
        if targets := int((labels != -100).sum()):
            length = int((labels != -100).nonzero().max()) + 2
            sums += targets, length, length**2
    return Tally(*map(int, sums))


@given(st.integers(1, 3000), st.integers(0, 2**64 - 1), st.data())
def test_the_order_at_once_and_backwards(size, chosen, data):
    order = [shuffled(i, size, chosen) for i in range(min(size, 50))]
    assert first_shuffled(len(order), size, chosen).tolist() == order
    index = data.draw(st.integers(0, size - 1))
    assert place_of(shuffled(index, size, chosen), size, chosen) == index


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(0, 40), st.integers(0, 4), st.integers(0, 3),
    st.booleans(), st.booleans(),
)  # fmt: skip
def test_documents(lengths, stop, mask_first_n, prompt, separated, joined):
    """Prompts, both masks, several epochs and a part of one; documents that share a token, and that do not."""
    lengths = [length + joined + 2 for length in lengths]
    ids = np.random.default_rng(0).integers(5, 9, size=sum(lengths) - joined * (len(lengths) - 1))
    starts = np.cumsum([0, *(length - joined for length in lengths[:-1])])
    ids[0], ids[-1] = 2, 2 if joined else 3
    about = np.zeros(len(lengths), dtype=[("start", np.int64), ("prompt", np.int64)])
    about["start"], about["prompt"] = starts, prompt
    documents = Documents(TokenArray([ids], [len(ids)]), about, 99)
    separator = (
        SEPARATOR if separated and (prompt_ends(documents, SEPARATOR) <= documents.stops - starts).all() else None
    )
    run = Epochs(documents, seed=3, stop=stop or 1, blanks=2)
    collate = CausalLMCollator(pad_token_id=1, mask_first_n=mask_first_n, separator_id=separator)
    assert tally(run, collate) == by_going_through(run, collate)


def test_a_document_without_a_separator_is_told():
    ids = np.array([2, 5, 7, 2, 5, 6, 2])
    about = np.array([(0, 1), (3, 1)], dtype=[("start", np.int64), ("prompt", np.int64)])
    documents = Documents(TokenArray([ids], [len(ids)]), about, 99)
    assert (prompt_ends(documents, SEPARATOR) > documents.stops - documents.starts).tolist() == [False, True]
    with pytest.raises(ConfigError, match="no separator"):
        CausalLMCollator(pad_token_id=1, separator_id=SEPARATOR)([documents[1]])


@given(st.integers(2, 60), st.integers(1, 50), st.integers(2, 9), st.integers(0, 3))
def test_windows(count, stop, length, mask_first_n):
    ids = np.arange(count) + 5
    run = Epochs(Windows(TokenArray([ids], [count]), length), seed=1, stop=stop, blanks=1)
    collate = CausalLMCollator(pad_token_id=1, mask_first_n=mask_first_n)
    assert tally(run, collate) == by_going_through(run, collate)


@pytest.mark.parametrize("stop", [1, 5, 9, 10, 11, 25])
def test_a_stream(tmp_path, monkeypatch, stop):
    """Within its first pass, whose blocks are shuffled by themselves, and after it; while it is written, at most."""
    monkeypatch.setattr(stream, "BLOCK_TOKENS", 16)
    np.save(tmp_path / "00000.npy", np.arange(39, dtype=np.uint16) + 5)  # nine windows of 5, and one of 3
    collate = CausalLMCollator(pad_token_id=1)
    for seed in range(6):
        written = Stream(Windows(GrowingTokens(tmp_path, [{"tokens": 39}], True), 5), seed=seed, stop=stop)
        assert tally(written, collate) == by_going_through(written, collate)
    growing = Stream(Windows(GrowingTokens(tmp_path, [{"tokens": 39}], False), 5), seed=0, stop=stop)
    assert tally(growing, collate) == Tally(4 * stop, 5 * stop, 25 * stop, is_exact=False)


def test_large_sums_do_not_overflow():
    run = Epochs(Windows(TokenArray([np.zeros(100, dtype=np.uint16)], [10**15 + 1]), 10**5 + 1), seed=0, stop=10**10)
    assert tally(run, CausalLMCollator(1)).pairs == 10**10 * (10**5 + 1) ** 2 > torch.iinfo(torch.int64).max
