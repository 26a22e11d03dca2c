"""Streams: the same order however far the writer is, each window once a pass, no waiting for a writer that is gone."""

import os
import signal
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.tokens import background_writer, lock, stream, writer
from data_prep.tokens import prepare as prepare_module
from data_prep.tokens.lock import lock_of
from data_prep.tokens.order import Epochs
from data_prep.tokens.prepare import Preparation, prepare
from data_prep.tokens.prepared import PreparedData
from data_prep.tokens.stream import GrowingTokens, Stream
from data_prep.tokens.windows import TokenArray, Windows
from data_prep.tokens.writer import Journal
from settings.checks import ConfigError
from settings.data_sections import DataSection, TokenizerSection
from storage.arrays import save_array

NUMBERS = TokenizerSection(kind="numbers")


def write_shards(folder, shards: list[int], finished: bool) -> GrowingTokens:
    """A split's folder with shards of so many ids, counted from 0."""
    folder.mkdir(parents=True, exist_ok=True)
    ends = np.cumsum([0, *shards])
    for index, count in enumerate(shards):
        save_array(folder / f"{index:05}.npy", np.arange(ends[index], ends[index] + count, dtype=np.uint16))
    journal = Journal(shards=[{"tokens": count, "documents": 1} for count in shards], finished=finished)
    journal.save(folder)
    return GrowingTokens(folder, journal.shards, finished)


def growing(prepared: PreparedData) -> GrowingTokens:
    train = prepared.info["train"]
    return GrowingTokens(prepared.folder / "train", train.shards, train.finished)


def stream_of(prepared: PreparedData, stop: int) -> Stream:
    return Stream(Windows(growing(prepared), 4), seed=5, stop=stop)


def order_of(tokens: GrowingTokens, stop: int, length=4) -> list[int]:
    run = Stream(Windows(tokens, length), seed=5, stop=stop)
    return [run.example(position) for position in range(stop)]


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """60 documents that are numbers, in small shards and blocks."""
    monkeypatch.setattr(stream, "BLOCK_TOKENS", 30)
    monkeypatch.setattr(prepare_module, "BLOCK_TOKENS", 30)
    monkeypatch.setattr(writer, "TOKENS_PER_SHARD", 20)
    monkeypatch.setattr(writer, "CHARACTERS_PER_BATCH", 10)
    (tmp_path / "corpus.jsonl").write_text("".join(f'{{"text": "{number} {number}"}}\n' for number in range(60)))
    return DataSection(
        source=str(tmp_path / "corpus.jsonl"),
        validation_documents=5,
        cache_dir=str(tmp_path / "prepared"),
        streaming=True,
    )


@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.integers(2, 9), st.integers(1, 60))
def test_each_window_comes_once_a_pass_and_in_its_block_in_the_first(tmp_path_factory, shards, length, block):
    if sum(shards) < 2:
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "BLOCK_TOKENS", block)
        ids = write_shards(tmp_path_factory.mktemp("split") / "train", shards, finished=True)
        count = len(Windows(ids, length))
        order = order_of(ids, 3 * count, length)
        assert [sorted(order[start : start + count]) for start in range(0, 3 * count, count)] == [[*range(count)]] * 3
        windows = max(1, block // (length - 1))
        assert [place // windows for place in order[:count]] == [place // windows for place in range(count)]
        later = Epochs(Windows(ids, length), seed=5, stop=3 * count)
        assert order[count:] == [later.example(position) for position in range(count, 3 * count)]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.data())
def test_the_order_does_not_depend_on_how_far_the_writer_is(tmp_path_factory, shards, data):
    if sum(shards) < 2:
        return
    folder = tmp_path_factory.mktemp("split") / "train"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "BLOCK_TOKENS", 12)
        order = order_of(write_shards(folder, shards, finished=True), 40)
        for written in range(1, len(shards) + 1):
            ids = write_shards(folder, shards[:written], finished=data.draw(st.booleans()) and written == len(shards))
            run = Stream(Windows(ids, 4), seed=5, stop=40)
            there = [place for place in range(40) if ids.has(run.end_of_block(place // run.block))]
            assert [run.example(place) for place in there] == [order[place] for place in there]
            assert [run.passes(place) for place in there if not ids.finished] == [0.0] * len(there) * (not ids.finished)


def test_one_block_is_shuffled_as_a_prepared_corpus(tmp_path):
    ids = write_shards(tmp_path / "train", [50, 50], finished=True)
    prepared = Epochs(Windows(TokenArray([np.arange(100)], [100]), 4), seed=5, stop=99)
    assert order_of(ids, 99) == [prepared.example(position) for position in range(99)]


def test_a_run_that_goes_on_with_other_batches_reads_on(tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "BLOCK_TOKENS", 12)
    ids = write_shards(tmp_path / "train", [50, 50], finished=True)
    whole = Stream(Windows(ids, 4), seed=5, stop=80)
    other = Stream(
        Windows(ids, 4), seed=5, stop=80, shift=-7, blanks=2
    )  # step 7 of batches of 3, gone on with in batches of 4
    assert len(other) == 89
    for item in range(7, 87):
        assert np.array_equal(other[item]["input_ids"], whole[item - 7]["input_ids"])
    assert [other[item]["prompt_length"] for item in (87, 88)] == [4, 4]


def test_a_run_asks_for_whole_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "BLOCK_TOKENS", 12)  # blocks of 4 windows of 3 new tokens
    ids = write_shards(tmp_path / "train", [13], finished=False)
    assert [Stream(Windows(ids, 4), seed=0, stop=stop).horizon for stop in (1, 3, 4, 5, 8, 9)] == [
        13,
        13,
        13,
        25,
        25,
        37,
    ]


def test_a_reader_waits_for_the_writer(corpus, tmp_path, monkeypatch):
    """A thread writes, shard by shard, only when the reader has come to wait."""
    whole = prepare(DataSection(**vars(corpus) | {"streaming": False, "cache_dir": str(tmp_path / "whole")}), NUMBERS)
    expected = order_of(growing(whole), 50)
    begun = prepare(corpus, NUMBERS)
    assert not begun.info["train"].finished
    assert begun.info["train"].tokens < whole.info["train"].tokens
    waits = threading.Semaphore(0)
    refresh, write_shard = GrowingTokens.refresh, writer.SplitWriter._write_shard

    def noted(self):
        waits.release()
        refresh(self)

    def held_back(self, *arguments):
        waits.acquire(timeout=60)
        write_shard(self, *arguments)

    run = stream_of(begun, 50)
    monkeypatch.setattr(GrowingTokens, "refresh", noted)
    monkeypatch.setattr(writer.SplitWriter, "_write_shard", held_back)
    thread = threading.Thread(target=Preparation(corpus, NUMBERS).make, args=(None,))
    thread.start()
    assert [run.example(position) for position in range(50)] == expected
    waits.release(1000)
    thread.join()
    assert PreparedData(begun.folder).info["train"].finished


def test_what_a_stream_leaves_is_gone_on_with_to_the_same_bytes(corpus, tmp_path):
    whole = prepare(DataSection(**vars(corpus) | {"streaming": False, "cache_dir": str(tmp_path / "whole")}), NUMBERS)
    begun = prepare(corpus, NUMBERS)
    for until in (50, 90, 10**6):
        Preparation(corpus, NUMBERS).make(until)
    assert begun.folder.name == whole.folder.name
    assert PreparedData(begun.folder).info == whole.info
    for split in ("train", "validation"):
        for path in (whole.folder / split).iterdir():
            assert path.read_bytes() == (begun.folder / split / path.name).read_bytes(), path.name


def test_a_writer_that_is_gone_is_not_waited_for(corpus, monkeypatch):
    monkeypatch.setattr(stream, "PATIENCE_SECONDS", 0.1)
    begun = prepare(corpus, NUMBERS)
    run = stream_of(begun, 50)
    with pytest.raises(ConfigError, match=r"the process that writes them has ended; resume the run"):
        run.example(45)
    with lock_of(begun.folder):
        assert lock.is_locked(begun.folder)
    assert not lock.is_locked(begun.folder)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda path: path.write_text('{"text": "1 2"}\n'), "has changed since the run started; start a new run"),
        (lambda path: path.unlink(), "is neither a known source nor an existing file"),
    ],
)
def test_the_complaint_of_the_writing_process_is_the_run_s(corpus, tmp_path, change, complaint):
    run = stream_of(prepare(corpus, NUMBERS), 50)
    change(tmp_path / "corpus.jsonl")
    background_writer.start_writer_process(corpus, NUMBERS, run)
    with pytest.raises(ConfigError, match=complaint):
        run.example(45)


def test_the_writing_process_writes_what_the_run_needs(corpus):
    run = stream_of(prepare(corpus, NUMBERS), 200)
    background_writer.start_writer_process(corpus, NUMBERS, run)
    run.tokens.wait_for(10**6)
    count = len(run.examples)
    assert sorted(run.example(position) for position in range(count)) == [*range(count)]
    assert [run.passes(position) for position in (0, count, count + 1, 3 * count, 3 * count + 1)] == [0, 0, 1, 2, 3]


def test_prompts_that_come_late_are_refused_when_they_come(corpus, tmp_path):
    with (tmp_path / "corpus.jsonl").open("a") as file:
        file.write('{"prompt": "1", "completion": "2"}\n' * 30)
    run = stream_of(prepare(corpus, NUMBERS), 100)
    Preparation(corpus, NUMBERS).make(10**6)
    with pytest.raises(ConfigError, match=r"the data has prompts, .* data.layout=documents"):
        run.example(99)


def test_a_manifest_that_a_kill_has_prevented_is_written_by_the_next_run(corpus):
    begun = prepare(corpus, NUMBERS)
    Preparation(corpus, NUMBERS).make(10**6)
    (begun.folder / "manifest.json").unlink()
    prepare(corpus, NUMBERS)
    assert (begun.folder / "manifest.json").exists()


def test_a_writer_that_starts_slowly_is_waited_for_and_one_that_is_killed_is_not(corpus, monkeypatch):
    run = stream_of(prepare(corpus, NUMBERS), 50)
    monkeypatch.setattr(stream, "PATIENCE_SECONDS", 0.0)  # for runs without a writer of their own
    with lock_of(run.tokens.folder.parent):  # it cannot begin
        background_writer.start_writer_process(corpus, NUMBERS, run)
        assert run.tokens.writer.is_alive()
        os.kill(run.tokens.writer.process, signal.SIGSTOP)
    waiting = threading.Timer(1, os.kill, (run.tokens.writer.process, signal.SIGKILL))
    waiting.start()
    with pytest.raises(ConfigError, match=r"the process that writes them has ended"):
        run.example(45)
    assert not waiting.is_alive()
    assert not run.tokens.writer.is_alive()


def test_modules_of_the_folder_that_a_run_is_started_in_are_not_kindlings(corpus, tmp_path, monkeypatch):
    (tmp_path / "config.py").write_text("raise NotImplementedError")
    monkeypatch.chdir(tmp_path)
    run = stream_of(prepare(corpus, NUMBERS), 50)
    background_writer.start_writer_process(corpus, NUMBERS, run)
    run.tokens.wait_for(run.horizon)
