"""`accelerate launch` as docs/training.md has it: two processes do what one does, and one tells of it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

import train_algorithmic
import train_lm
from settings.checks import ConfigError
from settings.paths import ROOT
from training.checkpoints.store import latest_valid
from training.run_folder import locked_run_folder

CPU = "configs/accelerate/cpu.yaml"
STEPS, BATCH = 10, 8
EXPERIMENT = {
    "model": {
        "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 512,
        "embedding_dropout": 0.1, "hidden_dropout": 0.1, "attention_dropout": 0.1,
    },
    "tokenizer": {"vocab_size": 400, "train_documents": 60},
    "data": {"source": "fables", "layout": "documents", "train_documents": 60, "validation_documents": 21},
    "loss": {"z_loss": 1e-2},
    "averaging": {"ema": 0.3, "tail": 0.5, "save": "ema"},
    "training": {
        "learning_rate": 1e-2, "max_steps": STEPS, "logging_steps": 1, "eval_steps": STEPS // 2,
        "save_steps": STEPS // 2, "use_cpu": True, "bf16": False,
    },
}  # fmt: skip
KILLING = f"""
import os, signal, sys
sys.path.insert(0, {str(ROOT)!r})
import train_lm
from command_line.run import run_script
from training.trainer import KindlingTrainer
step = KindlingTrainer.training_step
def dying(self, *arguments):
    if os.environ["RANK"] == "1" and self.state.global_step == {STEPS - 2}:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, *arguments)
KindlingTrainer.training_step = dying
run_script("", train_lm.main)
"""
SHARED = ["training.per_device_train_batch_size=2", "training.gradient_accumulation_steps=2"]
ALONE = [f"training.per_device_train_batch_size={BATCH}"]


def settings(folder: Path, name: str, *overrides: str) -> list[str]:
    """The arguments of train_lm.py for a run in `folder`, which has its own prepared tokens."""
    folder.mkdir(exist_ok=True)
    (folder / "tiny.yaml").write_text(yaml.safe_dump(EXPERIMENT))
    where = [f"training.output_dir={folder / name}", f"data.cache_dir={folder / 'prepared'}"]
    return [str(folder / "tiny.yaml"), *where, *overrides]


def launch(*words: str) -> subprocess.CompletedProcess:
    """What `accelerate launch` and these words do, typed at the root of the repository."""
    program = [str(Path(sys.executable).with_name("accelerate")), "launch"]
    return subprocess.run([*program, *words], cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)


def rows_of(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def column(rows: list[dict], name: str) -> list:
    return [row[name] for row in rows if name in row]


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> Path:
    """A run of one process."""
    folder = tmp_path_factory.mktemp("one")
    path, *overrides = settings(folder, "run", *ALONE)
    train_lm.main(path, overrides)
    return folder / "run"


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    """The same run of two processes, from scratch, and what it printed."""
    folder = tmp_path_factory.mktemp("two")
    done = launch("--config_file", CPU, "train_lm.py", *settings(folder, "run", *SHARED))
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "run", done


def test_two_processes_do_what_one_does(one, two):
    alone, shared = rows_of(one), rows_of(two[0])
    assert column(shared, "step") == column(alone, "step")
    assert column(shared, "loss") == pytest.approx(column(alone, "loss"), rel=1e-6)
    assert column(shared, "z_loss") == pytest.approx(column(alone, "z_loss"), rel=1e-6)
    assert column(shared, "tokens") == column(alone, "tokens")
    assert column(shared, "total_flos") == column(alone, "total_flos")
    last = rows_of(two[0])[-1]
    assert f" {last['tokens']:,} targets, {last['total_flos']:.4g} FLOPs\n" in two[1].stdout
    assert len(column(shared, "loss")) == len(column(shared, "z_loss")) == STEPS


def test_validation_counts_each_token_once(one, two):
    """There are 21 documents, no two equally long, which two processes cannot share evenly."""
    alone, shared = (json.loads((run / "metrics.json").read_text()) for run in (one, two[0]))
    assert shared.keys() == alone.keys()
    for name in ("eval_loss", "eval_raw_loss", "eval_ema_loss", "eval_tail_loss"):
        assert shared[name] == pytest.approx(alone[name], rel=1e-6)
    assert shared["eval_bits_per_byte"] == pytest.approx(alone["eval_bits_per_byte"], rel=1e-6)
    assert shared["floor_loss"] == alone["floor_loss"]


def test_the_main_process_alone_speaks_and_writes(two):
    run, done = two
    lines = done.stdout.splitlines()
    for beginning in ("tokenizer   ", "batch  ", "run folder  ", "prompt it   "):
        assert sum(line.startswith(beginning) for line in lines) == 1, beginning
    assert f"batch       {BATCH} examples = 2 processes x 2 x 2 accumulated, of up to 512 tokens, " in done.stdout
    assert "cpu, fp32, 2 processes, " in done.stdout
    assert "processes   " not in done.stdout
    assert done.stderr.count(f"| 0/{STEPS} [") == 1, "progress bars"
    assert "Warning" not in done.stderr
    rows = rows_of(run)
    assert [row["step"] for row in rows if "loss" in row] == [*range(1, STEPS + 1)]
    assert [json.loads(line)["step"] for line in (run / "samples.jsonl").read_text().splitlines()] == [5, 10]
    assert {path.name for path in run.glob("checkpoint-*")} == {"checkpoint-5", "checkpoint-10"}
    assert {path.name for path in (run / "checkpoint-10").glob("rng*")} == {
        "rng_state_0.safetensors",
        "rng_state_1.safetensors",
    }


def test_the_run_says_how_it_was_launched(two):
    run, _ = two
    about = json.loads((run / "provenance.json").read_text())
    assert about["command"].startswith(f"accelerate launch --config_file {CPU} train_lm.py {run.parent}/tiny.yaml ")
    assert about["command"] in (run / "README.md").read_text()
    assert about["hardware"]["processes"] == 2
    assert "resumed_by" not in about


def half_way(run: Path, folder: Path, *overrides: str) -> tuple[Path, list[str]]:
    """A copy of a run as it was half-way, and the arguments that go on with it."""
    shutil.copytree(run, folder / "run")
    shutil.rmtree(folder / "run" / f"checkpoint-{STEPS}")
    (folder / "run" / "metrics.json").unlink()
    path, *where = settings(folder, "run", *overrides, "training.resume_from_checkpoint=true")
    return folder / "run", [path, *where, f"data.cache_dir={run.parent / 'prepared'}"]


def test_one_process_goes_on_where_two_were(two, tmp_path):
    copy, (path, *overrides) = half_way(two[0], tmp_path, *ALONE)
    train_lm.main(path, overrides)
    assert column(rows_of(copy), "loss") == pytest.approx(column(rows_of(two[0]), "loss"), rel=1e-6)
    assert column(rows_of(copy), "tokens") == column(rows_of(two[0]), "tokens")


@pytest.mark.slow
def test_two_processes_go_on_where_two_were(two, tmp_path):
    copy, words = half_way(two[0], tmp_path, *SHARED)
    done = launch("--config_file", CPU, "train_lm.py", *words)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Warning" not in done.stderr
    assert column(rows_of(copy), "loss") == column(rows_of(two[0]), "loss")
    before, after = (load_file(run / "model.safetensors") for run in (two[0], copy))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert len(json.loads((copy / "provenance.json").read_text())["resumed_by"]) == 1


@pytest.mark.slow
def test_two_processes_stream_from_scratch(tmp_path):
    stream = ["data.streaming=true", "data.layout=packed", "data.context_length=64"]
    done = launch("--config_file", CPU, "train_lm.py", *settings(tmp_path, "run", *SHARED, *stream))
    assert done.returncode == 0, done.stderr[-3000:]
    path, *overrides = settings(tmp_path / "alone", "run", *ALONE, *stream)
    train_lm.main(path, overrides)
    alone, shared = rows_of(tmp_path / "alone" / "run"), rows_of(tmp_path / "run")
    assert column(shared, "loss") == pytest.approx(column(alone, "loss"), rel=1e-6)
    assert column(shared, "total_flos") == column(alone, "total_flos")
    assert column(shared, "eval_loss") == pytest.approx(column(alone, "eval_loss"), rel=1e-6)


@pytest.mark.slow
def test_a_process_that_is_killed_is_named(two, tmp_path):
    """By the launcher, which ends the other; and the run goes on to the same numbers."""
    words = settings(tmp_path, "run", *SHARED, "training.resume_from_checkpoint=true")
    killing = tmp_path / "killing.py"
    killing.write_text(KILLING)
    ended = launch("--config_file", CPU, str(killing), *words)
    assert ended.returncode != 0
    assert "rank      : 1" in ended.stderr
    assert "Signal 9 (SIGKILL)" in ended.stderr
    assert latest_valid(tmp_path / "run").name == f"checkpoint-{STEPS // 2}"
    done = launch("--config_file", CPU, "train_lm.py", *words)
    assert done.returncode == 0, done.stderr[-3000:]
    assert column(rows_of(tmp_path / "run"), "loss") == column(rows_of(two[0]), "loss")


@pytest.mark.slow
def test_a_launcher_that_starts_one_process_is_named(tmp_path):
    words = settings(tmp_path, "run", *SHARED, "training.max_steps=1")
    done = launch("--cpu", "--num_processes", "2", "train_lm.py", *words)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "processes   1, though several were requested from accelerate" in done.stdout
    assert "cpu, fp32, 1 process, " in done.stdout


def test_a_mistake_is_one_sentence_of_all_processes(tmp_path):
    """torch's launcher, which is accelerate's too, says what failed in a report that ends with the sentence."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    words = settings(tmp_path, "run", "training.learning_rat=1")
    done = subprocess.run(
        [*launcher, "train_lm.py", *words], cwd=ROOT, capture_output=True, text=True, check=False, timeout=600
    )
    sentence = "train_lm.py: training.learning_rat is not a setting; did you mean learning_rate?"
    assert done.returncode != 0
    lines = done.stderr.splitlines()
    assert lines.count(sentence) == 1
    assert lines[-2].strip() == f"traceback : {sentence}"
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_folder_that_another_run_has_is_refused_to_all_processes(tmp_path):
    words = settings(tmp_path, "run", *SHARED)
    with locked_run_folder(tmp_path / "run"):
        done = launch("--config_file", CPU, "train_lm.py", *words)
    assert done.returncode != 0
    assert f"traceback : train_lm.py: {tmp_path / 'run'} is in use by process {os.getpid()} on " in done.stderr
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "prepared").exists()


def test_equations_are_not_shared_out(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="one process trains all replicas"):
        train_algorithmic.main("configs/algorithmic/fast.yaml", [f"training.output_dir={tmp_path / 'run'}"])
    assert not (tmp_path / "run").exists()
