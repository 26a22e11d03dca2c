"""Of a corpus without a validation split a tenth is held out, whatever its size, and nothing is lost."""

import json

import pytest

from data_prep.sources.held_out import _cut, hold_out
from data_prep.sources.long_text import LongText
from data_prep.sources.shards import HubShard
from data_prep.sources.splits import Split
from data_prep.sources.table import open_corpus
from data_prep.tokens.prepare import prepare
from settings.checks import ConfigError
from settings.data_sections import DataSection, TokenizerSection


def open_rows(tmp_path, rows, **settings):
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"source": str(tmp_path / "corpus.jsonl"), "validation_documents": None} | settings
    return [list(split) for split in open_corpus(DataSection(**settings))]


@pytest.mark.parametrize(
    ("count", "held_out"), [(10, 1), (19, 1), (20, 2), (9999, 999), (10_000, 1000), (10_500, 1000)]
)
def test_the_first_tenth_of_the_documents_is_held_out(tmp_path, count, held_out):
    rows = [{"text": str(number)} for number in range(count)]
    train, validation = open_rows(tmp_path, rows)
    assert validation == rows[:held_out]
    assert train == rows[held_out:]


@pytest.mark.parametrize("count", [1, 2, 9])
def test_of_fewer_than_ten_it_is_the_last_tenth_of_each(tmp_path, count):
    rows = [{"text": " ".join(f"{number}-{word}" for word in range(100))} for number in range(count)]
    train, validation = open_rows(tmp_path, rows)
    assert [{"text": first["text"] + last["text"]} for first, last in zip(train, validation, strict=True)] == rows
    for document in validation:
        assert 0.07 < len(document["text"]) / len(rows[0]["text"]) < 0.13
    assert all(document["text"].endswith(" ") for document in train)
    assert [len(part) for part in open_rows(tmp_path, rows, train_documents=1)] == [1, count]


def test_texts_too_short_to_cut_are_refused_as_such(tmp_path):
    (tmp_path / "corpus.txt").write_text("a\n\nb\n\nc")
    data = DataSection(
        source=str(tmp_path / "corpus.txt"), validation_documents=None, cache_dir=str(tmp_path / "prepared")
    )
    with pytest.raises(ConfigError, match=r"3 documents are too short to hold out a part of each; give more te"):
        prepare(data, TokenizerSection(kind="characters"))


@pytest.mark.parametrize(("count", "held_out"), [(1, 1), (3, 3), (12, 1), (40, 1)])
def test_documents_of_any_length_are_counted(tmp_path, monkeypatch, count, held_out):
    """One document may be longer than what is looked through: it is cut, not held out whole."""
    monkeypatch.setattr("data_prep.sources.held_out.MAX_BYTES_COUNTED", 100)
    rows = [{"text": "word " * 100}] * count
    train, validation = open_rows(tmp_path, rows)
    assert len(validation) == held_out
    assert len(train) == (count if count < 10 else count - held_out)


def test_what_was_asked_for_is_held_out(tmp_path):
    rows = [{"text": str(number)} for number in range(9)]
    assert open_rows(tmp_path, rows, validation_documents=7) == [rows[7:], rows[:7]]
    data = DataSection(source=str(tmp_path / "corpus.jsonl"), cache_dir=str(tmp_path / "prepared"))
    with pytest.raises(ConfigError, match=r"all 9 documents are held out; give data.validation_documents=null for a t"):
        prepare(data, TokenizerSection(kind="characters"))


def test_prompts_are_not_cut(tmp_path):
    rows = [{"prompt": "a long question", "completion": str(number)} for number in range(3)]
    assert open_rows(tmp_path, rows) == [rows[1:], rows[:1]]


@pytest.mark.parametrize("text", ["ab", "a line\n" * 30, "word " * 30, "x" * 100, "é" * 55, "日本語" * 21, "a\n\n\nb"])
def test_a_text_is_cut_between_letters_and_nothing_is_lost(text):
    for whole in (text, LongText([text.encode()])):
        first, last = map(str, _cut(whole))
        assert first + last == text
        assert first
        assert last
    if "\n" in text[:-5]:
        assert first.endswith("\n")


def test_a_corpus_of_the_hub_is_not_counted():
    """Which would fetch it at each start."""
    split = Split(None, {}, shards=[HubShard("someone/texts", "", "a.jsonl", 1, None, "")])
    assert hold_out(split, None, None)[1].documents == 1000
