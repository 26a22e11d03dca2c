"""Splits can be cut, mixed and joined, and read on from any place as if they had never been left."""

import json
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.sources.record_errors import MalformedRecord, Reading
from data_prep.sources.records import Fields
from data_prep.sources.shards import LocalShard
from data_prep.sources.splits import Split, concatenated, mix, split_of_files
from data_prep.sources.table import open_corpus
from settings.checks import ConfigError
from settings.data_sections import DataSection
from settings.wording import all_count_is, count_is, format_bytes, format_count


def files(folder, *contents) -> Split:
    paths = [folder / f"{index}.jsonl" for index in range(len(contents))]
    for path, texts in zip(paths, contents, strict=True):
        path.write_text("".join((json.dumps({"text": text}) if text else "bad") + "\n" for text in texts))
    return split_of_files([LocalShard.of(path) for path in paths], Fields("text", None, "paragraph"), 1.0)


def sequence(letter: str, lengths) -> Split:
    def read_from(place, reading):
        for index in range(place or 0, len(lengths)):
            reading.document()
            yield {"text": letter * lengths[index]}, index + 1

    return Split(read_from, {"of": letter})


TEXTS = st.lists(st.lists(st.one_of(st.none(), st.text("ab", min_size=1)), max_size=6), min_size=1, max_size=4)
LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=40)


def continues(split: Split, stop: int):
    """Reading, stopping after `stop` documents and going on elsewhere gives what one reading gives."""
    whole = list(split)
    reading, place = Reading(1.0), None
    for _, after in islice(split.read_from(None, reading), stop):
        place = json.loads(json.dumps(after))  # as a journal keeps it
    rest = [document for document, _ in split.read_from(place, Reading(1.0, **reading.counts()))]
    assert rest == whole[min(stop, len(whole)) :]


@given(TEXTS, st.integers(0, 25), st.integers(0, 5), st.one_of(st.none(), st.integers(5, 9)))
def test_files_and_cuts_continue(tmp_path_factory, contents, stop, first, last):
    split = files(tmp_path_factory.mktemp("files"), *contents)
    texts = [text for content in contents for text in content if text]
    assert [document["text"] for document in split] == texts
    continues(split, stop)
    cut = split.cut(first, last)
    assert [document["text"] for document in cut] == texts[first:last]
    continues(cut, stop)
    continues(concatenated({"one": cut, "two": split}), stop)


@given(LENGTHS, LENGTHS, st.integers(1, 5), st.integers(1, 5), st.integers(0, 60))
def test_mixtures_keep_their_shares_and_continue(first, second, weight, other, stop):
    weights = {"a": float(weight), "b": float(other)}
    split = mix({"a": sequence("a", first), "b": sequence("b", second)}, weights)
    sizes = {"a": 0, "b": 0}
    for document in split:
        sizes[document["group"]] += len(document["text"])
        assert abs(sizes["a"] * other - sizes["b"] * weight) <= 50 * max(weight, other)
    counts = [sum(document["group"] == name for document in split) for name in "ab"]
    assert counts[0] == len(first) or counts[1] == len(second)
    continues(split, stop)


def test_a_limit_asks_for_nothing_beyond_it(tmp_path):
    split = files(tmp_path, ["a", "b"], ["c"])
    (tmp_path / "1.jsonl").unlink()
    cut = split.cut(0, 2)
    assert len(list(cut)) == 2
    *_, (_, end) = cut.read_from(None, Reading(1.0))
    assert cut.more(end)  # a file that is not there any more, or damaged, does not matter
    assert not split.cut(0, 3).more(end)


def test_a_file_that_changes_is_never_read_silently(tmp_path):
    split = files(tmp_path, ["a", "b"])
    (tmp_path / "0.jsonl").write_text('{"text": "another"}\n')
    with pytest.raises(ConfigError, match="has changed since the corpus was opened"):
        list(split)
    split = files(tmp_path, ["a"] * 3)
    documents = iter(split)
    next(documents)
    with (tmp_path / "0.jsonl").open("a") as file:
        file.write('{"text": "more"}\n')
    with pytest.raises(ConfigError, match="has changed since the corpus was opened"):
        list(documents)


def test_a_mixture_of_sources(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"text": "' + "x" * 500 + '"}\n' + '{"text": "y"}\n' * 300)
    (tmp_path / "validation.jsonl").write_text('{"text": "held out"}\n' * 3)
    data = DataSection(mixture={str(tmp_path): 1.0, "fables": 3.0}, train_documents=40, validation_documents=2)
    train, validation = map(list, open_corpus(data))
    assert data.origin == f"1 {tmp_path.name} + 3 fables"
    assert len(train) == 40
    sizes = {name: sum(len(d["text"]) for d in train if d["group"] == name) for name in (tmp_path.name, "fables")}
    assert sizes["fables"] == pytest.approx(3 * sizes[tmp_path.name], abs=3000)
    assert [document["group"] for document in validation] == [tmp_path.name] * 2 + ["fables"] * 2


def test_one_of_something_is_said_as_one():
    assert [format_count(count, "document") for count in (0, 1, 1000)] == [
        "0 documents",
        "1 document",
        "1,000 documents",
    ]
    assert [count_is(count, "document") for count in (0, 1, 2)] == [
        "0 documents are",
        "1 document is",
        "2 documents are",
    ]
    assert [all_count_is(count, "record") for count in (1, 2)] == ["the only record is", "all 2 records are"]
    sizes = (0, 1, 999, 1000, 52_340, 1_500_000, 2.2e9)
    said = ["0 bytes", "1 byte", "999 bytes", "1.0 kB", "52.3 kB", "1.5 MB", "2.2 GB"]
    assert [format_bytes(size) for size in sizes] == said
    reading = Reading(1.0)
    reading.fault(MalformedRecord("a.jsonl", 1, 0, "invalid JSON"))
    assert str(reading).startswith("1 of 1 record is malformed (")
