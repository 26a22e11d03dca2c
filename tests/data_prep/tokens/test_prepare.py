"""Prepared folders: made once, found again, gone on with after an interruption; nothing dropped, nothing twice."""

import errno
import hashlib
import json
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count
from pathlib import Path
from threading import Event
from time import sleep

import numpy as np
import pytest
import zstandard

from data_prep.sources.fingerprints import HASH_CACHE
from data_prep.tokenizer.build import train_characters, wrap
from data_prep.tokens import prepare as tokens
from data_prep.tokens import writer
from data_prep.tokens.prepare import prepare
from data_prep.tokens.prepared import SplitInfo
from settings.checks import ConfigError
from settings.data_sections import DataSection, TokenizerSection
from storage.arrays import TokenFile, save_array
from storage.files import is_disk_full


@pytest.fixture
def corpus(tmp_path):
    records = ({"text": f"document {i}", "kind": "odd" if i % 2 else "even"} for i in range(20))
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return DataSection(
        source=str(tmp_path / "corpus.jsonl"), validation_documents=5, cache_dir=str(tmp_path / "prepared")
    )


def test_prepared_once_and_found_again(corpus, tmp_path):
    section = TokenizerSection(kind="characters")
    prepared = prepare(corpus, section)
    assert (prepared.info["train"].documents, prepared.info["validation"].documents) == (15, 5)
    files = [path for path in prepared.folder.rglob("*") if path.is_file() and path.name != HASH_CACHE]
    before = {path: path.stat().st_mtime_ns for path in files}
    assert prepare(corpus, section).folder == prepared.folder
    assert {path: path.stat().st_mtime_ns for path in files} == before
    other = prepare(corpus, TokenizerSection(vocab_size=260))
    assert other.folder != prepared.folder
    (tmp_path / "corpus.jsonl").write_text('{"text": "changed"}\n' * 9)
    assert prepare(corpus, section).folder != prepared.folder


@pytest.mark.parametrize("source", [".", "../corpus", "../corpus/", "*.jsonl", "a b.jsonl"])
def test_a_prepared_folder_has_a_name_for_any_shell(tmp_path, monkeypatch, source):
    (tmp_path / "corpus").mkdir()
    monkeypatch.chdir(tmp_path / "corpus")
    Path("a b.jsonl").write_text('{"text": "a"}\n' * 20)
    data = DataSection(source=source, validation_documents=5, cache_dir=str(tmp_path / "prepared"))
    name, kind, _ = prepare(data, TokenizerSection(kind="characters")).folder.name.split("-")
    assert (name, kind) == ({"*.jsonl": "texts", "a b.jsonl": "a_b"}.get(source, "corpus"), "characters")


def test_what_another_process_prepares_is_waited_for(corpus, monkeypatch, tmp_path):
    waits, section = Event(), TokenizerSection(kind="characters")
    monkeypatch.setattr(tokens, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(tokens.time, "sleep", lambda seconds: (waits.set(), sleep(seconds)))
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(prepare, corpus, section, by_other_process=True)
        assert waits.wait(timeout=60)
        assert [path.name for path in (tmp_path / "prepared").glob("[!.]*")] == []
        assert not waiting.done()
        prepared = prepare(corpus, section)
        assert waiting.result(timeout=60).info == prepared.info


def test_a_failure_leaves_nothing_behind(corpus, tmp_path):
    with pytest.raises(ConfigError, match="validation_documents"):
        prepare(DataSection(**vars(corpus) | {"validation_documents": 50}), TokenizerSection(kind="characters"))
    assert [*tmp_path.iterdir()] == [tmp_path / "corpus.jsonl"]


REFUSED = [
    ("broken.jsonl.gz", b"\x1f\x8b\x08\x00 broken", {}, "broken.jsonl.gz is damaged after record 0"),
    ("broken.parquet", b"PAR1 broken", {}, "broken.parquet is damaged after record 0"),
    ("array.json", b'[\n{"text": "a"}\n]', {}, "begins with [, like a JSON array; write one object per line instead"),
    ("empty.jsonl", b"", {}, "the only record is empty; check data.source and data.text_field"),
    (
        "some.jsonl",
        b'{"text": "a"}\n' * 20,
        {"group_field": "meta"},
        "data.group_field=meta does not occur in the validation documents",
    ),
    (
        "pairs.jsonl",
        b'{"prompt": "a", "completion": "b"}\n' * 20,
        {},
        "on which data.layout=packed would put a loss; use data.layout=doc",
    ),
]


@pytest.mark.parametrize(("name", "written", "settings", "complaint"), REFUSED)
@pytest.mark.parametrize("kind", ["characters", "pretrained"])
def test_a_refused_source_leaves_nothing_behind(tmp_path, monkeypatch, kind, name, written, settings, complaint):
    learnt = wrap(train_characters(["abc"], 0))
    monkeypatch.setattr(tokens.tokenizers, "load_tokenizer", lambda _: learnt)
    section = TokenizerSection(kind=kind, path="somewhere" if kind == "pretrained" else None)
    (tmp_path / name).write_bytes(written)
    data = {"source": str(tmp_path / name), "validation_documents": 5, "cache_dir": str(tmp_path / "prepared" / "here")}
    with pytest.raises(ConfigError) as error:
        prepare(DataSection(**data | settings), section)
    assert complaint in str(error.value)
    assert [*tmp_path.iterdir()] == [tmp_path / name]


def test_what_the_first_documents_tell_is_said_before_a_vocabulary_is_learnt(corpus, monkeypatch):
    monkeypatch.setattr(tokens.tokenizers, "build_tokenizer", None)  # it is not come to
    with pytest.raises(
        ConfigError, match=r"data\.group_field=meta does not occur in the validation documents; leave it out"
    ):
        prepare(replace(corpus, group_field="meta"), TokenizerSection())


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("tokenizer.bpe._write", OSError(errno.ENOSPC, "No space left on device")),
        ("tokenizer.build.save", Exception("No space left on device (os error 28)")),
        ("tokens.prepare.write_json", OSError(errno.EDQUOT, "Disk quota exceeded")),
        ("tokens.writer.TokenFile.append", OSError(errno.ENOSPC, "No space left on device")),
        ("tokens.writer.save_array", OSError(errno.ENOSPC, "No space left on device")),
        ("tokens.writer.write_atomically", OSError(errno.EDQUOT, "Disk quota exceeded")),
    ],
)
def test_a_full_disk_is_one_sentence_and_the_same_command_goes_on(corpus, monkeypatch, where, error):
    def full(*_, **__):
        raise error

    section = TokenizerSection(vocab_size=300)
    with monkeypatch.context() as patched:
        patched.setattr(f"data_prep.{where}", full)
        with pytest.raises(ConfigError, match=r"has no room left \(.*\); make room") as told:
            prepare(corpus, section)
    assert (f"data.cache_dir={corpus.cache_dir}" in str(told.value)) == (where != "tokenizer.bpe._write")
    assert prepare(corpus, section).info["train"].documents == 15


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_every_writer_says_that_a_disk_is_full():
    with pytest.raises(OSError, match="No space left") as told:
        save_array(Path("/dev/full"), np.arange(100_000))
    assert is_disk_full(told.value)
    with pytest.raises(OSError, match="No space left") as told:
        TokenFile(Path("/dev/full"), "<u2").append(np.arange(100_000))
    assert is_disk_full(told.value)


def test_other_work_in_the_same_place_stays(corpus, tmp_path):
    prepared = prepare(corpus, TokenizerSection(kind="characters"))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match="held out"):
        prepare(replace(corpus, validation_documents=50), TokenizerSection(kind="characters"))
    assert sorted(tmp_path.rglob("*")) == before
    assert prepared.folder.is_dir()


def test_the_manifest_says_what_there_is(corpus):
    prepared = prepare(corpus, TokenizerSection(vocab_size=300))
    manifest = json.loads((prepared.folder / "manifest.json").read_text())
    tokenizer = (prepared.folder / "tokenizer" / "tokenizer.json").read_bytes()
    assert manifest["tokenizer"]["sha256"] == hashlib.sha256(tokenizer).hexdigest()
    train = manifest["splits"]["train"]
    (shard,) = train["shards"]
    assert shard["sha256"] == hashlib.sha256((prepared.folder / "train" / "00000.npy").read_bytes()).hexdigest()
    assert (train["documents"], train["quarantined"], train["in_validation_too"]) == (15, 0, 0)


def test_a_preparation_says_what_it_made(corpus, tmp_path):
    with (tmp_path / "corpus.jsonl").open("a") as file:
        file.write('{"text": ""}\nbad\n{"text": "document 1"}\n')
    lines = "\n".join(prepare(replace(corpus, bad_records=0.1), TokenizerSection(kind="characters")).describe())
    for words in (
        "16 documents",
        "skipped: 2 of 18 records (1 x empty, 1 x invalid JSON), see ",
        "skipped: 0 of 5 records",
        "1 training document is identical to one in validation",
    ):
        assert words in lines


@pytest.mark.parametrize(
    ("settings", "train", "validation"),
    [
        ({}, "15 documents", "5 documents"),
        ({"train_documents": 15}, "15 documents", "5 documents"),
        ({"train_documents": 14}, "14 of at least 15 documents (data.train_documents=14)", "5 documents"),
        ({"validation_documents": None}, "18 documents", "2 documents"),
        ({"own": True, "validation_documents": 20}, "20 documents", "20 documents"),
        ({"own": True}, "20 documents", "5 of at least 6 documents (data.validation_documents=5)"),
    ],
)
def test_a_limit_that_leaves_documents_out_is_said(corpus, settings, train, validation):
    """And no other: those that are held out are not left out."""
    if settings.pop("own", False):
        settings |= {"validation_source": corpus.source}
    prepared = prepare(replace(corpus, **settings), TokenizerSection(kind="characters", train_documents=10))
    assert prepared.documents("train") == train
    assert prepared.documents("validation") == validation
    lines = "\n".join(prepared.describe())
    assert f"train         {train}, " in lines
    assert f"validation    {validation}, " in lines
    assert re.search(r"learnt from 10 documents \(\d+ bytes\) of more \(tokenizer.train_documents=10\)", lines)


def test_an_endless_source_has_as_many_as_are_asked_for(tmp_path):
    data = DataSection(train_documents=4, validation_documents=2, cache_dir=str(tmp_path))
    assert prepare(data, TokenizerSection(kind="characters")).documents("train") == "4 documents"


def test_an_interrupted_preparation_goes_on(corpus, monkeypatch, tmp_path):
    monkeypatch.setattr(writer, "TOKENS_PER_SHARD", 40)
    monkeypatch.setattr(writer, "CHARACTERS_PER_BATCH", 20)
    section, corpus = TokenizerSection(kind="characters"), replace(corpus, group_field="kind")
    whole = prepare(replace(corpus, cache_dir=str(tmp_path / "whole")), section)
    with monkeypatch.context() as fault:
        fault.setattr(writer, "_hash", _killed_at_document(16))
        with pytest.raises(KeyboardInterrupt):
            prepare(corpus, section)
    (folder,) = (path for path in (tmp_path / "prepared").iterdir() if path.name != ".locks")
    assert not (folder / "manifest.json").exists()
    tokenizer = (folder / "tokenizer" / "tokenizer.json").stat().st_mtime_ns
    first = (folder / "train" / "00000.npy").stat().st_mtime_ns
    prepared = prepare(corpus, section)
    assert (folder / "tokenizer" / "tokenizer.json").stat().st_mtime_ns == tokenizer
    assert (folder / "train" / "00000.npy").stat().st_mtime_ns == first
    for path in whole.folder.rglob("*.npy"):
        assert (prepared.folder / path.relative_to(whole.folder)).read_bytes() == path.read_bytes()
    assert prepared.info == whole.info
    numbers = {name: [i for i in range(20) if i % 2 == (name == "odd")] for name in ("even", "odd")}
    for split, kept in (("validation", range(5)), ("train", range(5, 20))):
        texts = {name: [f"document {i}" for i in found if i in kept] for name, found in numbers.items()}
        assert prepared.info[split].groups == {
            name: {"documents": len(found), "text_bytes": sum(map(len, found))} for name, found in texts.items()
        }


def _killed_at_document(number: int):
    calls, hash_of = count(1), writer._hash

    def fail(parts):
        if next(calls) == number:
            raise KeyboardInterrupt
        return hash_of(parts)

    return fail


@pytest.mark.parametrize("layout", ["packed", "documents"])
def test_validation_alone_tells_its_groups_if_there_are_two(corpus, layout):
    for field, groups in ((None, {}), ("text", None), ("kind", None)):
        section = replace(corpus, group_field=field)
        prepared = prepare(section, TokenizerSection(kind="characters"))
        assert prepared.compared_groups == (prepared.info["validation"].groups if groups is None else groups)
        assert "groups" not in prepared.examples("train", layout, 16)[0]
        assert ("groups" in prepared.examples("validation", layout, 16)[0]) == (field is not None)
    one = prepare(replace(section, validation_documents=1), TokenizerSection(kind="characters"))
    assert one.info["validation"].groups == {"even": {"documents": 1, "text_bytes": 10}}
    assert one.compared_groups == {}
    assert "groups" not in one.examples("validation", layout, 16)[0]


def test_a_group_field_that_is_nowhere_is_refused(corpus):
    with pytest.raises(ConfigError, match=r"data.group_field=kinds does not occur in the validation documents"):
        prepare(replace(corpus, group_field="kinds"), TokenizerSection(kind="characters"))


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:-3])])
def test_shards_that_are_missing_or_cut_are_seen_on_opening(corpus, damage):
    prepared = prepare(corpus, TokenizerSection(kind="characters"))
    damage(prepared.folder / "train" / "00000.npy")
    with pytest.raises(ConfigError, match=r"00000.npy is missing or damaged; prepare or fetch .* again"):
        prepare(corpus, TokenizerSection(kind="characters"))


def test_groups_of_the_pile_are_those_of_its_records(samples, tmp_path):
    lines = zstandard.open(samples / "pile" / "val.sample.jsonl.zst", "rt", encoding="utf-8", newline="\n")
    expected = {}
    for record in map(json.loads, lines):
        known = expected.setdefault(record["meta"]["pile_set_name"], {"documents": 0, "text_bytes": 0})
        known["documents"] += 1
        known["text_bytes"] += len(record["text"].encode())
    data = DataSection(
        source=str(samples / "pile"), group_field="meta.pile_set_name", train_documents=5, cache_dir=str(tmp_path)
    )
    info = prepare(data, TokenizerSection(kind="characters")).info["validation"]
    assert list(info.groups.items()) == list(expected.items())
    assert sum(group["text_bytes"] for group in info.groups.values()) == info.text_bytes


def test_floors_are_nats_a_target_and_bits_a_byte():
    floor = SplitInfo(documents=2, tokens=8, prompt_tokens=0, text_bytes=5, floor_nats=10.0).floor(targets=7)
    assert floor.loss == 10 / 7
    assert floor.bits_per_byte == pytest.approx(2 / np.log(2))


def test_splits_share_no_document_and_lose_none(corpus):
    prepared = prepare(corpus, TokenizerSection(kind="characters"))
    texts = Counter()
    for split in ("train", "validation"):
        for example in prepared.examples(split, "documents", 99):
            texts[prepared.tokenizer.decode(example["input_ids"], skip_special_tokens=True)] += 1
    assert texts == Counter(f"document {i}" for i in range(20))


def rows(count: int, bad: str) -> str:
    """JSON lines, every second of which is `bad`."""
    return "".join(f'{{"text": "document {i}"}}\n' if i % 2 else f"{bad}\n" for i in range(count))


LOSING = {
    "another column": ("train.jsonl", rows(600, '{"content": "lost"}').encode(), "content"),
    "null": ("train.jsonl", rows(600, '{"text": null}').encode(), "text is null"),
    "another encoding in JSON": ("train.jsonl", rows(90, '{"text": "\xe9"}').encode("latin-1"), "save the files as"),
    "another encoding": ("train.txt", "caf\xe9\n\ntea\n\n".encode("latin-1") * 20, "save the files as UTF-8"),
    "one of fifty": ("train.jsonl", b"{}\n" + b'{"text": "kept"}\n' * 49, "raise the limit to 0.02"),
    "in validation": ("validation.jsonl", rows(60, '{"text": 5}').encode(), "text is a number"),
    "after a thousand": ("train.jsonl", b'{"text": "kept"}\n' * 2000 + b"{}\n" * 3, "1 of 2,001 records"),
}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", LOSING)
def test_a_small_corpus_loses_no_more_than_is_allowed(tmp_path, monkeypatch, name, streaming):
    """Its end is judged as its thousandth record is, before a vocabulary is learnt and whatever part it is."""
    file, written, why = LOSING[name]
    source, cache = tmp_path / "corpus", tmp_path / "prepared"
    source.mkdir()
    for split in ("train", "validation"):
        (source / f"{split}.jsonl").write_text("".join(f'{{"text": "{split} {i}"}}\n' for i in range(70)))
    if file.startswith("train"):
        (source / "train.jsonl").unlink()
    (source / file).write_bytes(written)
    data = DataSection(source=str(source), bad_records=0.0, cache_dir=str(cache), streaming=streaming)
    with monkeypatch.context() as patch:
        patch.setattr(tokens.tokenizers, "save", None)  # it is not come to
        with pytest.raises(
            ConfigError, match=r"records (is|are) malformed .* more than data\.bad_records=0; "
        ) as error:
            prepare(data, TokenizerSection(kind="characters"))
    assert why in str(error.value)
    assert not cache.exists()
    allowed = prepare(replace(data, bad_records=0.6), TokenizerSection(kind="characters"))
    info = allowed.info["validation" if file.startswith("validation") else "train"]
    assert info.quarantined == sum(info.reasons.values()) > 0
    with pytest.raises(ConfigError, match=r"records (is|are) malformed"):  # though it is prepared by now
        prepare(data, TokenizerSection(kind="characters"))
    assert prepare(replace(data, bad_records=0.6), TokenizerSection(kind="characters")).folder == allowed.folder


def test_of_a_mixture_each_part_is_judged(tmp_path):
    (tmp_path / "bad.jsonl").write_text(rows(600, '{"content": "lost"}'))
    data = DataSection(
        mixture={"fables": 0.9, str(tmp_path / "bad.jsonl"): 0.1}, validation_documents=20, bad_records=0.1,
        train_documents=2000, cache_dir=str(tmp_path / "prepared"),
    )  # fmt: skip
    section = TokenizerSection(kind="characters")
    with pytest.raises(ConfigError, match=r"300 of 600 records are malformed \(the last: .*bad.jsonl.*than data.bad"):
        prepare(data, section)
    whole = prepare(replace(data, bad_records=0.6), section)
    for info in whole.info.values():
        assert info.reasons == {"there is no column text": info.groups["bad.jsonl"]["documents"]}


@pytest.mark.parametrize("streaming", [False, True])
def test_a_split_is_judged_with_what_is_held_out_from_it(tmp_path, streaming):
    """One bad record among the five of validation does not stop a corpus of 2,000."""
    section, bad = TokenizerSection(kind="characters"), {1} | {270 * i for i in range(1, 8)}
    lines = ("{}" if i in bad else f'{{"text": "document {i}"}}' for i in range(2000))
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines))
    data = DataSection(
        source=str(tmp_path / "corpus.jsonl"), validation_documents=5, cache_dir=str(tmp_path / "prepared"),
        bad_records=0.006, streaming=streaming,
    )  # fmt: skip
    prepared = prepare(data, section)
    assert [prepared.info[split].quarantined for split in ("validation", "train")] == [1, 7]
    for limit, is_enough in ((0.0039, False), (0.0041, True)):
        if is_enough:
            prepare(replace(data, bad_records=limit), section)
        else:
            with pytest.raises(
                ConfigError, match=r"8 of 2,000 records are malformed \(8 x there is no column text\), more"
            ):
                prepare(replace(data, bad_records=limit), section)


def test_what_is_held_out_is_counted_once(corpus, tmp_path):
    (tmp_path / "corpus.jsonl").write_text(rows(40, "{}"))
    info = prepare(replace(corpus, bad_records=0.6), TokenizerSection(kind="characters")).info
    assert [info[split].skipped() for split in ("validation", "train")] == [
        "5 of 10 records (5 x there is no column text)",
        "15 of 30 records (15 x there is no column text)",
    ]
