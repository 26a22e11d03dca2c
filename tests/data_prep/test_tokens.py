"""Tokens on disk: nothing dropped, nothing twice, nothing half-written."""

import json
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from data_prep.sources import Split
from data_prep.tokenizer import train_bpe, train_characters, wrap
from data_prep.tokens import Documents, TokenFile, Windows, prepare, write_split
from sections import ConfigError, DataSection, TokenizerSection

TOKENIZER = wrap(train_characters(["abcdefghij "], 0))
END = TOKENIZER.eos_token_id


def split_of(*documents) -> Split:
    return Split(lambda: iter(documents), {})


@given(st.lists(st.integers(0, 60_000), min_size=2, max_size=200), st.integers(2, 40))
def test_each_adjacent_pair_is_a_target_exactly_once(ids, length):
    windows = Windows(np.array(ids, dtype=np.uint16), length)
    rows = [windows[i]["input_ids"].tolist() for i in range(len(windows))]
    assert [pair for row in rows for pair in pairwise(row)] == list(pairwise(ids))
    assert all(len(row) == length for row in rows[:-1])
    assert 2 <= len(rows[-1]) <= length


def test_windows_end_and_may_be_read_from_the_end():
    windows = Windows(np.arange(10, dtype=np.uint16), 4)
    assert windows[-1]["input_ids"].tolist() == [9] or windows[-1]["input_ids"].tolist() == [6, 7, 8, 9]
    with pytest.raises(IndexError):
        windows[len(windows)]


@given(st.lists(st.text("abcdefghij ", max_size=20), min_size=1, max_size=30))
def test_a_split_is_its_documents_between_ends(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("split")
    info = write_split(folder, "train", split_of(*({"text": text} for text in texts)), TOKENIZER)
    ids = np.load(folder / "train.npy")
    encoded = [TOKENIZER(text, add_special_tokens=False)["input_ids"] for text in texts]
    assert ids.tolist() == [END] + [token for row in encoded for token in [*row, END]]
    assert ids.dtype == np.uint16
    assert (info.documents, info.tokens) == (len(texts), len(ids))
    assert info.text_bytes == sum(len(text.encode()) for text in texts)
    examples = Documents(ids, np.load(folder / "train-starts.npy"), np.load(folder / "train-prompts.npy"), 99)
    assert [e["input_ids"].tolist() for e in examples] == [[END, *row, END] for row in encoded]


def test_an_own_start_token_begins_each_document(tmp_path):
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=train_bpe(["ab ab"], 260), bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    write_split(tmp_path, "train", split_of({"text": "ab"}, {"text": "b"}), tokenizer)
    ids, starts = np.load(tmp_path / "train.npy"), np.load(tmp_path / "train-starts.npy")
    words = [tokenizer("ab")["input_ids"], tokenizer("b")["input_ids"]]
    rows = [[tokenizer.bos_token_id, *word, tokenizer.eos_token_id] for word in words]
    assert ids.tolist() == rows[0] + rows[1]
    examples = Documents(ids, starts, np.load(tmp_path / "train-prompts.npy"), 99)
    assert [e["input_ids"].tolist() for e in examples] == rows


def test_prompts_are_measured_with_their_start_token(tmp_path):
    split = split_of({"prompt": "ab ", "completion": "cd"}, {"text": "abc"})
    write_split(tmp_path, "train", split, TOKENIZER)
    arrays = [np.load(tmp_path / f"train{part}.npy") for part in ("", "-starts", "-prompts")]
    first, second = Documents(*arrays, 99)
    assert first["prompt_length"] == 4
    assert TOKENIZER.decode(first["input_ids"][:4], skip_special_tokens=True) == "ab "
    assert TOKENIZER.decode(first["input_ids"][4:-1]) == "cd"
    assert second["prompt_length"] == 0


def test_a_document_too_long_is_named(tmp_path):
    write_split(tmp_path, "train", split_of({"text": "a" * 30}), TOKENIZER)
    arrays = [np.load(tmp_path / f"train{part}.npy") for part in ("", "-starts", "-prompts")]
    with pytest.raises(ConfigError, match=r"has 32 tokens .* raise it .* to 32"):
        Documents(*arrays, 31)


def test_the_floor_is_the_sum_over_documents(tmp_path):
    split = Split(lambda: iter([{"text": "ab"}, {"text": "abc"}]), {}, floor=lambda text: 2.0 * len(text))
    info = write_split(tmp_path, "train", split, TOKENIZER)
    assert info.floor_nats == 10.0
    floor = info.floor(targets=7)  # 5 letters and 2 ends
    assert floor.loss == 10 / 7
    assert floor.bits_per_byte == pytest.approx(2 / np.log(2))


@given(st.lists(st.lists(st.integers(0, 2**32 - 1), max_size=50), max_size=10))
def test_a_token_file_is_an_ordinary_npy(tmp_path_factory, batches):
    path = tmp_path_factory.mktemp("npy") / "x.npy"
    file = TokenFile(path, np.uint32)
    for batch in batches:
        file.append(batch)
    file.close()
    loaded = np.load(path, mmap_mode="r" if any(batches) else None)
    assert loaded.tolist() == [token for batch in batches for token in batch]
    assert loaded.dtype == np.uint32


@pytest.fixture
def corpus(tmp_path):
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps({"text": f"document {i}"}) + "\n" for i in range(20)))
    return DataSection(
        source=str(tmp_path / "corpus.jsonl"), validation_documents=5, cache_dir=str(tmp_path / "prepared")
    )


def test_prepared_once_and_found_again(corpus, tmp_path):
    section = TokenizerSection(kind="characters")
    prepared = prepare(corpus, section)
    assert (prepared.info["train"].documents, prepared.info["validation"].documents) == (15, 5)
    before = {path: path.stat().st_mtime_ns for path in prepared.folder.rglob("*")}
    assert prepare(corpus, section).folder == prepared.folder
    assert {path: path.stat().st_mtime_ns for path in prepared.folder.rglob("*")} == before
    other = prepare(corpus, TokenizerSection(vocab_size=260))
    assert other.folder != prepared.folder
    (tmp_path / "corpus.jsonl").write_text('{"text": "changed"}\n' * 9)
    assert prepare(corpus, section).folder != prepared.folder


def test_a_failure_leaves_nothing_behind(corpus, tmp_path):
    with pytest.raises(ConfigError, match="validation_documents"):
        prepare(DataSection(**vars(corpus) | {"validation_documents": 50}), TokenizerSection(kind="characters"))
    assert list((tmp_path / "prepared").iterdir()) == []


def test_splits_share_no_document_and_lose_none(corpus):
    prepared = prepare(corpus, TokenizerSection(kind="characters"))
    texts = Counter()
    for split in ("train", "validation"):
        for example in prepared.examples(split, "documents", 99):
            texts[prepared.tokenizer.decode(example["input_ids"], skip_special_tokens=True)] += 1
    assert texts == Counter(f"document {i}" for i in range(20))
