"""Documents arrive whole from every kind of file, and validation never comes from training."""

import gzip
import json
import math
import runpy
import sys
from itertools import islice

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from data_prep.sources.table import SOURCES, find_source, open_corpus, uniform_integers
from settings.checks import ConfigError
from settings.data_sections import DataSection

TEXTS = [f"story {i} with \u2028 and \u0085 and a\nline" for i in range(8)]


def json_lines(texts) -> bytes:
    return "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts).encode()


WRITERS = {
    "corpus.jsonl": lambda path: path.write_bytes(json_lines(TEXTS)),
    "corpus.json.gz": lambda path: path.write_bytes(gzip.compress(json_lines(TEXTS))),
    "corpus.jsonl.zst": lambda path: path.write_bytes(
        b"".join(zstandard.compress(json_lines(part)) for part in (TEXTS[:3], TEXTS[3:]))
    ),
    "corpus.parquet": lambda path: pyarrow.parquet.write_table(pyarrow.table({"text": TEXTS}), path),
}


def texts_of(split) -> list[str]:
    return [document["text"] for document in split]


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_gives_the_same_documents(tmp_path, name):
    WRITERS[name](tmp_path / name)
    train, validation = open_corpus(DataSection(source=str(tmp_path / name), validation_documents=3))
    assert texts_of(validation) == TEXTS[:3]
    assert texts_of(train) == texts_of(train) == TEXTS[3:]


def test_plain_text_is_cut_as_asked(tmp_path):
    (tmp_path / "play.txt").write_text("First:\nSpeak.\n\nAll:\nSpeak, speak.\n\nFirst:\nYou are all resolved?\n")
    source = str(tmp_path / "play.txt")
    for sample_by, count in {"paragraph": 3, "line": 6, "document": 1, "All:": 2}.items():
        train, validation = open_corpus(
            DataSection(source=source, validation_source=source, sample_by=sample_by, validation_documents=None)
        )
        assert len(texts_of(train)) == count
        assert texts_of(train) == texts_of(validation)


def test_a_folders_file_names_tell_the_splits(tmp_path):
    (tmp_path / "train.jsonl").write_bytes(json_lines(TEXTS[:6]))
    (tmp_path / "validation.jsonl").write_bytes(json_lines(TEXTS[6:]))
    train, validation = open_corpus(DataSection(source=str(tmp_path), train_documents=4))
    assert texts_of(train) == TEXTS[:4]
    assert texts_of(validation) == TEXTS[6:]


def test_a_folder_is_read_whole_and_nothing_else(tmp_path):
    for name in ("b.jsonl", "test_drive.jsonl", "deep/c.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(json_lines([name]))
    (tmp_path / "README.md").write_text("not a document")
    (tmp_path / "dev.jsonl").write_bytes(json_lines(["held out"]))
    train, validation = open_corpus(DataSection(source=str(tmp_path)))
    assert sorted(texts_of(train)) == ["b.jsonl", "deep/c.jsonl"]
    assert texts_of(validation) == ["held out"]


def test_another_column_is_other_data(tmp_path):
    (tmp_path / "corpus.jsonl").write_text('{"text": "a", "content": "b"}\n')
    data = [DataSection(source=str(tmp_path), text_field=field) for field in ("text", "content")]
    assert open_corpus(data[0])[0].identity != open_corpus(data[1])[0].identity


def test_held_out_documents_are_not_trained_on(tmp_path):
    (tmp_path / "corpus.jsonl").write_bytes(json_lines(TEXTS))
    data = DataSection(source=str(tmp_path / "corpus.jsonl"), validation_documents=2, train_documents=3)
    train, validation = open_corpus(data)
    assert texts_of(validation) == TEXTS[:2]
    assert texts_of(train) == TEXTS[2:5]


def test_a_validation_source_of_its_own(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(json_lines(TEXTS[:5]))
    (tmp_path / "b.jsonl").write_bytes(json_lines(TEXTS[5:]))
    data = DataSection(source=str(tmp_path / "a.jsonl"), validation_source=str(tmp_path / "b.jsonl"))
    train, validation = open_corpus(data)
    assert texts_of(train) == TEXTS[:5]
    assert texts_of(validation) == TEXTS[5:]


def test_prompts_and_completions(tmp_path):
    row = {"prompt": "2 + 2 =", "completion": " 4", "note": "easy"}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(row) + "\n")
    train, _ = open_corpus(DataSection(source=str(tmp_path), validation_source=str(tmp_path)))
    assert list(train) == [{"prompt": "2 + 2 =", "completion": " 4"}]


def test_generated_sources_are_endless_and_their_splits_differ():
    train, validation = open_corpus(DataSection(source="fables", train_documents=20, validation_documents=20))
    assert len(set(texts_of(train)) | set(texts_of(validation))) == 40
    other, _ = open_corpus(DataSection(source="fables", train_documents=20, seed=1))
    assert not set(texts_of(train)) & set(texts_of(other))
    assert train.identity != other.identity
    assert len(list(islice(SOURCES["fables"].splits(DataSection())["train"], 3))) == 3


def test_uniform_integers_have_the_entropy_they_claim():
    text = uniform_integers("0", 0)
    counts = [text.split().count(str(digit)) for digit in range(8)]
    assert sum(counts) == 50_000
    spread = sum((count - 6_250) ** 2 / 6_250 for count in counts)
    assert spread < 24.3  # chi-squared of 7 degrees at p = 0.001
    assert SOURCES["uniform_integers"].floor("1 2 3") == 3 * math.log(8)


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("fable", "did you mean fables?"),
        ("corpora/missing.jsonl", "neither a known source nor an existing file"),
        ("./missing", "neither a known source nor an existing file"),
    ],
)
def test_unknown_sources_are_refused(source, complaint):
    with pytest.raises(ConfigError) as error:
        find_source(source)
    assert complaint in str(error.value)


def test_files_of_no_known_kind_are_refused(tmp_path):
    (tmp_path / "table.xlsx").write_bytes(b"?")
    with pytest.raises(ConfigError, match=r"holds table.xlsx; supported files are \.txt, "):
        open_corpus(DataSection(source=str(tmp_path / "table.xlsx")))


def test_it_is_said_which_of_two_sources_has_them(tmp_path):
    (tmp_path / "table.xlsx").write_bytes(b"?")
    with pytest.raises(ConfigError, match=r"table\.xlsx holds table\.xlsx; supported files are"):
        open_corpus(DataSection(source="fables", validation_source=str(tmp_path / "table.xlsx")))


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
def test_the_list_takes_no_words(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["sources.py", "nonsense"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("data_prep.sources", run_name="__main__")
    assert stop.value.code == 2
    assert "unrecognized arguments: nonsense" in capsys.readouterr().err


def test_another_column_is_read_if_named(tmp_path):
    (tmp_path / "corpus.jsonl").write_text('{"content": "a"}\n')
    data = DataSection(source=str(tmp_path), validation_source=str(tmp_path), text_field="content")
    assert texts_of(open_corpus(data)[0]) == ["a"]


def test_a_hub_id_without_network_is_one_sentence():
    with pytest.raises(
        ConfigError, match=r"someone/corpus cannot be read: .*check its name, your rights and your connection"
    ):
        open_corpus(DataSection(source="someone/corpus"))


@pytest.mark.parametrize(("folder", "train", "validation"), [("tinystories", 8539, 6456), ("c4", 900, 100)])
def test_real_samples(samples, folder, train, validation):
    splits = open_corpus(DataSection(source=str(samples / folder), validation_documents=None))
    assert [len(texts_of(split)) for split in splits] == [train, validation]


def test_tiny_shakespeare(samples):
    source = str(samples / "shakespeare" / "input.txt")
    data = DataSection(source=source, validation_source=source, sample_by="document", validation_documents=None)
    (text,) = texts_of(open_corpus(data)[0])
    assert len(text) == 1_115_394
