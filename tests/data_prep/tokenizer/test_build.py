"""Tokenizers lose nothing, never read special ids out of text, and load as any Hugging Face tokenizer does."""

import json
import re
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, GPT2Tokenizer, PreTrainedTokenizerFast

from data_prep import fables
from data_prep.sources.records import Fields
from data_prep.sources.shards import LocalShard
from data_prep.sources.splits import Split, split_of_files
from data_prep.sources.table import open_corpus
from data_prep.tokenizer import __main__, build
from data_prep.tokenizer.bpe import train_bpe  # fmt: skip
from data_prep.tokenizer.build import (
    build_tokenizer,
    equation_tokenizer,
    load_tokenizer,
    parse_bytes,
    report,
    save,
    train_characters,
    train_numbers,
    wrap,
)
from data_prep.tokenizer.training_text import TrainingTexts
from settings.checks import ConfigError
from settings.data_sections import DataSection, TokenizerSection
from settings.wording import format_count

TEXTS = ["the cat sat on the mat", "the dog sat on the log", "a longer cat sat down again and again"] * 3
SPECIALS = ["<|endoftext|>", "<|pad|>"]


def split_of(*texts) -> Split:
    return Split(lambda place, _: (({"text": text}, i) for i, text in enumerate(texts[place or 0 :], 1)), {})


@pytest.fixture(scope="module")
def bpe():
    return wrap(train_bpe(TEXTS, 280))


any_text = st.text(st.characters(exclude_categories=["Cs"]))
spliced = st.lists(any_text | st.sampled_from(SPECIALS)).map("".join)


@given(spliced)
@example("<|endoftext|>")
@example("\x00\r\n\t  é漢\U0001f600<|pad|>")
def test_round_trip_of_any_text(bpe, text):
    ids = bpe(text, add_special_tokens=False)["input_ids"]
    assert bpe.decode(ids) == text
    assert not {bpe.eos_token_id, bpe.pad_token_id} & set(ids)


@given(spliced)
def test_a_prompt_begins_with_the_start_token_alone(bpe, text):
    ids = bpe(text)["input_ids"]
    assert ids[0] == bpe.bos_token_id
    assert ids[1:] == bpe(text, add_special_tokens=False)["input_ids"]
    assert bpe.decode(ids, skip_special_tokens=True) == text


def test_all_bytes_are_in_the_alphabet(bpe):
    assert set(pre_tokenizers.ByteLevel.alphabet()) <= bpe.get_vocab().keys()
    assert len(bpe) == 280


def test_pad_and_end_are_tokens_of_their_own(bpe):
    assert bpe.pad_token_id != bpe.eos_token_id == bpe.bos_token_id


def by_tokenizers(texts, vocab_size) -> Tokenizer:
    """The same tokenizer by the trainer of `tokenizers` itself."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


@given(
    st.lists(st.text(st.sampled_from("ab c1.\n\u00e9<|endoftext|>"), max_size=30), max_size=8), st.integers(258, 300)
)
@settings(max_examples=100)
def test_the_merges_are_those_of_the_tokenizers_library(texts, vocab_size):
    assert train_bpe(texts, vocab_size).to_str() == by_tokenizers(texts, vocab_size).to_str()


def test_the_merges_of_stories_are_those_of_the_tokenizers_library():
    texts = [fables.fable("0", index) for index in range(500)]
    assert train_bpe(texts, 2048).to_str() == by_tokenizers(texts, 2048).to_str()


def test_real_samples(samples):
    """A published course result: of 10,000 tokens the longest have 15 bytes, ` accomplishment` among them."""
    train, validation = open_corpus(DataSection(source=str(samples / "tinystories")))
    _, about = build_tokenizer(TokenizerSection(vocab_size=10_000), train, validation)
    assert about["longest_token_bytes"] == 15
    assert " accomplishment" in about["longest_tokens"]


def test_training_is_deterministic(bpe):
    assert wrap(train_bpe(TEXTS, 280)).backend_tokenizer.to_str() == bpe.backend_tokenizer.to_str()


def test_the_pre_tokenizer_is_gpt2s(bpe):
    """To the letter, for converters compare what they read with what they know."""
    model = bpe.backend_tokenizer.model
    state = json.loads(bpe.backend_tokenizer.to_str())
    gpt2 = GPT2Tokenizer(vocab=state["model"]["vocab"], merges=[tuple(pair) for pair in state["model"]["merges"]])
    theirs = json.loads(gpt2.backend_tokenizer.to_str())
    assert state["pre_tokenizer"] == theirs["pre_tokenizer"]
    assert state["pre_tokenizer"]["type"] == "ByteLevel"
    assert state["decoder"] == theirs["decoder"]
    assert state["model"]["type"] == theirs["model"]["type"] == "BPE"
    assert type(model) is type(gpt2.backend_tokenizer.model)
    for text in (*TEXTS, "I've 12 cats!  \n\n 3.5é"):
        assert gpt2(text)["input_ids"] == bpe(text, add_special_tokens=False)["input_ids"]


def test_it_is_saved_under_a_name_that_older_tools_know(bpe, tmp_path):
    """However often it is loaded and saved; and by the tokenizers library alone it is the same."""
    for folder in (tmp_path / "first", tmp_path / "second"):
        bpe.save_pretrained(folder)
        assert (
            json.loads((folder / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"
        )
        alone = Tokenizer.from_file(str(folder / "tokenizer.json"))
        for text in TEXTS:
            assert alone.encode(text).ids == bpe(text)["input_ids"]
            assert alone.decode(alone.encode(text).ids) == text
        bpe = load_tokenizer(str(folder))


def test_saved_it_loads_as_any_other(bpe, tmp_path):
    save(bpe, {}, tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    for text in ["the cat <|endoftext|> sat", ""]:
        assert again(text)["input_ids"] == bpe(text)["input_ids"]
    assert (again.bos_token, again.eos_token, again.pad_token) == ("<|endoftext|>", "<|endoftext|>", "<|pad|>")


MADE = {
    "bpe": lambda: wrap(train_bpe(TEXTS, 280)),
    "characters": lambda: wrap(train_characters(TEXTS, 0)),
    "numbers": lambda: wrap(train_numbers(TEXTS, 0)),
    "other start": lambda: wrap(train_bpe(TEXTS, 280), start="<|pad|>"),
    "equations": lambda: equation_tokenizer("numbers", "/", 96),
    "padded equations": lambda: equation_tokenizer("padded", "/", 9),
}
WITHOUT_START = ("equations", "padded equations")


@pytest.mark.parametrize("name", MADE)
def test_each_text_of_a_pair_has_its_start_as_a_single_text_has(name, tmp_path):
    """As transformers' Llama does: now, saved and loaded, loaded by ours and saved again, and in `tokenizers` alone."""
    made = MADE[name]()
    one, other = ("9/3=", "3") if name in WITHOUT_START else ("the cat", "sat on")
    first, second = (made(text, add_special_tokens=False)["input_ids"] for text in (one, other))
    start = [] if name in WITHOUT_START else [made.bos_token_id]
    singles, pair = [start + first, start + second], start + first + start + second
    made.save_pretrained(tmp_path / "saved")
    again = load_tokenizer(str(tmp_path / "saved"))
    again.save_pretrained(tmp_path / "again")
    loaded = [AutoTokenizer.from_pretrained(tmp_path / folder) for folder in ("saved", "again")]
    for each in (made, again, *loaded):
        assert each([one, other])["input_ids"] == singles
        assert each(one, other)["input_ids"] == pair
        assert each([(one, other), (other, one)])["input_ids"] == [pair, start + second + start + first]
        assert each(one, other, add_special_tokens=False)["input_ids"] == first + second
        with_target = each(one, text_target=other)
        assert [with_target["input_ids"], with_target["labels"]] == singles
    for folder in ("saved", "again"):
        alone = Tokenizer.from_file(str(tmp_path / folder / "tokenizer.json"))
        assert [alone.encode(text).ids for text in (one, other)] == singles
        assert alone.encode(one, other).ids == pair


@pytest.mark.parametrize("name", MADE)
def test_the_start_is_told_to_who_reads_no_post_processor(name, tmp_path):
    """litgpt reads this field, and else takes our start token off again."""
    MADE[name]().save_pretrained(tmp_path / "saved")
    load_tokenizer(str(tmp_path / "saved")).save_pretrained(tmp_path / "again")
    for folder in ("saved", "again"):
        about = json.loads((tmp_path / folder / "tokenizer_config.json").read_text())
        assert about["add_bos_token"] is (name not in WITHOUT_START)


def test_characters_round_trip_and_name_what_they_do_not_know():
    tokenizer = wrap(train_characters(["I love\nmachine learning"], 0))
    ids = tokenizer("love me\nlove", add_special_tokens=False)["input_ids"]
    assert len(ids) == len("love me\nlove")
    assert tokenizer.decode(ids) == "love me\nlove"
    assert tokenizer("z", add_special_tokens=False)["input_ids"] == [tokenizer.unk_token_id]


def test_numbers_are_one_token_each_however_they_are_spaced():
    tokenizer, _ = build_tokenizer(TokenizerSection(kind="numbers"), split_of("91 / 7 = 13"), [])
    ids = tokenizer("91 / 7 =", add_special_tokens=False)["input_ids"]
    assert ids == tokenizer("91/7=", add_special_tokens=False)["input_ids"]
    assert len(ids) == 4
    assert tokenizer.decode(ids) == "91 / 7 ="


def test_report_says_what_was_learnt():
    _, about = build_tokenizer(TokenizerSection(vocab_size=280), split_of(*TEXTS), [{"text": "the cat sat é"}])
    assert (about["documents"], about["text_bytes"]) == (9, sum(map(len, TEXTS)))
    assert about["vocabulary"] == 280
    assert about["longest_tokens"] == [" again"]
    assert about["longest_token_bytes"] == 6
    assert 1 < about["bytes_per_token"] <= 14 / 4
    assert about["seconds"] >= 0
    assert about["peak_memory_megabytes"] > 0


def test_longest_tokens_list_all_ties(bpe):
    about = report(bpe, [])
    sizes = {token: len(bpe.decode([i]).encode()) for token, i in bpe.get_vocab().items() if i > 1}
    assert len(about["longest_tokens"]) == list(sizes.values()).count(max(sizes.values()))


def test_an_existing_tokenizer_gets_a_pad_of_its_own(tmp_path):
    PreTrainedTokenizerFast(
        tokenizer_object=train_bpe(TEXTS, 270), eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    ).save_pretrained(tmp_path / "gpt2-like")
    tokenizer = load_tokenizer(str(tmp_path / "gpt2-like"))
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert tokenizer("<|endoftext|>", add_special_tokens=False)["input_ids"] != [tokenizer.eos_token_id]


def test_a_tokenizer_without_an_end_is_refused(tmp_path):
    PreTrainedTokenizerFast(tokenizer_object=train_bpe(TEXTS, 270)).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="no end-of-text token"):
        load_tokenizer(str(tmp_path))


@pytest.mark.parametrize(
    ("section", "complaint"),
    [
        (TokenizerSection(kind="pretrained", path="/nowhere"), "cannot be loaded"),
    ],
)
def test_impossible_tokenizers_are_refused(section, complaint):
    with pytest.raises(ConfigError, match=complaint):
        build_tokenizer(section, [{"text": "a"}], [])


def test_no_documents_is_an_error():
    with pytest.raises(ConfigError, match=r"the train split holds no documents: it is empty; check data\."):
        build_tokenizer(TokenizerSection(), split_of(), [])


UTF_16 = "a story of bears".encode("utf-16")
ROW = b'{"text": "a"}\n'
WITHOUT = [
    ("a.jsonl", ROW * 9, {}, "all 9 documents are held out; give data.validation_documents=null for a "),
    ("a.jsonl", ROW * 9, {"text_field": "body"}, "9 of 9 records are malformed (the last: "),
    (
        "a.jsonl",
        ROW * 9,
        {"text_field": "body"},
        "a.jsonl, record 9 (byte 112): there is no column body; there are text); ",
    ),
    ("a.jsonl", b'{"text": 5}\n', {}, "a.jsonl, record 1: text is a number; it must be text); check data.source and"),
    ("a.jsonl", b"a story\n", {}, "a.jsonl, record 1: invalid JSON: "),
    ("a.jsonl", b'{"text": ""}\n' * 9, {}, "all 9 records are empty; check data.source and data.text_field"),
    ("a.txt", UTF_16[2:], {}, "a.txt, record 1: a NUL byte at byte 1 of the text); check data.source and data.text_"),
    ("a.txt", b"\xff\xfd", {}, "a.txt, record 1: invalid UTF-8 at byte 0 of the text); save the files as"),
]


@pytest.mark.parametrize(("name", "written", "settings", "complaint"), WITHOUT)
def test_why_there_are_no_documents_is_said(tmp_path, name, written, settings, complaint):
    (tmp_path / name).write_bytes(written)
    with pytest.raises(ConfigError, match=r"^the train split holds no documents: ") as error:
        build_tokenizer(TokenizerSection(), *open_corpus(DataSection(source=str(tmp_path / name), **settings)))
    assert complaint in str(error.value)


OUTPUTS = [
    (
        ["--output", "FILE/x"],
        "data_prep.tokenizer: --output FILE/x cannot be written to: Not a directory; give another",
    ),
    (["--output", "FILE"], "data_prep.tokenizer: FILE exists already; choose another --output"),
    (["--bytes", ""], "data_prep.tokenizer: --bytes '' is not a size; write 500MB or 2.2GB"),
]


@pytest.mark.parametrize(("words", "complaint"), OUTPUTS)
def test_a_mistake_is_said_before_anything_is_learnt(tmp_path, monkeypatch, capsys, words, complaint):
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(build, "build_tokenizer", None)  # it is not come to
    words = [word.replace("FILE", str(tmp_path / "file")) for word in words]
    monkeypatch.setattr(sys, "argv", ["tokenizer.py", "--source", "fables", *words])
    with pytest.raises(SystemExit) as stop:
        __main__.main()
    assert stop.value.code == 2
    assert capsys.readouterr().err == complaint.replace("FILE", str(tmp_path / "file")) + "\n"
    assert [*tmp_path.iterdir()] == [tmp_path / "file"]


@pytest.mark.parametrize("text", ["[]", "null", "{}", "5", '{"model": []}'])
def test_a_broken_tokenizer_is_one_sentence(tmp_path, text):
    (tmp_path / "tokenizer.json").write_text(text)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with pytest.raises(ConfigError, match=r"tokenizer\.path=.* cannot be loaded: .*; give the folder or Hub id of one"):
        load_tokenizer(str(tmp_path))


@pytest.mark.parametrize("count", [1, 3, 20])
def test_a_byte_budget_is_spread_over_the_files(tmp_path, count):
    """Texts come from the beginning, the middle and the end of what there is, and are no more than asked."""
    texts = [f"{i:05} " + "some words " * 90 for i in range(6000)]
    for part in range(count):
        rows = texts[part * len(texts) // count : (part + 1) * len(texts) // count]
        (tmp_path / f"{part:02}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))
    shards = [LocalShard.of(path) for path in sorted(tmp_path.iterdir())]
    split = split_of_files(shards, Fields("text", None, "paragraph"), 0.0)
    chosen = TrainingTexts(split, None, 1_000_000)
    places = [int(text[:5]) / len(texts) for text in chosen]
    assert 900_000 < chosen.bytes <= 1_000_000
    assert chosen.documents == len(places)
    assert sorted(places) == places
    quarters = [sum(quarter / 4 <= place < (quarter + 1) / 4 for place in places) for quarter in range(4)]
    assert min(quarters) > len(places) / 8
    if count == 20:
        assert len(chosen.split.identity["shards"]) == 4


@pytest.mark.parametrize(("limits", "most"), [((None, 400), 20_000), ((400, None), 20_000)])
def test_a_budget_is_spread_over_the_documents_that_are_read(limits, most):
    """Whether the experiment limits them or the tokenizer's section."""
    train, _ = open_corpus(DataSection(source="fables", train_documents=limits[0]))
    stories = [fables.fable("0", index) for index in range(400)]
    chosen = TrainingTexts(train, limits[1], most)
    texts = list(chosen)
    assert 0.9 * most < chosen.bytes <= most
    places = [stories.index(text) for text in texts]
    assert sum(place >= 200 for place in places) > 0.4 * len(places)


def test_one_text_is_learnt_from_whatever_the_budget():
    assert list(TrainingTexts(split_of("longer than that"), None, 3)) == ["longer than that"]


@pytest.mark.parametrize(("text", "size"), [("500MB", 5e8), ("2.2GB", 2.2e9), ("1e6", 1e6), ("12 kb", 12e3), ("7", 7)])
def test_sizes_as_people_write_them(text, size):
    assert parse_bytes(text) == size


def learn(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["tokenizer.py", *map(str, words)])
    __main__.main()


@pytest.mark.parametrize("count", [1, 2, 9, 10, 300, 1000])
def test_a_corpus_of_any_size_can_be_learnt_from(tmp_path, monkeypatch, capsys, count):
    """Of its own, without a validation split: nine tenths of it are."""
    (tmp_path / "mine").mkdir()
    rows = (f'{{"text": "the story of bear number {number}, who was brown"}}\n' for number in range(count))
    (tmp_path / "mine" / "corpus.jsonl").write_text("".join(rows))
    learn(monkeypatch, "--source", tmp_path / "mine", "--vocab-size", 300, "--output", tmp_path / "out")
    said = capsys.readouterr().out
    assert f" tokens learnt from {format_count(count if count < 10 else count - count // 10, 'document')} (" in said
    assert load_tokenizer(str(tmp_path / "out")).eos_token is not None


def test_what_a_refusal_advises_can_be_done(tmp_path, monkeypatch, capsys):
    """By the command that advises it: settings are called as they are everywhere."""
    (tmp_path / "corpus.jsonl").write_text(10 * '{"text": "a", "body": "the story of a bear"}\n{"text": 5}\n')
    words = ["--source", tmp_path / "corpus.jsonl", "--vocab-size", 270, "--output", tmp_path / "out"]
    with pytest.raises(SystemExit):
        learn(monkeypatch, *words)
    said = capsys.readouterr().err
    assert "more than data.bad_records=0.001; fix the files, or raise the limit to 0.5" in said
    with pytest.raises(SystemExit):
        learn(monkeypatch, *words, "data.bad_record=0.6")
    assert "data.bad_record is not a setting; did you mean bad_records?" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        learn(monkeypatch, *words, "training.seed=1")
    assert "training is not a section of this command; give one of data, tokenizer" in capsys.readouterr().err
    learn(monkeypatch, *words, "data.bad_records=0.6")
    assert " tokens learnt from 9 documents (" in capsys.readouterr().out
    learn(monkeypatch, *words[:-1], tmp_path / "other", "data.bad_records=0.6", "tokenizer.train_documents=4")
    said = capsys.readouterr().out
    assert re.search(r"learnt from 4 documents \([\d.]+ (bytes|kB)\) of more \(tokenizer.train_documents=4\) in ", said)


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ((None, None), None),
        ((20, None), None),
        ((19, None), "tokenizer.train_documents=19"),
        ((None, 10_000), None),
        ((None, 50), "tokenizer.train_bytes=50"),
        ((30, 50), "tokenizer.train_bytes=50"),
    ],
)
def test_a_limit_that_leaves_something_out_is_noted(limits, said):
    texts = TrainingTexts(split_of(*(f"text {number:02}" for number in range(20))), *limits)
    assert len(list(texts)) == texts.documents
    assert texts.limit == said


def test_what_is_no_size_is_refused():
    with pytest.raises(ConfigError, match="'half' is not a size; write 500MB"):
        parse_bytes("half")
