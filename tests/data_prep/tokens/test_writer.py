"""Shards of tokens: nothing dropped, nothing twice, and the same bytes however often the writing is interrupted."""

import json
from dataclasses import replace
from itertools import chain, count

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from data_prep.sources.record_errors import MalformedRecord
from data_prep.sources.splits import Split
from data_prep.tokenizer.bpe import train_bpe
from data_prep.tokenizer.build import train_characters, wrap
from data_prep.tokenizer.encoder import Encoder
from data_prep.tokens import writer
from data_prep.tokens.windows import Documents, TokenArray
from data_prep.tokens.writer import Journal, SplitWriter
from settings.checks import ConfigError
from storage.arrays import TokenFile

TOKENIZER = wrap(train_characters(["abcdefghij "], 0))
ENCODE = Encoder(TOKENIZER)
END = TOKENIZER.eos_token_id


def split_of(*documents, floor=None, **about) -> Split:
    """Documents as a split; None is a record that is none."""

    def read_from(place, reading):
        for index in range(place or 0, len(documents)):
            if documents[index] is None:
                reading.fault(MalformedRecord("corpus.jsonl", index + 1, 0, "not good"))
            else:
                reading.document()
                yield documents[index], index + 1

    return Split(read_from, {}, floor, bad_records=1.0, **about)


def write(folder, split, tokenizer=TOKENIZER, **options):
    return SplitWriter(folder / "train", split, tokenizer, Encoder(tokenizer)).write(**options)


def ids_of(folder) -> list[int]:
    return [int(token) for path in sorted(folder.glob("0????.npy")) for token in np.load(path)]


def about_of(folder) -> np.ndarray:
    return np.concatenate([np.load(path) for path in sorted(folder.glob("0*.documents.npy"))])


def documents_of(folder, journal) -> Documents:
    files = sorted(folder.glob("0????.npy"))
    return Documents(TokenArray(files, [shard["tokens"] for shard in journal.shards]), about_of(folder), 99)


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(writer, "TOKENS_PER_SHARD", 40)
    monkeypatch.setattr(writer, "CHARACTERS_PER_BATCH", 12)


@given(st.lists(st.text("abcdefghij ", max_size=20), min_size=1, max_size=30))
def test_a_split_is_its_documents_between_ends(tmp_path_factory, texts):
    folder = tmp_path_factory.mktemp("split")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "TOKENS_PER_SHARD", 40)
        patch.setattr(writer, "CHARACTERS_PER_BATCH", 12)
        journal = write(folder, split_of(*({"text": text} for text in texts)))
    encoded = [TOKENIZER(text, add_special_tokens=False)["input_ids"] for text in texts]
    assert ids_of(folder / "train") == [END] + [token for row in encoded for token in [*row, END]]
    assert np.load(folder / "train" / "00000.npy").dtype == np.uint16
    assert (journal.documents, journal.tokens) == (len(texts), len(ids_of(folder / "train")))
    assert journal.text_bytes == sum(len(text.encode()) for text in texts)
    examples = documents_of(folder / "train", journal)
    assert [example["input_ids"].tolist() for example in examples] == [[END, *row, END] for row in encoded]


@pytest.mark.usefixtures("small_shards")
def test_an_own_start_token_begins_each_document(tmp_path):
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=train_bpe(["ab ab"], 260), bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    texts = ["ab", "b", "", "abab" * 20, "b"]
    journal = write(tmp_path, split_of(*({"text": text} for text in texts)), tokenizer)
    rows = [[tokenizer.bos_token_id, *tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in texts]
    assert ids_of(tmp_path / "train") == list(chain(*rows))
    assert [e["input_ids"].tolist() for e in documents_of(tmp_path / "train", journal)] == rows


def test_prompts_are_measured_with_their_start_token(tmp_path):
    journal = write(tmp_path, split_of({"prompt": "ab ", "completion": "cd"}, {"text": "abc"}))
    first, second = documents_of(tmp_path / "train", journal)
    assert first["prompt_length"] == 4
    assert TOKENIZER.decode(first["input_ids"][:4], skip_special_tokens=True) == "ab "
    assert TOKENIZER.decode(first["input_ids"][4:-1]) == "cd"
    assert second["prompt_length"] == 0
    assert journal.prompt_tokens == 3


def test_groups_are_numbered_as_they_come(tmp_path):
    texts = [("Books", "a"), ("Web", "žluť"), ("Books", "bc")]
    journal = write(tmp_path, split_of(*({"text": text, "group": group} for group, text in texts), {"text": "b"}))
    assert list(journal.groups) == ["Books", "Web"]
    assert journal.groups == {"Books": {"documents": 2, "text_bytes": 3}, "Web": {"documents": 1, "text_bytes": 6}}
    assert about_of(tmp_path / "train")["group"].tolist() == [0, 1, 0, -1]


def test_a_field_that_tells_documents_apart_makes_no_groups(tmp_path):
    pages = ({"text": "a", "group": f"http://{index}"} for index in range(writer.MAX_GROUPS + 1))
    pages = list(pages)
    with pytest.raises(ConfigError, match=r"data\.group_field .* more than 256 different values, .*'http://256'"):
        write(tmp_path, split_of(*pages))
    (tmp_path / "training").mkdir()
    journal = write(tmp_path / "training", split_of(*pages), held_out=set())
    assert len(journal.groups) == writer.MAX_GROUPS
    assert about_of(tmp_path / "training" / "train")["group"].tolist() == [*range(writer.MAX_GROUPS), -1]


def test_the_floor_is_the_sum_over_documents(tmp_path):
    split = split_of({"text": "ab"}, {"text": "abc"}, floor=lambda text: 2.0 * len(text))
    assert write(tmp_path, split).floor_nats == 10.0
    (tmp_path / "unknown").mkdir()
    assert write(tmp_path / "unknown", split_of({"text": "ab"})).floor_nats is None


def test_texts_of_the_validation_split_are_counted(tmp_path):
    held_out = SplitWriter(tmp_path / "validation", split_of({"text": "ab"}, {"text": "cd"}), TOKENIZER, ENCODE)
    held_out.write()
    journal = write(tmp_path, split_of(*({"text": text} for text in ("cd", "ef", "cd"))), held_out=held_out.hashes())
    assert journal.duplicates == 2


class Killed(BaseException):
    """As good as a kill: nothing catches it."""


def killed_at(method, calls: int, after: bool):
    """The method, but that its n-th call is the process's end, before or after it."""
    counter = count()

    def fail(*arguments):
        call = next(counter)
        if call == calls and not after:
            raise Killed
        result = method(*arguments)
        if call == calls:
            raise Killed
        return result

    return fail


KILLS = st.tuples(st.sampled_from(["_encode", "_count", "save"]), st.integers(0, 40), st.booleans())


@given(st.lists(KILLS, max_size=5), st.integers(0, 2**32))
def test_any_interruption_leaves_the_same_bytes(tmp_path_factory, kills, seed):
    """Kills before and after the n-th encoding, counting or writing of the journal."""
    generator = np.random.default_rng(seed)
    documents = [
        None if generator.random() < 0.1 else {"text": "abcdefghij "[: generator.integers(11)] * generator.integers(4)}
        for _ in range(60)
    ]
    for document in documents:
        if document is not None and generator.random() < 0.8:
            document["group"] = f"group {generator.integers(4)}"
    one, other = (tmp_path_factory.mktemp(name) for name in ("one", "other"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "TOKENS_PER_SHARD", 40)
        patch.setattr(writer, "CHARACTERS_PER_BATCH", 12)
        write(one, split_of(*documents))
        for name, calls, after in kills:
            with pytest.MonkeyPatch.context() as fault:
                place = Journal if name == "save" else SplitWriter
                fault.setattr(place, name, killed_at(getattr(place, name), calls, after))
                try:
                    write(other, split_of(*documents))
                except Killed:
                    continue
        write(other, split_of(*documents))
    files = {path.name: path.read_bytes() for path in (one / "train").iterdir()}
    assert {path.name: path.read_bytes() for path in (other / "train").iterdir()} == files
    about, kept = about_of(one / "train"), [document for document in documents if document is not None]
    groups = Journal.load(other / "train").groups
    assert [(None, *groups)[number + 1] for number in about["group"]] == [each.get("group") for each in kept]
    for name, counts in groups.items():
        sizes = [len(each["text"]) for each in kept if each.get("group") == name]
        assert counts == {"documents": len(sizes), "text_bytes": sum(sizes)}


def test_faults_are_written_down(tmp_path):
    journal = write(tmp_path, split_of({"text": "ab"}, None, {"text": "cd"}))
    (line,) = (tmp_path / "train" / "quarantine.jsonl").read_text().splitlines()
    assert json.loads(line) == {"file": "corpus.jsonl", "record": 2, "offset": 0, "reason": "not good"}
    assert {name: journal.reading[name] for name in ("records", "empty", "faults", "reasons")} == {
        "records": 3, "empty": 0, "faults": 1, "reasons": {"not good": 1}
    }  # fmt: skip


def test_a_split_of_nothing_says_why(tmp_path):
    with pytest.raises(ConfigError, match=r"train split holds no documents: 1 of 1 record is malformed .* not good"):
        write(tmp_path, split_of(None))


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


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("documents", [3, 12])
def test_an_interruption_while_looking_beyond_a_limit_loses_and_repeats_nothing(tmp_path, documents):
    """It may take another file, and so minutes; by then all is written down."""
    texts = [{"text": letter * 9} for letter in "abcdefghijabcdefghij"]
    split = split_of(*texts).cut(0, documents)
    ends = replace(split, more=lambda place: place[1] < len(texts))
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole = write(tmp_path / "whole", ends)
    assert (whole.documents, whole.more) == (documents, True)

    def kill(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "killed", replace(split, more=kill))
    journal = Journal.load(tmp_path / "killed" / "train")
    assert (journal.documents, journal.finished, journal.more) == (documents, True, None)
    write(tmp_path / "killed", ends)
    assert Journal.load(tmp_path / "killed" / "train") == Journal.load(tmp_path / "whole" / "train")
    for path in (tmp_path / "whole" / "train").glob("0*.npy"):
        assert (tmp_path / "killed" / "train" / path.name).read_bytes() == path.read_bytes()
    assert write(tmp_path / "killed", replace(split, more=kill)).more  # it is looked at once
