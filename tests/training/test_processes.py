"""Two processes train as one does with batches of twice the size, to the end of the run, wherever that falls."""

import json
import os
import subprocess
import sys
from collections import defaultdict

import pytest

from config import ROOT

SCRIPT = ROOT / "tests" / "training" / "processes.py"


def runs(folder, processes: int) -> dict[tuple, list[dict]]:
    """What the processes say of each run, at a global batch of four."""
    folder.mkdir()
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [sys.executable, *launcher, str(SCRIPT), str(4 // processes), str(folder)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    found = defaultdict(list)
    for path in folder.glob("*.jsonl"):
        for said in map(json.loads, path.read_text().splitlines()):
            found[said["count"], said["accumulation"]].append(said)
    return found


def rows_by_step(said: list[dict]) -> dict[int, list[int]]:
    steps = defaultdict(list)
    for one in said:
        for step, rows in one["noted"]:
            steps[step] += rows
    return {step: sorted(rows) for step, rows in steps.items()}


def test_two_processes_train_on_what_one_does(tmp_path):
    one, two = runs(tmp_path / "one", 1), runs(tmp_path / "two", 2)
    assert len(one) == 14
    assert one.keys() == two.keys()
    for key in one:
        assert (len(one[key]), len(two[key])) == (1, 2)
        assert rows_by_step(two[key]) == rows_by_step(one[key])
        for said in two[key]:
            assert said["losses"] == pytest.approx(one[key][0]["losses"], rel=1e-6)
            assert said["tokens"] == one[key][0]["tokens"]
