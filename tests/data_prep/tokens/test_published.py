"""Prepared folders as sources: on disk, offline, and by way of the Hub, whose real client pushes and fetches them."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
from huggingface_hub import constants

from data_prep.tokens import published
from data_prep.tokens.prepare import prepare
from data_prep.tokens.stream import in_order
from settings.checks import ConfigError
from settings.data_sections import DataSection, TokenizerSection
from tests.hub_client import empty, serving

CHARACTERS = TokenizerSection(kind="characters")
IMPORTS = """
    import datasets, transformers.configuration_utils
    import data_prep.tokens.published, data_prep.tokens.prepare
"""
START = """
    import contextlib, json, pathlib, sys
    from data_prep.tokens import prepare as tokens
    from settings.checks import ConfigError
    from settings.data_sections import DataSection, TokenizerSection
    from storage import hub
    hub.FIRST_WAIT = 0.01

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


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    with serving(folder, START, IMPORTS, HF_HUB_DISABLE_XET="1", HF_TOKEN="hf_of_someone") as run:
        yield folder, run


@pytest.fixture
def hub(served):
    """The one Hub of these tests, with nothing on it, and no cache of it."""
    folder, _ = served
    empty(folder)
    (folder / "hub").mkdir()
    return served


def push(run, folder) -> list:
    return run(f"""
        from data_prep.tokens.published import publish
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
        say(pathlib.Path("hub/someone/tokens/README.md").read_text())
        hub.ATTEMPTS = 1
        say(prepared(source="someone/tokens").folder.name)
    """)
    assert found[0] == ids_of(made)
    assert found[1] == made.tokenizer.get_vocab()
    assert again == found[2]
    assert found[3] == ["one.jsonl", "two.jsonl"]
    assert "data.source=someone/tokens" in card
    assert f"| train | {made.info['train'].documents:,} | {made.info['train'].tokens:,} |" in card


@pytest.mark.parametrize("sources", ["there", "gone"])
def test_nothing_of_this_machine_is_published(corpus, hub, tmp_path, sources):
    folder, run = hub
    made = prepare(corpus, CHARACTERS)
    if sources == "gone":
        shutil.rmtree(tmp_path / "canary")
    push(run, made.folder)
    tokens = (folder / "hub" / "someone" / "tokens").resolve()
    pushed = [path for path in tokens.rglob("*") if path.is_file()]
    expected = {"README.md", "manifest.json", "request.json", "kindling.json"}
    expected |= {f"tokenizer/{name}.json" for name in ("tokenizer", "tokenizer_config", "report")}
    expected |= {f"{split}/00000{kind}.npy" for split in ("train", "validation") for kind in ("", ".documents")}
    assert {str(path.relative_to(tokens)) for path in pushed} - {".gitattributes"} == expected
    for path in pushed:
        assert b"canary" not in path.read_bytes(), path.name
        assert str(tmp_path).encode() not in path.read_bytes(), path.name
        assert str(folder).encode() not in path.read_bytes(), path.name
    assert json.loads((tokens / "manifest.json").read_text())["source"] == {"local:one.jsonl": 2, "local:two.jsonl": 1}


def test_files_of_one_name_stay_two(tmp_path):
    settings = {"data": {"source": "fables", "validation_source": None}, "tokenizer": {"path": "/home/me/tokenizer"}}
    settings["data"]["mixture"] = {"/a/x.txt": 1, "/b/x.txt": 3, "c4": 2, str(tmp_path / "c4"): 1}
    published._hide_paths(settings, {"c4", "fables"})
    assert settings["data"]["mixture"] == {"local:x.txt": 1, "local:x.txt (1)": 3, "c4": 2, "local:c4": 1}
    assert settings["tokenizer"]["path"] == "local:tokenizer"


def test_what_is_not_as_published_is_never_used(corpus, hub):
    _, run = hub
    push(run, prepare(corpus, CHARACTERS).folder)
    files = ["train/00000.npy", "validation/00000.documents.npy", "tokenizer/tokenizer.json", "manifest.json"]
    said = run(f"""
        import shutil
        from huggingface_hub import constants
        hub.ATTEMPTS = 1
        for file in {[*files, "request.json"]}:
            path = pathlib.Path("hub/someone/tokens").resolve() / file
            content = path.read_bytes()
            for damaged in (content[:-2] + bytes([content[-2] ^ 1]) + content[-1:], None):
                path.unlink() if damaged is None else path.write_bytes(damaged)
                shutil.rmtree(constants.HF_HUB_CACHE, ignore_errors=True)
                say(complaint(source="someone/tokens"))
                say([path.name for path in pathlib.Path("fetched").glob("[!.]*")])
                shutil.rmtree("fetched", ignore_errors=True)
            path.write_bytes(content)
        mark = pathlib.Path("hub/someone/tokens/kindling.json")
        about = json.loads(mark.read_text())
        about["files"]["train/new.bin"] = about["new"] = "of a later version"
        mark.write_text(json.dumps(about))
        say(complaint(source="someone/tokens"))
    """)
    *messages, whole = said[::2]
    assert said[1::2] == [[]] * 10
    assert whole is None
    complaint = "someone/tokens: {} does not match the hash in its kindling.json; ask its publisher"
    assert messages[::2] == [complaint.format(file) for file in [*files, "request.json"]]
    for file, message in zip([*files, "request.json"], messages[1::2], strict=True):
        assert message == complaint.format(file) or message.startswith("someone/tokens cannot be read: 404 ")


FILES = {"manifest.json": "", "request.json": ""}
MARKS = [
    ("manifest.json", {"name": "my files"}, None),  # of something else
    ("kindling.json", [], "published by another version"),
    ("kindling.json", {"format": 3, "files": {}}, "published by another version"),
    ("kindling.json", {"format": 4, "files": ["a"]}, "published by another version"),
    ("kindling.json", {"format": 4, "files": FILES | {"/a/0.npy": ""}}, "not in its folder"),
    (
        "kindling.json",
        {"format": 4, "files": FILES | {"train/../a": ""}},
        "not in its folder",
    ),
]


def test_a_data_set_that_is_no_prepared_folder_is_read_or_refused(hub):
    folder, run = hub
    for number, (name, mark, _) in enumerate(MARKS):
        odd = folder / "hub" / "someone" / f"odd{number}"
        odd.mkdir(parents=True)
        (odd / "train.jsonl").write_text('{"text": "a"}\n' * 20)
        (odd / name).write_text(json.dumps(mark))
    said = run("""
        hub.ATTEMPTS = 1
        for number in range(6):
            say(complaint(source=f"someone/odd{number}"))
    """)
    for message, (_, _, expected) in zip(said, MARKS, strict=True):
        assert message == expected or expected in message


def test_other_peoples_data_sets_are_not_written_into_and_cards_are_kept(corpus, hub):
    folder, run = hub
    made = prepare(corpus, CHARACTERS)
    (folder / "hub" / "someone" / "odd").mkdir(parents=True)
    (folder / "hub" / "someone" / "odd" / "train.jsonl").write_text('{"text": "a"}\n' * 20)
    script = f"""
        from huggingface_hub import HfApi
        from data_prep.tokens.published import publish
        made = pathlib.Path({str(made.folder)!r})
        try:
            publish(made, "someone/odd")
        except ConfigError as error:
            say(str(error))
        publish(made, "someone/tokens")
        HfApi().upload_file(path_or_fileobj=b"stale", path_in_repo="train/00001.npy", **{{
            "repo_id": "someone/tokens", "repo_type": "dataset"}})
        publish(made, "someone/tokens")
        say(sorted(path.name for path in pathlib.Path("hub/someone/tokens/train").iterdir()))
        HfApi().upload_file(path_or_fileobj=b"my own words", path_in_repo="README.md", **{{
            "repo_id": "someone/tokens", "repo_type": "dataset"}})
        publish(made, "someone/tokens")
        say(pathlib.Path("hub/someone/tokens/README.md").read_text())
    """
    refused, shards, card = run(script)
    assert refused == "someone/odd holds other files already; publish under another name"
    assert shards == ["00000.documents.npy", "00000.npy"]
    assert card == "my own words"


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
    *offline, message = run(
        f"""{script}
        say(complaint(source="someone/texts", train_documents=3))
    """,
        HF_HUB_OFFLINE="1",
    )
    assert offline == online
    assert message.startswith("someone/texts cannot be read")


def test_offline_a_stream_goes_on_with_what_it_has(hub):
    folder, run = hub
    rows = [{"text": f"line {number}"} for number in range(400)]
    (folder / "hub" / "someone" / "texts").mkdir(parents=True)
    (folder / "hub" / "someone" / "texts" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    script = """
        from data_prep.tokens import stream, writer
        stream.BLOCK_TOKENS = tokens.BLOCK_TOKENS = 500
        writer.TOKENS_PER_SHARD, writer.CHARACTERS_PER_BATCH = 200, 100
        found = prepared(source="someone/texts", streaming=True)
        say([found.info["train"].tokens, found.info["train"].finished])
        stream.in_order(found.training_examples(DataSection(streaming=True), 11), seed=0, stop=40)[39]
    """
    (online,) = run(script)
    assert online[1] is False
    assert run(script, HF_HUB_OFFLINE="1") == [online]


@pytest.mark.slow
def test_a_hub_that_fails_now_and_then_takes_and_gives_the_same(corpus, hub):
    folder, run = hub
    made = prepare(corpus, CHARACTERS)
    (folder / "hub" / "faults.json").write_text(json.dumps({"rate": 0.2, "kinds": ["503", "drop", "429"], "seed": 2}))
    push(run, made.folder)
    (found,) = run('say(ids(prepared(source="someone/tokens")))')
    assert found == ids_of(made)


def test_what_cannot_be_published_is_said_before_any_work(corpus, monkeypatch):
    monkeypatch.setattr("storage.hub.get_token", lambda: "hf_of_someone")
    monkeypatch.setattr("storage.hub.constants.HF_HUB_OFFLINE", False)
    asked = []
    monkeypatch.setattr(
        "storage.hub.get_session", lambda: SimpleNamespace(head=lambda url, timeout: asked.append((url, timeout)))
    )
    published.check_publishable("someone/tokens", corpus)
    assert asked == [(constants.ENDPOINT, 10.0)]
    for name in ("", "tokens", "a/b/c", "data.seed=1"):
        with pytest.raises(ConfigError, match=r"is not the name of a data set; write USER/NAME"):
            published.check_publishable(name, corpus)
    with pytest.raises(ConfigError, match=r"publish with data.streaming=false"):
        published.check_publishable("someone/tokens", replace(corpus, streaming=True))
    assert len(asked) == 1
    monkeypatch.setattr("storage.hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"HF_HUB_OFFLINE=1 disables pushing"):
        published.check_publishable("someone/tokens", corpus)
    monkeypatch.setattr("storage.hub.get_token", lambda: None)
    with pytest.raises(ConfigError, match=r"you are not logged in to the Hub"):
        published.check_publishable("someone/tokens", corpus)


def test_a_damaged_folder_is_not_published(corpus, tmp_path):
    made = prepare(corpus, CHARACTERS)
    path = made.folder / "train" / "00000.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    (tmp_path / "staging").mkdir()
    with pytest.raises(ConfigError, match=r"train/00000.npy is damaged; prepare it again"):
        published._stage(made.folder, tmp_path / "staging", "someone/tokens")


def test_a_prepared_folder_streams_as_its_source_does(corpus):
    made = prepare(corpus, CHARACTERS)
    source = replace(corpus, streaming=True)
    folder = DataSection(source=str(made.folder), streaming=True)

    def order(data):
        run = in_order(prepare(data, CHARACTERS).training_examples(data, 5), seed=1, stop=80)
        return [run[item]["input_ids"].tolist() for item in range(80)]

    expected = order(source)
    for journal in made.folder.glob("*/journal.json"):
        journal.unlink()  # as in a published one
    assert order(folder) == expected


def test_a_prepared_folder_is_a_source(corpus, tmp_path):
    made = prepare(corpus, CHARACTERS)
    moved = tmp_path / "elsewhere"
    shutil.move(made.folder, moved)
    manifest = json.loads((moved / "manifest.json").read_text())
    manifest["splits"]["train"]["new"] = "of a later version"
    (moved / "manifest.json").write_text(json.dumps(manifest))
    (moved / "notes.md").touch()
    found = prepare(DataSection(source=str(moved)), TokenizerSection())
    assert (found.folder, found.info) == (moved, made.info)
    assert ids_of(found)


@pytest.mark.parametrize(
    ("options", "section", "complaint"),
    [
        ({"train_documents": 7}, {}, r"prepared with data.train_documents=None, and 7 is given; leave it out"),
        ({}, {"vocab_size": 999}, r"prepared with tokenizer.vocab_size=4096, and 999 is given"),
        ({}, {"kind": "numbers"}, r"prepared with tokenizer.kind=characters, and numbers is given"),
    ],
)
def test_other_settings_than_a_folder_was_prepared_with_are_refused(corpus, options, section, complaint):
    made = prepare(corpus, CHARACTERS)
    with pytest.raises(ConfigError, match=complaint):
        prepare(DataSection(source=str(made.folder), **options), TokenizerSection(**section))


def test_tokens_are_no_texts_to_mix(corpus):
    made = prepare(corpus, CHARACTERS)
    with pytest.raises(ConfigError, match=r"holds prepared tokens, not texts"):
        prepare(DataSection(mixture={str(made.folder): 1, "fables": 2}), CHARACTERS)
