"""Long texts: the same text as a string's, whatever is in it and wherever it is cut, in a fraction of the memory."""

import json
import tracemalloc

import numpy as np
import orjson
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.sources import long_text
from data_prep.sources.long_text import LongText, load_json, pieces_of, text_from
from data_prep.sources.record_errors import Reading
from data_prep.sources.records import Fields
from data_prep.sources.shards import LocalShard
from data_prep.sources.splits import parts_of, split_of_files, text_of
from data_prep.tokenizer import encoder
from data_prep.tokenizer.bpe import train_bpe
from data_prep.tokenizer.build import train_characters, train_numbers, wrap
from data_prep.tokenizer.encoder import Encoder
from data_prep.tokens.writer import _hash

ODD = st.sampled_from('\\"n/\u00e9\u4e2d\U0001f600\ud7ff \n\x00')
TEXTS = st.text(st.one_of(st.characters(exclude_categories=["Cs"]), ODD), max_size=300)
FIELDS = Fields(text="text", group=None, sample_by="document")


@pytest.fixture(autouse=True, scope="module")
def small():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_text, "LONG_TEXT_BYTES", 30)
        patch.setattr(long_text, "PIECE_BYTES", 20)
        yield


@given(TEXTS, st.booleans(), st.booleans())
def test_json_gives_the_same_text(text, ascii_only, beside):
    row = {"id": "x" * 40, "text": text, "more": {"text": text}} if beside else {"text": text}
    line = json.dumps(row, ensure_ascii=ascii_only).encode()
    found = load_json(line)
    assert found.keys() == row.keys()
    assert str(found["text"]) == text
    assert found["text"].encode() == text.encode()
    assert len(found["text"]) == len(text)
    assert "".join(pieces_of(found["text"])) == text
    assert _hash(("", found["text"])) == _hash(("", text))


@given(st.binary(max_size=120), TEXTS)
def test_what_is_no_json_is_none_in_pieces_either(noise, text):
    whole = json.dumps({"text": text}, ensure_ascii=False).encode()
    for line in (noise, b'{"text": "' + noise + b'"}', whole[: len(whole) // 2], whole[:5] + noise + whole[5:]):
        try:
            expected = orjson.loads(line)
        except orjson.JSONDecodeError:
            with pytest.raises(orjson.JSONDecodeError):
                load_json(line)
        else:
            found = load_json(line)
            if isinstance(expected, dict):
                found = {key: str(value) if isinstance(value, LongText) else value for key, value in found.items()}
                found = {key: found[key] for key in expected if not isinstance(expected[key], dict | list)}
                expected = {key: value for key, value in expected.items() if key in found}
                assert found == expected
            else:
                assert isinstance(found, type(expected))


@given(TEXTS.map("{:30}".format), TEXTS)
def test_it_adds_up_with_strings(text, other):
    long = text_from(text.encode())
    assert isinstance(long, LongText)
    assert str(long + other) == text + other
    assert str(other + long) == other + text
    document = {"prompt": other, "completion": long}
    assert str(text_of(document)) == other + text
    assert list(map(str, parts_of(document))) == [other, text]


@given(st.binary(min_size=30, max_size=90))
def test_invalid_utf_8_is_refused_as_in_a_string(utf8):
    try:
        text = utf8.decode()
    except UnicodeDecodeError:
        with pytest.raises(UnicodeDecodeError):
            text_from(utf8)
    else:
        assert str(text_from(utf8)) == text


@given(st.lists(TEXTS, min_size=1, max_size=4))
def test_ids_are_those_of_strings(texts):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoder, "PIECE_CHARACTERS", 25)
        ids, counts = ENCODE([text_from(text.encode()) for text in texts])
    expected, lengths = ENCODE(texts)
    assert np.array_equal(ids, expected)
    assert np.array_equal(counts, lengths)


ENCODE = Encoder(wrap(train_bpe(["the cat sat on the mat and the hat, it's \u00e9t\u00e9"] * 3, 300)))


@pytest.mark.parametrize("train", [train_bpe, train_characters, train_numbers])
def test_tokenizers_learn_from_them_as_from_strings(train):
    texts = ["the number 1234 and the number 123 \u00e9\U0001f600 again and again"] * 2
    long = [text_from(text.encode()) for text in texts]
    assert isinstance(long[0], LongText)
    assert train(long, 270).to_str() == train(texts, 270).to_str()


@pytest.mark.parametrize("form", ["jsonl", "parquet", "txt"])
def test_each_format_reads_them(tmp_path, form):
    text, path = "caf\u00e9 \U0001f600 " * 20, tmp_path / f"corpus.{form}"
    if form == "jsonl":
        path.write_text(json.dumps({"text": text}) + "\n")
    elif form == "parquet":
        pyarrow.parquet.write_table(pyarrow.table({"text": [text]}), path)
    else:
        path.write_text(text, encoding="utf-8")
    (document,) = split_of_files([LocalShard.of(path)], FIELDS, 0.0)
    assert isinstance(document["text"], LongText)
    assert str(document["text"]) == text


def test_a_line_takes_little_more_than_its_text():
    """At a scale of 1:10, what a document of 100 MB takes beside its line, with an emoji in each piece."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_text, "LONG_TEXT_BYTES", 1_000_000)
        patch.setattr(long_text, "PIECE_BYTES", 400_000)
        line = json.dumps({"text": "a story \U0001f600\n" * 1_000_000}).encode()
        tracemalloc.start()
        row = load_json(line)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 1.5 * len(row["text"].encode())


def test_a_split_counts_a_long_document_once(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"text": "' + "word " * 50 + '"}\n{"text": "' + "x" * 40 + "\\ud800" + '"}\n{"text": ""}\n')
    reading = Reading(1.0)
    documents = list(split_of_files([LocalShard.of(path)], FIELDS, 1.0).read_from(None, reading))
    assert len(documents) == 1
    assert (reading.records, reading.empty, reading.faults) == (3, 1, 1)
