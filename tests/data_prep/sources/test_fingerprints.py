"""A corpus is what its files hold: not where they lie, what they are called, or when they were written."""

import os
import shutil
from dataclasses import replace

import pytest

from data_prep.sources import fingerprints
from data_prep.sources.fingerprints import CONTENTS, SAMPLE_BYTES, Contents, TrainedData, sampled_hash
from data_prep.sources.shards import LocalShard
from data_prep.sources.table import open_corpus
from data_prep.tokens.prepare import prepare
from settings.checks import ConfigError
from settings.data_sections import DataSection, TokenizerSection

CHARACTERS = TokenizerSection(kind="characters")
PLACE = SAMPLE_BYTES + 100
"""Of a byte that no sample has."""


@pytest.fixture
def corpus(tmp_path):
    """A folder of a file that is not sampled whole, and a small one; and what is to be read of it."""
    (tmp_path / "corpus" / "deep").mkdir(parents=True)
    lines = [f"line {number:06}{'.' * 988}\n" for number in range(6 * SAMPLE_BYTES // 1000)]
    (tmp_path / "corpus" / "deep" / "long.txt").write_text("".join(lines))
    (tmp_path / "corpus" / "short.txt").write_text("one\ntwo\n")
    return data_of(tmp_path / "corpus", tmp_path)


def data_of(source, tmp_path):
    return DataSection(
        source=str(source), sample_by="line", validation_documents=5, cache_dir=str(tmp_path / "prepared")
    )


def write_in_place(path, place: int, text: bytes):
    """Over what is there; as long as before, and written when it was."""
    known = path.stat()
    with path.open("r+b") as file:
        file.seek(place)
        file.write(text)
    os.utime(path, ns=(known.st_atime_ns, known.st_mtime_ns))


@pytest.mark.parametrize("size", [0, 1, SAMPLE_BYTES, 3 * SAMPLE_BYTES, 3 * SAMPLE_BYTES + 1, 9 * SAMPLE_BYTES])
def test_samples_are_of_the_beginning_the_middle_and_the_end(tmp_path, size):
    path = tmp_path / "file"
    path.write_bytes(b"a" * size)
    known, seen = sampled_hash(path), set()
    for place in {0, size // 2, size - 1} if size else ():
        write_in_place(path, place, b"b")
        seen.add(sampled_hash(path))
        write_in_place(path, place, b"a")
    assert sampled_hash(path) == known
    assert len({known, *seen}) == 1 + min(3, size)
    path.write_bytes(b"a" * (size + 1))
    assert sampled_hash(path) != known


@pytest.mark.parametrize("change", ["touched", "moved", "copied", "linked", "by another path"])
def test_the_same_content_is_the_same_corpus(corpus, tmp_path, monkeypatch, change):
    made, source = prepare(corpus, CHARACTERS).folder, tmp_path / "corpus"
    if change == "touched":
        for path in source.rglob("*.txt"):
            os.utime(path)
    elif change == "moved":
        source = shutil.move(source, tmp_path / "elsewhere")
    elif change == "copied":
        source = shutil.copytree(source, tmp_path / "z" / "copy")
    elif change == "linked":
        (tmp_path / "link").symlink_to(source)
        source = tmp_path / "link"
    else:
        monkeypatch.chdir(tmp_path)
        source = "corpus"
    assert prepare(data_of(source, tmp_path), CHARACTERS).folder == made


@pytest.mark.parametrize("sure", [True, False])
def test_another_content_is_another_corpus_though_size_time_and_samples_are_the_same(
    corpus, tmp_path, monkeypatch, sure
):
    """Also where the file's status is remembered; put back, it is what it was."""
    monkeypatch.setattr(fingerprints, "SETTLED_NANOSECONDS", 0 if sure else 10**18)
    path = tmp_path / "corpus" / "deep" / "long.txt"
    made, known = prepare(corpus, CHARACTERS), LocalShard.of(path)
    assert (made.folder / fingerprints.HASH_CACHE).exists() == sure
    before = path.read_bytes()[PLACE : PLACE + 1]
    write_in_place(path, PLACE, b"!")
    assert LocalShard.of(path) == known
    other = prepare(corpus, CHARACTERS)
    assert other.folder != made.folder
    assert "!" in other.tokenizer.get_vocab()
    assert "!" not in made.tokenizer.get_vocab()
    assert prepare(corpus, CHARACTERS).folder == other.folder
    write_in_place(path, PLACE, before)
    assert prepare(corpus, CHARACTERS).folder == made.folder


def test_what_was_not_read_is_not_looked_at(corpus, tmp_path):
    (tmp_path / "corpus" / "z.txt").write_text("a" * 9 * SAMPLE_BYTES)
    corpus = DataSection(**vars(corpus) | {"train_documents": 20})
    made = prepare(corpus, CHARACTERS)
    write_in_place(tmp_path / "corpus" / "z.txt", PLACE, b"!")
    assert prepare(corpus, CHARACTERS).folder == made.folder
    assert made.identity(corpus)["files"].count(None) == 4  # of each split, two


def test_a_file_is_read_again_only_if_it_was_written_to(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprints, "SETTLED_NANOSECONDS", 0)
    path, read = tmp_path / "file", []
    path.write_text("some text")
    monkeypatch.setattr(fingerprints.xxhash, "xxh3_128", lambda *_: read.append(1) or fingerprints.xxhash.xxh3_64())
    known = Contents()
    first = known.of(path)
    assert known.of(path) == first
    known.save(tmp_path, [path])
    another = Contents()
    another.load(tmp_path)
    assert another.of(path) == first
    assert len(read) == 1
    write_in_place(path, 0, b"S")
    assert another.of(path) != first
    assert len(read) == 2


def test_a_note_that_cannot_be_read_is_passed_over(tmp_path):
    (tmp_path / fingerprints.HASH_CACHE).write_text("{")
    CONTENTS.load(tmp_path)
    CONTENTS.load(tmp_path / "nowhere")


def test_files_are_read_in_the_order_of_their_names_in_the_folder(tmp_path):
    for root in ("a", "z/y"):
        for name in ("b.txt", "a/z.txt", "a.txt", "c/d.txt", "Z.txt"):
            (tmp_path / root / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / root / name).write_text(name)
    one, other = (
        [document["text"] for document in open_corpus(DataSection(source=str(source), validation_documents=1))[0]]
        for source in (tmp_path / "a", tmp_path / "z" / "y")
    )
    assert one == other
    assert len(one) == 4


def test_what_has_changed_is_named(tmp_path):
    paths = [tmp_path / f"{number}.txt" for number in range(6)]
    for path in paths:
        path.write_text(path.name)
    shards = [LocalShard.of(path) for path in paths]
    files = [fingerprints.short_hash(shard.content) for shard in shards]

    def said(shards, files, origin="corpus"):
        with pytest.raises(ConfigError) as error:
            TrainedData("runs/a/checkpoint-5", "corpus", "", "corpus-bpe-1", files).check_unchanged(
                shards, origin, tmp_path
            )
        return str(error.value)

    others = [LocalShard.of(paths[1]), *shards[1:]]
    for known, there in ((files, shards), ([], shards), ([None, *files[1:]], others)):
        TrainedData("", "corpus", "", "", known).check_unchanged(there, "elsewhere", tmp_path)
    assert f"holds now: {paths[0]} has changed; restore it" in said(shards, ["x", *files[1:]])
    assert f"{paths[0]}, {paths[1]}, {paths[2]} and 3 more have changed" in said(shards, ["x"] * 6)
    assert "it has more files" in said(shards, files[1:])
    assert "it has fewer files" in said(shards[1:], files)
    assert f"than fables holds now: it was corpus, and {paths[0]}, " in said(shards, ["x"] * 6, "fables")
    (tmp_path / "corpus-bpe-1" / "tokenizer").mkdir(parents=True)
    tokens = tmp_path / "corpus-bpe-1"
    assert f"restore it, give data.source={tokens}, which has its tokens, or choose" in said(shards, ["x"] * 6)


def test_a_tokenizer_and_the_parts_of_a_mixture_may_lie_elsewhere(corpus, tmp_path):
    learnt = prepare(corpus, CHARACTERS).folder / "tokenizer"
    for place in ("here", "there"):
        shutil.copytree(tmp_path / "corpus", tmp_path / place / "corpus")
        shutil.copytree(learnt, tmp_path / place / "tokenizer")
    made = [
        prepare(
            replace(corpus, mixture={str(tmp_path / place / "corpus"): 2, "fables": 1}, train_documents=30),
            TokenizerSection(kind="pretrained", path=str(tmp_path / place / "tokenizer")),
        )
        for place in ("here", "there")
    ]
    assert made[0].folder == made[1].folder


def test_a_prepared_folder_takes_its_tokenizer_by_any_path(corpus, tmp_path):
    """As `model.path` gives it; another one is refused."""
    made = prepare(corpus, CHARACTERS)
    copy = shutil.copytree(made.folder / "tokenizer", tmp_path / "copy")
    data = DataSection(source=str(made.folder))
    assert prepare(data, TokenizerSection(kind="pretrained", path=str(copy))).folder == made.folder
    other = prepare(replace(corpus, train_documents=20, sample_by="ine"), CHARACTERS).folder / "tokenizer"
    with pytest.raises(
        ConfigError, match=r"was prepared with another tokenizer than tokenizer.path=\S+; leave that out"
    ):
        prepare(data, TokenizerSection(kind="pretrained", path=str(other)))


def test_a_source_is_never_called_by_a_dot(tmp_path, monkeypatch):
    """Which says nothing in a card or in a message."""
    (tmp_path / "corpus" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to("corpus")
    monkeypatch.chdir(tmp_path / "corpus")
    sources = [".", "./", "deep/..", "..", str(tmp_path / "link"), "deep", "fables", "a/b"]
    called = ["corpus", "corpus", "corpus", tmp_path.name, "link", "deep", "fables", "a/b"]
    assert [DataSection(source=source).origin for source in sources] == called
    assert DataSection(mixture={".": 1.0, "fables": 2.0}).origin == "1 corpus + 2 fables"
