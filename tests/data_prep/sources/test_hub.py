"""Corpora of the Hub over its real protocol, from a Hub on loopback that can fail, stall and lie."""

import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from filelock import FileLock

from data_prep.sources import shards
from tests.hub_client import empty, serving

TEXTS = [f"document {i} of some length, {'word ' * (i % 7)}" for i in range(60)]
PILE = [{"text": text, "meta": {"pile_set_name": f"set {i % 3}"}} for i, text in enumerate(TEXTS)]


def lines(rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def stories(folder):
    for name, texts in {"train-00000-of-00001": TEXTS[:40], "validation-00000-of-00001": TEXTS[40:]}.items():
        pyarrow.parquet.write_table(pyarrow.table({"text": texts}), folder / "data" / f"{name}.parquet")
    (folder / "TinyStoriesV2-GPT4-train.txt").write_text("\n<|endoftext|>\n".join(TEXTS[:40]))
    (folder / "TinyStoriesV2-GPT4-valid.txt").write_text("\n<|endoftext|>\n".join(TEXTS[40:]))


def c4(folder):
    rows = [{"text": text, "timestamp": "2019", "url": "http://a"} for text in TEXTS]
    for name, part in {"train.00000-of-01024": rows[:20], "train.00001-of-01024": rows[20:40]}.items():
        (folder / "en" / f"c4-{name}.json.gz").write_bytes(gzip.compress(lines(part)))
    (folder / "en" / "c4-validation.00000-of-00008.json.gz").write_bytes(gzip.compress(lines(rows[40:])))


def pile(folder):
    frames = [zstandard.compress(lines(PILE[start : start + 10])) for start in range(0, 40, 10)]
    (folder / "train" / "00.jsonl.zst").write_bytes(b"".join(frames[:2]))
    (folder / "train" / "01.jsonl.zst").write_bytes(b"".join(frames[2:]))
    (folder / "val.jsonl.zst").write_bytes(zstandard.compress(lines(PILE[40:])))
    (folder / "test.jsonl.zst").write_bytes(zstandard.compress(lines(PILE[:1])))


def openwebtext(folder):
    (folder / "subsets" / "urlsf_subset00.tar").write_bytes(b"an archive")
    (folder / "plain_text" / "train").mkdir(parents=True)
    pyarrow.parquet.write_table(pyarrow.table({"text": TEXTS}), folder / "plain_text" / "train" / "0000.parquet")


def shakespeare(folder):
    parts = {"train": TEXTS[:40], "validation": TEXTS[40:42], "test": TEXTS[42:]}
    for name, texts in parts.items():
        path = folder / "data" / f"{name}-00000-of-00001.parquet"
        pyarrow.parquet.write_table(pyarrow.table({"text": texts}), path)


def own(folder):
    (folder / "train.jsonl").write_bytes(lines({"text": text} for text in TEXTS))


REPOSITORIES = {
    "roneneldan/TinyStories": (stories, "data"),
    "allenai/c4": (c4, "en"),
    "monology/pile-uncopyrighted": (pile, "train"),
    "Skylion007/openwebtext": (openwebtext, "subsets"),
    "karpathy/tiny_shakespeare": (shakespeare, "data"),
    "someone/corpus": (own, "."),
}


IMPORTS = "import datasets"
START = """
    import json, pathlib
    from data_prep.sources.table import open_corpus
    from settings.checks import ConfigError
    from settings.data_sections import DataSection
    from storage import hub
    hub.FIRST_WAIT = 0.01

    def texts(split):
        return [document["text"] for document in split]

    def corpus(source, **options):
        return open_corpus(DataSection(source=source, validation_documents=None, **options))

"""


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    with serving(folder, START, IMPORTS, HF_HUB_DOWNLOAD_TIMEOUT="1", HF_HUB_ETAG_TIMEOUT="1") as run:
        yield folder, run


@pytest.fixture
def hub(served):
    """The folder that is served, as new and nowhere cached, and how to run Python against the server."""
    here, run = served
    empty(here)
    for name, (write, below) in REPOSITORIES.items():
        folder = here / "hub" / name
        (folder / below).mkdir(parents=True)
        write(folder)
    return here / "hub", run


def test_each_corpus_comes_in_its_own_format_and_leaves_no_shard(hub):
    folder, run = hub
    found = run("""
        for name in ("tinystories", "tinystories-v2", "c4", "pile", "tinyshakespeare"):
            print(json.dumps([texts(split) for split in corpus(name)]))
        train, validation = corpus("pile", train_documents=5)
        print(json.dumps([document["group"] for document in train]))
        train, validation = open_corpus(DataSection(source="someone/corpus", train_documents=5, validation_documents=2))
        print(json.dumps([texts(validation), texts(train)]))
        print(json.dumps(train.revisions))
        train, validation = open_corpus(DataSection(source="openwebtext", validation_documents=2))
        print(json.dumps([texts(validation), texts(train)]))
    """)
    for train, validation in found[:5]:
        assert [text.strip() for text in train] == [text.strip() for text in TEXTS[:40]]
        assert [text.strip() for text in validation] == [text.strip() for text in TEXTS[40:]]
    assert found[5] == ["set 0", "set 1", "set 2", "set 0", "set 1"]
    assert found[6] == [TEXTS[:2], TEXTS[2:7]]  # no split of its own: held out
    assert found[7] == {"someone/corpus": "0" * 40}
    assert found[8] == [TEXTS[:2], TEXTS[2:]]
    assert not list((folder.parent / "home").rglob("*.parquet"))
    assert not list((folder.parent / "home").rglob(".kindling-shards*"))


def test_the_same_bytes_under_faults(hub):
    folder, run = hub
    faults = {"rate": 0.3, "kinds": ["drop", "503", "drop", "500"], "seed": 1}
    (folder / "faults.json").write_text(json.dumps(faults))
    found = run("""
        for name in ("c4", "pile"):
            print(json.dumps([texts(split) for split in corpus(name)]))
    """)
    assert found == [[TEXTS[:40], TEXTS[40:]]] * 2


def test_stalls_and_refusals_pass(hub):
    folder, run = hub
    (folder / "faults.json").write_text(json.dumps({"rate": 0.15, "kinds": ["stall", "429"], "seed": 3}))
    assert run('print(json.dumps(texts(corpus("c4")[0])))') == [TEXTS[:40]]


def test_a_hub_that_stays_down_is_one_sentence(hub):
    _, run = hub
    script = """
        import time
        time.sleep = lambda seconds: None
        train, validation = corpus("c4")
        pathlib.Path("hub/faults.json").write_text(json.dumps({"rate": 1, "kinds": ["503"], "seed": 0}))
        hub.ATTEMPTS = 3
        try:
            texts(train)
        except ConfigError as error:
            print(json.dumps(str(error)))
    """
    (message,) = run(script)
    assert message.startswith("shard allenai/c4/en/c4-train.00000-of-01024.json.gz cannot be read after 3 attempts: ")
    assert "\n" not in message


@pytest.mark.parametrize("damage", ["cut at a record", "replaced", "one bit"])
def test_a_shard_that_changes_is_never_read(hub, damage):
    """After its hash was published: between opening the corpus and coming to the shard."""
    folder, run = hub
    path = folder / "monology/pile-uncopyrighted/train/01.jsonl.zst"
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    other = {
        "cut at a record": zstandard.compress(lines(PILE[20:30])),
        "replaced": zstandard.compress(lines(PILE[:20])),
        "one bit": bytes(flipped),
    }
    (folder / "other").write_bytes(other[damage])
    found = run("""
        train, validation = corpus("pile")
        count = 0
        try:
            for document in train:
                count += 1
                if count == 5:
                    pathlib.Path("hub/other").replace("hub/monology/pile-uncopyrighted/train/01.jsonl.zst")
        except ConfigError as error:
            print(json.dumps([count, str(error)]))
    """)
    ((count, message),) = found
    assert count == 20
    assert "shard monology/pile-uncopyrighted/train/01.jsonl.zst does not match the hash published" in message


def test_what_is_not_there_is_said_at_once(hub):
    _, run = hub
    messages = run("""
        hub.FIRST_WAIT = 1000
        for options in ({"source": "someone/else"}, {"source": "someone/corpus", "subset": "none"}):
            try:
                open_corpus(DataSection(**options))
            except ConfigError as error:
                print(json.dumps(str(error)))
    """)
    assert [message.split(" cannot be read: ")[0] for message in messages] == ["someone/else", "someone/corpus"]
    assert "none" in messages[1]


def test_shards_of_killed_processes_are_removed_and_of_others_not(tmp_path, monkeypatch):
    monkeypatch.setattr(shards.constants, "HF_HUB_CACHE", str(tmp_path))
    killed, living = (tmp_path / f"{shards.PREFIX}{name}" for name in ("killed", "living"))
    for folder in (killed, living):
        folder.mkdir()
        (folder / "lock").touch()
        (folder / "shard.parquet").touch()
    spool = shards.Spool()
    with FileLock(living / "lock"):
        spool._open_folder()
    assert set(tmp_path.iterdir()) == {living, spool.folder}
    spool.clear()
    assert list(tmp_path.iterdir()) == [living]
