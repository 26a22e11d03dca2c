"""Which files of a folder are read, for what, and what is said of the others; nothing is left out in silence."""

import csv
import gzip
import io
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import datasets
import pytest

from data_prep.sources.record_errors import Reading
from data_prep.sources.table import find_source, open_corpus
from data_prep.tokens.prepare import prepare
from settings.checks import ConfigError
from settings.data_sections import DataSection, TokenizerSection


def write(folder: Path, *names: str):
    """JSON lines that hold their own name; text where the suffix asks for it."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"text": name}) + "\n" if ".json" in name.lower() else name)


def read(folder, **settings) -> tuple[list[str], list[str], str]:
    """The texts of both splits, and what is told."""
    splits = open_corpus(DataSection(source=str(folder), **settings))
    told = "\n".join(dict.fromkeys(note for split in splits for note in split.notes))
    return *([document["text"] for document in split] for split in splits), told


def refused(folder, **settings) -> str:
    with pytest.raises(ConfigError) as error:
        open_corpus(DataSection(source=str(folder), **settings))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def corpus(tmp_path):
    (tmp_path / "corpus").mkdir()
    return tmp_path / "corpus"


def test_links_are_followed_and_loops_told(corpus, tmp_path):
    write(tmp_path / "elsewhere", "a.jsonl", "deep/b.jsonl")
    write(corpus, "validation/c.jsonl")
    (corpus / "train").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "deep" / "again").symlink_to(corpus)
    write(tmp_path, "outside.jsonl")
    (corpus / "more.jsonl").symlink_to(tmp_path / "outside.jsonl")
    train, validation, told = read(corpus)
    assert (train, validation) == (["outside.jsonl", "a.jsonl", "deep/b.jsonl"], ["validation/c.jsonl"])
    assert told == (
        f"{corpus}: files read: 3 for training, 1 for validation; not read: train/deep/again (a link to a parent "
        "folder)"
    )


def test_links_that_lead_nowhere_are_refused(corpus):
    write(corpus, "validation.jsonl", "train.jsonl")
    for name in ("part.jsonl", "train"):
        (corpus / name).symlink_to("gone")
        assert f"{corpus / name} is a link to gone, which does not exist; fix or remove it" in refused(corpus)
        assert "is a link to gone" in refused(corpus / name)
        (corpus / name).unlink()
    (corpus / ".#lock.jsonl").symlink_to("nobody@nowhere")  # an editor's
    (corpus / "notes.doc").symlink_to("gone")
    assert read(corpus)[2].endswith("; not read: .#lock.jsonl (hidden), notes.doc (unsupported file type)")
    (corpus / "round.jsonl").symlink_to("round.jsonl")
    assert "is a link to round.jsonl, which does not exist" in refused(corpus)


@pytest.mark.parametrize("names", [["dev.jsonl"], ["dev.jsonl", "test.jsonl"], ["validation/a.jsonl", ".hidden.jsonl"]])
def test_validation_alone_is_not_trained_on(corpus, names):
    write(corpus, *names)
    assert "has validation files only, nothing to train on; give training texts as data.source, and" in refused(corpus)
    assert read(corpus / names[0], validation_documents=1)[1] == [names[0]]  # it is what was asked for


@pytest.mark.parametrize("how", ["link", "folder", "hard link", "copy"])
def test_validation_that_is_trained_on_is_refused(corpus, how):
    write(corpus, "train/a.jsonl")
    there, here = corpus / "train" / "a.jsonl", corpus / "validation" / "a.jsonl"
    if how == "folder":
        here.parent.symlink_to(there.parent)
    else:
        here.parent.mkdir()
        {"link": here.symlink_to, "hard link": here.hardlink_to, "copy": lambda path: shutil.copy(path, here)}[how](
            there
        )
    said = refused(corpus)
    assert f"{here} is for validation but has the same content as {there}, which is for training" in said
    if how == "folder":
        return
    write(corpus, "validation/b.jsonl")
    assert read(corpus)[:2] == (["train/a.jsonl"], ["train/a.jsonl", "validation/b.jsonl"])  # told with the numbers


def test_a_file_with_two_names_is_read_once(corpus):
    write(corpus, "a.jsonl")
    (corpus / "newest.jsonl").symlink_to("a.jsonl")
    (corpus / "links").symlink_to(".")
    train, _, told = read(corpus, validation_source="fables")
    assert train == ["a.jsonl"]
    assert "newest.jsonl (same file as a.jsonl)" in told


NAMES = {
    "train/val_of_x.jsonl": "train",
    "validation/train_station.jsonl": "validation",
    "training_data/validation/a.jsonl": "validation",
    "train_and_val/train.jsonl": "train",
    "c4-train.00000.jsonl": "train",
    "VALIDATION.JSONL": "validation",
    "Dev-Set/a.Jsonl.gz": "validation",
    "evaluation/a.jsonl": None,
    "train/test/a.jsonl": None,
    "contest.jsonl": "train",
}


@pytest.mark.parametrize("name", NAMES)
def test_names_tell_splits(corpus, name):
    write(corpus, "train/1.jsonl", "validation/1.jsonl", name)
    if name.endswith("gz"):
        (corpus / name).write_bytes(gzip.compress((corpus / name).read_bytes()))
    train, validation, told = read(corpus)
    for split, texts in (("train", train), ("validation", validation)):
        assert len(texts) == 1 + (split == NAMES[name])
    assert (f"not read: {name} (for testing)" in told) == (NAMES[name] is None)


@pytest.mark.parametrize("others", [["a.txt"], ["a.txt", "valid.txt"], ["train.txt"], ["train.txt", "valid.txt"]])
def test_tests_are_not_trained_on(corpus, others):
    write(corpus, "test.txt")
    assert read(corpus, validation_source="fables")[0] == ["test.txt"]  # nothing else could be meant
    write(corpus, *others)
    train, _, told = read(corpus, validation_source="fables")
    assert train == others[:1]
    assert "not read: test.txt (for testing)" in told


@pytest.mark.parametrize("name", ["training-validation.txt", "train_val/a.jsonl", "train.test.jsonl"])
def test_a_name_of_two_splits_is_refused(corpus, name):
    write(corpus, "a.jsonl", name)
    assert f"{name} has a name that matches two splits; rename it to match one" in refused(corpus)


def test_patterns_tell_splits_too(corpus):
    write(corpus, "train.jsonl", "deep/validation.jsonl", "run/metrics.jsonl", "notes.mdx", "README.md")
    write(corpus / "run", "experiment.yaml", "provenance.json")
    train, validation, told = read(corpus / "**" / "*.json*")
    assert (train, validation) == (["train.jsonl"], ["deep/validation.jsonl"])
    assert "not read: run/metrics.jsonl, run/provenance.json (in a run)" in told
    assert read(corpus / "deep" / "val*", validation_documents=1)[1] == ["deep/validation.jsonl"]
    assert "holds notes.mdx; supported files are .txt, " in refused(corpus / "*.mdx")
    assert read(corpus / "*.md", validation_documents=1)[1] == ["README.md"]  # it was asked for


def test_what_is_hidden_is_not_read(corpus):
    write(corpus, "a.txt", ".ipynb_checkpoints/a-checkpoint.txt", "deep/.b.txt", "._a.txt")
    train, _, told = read(corpus, validation_source="fables")
    assert train == ["a.txt"]
    assert "files read: 1 for training; not read: ._a.txt, .ipynb_checkpoints, deep/.b.txt (hidden)" in told
    (corpus / "a.txt").unlink()
    assert "holds no files that can be read: ._a.txt, .ipynb_checkpoints, deep/.b.txt (hidden); supported" in refused(
        corpus
    )
    assert read(corpus / "._a.txt", validation_documents=1)[1] == ["._a.txt"]  # it was asked for


def test_what_kindling_keeps_is_not_read(corpus):
    """So a run, and tokens, may lie in the folder that they come from."""
    write(corpus, *(f"{i}.txt" for i in range(9)))
    data = DataSection(source=str(corpus), validation_documents=2, cache_dir=str(corpus / "cache"))
    section = TokenizerSection(kind="characters")
    folder = prepare(data, section).folder
    write(corpus, "run/experiment.yaml", "run/provenance.json", "run/metrics.jsonl", "words/tokenizer.json")
    assert prepare(data, section).folder == folder
    other = replace(data, cache_dir=str(corpus.parent / "cache"))
    for found in (data, other):
        told = read(corpus, cache_dir=found.cache_dir)[2]
        assert "run (a run), words (a tokenizer)" in told
    assert prepare(other, section).info == prepare(data, section).info
    assert "run is a run folder, not a folder of texts; give texts, and this as model.path" in refused(corpus / "run")


def test_what_sweeps_keep_is_not_read(corpus):
    write(corpus, "a.jsonl", "b.json", "b.log", "sweep/seed=0.1.log", "report/cells.json", "report/table.md")
    (corpus / "sweep" / "seed=0.1.json").write_text('{"config_sha256": "0"}')
    train, _, told = read(corpus, validation_source="fables")
    assert train == ["a.jsonl", "b.json"]
    assert "report (a report), sweep/seed=0.1.json (of a sweep)" in told


def test_what_is_of_another_kind_is_told(corpus):
    write(corpus, "a.txt", *(f"{i}.doc" for i in range(5)), "LICENSE", "Makefile.bak")
    os.mkfifo(corpus / "pipe")
    os.mkfifo(corpus / "pipe.jsonl")
    assert "pipe.jsonl is a pipe or a device, not a file; write its contents to a file" in refused(corpus)
    assert "pipe is a pipe or a device, not a file" in refused(corpus / "pipe")
    (corpus / "pipe.jsonl").unlink()
    told = read(corpus, validation_source="fables")[2]
    assert "files read: 1 for training; not read: 0.doc, 1.doc, 2.doc and 5 more (unsupported file type)" in told
    write(corpus, "dataset_infos.json")
    assert (
        "0.doc, 1.doc, 2.doc and 5 more (unsupported file type), dataset_infos.json (data set metadata)"
        in read(corpus)[2]
    )
    (corpus / "dataset_infos.json").unlink()
    (corpus / "a.txt").unlink()
    assert "and 5 more (unsupported file type); supported files are .txt, .text, .md" in refused(corpus)
    assert "rename plain text of another name to end in .txt" in refused(corpus)


def test_plain_text_is_read_whatever_it_is_called(corpus):
    names = ["a.txt", "b.md", "c.MARKDOWN", "d.text", "e.rst"]
    write(corpus, *names, "README.md", "deep/Readme.rst", "readme.txt", "README", "f.csv")
    (corpus / "g.md.gz").write_bytes(gzip.compress(b"g.md.gz"))
    train, _, told = read(corpus, validation_source="fables")
    assert train == [*names, "g.md.gz"]
    assert (
        "6 for training; not read: README (unsupported file type), README.md, deep/Readme.rst, readme.txt (data set m"
        in told
    )
    write(corpus.parent / "notes", "train.md", "val.md")
    assert read(corpus.parent / "notes")[:2] == (["train.md"], ["val.md"])


def test_a_folder_is_never_looked_for_on_the_hub(corpus, monkeypatch):
    monkeypatch.chdir(corpus)
    (corpus / "someone" / "corpus").mkdir(parents=True)
    assert "someone/corpus holds no files that can be read; supported files are" in refused("someone/corpus")
    write(corpus, "fables/a.txt")
    assert type(find_source("./fables")).__name__ == "LocalFiles"
    told = open_corpus(DataSection(source="fables", train_documents=2))[0].notes
    assert told == ("fables is read as the source of that name; for the folder give ./fables",)


def test_what_may_not_be_read_is_said_before_any_work(corpus, monkeypatch):
    write(corpus, "a.txt", "deep/b.txt")
    monkeypatch.setattr("os.access", lambda path, _: Path(path).name != "b.txt")  # root may read everything
    assert "b.txt cannot be read: Permission denied; allow it, or remove it" in refused(corpus)
    monkeypatch.undo()
    look = Path.iterdir

    def forbidden(path):
        if path.name == "deep":
            raise PermissionError(13, "Permission denied")
        return look(path)

    monkeypatch.setattr(Path, "iterdir", forbidden)
    assert "deep cannot be read: Permission denied; allow it, or remove it" in refused(corpus)


def test_names_may_be_any_bytes(corpus, tmp_path):
    name = os.fsdecode(b"caf\xe9.jsonl")
    (corpus / name).write_text('{"text": "a"}\n' * 20 + "bad\n")
    (corpus / name.replace("jsonl", "doc")).touch()
    data = DataSection(
        source=str(corpus), validation_documents=2, bad_records=0.1, cache_dir=str(tmp_path / "prepared")
    )
    prepared = prepare(data, TokenizerSection(kind="characters"))
    assert prepared.info["train"].documents == 18
    assert "caf\\udce9.jsonl" in (prepared.folder / "train" / "quarantine.jsonl").read_text()
    assert "not read: caf\\udce9.doc (unsupported file type)" in read(corpus)[2]


def test_another_validation_source_is_told(corpus):
    write(corpus, "train.txt", "validation.txt")
    assert (
        "its own validation split is not used, because data.validation_source is given"
        in read(corpus, validation_source="fables", validation_documents=2)[2]
    )


ROWS = [
    "id,text", '1,"a ""quoted"", text\nof two lines"', "2,b", "3", "4,caf\xe9", "5,", "", '6,"end"x', "7,last", '8,"cut'
]  # fmt: skip


@pytest.mark.parametrize("compression", ["", ".gz"])
def test_csv_is_read_row_by_row(corpus, compression):
    rows = b"\xef\xbb\xbf" + "\r\n".join(ROWS).encode("latin-1")
    (corpus / f"a.csv{compression}").write_bytes(gzip.compress(rows) if compression else rows)
    (corpus / "b.TSV").write_text("text\tid\nwith, comma\t1\n")
    (corpus / "about.csv").write_text("file,speaker\na,b\n")
    settings = {"bad_records": 0.9, "validation_source": "fables"}
    train, _, told = read(corpus, **settings)
    assert train == ['a "quoted", text\nof two lines', "b", "last", "with, comma"]
    assert "files read: 2 for training; not read: about.csv (without a column text)" in told
    assert read(corpus, text_field="speaker", **settings)[0] == ["b"]
    reading = Reading(1.0)
    split, _ = open_corpus(DataSection(source=str(corpus / f"a.csv{compression}"), validation_source="fables"))
    assert len(list(split.read_from(None, reading))) == 3
    assert (reading.records, reading.empty) == (8, 1)
    assert reading.reasons == {
        "wrong number of fields": 1, "invalid UTF-8": 1, "invalid CSV": 2
    }  # fmt: skip
    (corpus / "a.csv").write_text("id,speaker\n1,b\n")
    with pytest.raises(ConfigError, match=r"a\.csv has no column text; there are id, speaker"):
        read(corpus / "a.csv", validation_documents=1)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.csv.gz"])
@pytest.mark.parametrize("head", ["id,text", "text,id", '"text","id"', "prompt,completion", "text"])
def test_csv_may_have_other_delimiters(corpus, name, delimiter, head):
    """As Excel writes a semicolon where numbers have a comma."""
    columns = head.replace('"', "").split(",")
    values = dict(zip(columns, ["1,5 ; 2|3\t4", 'with "quotes"\r\nand a line'], strict=False))
    table = io.StringIO(newline="")
    writer = csv.writer(table, delimiter=delimiter)
    writer.writerow(values.values())
    rows = "\ufeff" + head.replace(",", delimiter) + "\r\n" + table.getvalue() * 2
    (corpus / name).write_bytes(gzip.compress(rows.encode()) if name.endswith("gz") else rows.encode())
    for source in (corpus, corpus / name):
        train, _ = open_corpus(DataSection(source=str(source), validation_source="fables"))
        first, second = train
        assert first == second == {key: value for key, value in values.items() if key != "id"}


def test_a_column_that_no_delimiter_gives_is_named(corpus):
    (corpus / "a.csv").write_text("id;texte\n1;a, b\n")
    with pytest.raises(ConfigError, match=r"a\.csv has no column text; there are id, texte"):
        read(corpus / "a.csv", validation_documents=1)
    assert "a.csv (without a column text)" in refused(corpus)
    assert read(corpus, text_field="texte", validation_source="fables")[0] == ["a, b"]


@pytest.mark.parametrize(("last", "lost"), [("", 500), ('a quote", and more\n', 501)])
def test_rows_that_a_quote_takes_in_are_counted(corpus, last, lost):
    rows = [f"row {i}\n" for i in range(1000)]
    rows[500] = '"an open quote\n'
    (corpus / "a.csv").write_text("text\n" + "".join(rows) + last)
    split, _ = open_corpus(DataSection(source=str(corpus / "a.csv"), validation_source="fables"))
    reading = Reading(1.0)
    assert len(list(split.read_from(None, reading))) == 500
    assert (reading.records, reading.faults) == (500 + lost, lost)
    assert len(list(split.read_from((0, 700), Reading(1.0)))) == 0
    with pytest.raises(ConfigError, match=r"500 of 1,000 records are malformed"):
        list(split)


@pytest.mark.parametrize("form", ["one", "splits"])
def test_a_saved_data_set_is_what_datasets_makes_of_it(corpus, form):
    made = datasets.Dataset.from_dict({"text": [f"text {i} \u2028\n" for i in range(2500)], "n": [*range(2500)]})
    if form == "one":
        made.filter(lambda row: row["n"] % 2, keep_in_memory=True).save_to_disk(corpus / "saved", num_shards=3)
        expected = {"train": datasets.load_from_disk(corpus / "saved")}
    else:
        parts = {"train": made.select(range(2000)), "validation": made.select(range(2000, 2500))}
        datasets.DatasetDict(parts).save_to_disk(corpus / "saved", num_shards={"train": 2, "validation": 1})
        expected = datasets.load_from_disk(corpus / "saved")
    (shard, *_) = sorted((corpus / "saved").rglob("data-00000*.arrow"))
    shutil.copy(shard, shard.with_name("cache-123.arrow"))  # as `map` leaves behind
    train, validation, told = read(corpus / "saved", validation_documents=None)
    both = validation + train if form == "one" else train
    assert both == expected["train"]["text"][:]
    if form == "splits":
        assert validation == expected["validation"]["text"][:]
    assert "cache-123.arrow (not part of the saved data set)" in told
    split = open_corpus(DataSection(source=str(corpus / "saved"), validation_source="fables"))[0]
    shard.write_bytes(shard.read_bytes()[:-5000])
    with pytest.raises(ConfigError, match=r"data-00000.*\.arrow (is damaged after record|has changed)"):
        list(split)
    with pytest.raises(ConfigError, match=r"\.arrow is damaged after record"):
        read(shard, validation_documents=None)
    shard.unlink()
    assert f"is a saved data set without its {shard.name}; save it again" in refused(corpus / "saved")


STORIES = [f"Once there was story {i}.\n\nIt went on, and it ended." for i in range(6)]
MARKED = {
    "tinystories": "\n<|endoftext|>\n",
    "windows": "\r\n<|endoftext|>\r\n",
    "end of the line": "<|endoftext|>\n",
    "begin of the line": "\n<|endoftext|>",
    "a closing quote": "\u201d<|endoftext|>\n",
}


@pytest.mark.parametrize("form", MARKED)
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_documents_end_at_their_mark(corpus, form, compress):
    path = corpus / ("a.txt" if compress is bytes else "a.txt.gz")
    path.write_bytes(compress("".join(story + MARKED[form] for story in STORIES).encode()))
    train, validation, told = read(path, validation_documents=2)
    assert [text.rstrip("\u201d") for text in validation + train] == STORIES
    assert told.startswith(f"{path}: documents of text end at <|endoftext|>, as in {path.name}; give data.sample_by to")
    asked = read(path, validation_documents=2, sample_by="paragraph")
    assert len(asked[0] + asked[1]) > len(STORIES)
    assert asked[2] == ""


def test_the_mark_counts_for_all_files_of_a_source(corpus):
    (corpus / "train.txt").write_text("\n<|endoftext|>\n".join(STORIES))
    (corpus / "validation.txt").write_text(STORIES[0].replace("0", "9"))
    assert read(corpus)[:2] == (STORIES, [STORIES[0].replace("0", "9")])


@pytest.mark.parametrize(
    "text", ["GPT-2 ends texts with `<|endoftext|>`.", "The token <|endoftext|>\nis one.", "a <|endoftext|> b"]
)
def test_a_text_about_the_mark_is_a_text(corpus, text):
    (corpus / "a.txt").write_text(text)
    train, _, told = read(corpus / "a.txt", validation_source="fables", validation_documents=1)
    assert train == [text]
    assert "<|endoftext|> within lines of a.txt is read as text; give data.sample_by='<|endoftext|>' if" in told


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.parquet", "a.csv"])
def test_a_pointer_in_the_place_of_a_file_is_no_text(corpus, name):
    (corpus / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:12ab\nsize 12345\n")
    with pytest.raises(ConfigError, match=r"is a Git LFS pointer, not the file itself; run `git lfs pull`"):
        read(corpus / name, validation_documents=1)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_files_in_another_encoding_are_named(corpus, encoding):
    called = encoding[:6].upper()
    for name in ("a.txt", "a.jsonl", "a.csv", "a.md"):
        (corpus / name).write_text('\ufeff{"text": "a"}', encoding=encoding)
        with pytest.raises(
            ConfigError, match=f"{name} is encoded as {called}, by its byte order mark; save it as UTF-8"
        ):
            read(corpus / name, validation_documents=1)
