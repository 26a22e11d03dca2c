"""Pushing to the loopback Hub, and reading back what was pushed, with the clients that people use."""

import json

import pyarrow
import pyarrow.parquet
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from tests.hub_client import serving

FILES = {
    "README.md": b"---\nlicense: apache-2.0\n---\n# A folder\n",
    "small.json": b"{}",
    "empty.txt": b"",
    "below/binary.bin": bytes(range(256)),
    "below/large.txt": b"word " * 1000,
    "below/deep/large.bin": bytes(range(256)) * 300,
}
START = """
    import json, pathlib, time
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_download, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, RemoteEntryNotFoundError

    api = HfApi()

    def say(*values):
        print(json.dumps(values))

    def pulled(cache, **options):
        folder = pathlib.Path(snapshot_download("someone/thing", cache_dir=cache, **options))
        files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
        return {name: files[name].read_bytes().hex() for name in sorted(files) if name != ".gitattributes"}

"""


@pytest.fixture
def hub(tmp_path):
    """A folder with files to push and a Hub that serves its `hub`, and what a script says that runs against it."""
    (tmp_path / "hub").mkdir()
    for name, content in FILES.items():
        path = tmp_path / "files" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    with serving(tmp_path, START, HF_HUB_DISABLE_XET="1", HF_TOKEN="hf_of_someone") as run:
        yield tmp_path, run


def hexed(files: dict[str, bytes]) -> dict[str, str]:
    return {name: files[name].hex() for name in sorted(files)}


@pytest.mark.parametrize("kind", ["dataset", "model"])
def test_what_was_pushed_comes_back_at_each_commit(hub, kind):
    _, run = hub
    said = run(f"""
        kind = {kind!r}
        say(api.whoami()["name"], api.create_repo("thing", repo_type=kind).repo_id)
        created = api.repo_info("someone/thing", repo_type=kind).sha
        first = api.upload_folder(folder_path="files", repo_id="someone/thing", repo_type=kind, commit_message="first")
        say(pulled("one", repo_type=kind))
        api.create_repo("someone/thing", repo_type=kind, exist_ok=True)
        again = api.upload_folder(folder_path="files", repo_id="someone/thing", repo_type=kind)
        say(first.repo_url.repo_id, again.oid == first.oid)

        second = api.create_commit("someone/thing", repo_type=kind, commit_message="second", operations=[
            CommitOperationAdd("small.json", b"[1]"),
            CommitOperationAdd("below/large.txt", b"other " * 1000),
            CommitOperationAdd("new.txt", b"new"),
            CommitOperationDelete("below/deep/"),
            CommitOperationDelete("empty.txt"),
        ])
        third = api.upload_file(
            path_or_fileobj=b"newer", path_in_repo="new.txt", repo_id="someone/thing", repo_type=kind
        )
        say(pulled("two", repo_type=kind))
        say(pulled("two", repo_type=kind, revision=first.oid))
        say(pathlib.Path(hf_hub_download("someone/thing", "new.txt", repo_type=kind, revision=second.oid)).read_text())
        say([path.path for path in api.list_repo_tree("someone/thing", "below", repo_type=kind, recursive=True)])
        commits = [commit.commit_id for commit in api.list_repo_commits("someone/thing", repo_type=kind)]
        say(commits == [third.oid, second.oid, first.oid, created], len(set(commits)))
        say(api.repo_info("someone/thing", repo_type=kind).sha == third.oid)
        say(api.repo_exists("someone/thing", repo_type="model" if kind == "dataset" else "dataset"))
    """)
    newer = {"small.json": b"[1]", "below/large.txt": b"other " * 1000, "new.txt": b"newer"}
    newer = {
        name: content for name, content in FILES.items() if name not in ("below/deep/large.bin", "empty.txt")
    } | newer
    assert said == [
        ["someone", "someone/thing"],
        [hexed(FILES)],
        ["someone/thing", True],
        [hexed(newer)],
        [hexed(FILES)],
        ["new"],
        [["below/binary.bin", "below/large.txt"]],
        [True, 4],
        [True],
        [False],
    ]


def test_a_commit_happens_as_a_whole_or_not_at_all(hub):
    """Also where the first of its changes could be made."""
    _, run = hub
    said = run("""
        start = api.create_repo("thing")
        head = api.upload_folder(folder_path="files", repo_id="someone/thing").oid
        add = CommitOperationAdd("new.txt", b"new")
        try:
            api.create_commit(
                "someone/thing", commit_message="no", operations=[add, CommitOperationDelete("none.txt")]
            )
        except RemoteEntryNotFoundError as error:
            say("doesn't exist" in str(error))
        absent = CommitOperationAdd("large.bin", b"large " * 1000)
        absent._upload_mode, absent._is_uploaded = "lfs", True
        for operation, options in ((absent, {}), (CommitOperationAdd("new.txt", b"new"), {"parent_commit": "1" * 40})):
            try:
                api.create_commit("someone/thing", operations=[add, operation], commit_message="no", **options)
            except HfHubHTTPError as error:
                say(error.response.status_code)
        say(api.model_info("someone/thing").sha == head, pulled("one"))
    """)
    assert said == [[True], [400], [412], [True, hexed(FILES)]]


def test_uploads_under_faults_end_right_or_raise(hub):
    """A push that raised may have been done, its answer lost; but what can be read is always the whole of a push."""
    folder, run = hub
    rounds = [FILES | {"below/large.txt": b"%d " % i * 1000, "small.json": b"%d" % i} for i in range(12)]
    (folder / "faults.json").write_text(json.dumps({"rate": 0.3, "kinds": ["drop", "503", "429"], "seed": 4}))
    said = run("""
        time.sleep = lambda seconds: None
        options = {"repo_id": "someone/thing", "repo_type": "dataset"}
        api.create_repo(**options)
        api.upload_folder(folder_path="files", **options)

        def pushed(number):
            operations = [
                CommitOperationAdd("below/large.txt", b"%d " % number * 1000),
                CommitOperationAdd("small.json", b"%d" % number),
            ]
            pathlib.Path("faults.json").rename("hub/faults.json")
            try:
                api.create_commit(operations=operations, commit_message="change", **options)
            except Exception:
                return False
            finally:
                pathlib.Path("hub/faults.json").rename("faults.json")
            return True

        for number in range(12):
            done = False
            while not done:
                done = pushed(number)
                say(number, done, pulled("cache", repo_type="dataset"))
        say(len(api.list_repo_commits(**options)))
    """)
    assert said.pop() == [2 + len(rounds)]  # none is made twice
    states = [hexed(FILES), *map(hexed, rounds)]
    seen = [(done, states.index(state) - number) for number, done, state in said]
    assert set(seen) == {(True, 1), (False, 0), (False, 1)}, "done, refused, and done without an answer"


def test_refusals_reach_the_client(hub):
    folder, run = hub
    said = run("""
        def refused(action):
            try:
                action()
            except HfHubHTTPError as error:
                say(error.response.status_code)

        api.create_repo("thing")
        stranger = HfApi(token=False)
        refused(lambda: stranger.create_repo("other"))
        refused(lambda: stranger.upload_folder(folder_path="files", repo_id="someone/thing"))
        refused(lambda: api.create_repo("thing"))
        refused(lambda: api.upload_folder(folder_path="files", repo_id="someone/else"))
        pathlib.Path("hub/faults.json").write_text(json.dumps({"rate": 1, "kinds": ["403"], "seed": 0}))
        refused(lambda: api.upload_folder(folder_path="files", repo_id="someone/thing"))
        pathlib.Path("hub/faults.json").unlink()
        say(pulled("one"))
    """)
    assert said == [[401], [401], [409], [404], [403], [{}]]
    assert not (folder / "hub/models/someone/other").exists()


def test_a_folder_that_was_served_can_be_pushed_to(hub):
    """What lay there stays, as the commit it was."""
    folder, run = hub
    (folder / "hub/someone").mkdir()
    (folder / "files").rename(folder / "hub/someone/thing")
    said = run("""
        options = {"repo_id": "someone/thing", "repo_type": "dataset"}
        before = api.dataset_info("someone/thing").sha
        say(before)
        api.upload_file(path_or_fileobj=b"new", path_in_repo="new.txt", **options)
        say(pulled("one", repo_type="dataset"), pulled("one", repo_type="dataset", revision=before))
    """)
    assert said == [["0" * 40], [hexed(FILES | {"new.txt": b"new"}), hexed(FILES)]]


def test_a_pushed_corpus_is_a_data_set(hub):
    folder, run = hub
    texts = [f"document {number}" for number in range(100)]
    (folder / "corpus/data").mkdir(parents=True)
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), folder / "corpus/data/train-00000-of-00001.parquet")
    lines = [json.dumps({"text": text}) + "\n" for text in texts[:3]]
    (folder / "corpus/validation.jsonl").write_text("".join(lines))
    said = run("""
        from datasets import load_dataset, load_dataset_builder
        api.create_repo("thing", repo_type="dataset")
        api.upload_folder(folder_path="corpus", repo_id="someone/thing", repo_type="dataset")
        say(list(load_dataset_builder("someone/thing").config.data_files))
        for files in (None, {"validation": "validation.jsonl"}):
            splits = load_dataset("someone/thing", data_files=files, streaming=True)
            say({split: [row["text"] for row in splits[split]] for split in splits})
    """)
    assert said == [[["train"]], [{"train": texts}], [{"validation": texts[:3]}]]


def test_a_pushed_model_is_loaded_by_name(hub):
    """The newest, and the one of an earlier commit."""
    folder, run = hub
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1, "b": 2}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]")
    model = GPT2LMHeadModel(GPT2Config(vocab_size=8, n_positions=16, n_embd=8, n_layer=1, n_head=2)).eval()
    logits = []
    for saved in ("first", "second"):
        torch.nn.init.normal_(model.transformer.wte.weight)
        model.save_pretrained(folder / saved)
        tokenizer.save_pretrained(folder / saved)
        logits.append(model(**tokenizer("a b a", return_tensors="pt")).logits.tolist())
    ((commit,),) = run("""
        api.create_repo("thing")
        say(api.upload_folder(folder_path="first", repo_id="someone/thing").oid)
        api.upload_folder(folder_path="second", repo_id="someone/thing")
    """)
    said = run(f"""
        from transformers import AutoModelForCausalLM, AutoTokenizer
        tokenizer = AutoTokenizer.from_pretrained("someone/thing")
        for revision in ({commit!r}, "main"):
            model = AutoModelForCausalLM.from_pretrained("someone/thing", revision=revision)
            say(model(**tokenizer("a b a", return_tensors="pt")).logits.tolist())
    """)
    assert said == [[logits[0]], [logits[1]]]
