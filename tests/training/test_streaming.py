"""Streamed runs that are killed: the same documents in the same order, none lost, none twice, and the same weights."""

import itertools
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from operator import itemgetter
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from settings.paths import ROOT
from tests.training.checkpoints import killed_run
from tests.training.checkpoints.killed_run import SMALL
from tests.training.checkpoints.test_store import in_a_child

DOCUMENTS, HELD_OUT, STEPS = 300, 5, 24
KILLS = [4, 9, 10, 13, 19]
EXPERIMENT = {
    "model": {
        "type": "kindling_gpt", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "max_position_embeddings": 16, "hidden_dropout": 0.1,
    },
    "tokenizer": {"kind": "numbers"},
    "data": {"source": "corpus.jsonl", "streaming": True, "validation_documents": HELD_OUT},
    "training": {
        "max_steps": STEPS, "save_steps": 3, "per_device_train_batch_size": 4, "eval_strategy": "no", "use_cpu": True,
        "bf16": False, "output_dir": "run", "disable_tqdm": True, "seed": 0, "logging_steps": 1,
    },
}  # fmt: skip


def train(folder, *kills, processes=1, **training):
    """Run until it ends by itself; return the rows of ids by step, weights, and how often it was killed."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SMALL)
    texts = ({"text": " ".join([str(number)] * 3)} for number in range(DOCUMENTS))
    (folder / "corpus.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))
    experiment = EXPERIMENT | {"training": EXPERIMENT["training"] | training}
    (folder / "experiment.yaml").write_text(yaml.safe_dump(experiment))
    (folder / "ledger.jsonl").touch()
    for count in range(len(kills) + 1):
        code = (one_process if processes == 1 else launched)(folder, kills)
        if code == 0:
            return ledger_of(folder), load_file(folder / "run" / "model.safetensors"), count
        assert code == (-signal.SIGKILL if processes == 1 else 1)
    raise AssertionError("the run has not ended")


def one_process(folder, kills) -> int:
    """In a fork of this process, which need not import anything again."""

    def work():
        os.chdir(folder)
        os.environ["PYTHONPATH"] = str(folder)  # for the process that writes the tokens
        tempfile.tempdir = temporary
        exec(SMALL)
        killed_run.run("experiment.yaml", Path("ledger.jsonl"), kills)

    # A short path: workers make sockets there, whose paths have at most 107 characters.
    with tempfile.TemporaryDirectory() as temporary:
        return in_a_child(work)


def launched(folder, kills) -> int:
    """In two processes that torch's launcher starts."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    words = [killed_run.__file__, "experiment.yaml", "ledger.jsonl", *map(str, kills)]
    return subprocess.run([*launcher, *words], cwd=folder, env=environment, check=False).returncode


def ledger_of(folder) -> list[list[list[int]]]:
    """The rows of ids of each step, of all processes; a step that was done again must have had the same."""
    attempts = defaultdict(lambda: defaultdict(list))
    for line in (folder / "ledger.jsonl").read_text().splitlines():
        row = json.loads(line)
        attempts[row["step"]][row["run"]].append((row["process"], row["ids"]))
    assert sorted(attempts) == [*range(1, STEPS + 1)]
    steps = []
    for step in sorted(attempts):
        by_run = [sorted(rows, key=itemgetter(0)) for rows in attempts[step].values()]  # stable: in the order they came
        assert all(rows == by_run[0] for rows in by_run), f"step {step} had other data when it was done again"
        steps.append([row for _, ids in by_run[0] for row in ids])
    return steps


def refuse_lost_and_repeated(steps: list[list[list[int]]], batch: int):
    """In each whole pass each document's number must have been a target three times, and its end once."""
    tokens = 1 + 4 * (DOCUMENTS - HELD_OUT)
    windows = math.ceil((tokens - 1) / 15)
    rows = [row for step in steps for row in step]
    assert len(rows) == STEPS * batch
    for start in range(0, len(rows) - windows + 1, windows):
        targets = Counter(token for row in rows[start : start + windows] for token in row[1:])
        counts = Counter(targets.values())
        assert counts[3] == DOCUMENTS - HELD_OUT, counts


@pytest.mark.parametrize(
    ("kills", "workers", "accumulation"),
    [
        ([9, 13], 2, 3),  # before a save and after one
        *(pytest.param(KILLS, *one, marks=pytest.mark.slow) for one in itertools.product((0, 1, 2), (1, 3))),
    ],
)
def test_kills_lose_nothing_and_repeat_nothing(tmp_path, kills, workers, accumulation):
    options = {"dataloader_num_workers": workers, "gradient_accumulation_steps": accumulation}
    steps, weights, _ = train(tmp_path / "whole", **options)
    killed_steps, killed_weights, count = train(tmp_path / "killed", *kills, **options)
    assert count == len(kills)
    assert killed_steps == steps
    refuse_lost_and_repeated(steps, 4 * accumulation)
    assert all(torch.equal(weights[name], killed_weights[name]) for name in weights)


@pytest.mark.slow
def test_two_processes_share_a_stream_and_survive_kills(tmp_path):
    """They train on what one would with batches of twice the size, and go on after kills as one does."""
    one, _, _ = train(tmp_path / "one", per_device_train_batch_size=8)
    two, weights, _ = train(tmp_path / "two", processes=2)
    assert [sorted(step) for step in two] == [sorted(step) for step in one]
    refuse_lost_and_repeated(two, 8)
    killed, killed_weights, kills = train(tmp_path / "killed", *KILLS[:2], processes=2)
    assert (killed, kills) == (two, 2)
    assert all(torch.equal(weights[name], killed_weights[name]) for name in weights)
