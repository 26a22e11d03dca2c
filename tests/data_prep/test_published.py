"""Prepared folders as sources: on disk, offline, and by way of the Hub, whose real client pushes and fetches them."""

import json
import shutil

import pytest

from data_prep import published
from data_prep.published import publish
from data_prep.tokens import prepare
from sections import ConfigError, DataSection, TokenizerSection
from tests.hub_client import serving

CHARACTERS = TokenizerSection(kind="characters")
START = """
    import contextlib, json, pathlib, sys
    from data_prep import shards, tokens
    from sections import ConfigError, DataSection, TokenizerSection
    shards.FIRST_WAIT = 0.01

    def prepared(**options):
        options = {"cache_dir": "fetched", "validation_documents": 5} | options
        with contextlib.redirect_stdout(sys.stderr):
            return tokens.prepare(DataSection(**options), TokenizerSection(kind="characters"))

    def ids(found):
        rows = [found.examples(split, "documents", 99) for split in ("train", "validation")]
        return [[row["input_ids"].tolist() for row in part] for part in rows]

    def complaint(**options):
        try:
            prepared(**options)
        except ConfigError as error:
            return str(error)

    def say(value):
        print(json.dumps(value))

"""


@pytest.fixture
def corpus(tmp_path):
    """A folder of two local files under a name that must not leave the machine."""
    for name, words in {"canary/one.jsonl": "one", "canary/two.jsonl": "two"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        rows = ({"text": f"{words} {number}"} for number in range(20))
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows) + "not a document\n")
    return DataSection(
        mixture={str(tmp_path / "canary/one.jsonl"): 2, str(tmp_path / "canary/two.jsonl"): 1},
        validation_documents=5,
        bad_records=0.5,
        cache_dir=str(tmp_path / "prepared"),
    )


@pytest.fixture
def hub(tmp_path):
    (tmp_path / "hub").mkdir()
    with serving(tmp_path, START, HF_HUB_DISABLE_XET="1", HF_TOKEN="hf_of_someone") as run:
        yield tmp_path, run


def push(run, folder) -> list:
    return run(f"""
        from data_prep.published import publish
        publish(pathlib.Path({str(folder)!r}), "someone/tokens")
    """)


def ids_of(prepared) -> list:
    rows = [prepared.examples(split, "documents", 99) for split in ("train", "validation")]
    return [[row["input_ids"].tolist() for row in part] for part in rows]


def test_a_published_folder_trains_as_the_one_it_was_made_from(corpus, hub):
    _, run = hub
    made = prepare(corpus, CHARACTERS)
    push(run, made.folder)
    found, card, again = run("""
        found = prepared(source="someone/tokens")
        say([ids(found), found.tokenizer.get_vocab(), found.folder.name, list(found.info["validation"].groups)])
        say(list(pathlib.Path("hub/someone/tokens").glob("*.md"))[0].read_text())
        shards.ATTEMPTS = 1
        say(prepared(source="someone/tokens").folder.name)
    """)
    assert found[0] == ids_of(made)
    assert found[1] == made.tokenizer.get_vocab()
    assert again == found[2]
    assert found[3] == ["one.jsonl", "two.jsonl"]
    assert "data.source=someone/tokens" in card
    assert f"| train | {made.info['train'].documents:,} | {made.info['train'].tokens:,} |" in card


def test_nothing_of_this_machine_is_published(corpus, hub):
    folder, run = hub
    push(run, prepare(corpus, CHARACTERS).folder)
    pushed = [path for path in (folder / "hub" / "someone" / "tokens").resolve().rglob("*") if path.is_file()]
    names = {str(path.relative_to((folder / "hub" / "someone" / "tokens").resolve())) for path in pushed}
    expected = {
        "README.md",
        "manifest.json",
        "request.json",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
    }
    expected |= {f"{split}/00000{kind}.npy" for split in ("train", "validation") for kind in ("", ".documents")}
    assert names - {".gitattributes"} == expected
    for path in pushed:
        assert b"canary" not in path.read_bytes(), path.name
        assert str(folder).encode() not in path.read_bytes(), path.name


def test_what_is_not_as_published_is_never_used(corpus, hub):
    folder, run = hub
    push(run, prepare(corpus, CHARACTERS).folder)
    manifest = (folder / "hub" / "someone" / "tokens").resolve() / "manifest.json"
    about = json.loads(manifest.read_text())
    about["splits"]["train"]["shards"][0]["sha256"] = "0" * 64
    manifest.write_text(json.dumps(about))
    (message,) = run('say(complaint(source="someone/tokens"))')
    assert message == "someone/tokens: train/00000.npy is not what its manifest says; ask who published it"
    assert not list((folder / "fetched").glob("[!.]*"))


def test_offline_what_was_prepared_before_is_used(corpus, hub):
    folder, run = hub
    push(run, prepare(corpus, CHARACTERS).folder)
    rows = [{"text": f"line {number}"} for number in range(30)]
    (folder / "hub" / "someone" / "texts").mkdir()
    (folder / "hub" / "someone" / "texts" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    script = """
        say([ids(prepared(source=name)) for name in ("someone/tokens", "someone/texts")])
    """
    online = run(script)
    assert run(script, HF_HUB_OFFLINE="1") == online
    (message,) = run('say(complaint(source="someone/texts", train_documents=3))', HF_HUB_OFFLINE="1")
    assert message.startswith("someone/texts cannot be read")


def test_offline_a_stream_goes_on_with_what_it_has(hub):
    folder, run = hub
    rows = [{"text": f"line {number}"} for number in range(400)]
    (folder / "hub" / "someone" / "texts").mkdir(parents=True)
    (folder / "hub" / "someone" / "texts" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    script = """
        from data_prep import stream, writer
        stream.BLOCK_TOKENS = tokens.BLOCK_TOKENS = 500
        writer.TOKENS_A_SHARD, writer.CHARACTERS_A_BATCH = 200, 100
        found = prepared(source="someone/texts", streaming=True)
        say([found.info["train"].tokens, found.info["train"].finished])
        found.order(DataSection(streaming=True), 11, lambda *_: {"seed": 0, "stop": 40})[39]
    """
    (online,) = run(script)
    assert online[1] is False
    assert run(script, HF_HUB_OFFLINE="1") == [online]


def test_a_hub_that_fails_now_and_then_takes_and_gives_the_same(corpus, hub):
    folder, run = hub
    made = prepare(corpus, CHARACTERS)
    (folder / "hub" / "faults.json").write_text(json.dumps({"rate": 0.2, "kinds": ["503", "drop", "429"], "seed": 2}))
    push(run, made.folder)
    (found,) = run('say(ids(prepared(source="someone/tokens")))')
    assert found == ids_of(made)


def test_without_a_token_or_a_whole_folder_nothing_is_published(corpus, monkeypatch):
    made = prepare(corpus, CHARACTERS)
    monkeypatch.setattr(published, "get_token", lambda: None)
    with pytest.raises(ConfigError, match=r"nobody is logged in to the Hub"):
        publish(made.folder, "someone/tokens")
    (made.folder / "manifest.json").unlink()
    with pytest.raises(ConfigError, match=r"is not finished; prepare all of it first"):
        publish(made.folder, "someone/tokens")


def test_a_prepared_folder_is_a_source(corpus, tmp_path):
    made = prepare(corpus, CHARACTERS)
    moved = tmp_path / "elsewhere"
    shutil.move(made.folder, moved)
    found = prepare(DataSection(source=str(moved)), TokenizerSection())
    assert (found.folder, found.info) == (moved, made.info)
    assert ids_of(found)


@pytest.mark.parametrize(
    ("options", "section", "complaint"),
    [
        ({"train_documents": 7}, {}, r"prepared with data.train_documents=None, and 7 is given; leave it out"),
        ({}, {"vocab_size": 999}, r"prepared with tokenizer.vocab_size=4096, and 999 is given"),
        ({}, {"kind": "numbers"}, r"prepared with tokenizer.kind=characters, and numbers is given"),
        ({"streaming": True}, {}, r"is prepared already, data.streaming has no effect"),
    ],
)
def test_other_settings_than_a_folder_was_prepared_with_are_refused(corpus, options, section, complaint):
    made = prepare(corpus, CHARACTERS)
    with pytest.raises(ConfigError, match=complaint):
        prepare(DataSection(source=str(made.folder), **options), TokenizerSection(**section))


def test_tokens_are_no_texts_to_mix(corpus):
    made = prepare(corpus, CHARACTERS)
    with pytest.raises(ConfigError, match=r"holds tokens, no texts"):
        prepare(DataSection(mixture={str(made.folder): 1, "fables": 2}), CHARACTERS)
