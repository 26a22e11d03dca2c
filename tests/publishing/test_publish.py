"""Runs on the Hub, pushed and fetched by its real client: each commit explains itself, and tells nothing it should not.

The Hub is on loopback (tests/hub.py). Whoever fetches is a process that has neither this repository nor any cache.
"""

import json
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from transformers import TrainerState, TrainingArguments

from modeling.modeling_kindling import CODE_FILES
from publishing import __main__, push, snapshot
from publishing.publisher import Publisher, Push
from settings.checks import ConfigError
from settings.loading import load_experiment
from settings.paths import ROOT
from storage.checkpoint_manifest import MANIFEST, STATE_FILES, find_damage, write_manifest
from tests.hub_client import serving
from training.preflight import arguments

TINY = """
model: {hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, max_position_embeddings: 32}
tokenizer: {kind: characters}
data: {source: CANARY/stories.jsonl, validation_documents: 10, cache_dir: CANARY/prepared}
training:
  output_dir: CANARY/run
  per_device_train_batch_size: 4
  max_steps: 6
  eval_steps: 3
  save_steps: 2
  save_total_limit: 1
  logging_steps: 1
  use_cpu: true
  bf16: false
  disable_tqdm: true
  push_to_hub: true
  hub_always_push: true
sample: {max_new_tokens: 10}
"""
IMPORTS = """
    import datasets, matplotlib.pyplot
    import train_lm
    import data_prep.tokens.prepare, publishing.publisher, training.reporting.report, training.trainer
"""
START = """
    import contextlib, io, json, os, pathlib, shutil, subprocess, sys

    def say(*values):
        print(json.dumps(values))

    def train(name, *overrides):
        "Train below the folder `canary` and return what it says on stderr, and how it ends."
        import train_lm
        canary, told, code = pathlib.Path("canary").resolve(), io.StringIO(), 0
        given = [f"training.output_dir={canary / name}", *overrides]
        sys.argv = ["train_lm.py", str(canary / "tiny.yaml"), *given]
        with contextlib.redirect_stdout(sys.stderr), contextlib.redirect_stderr(told):
            try:
                train_lm.main(sys.argv[1], given)
            except SystemExit as exit_:
                code = exit_.code
        return told.getvalue(), code

    def published(*arguments):
        command = [sys.executable, "-m", "publishing", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True)
        return done.returncode, (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()[-1]

"""
STRANGER = """
    import torch
    from huggingface_hub import HfApi, snapshot_download
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, pipeline

    for name in NAMES:
        tell = pipeline("text-generation", model=f"someone/{name}", trust_remote_code=True)
        say(tell("a story", do_sample=False)[0]["generated_text"])
    for name in NAMES:
        for commit in reversed(HfApi().list_repo_commits(f"someone/{name}")):
            where = {"pretrained_model_name_or_path": f"someone/{name}", "revision": commit.commit_id}
            code = {"trust_remote_code": True, "code_revision": commit.commit_id}
            files = HfApi().list_repo_files(f"someone/{name}", revision=commit.commit_id)
            if "config.json" not in files:
                continue
            config = AutoConfig.from_pretrained(**where, **code)
            backbone = AutoModel.from_pretrained(**where, **code)
            model = AutoModelForCausalLM.from_pretrained(**where, **code)
            tokenizer = AutoTokenizer.from_pretrained(**where, trust_remote_code=False)
            length = GenerationConfig.from_pretrained(f"someone/{name}", revision=commit.commit_id).max_length
            logits = model(tokenizer("a b", return_tensors="pt").input_ids).logits
            say(name, files, config.model_type, type(backbone).__name__, length, logits.sum().item())
    assert "modeling" not in sys.modules and type(model).__module__.startswith("transformers_modules")
"""
ROOT_FILES = snapshot.CODE | snapshot.RUN | {
    "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"
}  # fmt: skip


def workplace(folder: Path) -> Path:
    """An experiment and a corpus under a name that must not leave the machine."""
    canary = folder / "canary"
    (canary / "home").mkdir(parents=True)
    (folder / "hub").mkdir()
    (canary / "tiny.yaml").write_text(TINY.replace("CANARY", str(canary)))
    rows = ({"text": f"a story of {number} bears and {number * number} bees"} for number in range(100))
    (canary / "stories.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return canary


def fail(folder: Path, *kinds: str, rate: float = 1.0):
    (folder / "hub" / "faults.json").write_text(json.dumps({"rate": rate, "kinds": kinds, "seed": 0}))


def pushed(folder: Path) -> dict[str, bytes]:
    """Every file of every commit that the Hub was ever sent."""
    files = (path for path in (folder / "hub").rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


# ---- each commit


STRATEGIES = ("end", "every_save", "checkpoint", "all_checkpoints")


@pytest.fixture(scope="module")
def strategies(tmp_path_factory):
    """A run by each strategy: the folder, how each ended and generates, and what a stranger sees of each commit."""
    folder = tmp_path_factory.mktemp("strategies")
    workplace(folder)
    settings = {"HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "hf_canary0123456789", "HOME": str(folder / "canary" / "home")}
    names = [f"run-{strategy}" for strategy in STRATEGIES]
    with serving(folder, START, IMPORTS, **settings) as run_script:
        ended = run_script(f"""
            from transformers import pipeline
            for strategy in {STRATEGIES}:
                _, code = train(f"run-{{strategy}}", f"training.hub_strategy={{strategy}}")
                tell = pipeline("text-generation", model=f"canary/run-{{strategy}}", trust_remote_code=True)
                say(strategy, code, tell("a story", do_sample=False)[0]["generated_text"])
        """)
        seen = run_script(STRANGER.replace("NAMES", str(names)), PYTHONPATH="", HF_HOME=str(folder / "empty"))
        yield folder, run_script, ended, seen


def test_a_published_model_says_the_same_from_an_empty_cache(strategies):
    *_, ended, seen = strategies
    texts = [row[0] for row in seen if len(row) == 1]
    assert [code for _, code, _ in ended] == [0] * 4
    assert texts == [text for *_, text in ended]
    assert all(len(text) > len("a story") for text in texts)


@pytest.mark.parametrize(
    ("strategy", "commits", "subfolders"),
    [
        ("end", 1, set()),
        ("every_save", 4, set()),
        ("checkpoint", 4, {"last-checkpoint"}),
        ("all_checkpoints", 4, {"checkpoint-2", "checkpoint-4", "checkpoint-6"}),
    ],
)
def test_each_commit_loads_in_a_process_that_knows_nothing(strategies, strategy, commits, subfolders):
    """By all Auto classes, with its generation config, mid-run as at the end, where the last two are the same model."""
    *_, seen = strategies
    rows = [row for row in seen if row[0] == f"run-{strategy}"]
    assert len(rows) == commits
    for _, files, kind, backbone, length, _ in rows:
        missing = {"metrics.json", "curves.png", "samples.jsonl"} if (kind and len(rows) > 1) else set()
        at_root = {name for name in files if "/" not in name}
        assert ROOT_FILES - missing <= at_root <= ROOT_FILES | {".gitattributes"}
        assert (kind, backbone, length) == ("kindling_llama", "KindlingLlamaModel", 32)
    last = rows[-1][1]
    assert {"metrics.json", "curves.png", "samples.jsonl"} <= set(last)
    assert {name.partition("/")[0] for name in last if "/" in name} == subfolders
    sums = [row[-1] for row in rows]
    assert len(set(sums)) == max(1, commits - 1)
    assert sums[-1] == sums[-2:][0]


def test_nothing_secret_and_no_pickle_leaves(strategies):
    """No token, no path of this machine, no name of a folder, in any file of any commit; names are on the list."""
    folder, *_ = strategies
    files = pushed(folder)
    assert len(files) > 100
    for name, content in files.items():
        for secret in (b"canary", str(ROOT).encode(), str(folder).encode(), str(Path.home()).encode() + b"/"):
            assert secret not in content, (name, secret)
        if ".lfs" not in name and not name.endswith((".gitattributes", ".json")):
            kept = STATE_FILES | {"rng_state.safetensors", MANIFEST} if "checkpoint" in name else set()
            assert Path(name).name in snapshot.RUN | snapshot.MODEL | kept, name
    commands = [content.decode() for name, content in files.items() if name.endswith("provenance.json")]
    assert all("output_dir=run-" in command for command in commands)


@pytest.mark.parametrize(("strategy", "name"), [("checkpoint", "last-checkpoint"), ("all_checkpoints", "checkpoint-4")])
def test_a_checkpoint_that_is_kept_can_be_resumed(strategies, strategy, name):
    """It is whole as it lies there, though texts may have lost what is private, and its state is that of the run."""
    folder, *_ = strategies
    there = folder / "hub" / "models" / "someone" / f"run-{strategy}" / name
    assert find_damage(there) is None
    step = json.loads((there / "trainer_state.json").read_text())["global_step"]
    here = folder / "canary" / f"run-{strategy}" / f"checkpoint-{step}"
    for file in ("model.safetensors", "optimizer.safetensors", "scheduler.safetensors", "rng_state.safetensors"):
        assert file in json.loads((there / MANIFEST).read_text())["files"]
        assert not here.exists() or (there / file).read_bytes() == (here / file).read_bytes()


def test_published_settings_are_otherwise_those_of_the_run(strategies):
    folder, *_ = strategies
    there, here = folder / "hub" / "models" / "someone" / "run-end", folder / "canary" / "run-end"
    assert (there / "metrics.json").read_bytes() == (here / "metrics.json").read_bytes()
    published, own = (yaml.safe_load((where / "experiment.yaml").read_text()) for where in (there, here))
    for section, names in {"data": ("source", "cache_dir"), "training": ("output_dir",)}.items():
        for name in names:
            assert published[section].pop(name) == Path(own[section].pop(name)).name
    assert published == own


def test_the_card_tells_all_of_it(strategies):
    """Metadata as the Hub's library reads it; the same numbers as metrics.json; half-way and at the end."""
    folder, *_ = strategies
    run_folder = folder / "canary" / "run-every_save"
    metrics = json.loads((run_folder / "metrics.json").read_text())
    cards = [ModelCard(content.decode()) for name, content in pushed(folder).items() if name.endswith("/README.md")]
    assert len(cards) > 10
    for card in cards:
        assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "text-generation")
        assert card.data.license == "unknown"
        assert {"kindling", "kindling_llama"} <= set(card.data.tags)
        assert "ore information needed" not in card.text
        assert "None" not in card.text
        assert 'model="someone/run-' in card.text
    final = ModelCard((folder / "hub" / "models" / "someone" / "run-every_save" / "README.md").read_text())
    assert "# run-every_save\n" in final.text
    assert final.data.model_name == "run-every_save"
    shown = {result.metric_type: result.metric_value for result in final.data.eval_results}
    assert shown == {
        "loss": metrics["eval_loss"],
        "perplexity": metrics["eval_perplexity"],
        "bits_per_byte": metrics["eval_bits_per_byte"],
    }
    for word in ("6 of 6", "vocabulary of", "training FLOPs", "x86_64" if "x86" in final.text else "cores", "seed"):
        assert word in final.text


# ---- a Hub that is not well


def test_training_never_stops_for_the_hub(strategies):
    """It refuses everything; it is broken until the end, or for a while; it is slow, or silent for good."""
    folder, run_script, *_ = strategies
    fail(folder, "403")
    refused, back = run_script("""
        faults = pathlib.Path("hub/faults.json")
        say(*train("refused", "training.hub_strategy=every_save"))

        from publishing.publisher import Publisher
        finish = Publisher.finish
        def come_back(publisher):
            faults.unlink()
            finish(publisher)
        Publisher.finish = come_back
        faults.write_text(json.dumps({"rate": 1, "kinds": ["500"], "seed": 0}))
        say(*train("back", "training.hub_strategy=every_save"))
    """)
    told, code = refused
    assert [f"step {step} is not published: " in told for step in (2, 4, 6)] == [True, True, True]
    assert code.startswith("not published: the run is finished and complete in")
    assert "python -m publishing" in code
    steps = [json.loads(line)["step"] for line in (folder / "canary/refused/metrics.jsonl").read_text().splitlines()]
    assert max(steps) == 6
    assert not list((folder / "canary").rglob(f"{snapshot.SNAPSHOT}*"))
    fail(folder, "403")
    again = run_script("""say(*train("refused", "training.resume_from_checkpoint=true"))""")
    assert again == [["", code]]  # finished, and not published yet
    (folder / "hub" / "faults.json").unlink()

    assert "step 2 is not published: " in back[0]
    assert back[1] == 0
    assert (folder / "hub/models/someone/back/model.safetensors").exists()

    later, patient, slow, silent, nobody, resumed = run_script("""
        say(*published("canary/refused", "--to", "later"))
        faults = pathlib.Path("hub/faults.json")
        faults.write_text('{"rate": 1, "kinds": ["500"], "seed": 0}')
        command = [sys.executable, "-m", "publishing", "canary/refused", "--to", "patient"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
            waits = "trying again in" in process.stderr.readline()
            faults.unlink()
            process.stderr.read()
        say(waits, process.returncode)
        faults.write_text('{"rate": 0.15, "kinds": ["503", "drop", "stall"], "seed": 0}')
        say(*published("canary/refused", "--to", "slow"))
        faults.write_text('{"rate": 1, "kinds": ["stall"], "seed": 0}')
        say(*published("canary/refused", "--to", "silent", "--tries", 1, "--timeout", 0.5))
        token, os.environ["HF_TOKEN"] = os.environ["HF_TOKEN"], ""
        say(*published("canary/refused"))
        os.environ["HF_TOKEN"] = token
        faults.unlink()
        say(*train("refused", "training.resume_from_checkpoint=true"))
    """)
    assert resumed == ["", 0]
    assert (folder / "hub/models/someone/refused/model.safetensors").exists()
    assert later[0] == 0
    assert later[1].endswith("/someone/later")
    assert patient == [True, 0]
    assert slow == [0, later[1].replace("later", "slow")]
    assert silent[0] == 2
    assert "silent cannot be published" in silent[1]
    assert nobody == [2, "publishing: you are not logged in to the Hub; run `hf auth login`, or set HF_TOKEN"]


def test_what_others_made_is_kept(strategies):
    """Another model is not written into, and a card that was edited on the Hub stays; an untouched one is renewed."""
    folder, run_script, *_ = strategies
    foreign, first, edited, again, fresh, other, replaced = run_script("""
        from huggingface_hub import HfApi
        HfApi().create_repo("someone/foreign")
        HfApi().upload_file(path_or_fileobj=b"{}", path_in_repo="config.json", repo_id="someone/foreign")
        say(*published("canary/run-end", "--to", "someone/foreign"))
        say(*published("canary/run-end", "--to", "someone/thing"))
        HfApi().upload_file(path_or_fileobj=b"my words", path_in_repo="README.md", repo_id="someone/thing")
        say(*published("canary/run-end", "--to", "someone/thing"))
        card = pathlib.Path("canary/run-end/README.md")
        card.write_text(card.read_text() + "renewed")
        say(*published("canary/run-end", "--to", "someone/other"))
        card.write_text(card.read_text() + " twice")
        say(*published("canary/run-end", "--to", "someone/other"))
        say(*published("canary/run-checkpoint", "--to", "someone/other"))
        (pathlib.Path("canary/run-checkpoint") / "samples.jsonl").unlink()
        say(*published("canary/run-checkpoint", "--to", "someone/other", "--replace"))
    """)
    assert foreign[0] == 2
    assert foreign[1].endswith(": someone/foreign holds something else already; publish under another name")
    assert (folder / "hub/models/someone/foreign/config.json").read_text() == "{}"
    assert [row[0] for row in (first, edited, again, fresh)] == [0, 0, 0, 0]
    assert (folder / "hub/models/someone/thing/README.md").read_text() == "my words"
    assert other[0] == 2
    assert "someone/other holds another run already; publish under another name, or with --replace" in other[1]
    assert replaced[0] == 0
    there = folder / "hub/models/someone/other"
    assert not (there / "samples.jsonl").exists()
    assert "run-checkpoint" in (there / "experiment.yaml").read_text()


# ---- what is published, and what is refused before any work


def test_the_list_has_the_models_code():
    assert set(CODE_FILES) == snapshot.CODE


def test_of_an_unfinished_run_it_is_the_newest_whole_checkpoint(tmp_path):
    for step in (9, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
        for name in ("config.json", "tokenizer.json", "model.safetensors", "optimizer.pt", "trainer_state.json"):
            (tmp_path / f"checkpoint-{step}" / name).write_text(str(step))
        write_manifest(tmp_path / f"checkpoint-{step}")
    (tmp_path / "checkpoint-12-of-mine").mkdir()
    (tmp_path / "checkpoint-12-of-mine" / "trainer_state.json").touch()
    (tmp_path / "checkpoint-11").mkdir()
    (tmp_path / "checkpoint-11" / "model.safetensors").write_text("of a save that was interrupted")
    with pytest.raises(ConfigError, match=r"has no README.md; give a folder that a training script has written"):
        snapshot.published_model(tmp_path)
    (tmp_path / "README.md").write_text(f"in {tmp_path} and https://a.b/c/d, 91 / 7")
    (tmp_path / "training_args.bin").write_text("a pickle")
    assert snapshot.published_model(tmp_path) == tmp_path / "checkpoint-10"
    there = snapshot.snapshot(tmp_path, tmp_path / "checkpoint-10")
    files = {path.name: path.read_text() for path in there.iterdir()}
    assert files == {
        "config.json": "10",
        "tokenizer.json": "10",
        "model.safetensors": "10",
        "README.md": f"in {tmp_path.name} and https://a.b/c/d, 91 / 7",
    }
    with pytest.raises(ConfigError, match=r"holds no model; give the folder of a run that has saved one"):
        snapshot.published_model(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("command", "left"),
    [
        ("python train_lm.py /a/b.yaml data.source=/home/me/x", "python train_lm.py b.yaml data.source=x"),
        ("python x.py data.source=/home/josé/bücher", "python x.py data.source=bücher"),
        ("python x.py 'data.mixture={/home/me/one: 1, c4: 2}'", "python x.py 'data.mixture={one: 1, c4: 2}'"),
        ("python train_lm.py '/home/me/my files/a.yaml'", "python train_lm.py 'a.yaml'"),
        ("python train_lm.py configs/lm/demo.yaml", "python train_lm.py configs/lm/demo.yaml"),
    ],
)  # fmt: skip
def test_paths_are_hidden_wherever_they_stand(tmp_path, command, left):
    """Whatever letters they have, in JSON too, which spells some of them otherwise."""
    (tmp_path / "model").mkdir()
    (tmp_path / "provenance.json").write_text(json.dumps({"command": command}))
    there = snapshot.snapshot(tmp_path, tmp_path / "model")
    assert "jos" not in (there / "provenance.json").read_text()
    assert json.loads((there / "provenance.json").read_text())["command"] == left


def test_what_is_no_path_stays_and_paths_stay_apart(tmp_path):
    """A prompt may begin with a slash; two files of one name are two sources."""
    (tmp_path / "model").mkdir()
    data = {"mixture": {"/a/x/one": 0.5, "/b/y/one": 0.5}, "source": "/single"}
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump({"data": data, "sample": {"prompt": "/imagine a cat"}}))
    (tmp_path / "metrics.json").write_text(json.dumps({"eval_loss//a/x/one": 1, "eval_loss//b/y/one": 2}))
    (tmp_path / "samples.jsonl").write_text(json.dumps({"text": "/imagine a cat"}) + "\n")
    command = "python train_lm.py '/a/long folder/x.yaml' 'sample.prompt=/imagine a cat'"
    (tmp_path / "provenance.json").write_text(json.dumps({"command": command}))
    there = snapshot.snapshot(tmp_path, tmp_path / "model")
    told = yaml.safe_load((there / "experiment.yaml").read_text())
    assert told["sample"] == {"prompt": "/imagine a cat"}
    assert told["data"] == {"mixture": {"one": 0.5, "one (2)": 0.5}, "source": "single"}
    assert json.loads((there / "samples.jsonl").read_text())["text"] == "/imagine a cat"
    command = json.loads((there / "provenance.json").read_text())["command"]
    assert command == "python train_lm.py 'x.yaml' 'sample.prompt=/imagine a cat'"


BRANCHES = ("chck_a", "chck_b", "dev")


def test_checkpoints_by_tokens_are_branches_and_the_run_is_where_it_is_told(strategies):
    """Each branch has the model of its checkpoint and a card that names it; nothing is pushed to the main one."""
    folder, run_script, *_ = strategies
    (code,), files, *seen = run_script(f"""
        from pathlib import Path
        from huggingface_hub import HfApi, hf_hub_download
        named = "checkpoints.save_tokens={{chck_a: 200, chck_b: 400}}"
        say(train("run-tokens", "training.hub_strategy=end", "training.hub_revision=dev", named)[1])
        name = "someone/run-tokens"
        say(*HfApi().list_repo_files(name))
        for branch in {BRANCHES}:
            card = Path(hf_hub_download(name, "README.md", revision=branch)).read_text()
            weights = Path(hf_hub_download(name, "model.safetensors", revision=branch)).read_bytes()
            say(branch, f'model="{{name}}", revision="{{branch}}"' in card, weights.hex())
        say(*published("canary/run-tokens", "--checkpoint", "checkpoint-2", "--revision", "again"))
        say(*published("canary/run-tokens", "--checkpoint", "checkpoint-3", "--revision", "again"))
    """)
    assert (code, files) == (0, [".gitattributes"])
    run, (done, refused) = folder / "canary" / "run-tokens", seen[-2:]
    for (branch, is_named, weights), model in zip(seen[:-2], ("checkpoint-2", "checkpoint-4", "."), strict=True):
        assert is_named, branch
        assert bytes.fromhex(weights) == (run / model / "model.safetensors").read_bytes(), branch
    assert done[0] == 0
    assert done[1].endswith("/someone/run-tokens/tree/again")
    assert refused[0] == 2
    assert "checkpoint-3 cannot be published: checkpoint.json is missing; give a checkpoint of the run" in refused[1]


def test_a_branch_that_could_not_be_pushed_is_tried_again_at_the_end(tmp_path, monkeypatch):
    args = TrainingArguments(output_dir=str(tmp_path), push_to_hub=True, use_cpu=True, hub_token="hf_x")
    publisher, told = Publisher(args, tmp_path), []
    for branch in ("chck_1M", None):
        (tmp_path / str(branch)).mkdir()
        publisher.branches[tmp_path / str(branch)] = branch
        publisher._discard(7, tmp_path / str(branch), has_failed=True)
    assert publisher.failed == [(7, tmp_path / "chck_1M")]
    assert [path.name for path in tmp_path.iterdir()] == ["chck_1M"]
    monkeypatch.setattr("publishing.publisher.publish_finished", lambda *given: told.append(given))
    publisher.finish()
    retried = (tmp_path, None, None, "chck_1M", tmp_path / "chck_1M", "checkpoint-7")
    assert told == [retried, (tmp_path, None, None, None)]
    assert not [*tmp_path.iterdir()]


class Busy:
    """A push that has not ended."""

    def poll(self):
        return None


def test_a_checkpoint_is_left_out_while_another_is_on_its_way(tmp_path):
    """Unless all of them are asked for; and what goes wrong with a snapshot does not reach the training."""
    (tmp_path / "run" / "checkpoint-4").mkdir(parents=True)
    state, told = TrainerState(global_step=4, is_world_process_zero=True), []
    for always, waiting in ((False, 0), (True, 1)):
        args = TrainingArguments(
            output_dir=str(tmp_path / "run"), push_to_hub=True, hub_always_push=always, use_cpu=True, hub_token="hf_x"
        )
        publisher = Publisher(args, tmp_path / "run")
        assert not args.push_to_hub
        publisher.push = Push(2, tmp_path / "gone", Busy(), None)
        publisher.on_save(args, state, None)
        assert len(publisher.waiting) == waiting
    publisher._report_failure = lambda step, _: told.append(step)
    (tmp_path / "run" / "experiment.yaml").write_bytes(b"\xff")
    publisher.on_save(args, state, None)
    assert told == [4]


def test_a_push_that_cannot_be_started_does_not_end_the_training(tmp_path, monkeypatch, capfd):
    args = TrainingArguments(output_dir=str(tmp_path), push_to_hub=True, use_cpu=True, hub_token="hf_x")
    publisher = Publisher(args, tmp_path)
    for step, name in ((2, "subprocess.Popen"), (4, "tempfile.TemporaryFile")):
        (tmp_path / str(step)).mkdir()
        publisher.waiting.append((step, tmp_path / str(step)))
        with monkeypatch.context() as patch:
            patch.setattr(name, out_of_memory)
            publisher.on_log(args, None, None)
        assert publisher.push is None
        assert f"step {step} is not published: [Errno 12] Cannot allocate memory" in capfd.readouterr().err
    assert [*tmp_path.iterdir()] == []


def out_of_memory(*_, **__):
    raise OSError(12, "Cannot allocate memory")


def test_a_word_of_the_vocabulary_is_no_path(tmp_path):
    """Though it is the folder that a run was started from."""
    (tmp_path / "model").mkdir()
    vocabulary = json.dumps({"vocab": [str(tmp_path), str(ROOT)]})
    (tmp_path / "model" / "tokenizer.json").write_text(vocabulary)
    (tmp_path / "model" / "config.json").write_text(json.dumps({"from": str(ROOT)}))
    there = snapshot.snapshot(tmp_path, tmp_path / "model")
    assert (there / "tokenizer.json").read_text() == vocabulary
    assert json.loads((there / "config.json").read_text()) == {"from": "."}
    assert json.loads((tmp_path / "model" / "config.json").read_text()) == {"from": str(ROOT)}


def test_a_run_that_was_finished_and_goes_on_is_its_newest_checkpoint(tmp_path):
    for name in ("checkpoint-4", "."):
        (tmp_path / name).mkdir(exist_ok=True)
        for file in (*snapshot.REQUIRED_FILES, "trainer_state.json"):
            (tmp_path / name / file).write_text("{}")
        (tmp_path / name / "model.safetensors").touch()
    write_manifest(tmp_path / "checkpoint-4")
    for steps, model in ((4, tmp_path), (2, tmp_path / "checkpoint-4")):
        (tmp_path / "metrics.json").write_text(json.dumps({"steps": steps}))
        assert snapshot.published_model(tmp_path) == model
    assert not (snapshot.snapshot(tmp_path, model) / "metrics.json").exists()


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (["training.hub_token=hf_secret"], "training.hub_token is not supported: it would be written into the run"),
        (["training.push_to_hub=true"], "you are not logged in to the Hub"),
    ],
)
def test_what_cannot_be_published_is_said_before_any_work(tmp_path, monkeypatch, overrides, complaint):
    monkeypatch.setattr("storage.hub.get_token", lambda: None)
    (tmp_path / "tiny.yaml").write_text("training: {use_cpu: true}")
    with pytest.raises(ConfigError, match=complaint):
        arguments.training_arguments(load_experiment(str(tmp_path / "tiny.yaml"), overrides))


def test_names_and_offline_are_checked_too(tmp_path, monkeypatch):
    monkeypatch.setattr("storage.hub.get_token", lambda: "hf_of_someone")
    monkeypatch.setattr("storage.hub.constants.HF_HUB_OFFLINE", False)
    (tmp_path / "tiny.yaml").write_text("training: {use_cpu: true, push_to_hub: true}")
    arguments.training_arguments(load_experiment(str(tmp_path / "tiny.yaml"), []))
    with pytest.raises(ConfigError, match=r"'a/b/c' is not a valid model name"):
        arguments.training_arguments(load_experiment(str(tmp_path / "tiny.yaml"), ["training.hub_model_id=a/b/c"]))
    monkeypatch.setattr("storage.hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="HF_HUB_OFFLINE=1"):
        arguments.training_arguments(load_experiment(str(tmp_path / "tiny.yaml"), []))


@pytest.fixture
def run_to_publish(tmp_path, monkeypatch):
    """A run with as little in it as can be published, and somebody who is logged in."""
    monkeypatch.setattr("storage.hub.get_token", lambda: "hf_of_someone")
    monkeypatch.setattr("storage.hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(push, "push", None)  # it is not come to
    for file in (*snapshot.REQUIRED_FILES, "provenance.json", "metrics.json"):
        (tmp_path / file).write_text("{}")
    (tmp_path / "experiment.yaml").write_text("training: {}")
    (tmp_path / "model.safetensors").touch()
    return tmp_path


DAMAGED = [
    (
        "experiment.yaml",
        "",
        "experiment.yaml is damaged: it is not a mapping of keys to values; restore the run's file",
    ),
    ("experiment.yaml", "training: [", "experiment.yaml is damaged: while parsing a flow"),
    ("provenance.json", "", "provenance.json is damaged: Expecting value"),
    ("provenance.json", "[]", "provenance.json is damaged: it holds no keys and values"),
    ("metrics.json", "{", "metrics.json is damaged: Expecting property name"),
    ("config.json", "{", "config.json is damaged: Expecting property name"),
]


@pytest.mark.parametrize(("name", "text", "complaint"), DAMAGED)
def test_a_damaged_run_is_one_sentence(run_to_publish, name, text, complaint):
    (run_to_publish / name).write_text(text)
    before = sorted(run_to_publish.iterdir())
    with pytest.raises(ConfigError) as error:
        push.publish(run_to_publish, None, private=False, replace=False)
    assert str(error.value).startswith(f"{run_to_publish / name} is damaged")
    assert complaint in str(error.value)
    assert sorted(run_to_publish.iterdir()) == before


def test_the_folder_is_looked_at_before_the_hub(run_to_publish, monkeypatch, capsys):
    (run_to_publish / "model.safetensors").unlink()
    monkeypatch.setattr("storage.hub.check_push_allowed", None)
    monkeypatch.setattr("storage.hub.check_hub_reachable", None)
    monkeypatch.setattr("sys.argv", ["publish.py", str(run_to_publish)])
    with pytest.raises(SystemExit) as stop:
        __main__.main()
    assert stop.value.code == 2
    assert f"{run_to_publish} holds no model; give the folder of a run" in capsys.readouterr().err


WORDS = [
    (["--to", ""], "publishing: '' is not a valid model name"),
    (["--timeout", "-1"], "publishing: --timeout -1.0 is not a valid time; give seconds above 0"),
    (["--timeout", "nan"], "publishing: --timeout nan is not a valid time"),
]


@pytest.mark.parametrize(("words", "complaint"), WORDS)
def test_what_is_asked_is_checked_first(run_to_publish, monkeypatch, capsys, words, complaint):
    monkeypatch.setattr("sys.argv", ["publish.py", str(run_to_publish), *words])
    with pytest.raises(SystemExit) as stop:
        __main__.main()
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith(complaint)
