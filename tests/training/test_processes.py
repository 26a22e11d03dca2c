"""Two processes train as one does with batches of twice the size; fewer than were meant are named."""

import json
import os
import subprocess
import sys
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from config import ROOT, load_experiment
from sections import ConfigError
from training.arguments import training_arguments
from training.processes import refuse_half_launched, share, what_is_left_idle

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
    """To the end of the run, wherever that falls."""
    one, two = runs(tmp_path / "one", 1), runs(tmp_path / "two", 2)
    assert len(one) == 14
    assert one.keys() == two.keys()
    for key in one:
        assert (len(one[key]), len(two[key])) == (1, 2)
        assert rows_by_step(two[key]) == rows_by_step(one[key])
        for said in two[key]:
            assert said["losses"] == pytest.approx(one[key][0]["losses"], rel=1e-6)
            assert said["tokens"] == one[key][0]["tokens"]


SINGLE = SimpleNamespace(device=torch.device("cuda"), world_size=1, train_batch_size=4, gradient_accumulation_steps=1)
LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_PORT", "ACCELERATE_DYNAMO_BACKEND")


@pytest.fixture
def machine(monkeypatch):
    """Set what the launcher left in the environment, and how many GPUs there are."""
    for name in LAUNCHED:
        monkeypatch.delenv(name, raising=False)

    def be(gpus: int, **environment: str):
        monkeypatch.setattr(torch.accelerator, "device_count", lambda: gpus)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)

    return be


def test_gpus_left_idle_are_named(machine):
    machine(1)
    assert what_is_left_idle(SINGLE) == []
    machine(4)
    (line,) = what_is_left_idle(SINGLE)
    assert line.startswith("processes   1, though 4 GPUs are visible; ")
    assert "accelerate launch --config_file configs/accelerate/multi_gpu.yaml --num_processes 4" in line
    assert what_is_left_idle(SimpleNamespace(**vars(SINGLE) | {"device": torch.device("cpu")})) == []
    machine(4, RANK="0", WORLD_SIZE="8", LOCAL_WORLD_SIZE="4", MASTER_PORT="1", ACCELERATE_DYNAMO_BACKEND="NO")
    assert what_is_left_idle(SINGLE) == []


def test_a_launcher_that_started_one_process_is_named(machine):
    """What accelerate's simple launcher leaves in the environment if it is given --num_processes 2, or none."""
    machine(0, ACCELERATE_DYNAMO_BACKEND="NO")
    assert what_is_left_idle(SINGLE) == []
    machine(0, MASTER_PORT="29500")
    (line,) = what_is_left_idle(SINGLE)
    assert line.startswith("processes   1, though accelerate was asked for several")


def test_processes_that_nobody_started_are_not_waited_for(machine):
    machine(0, WORLD_SIZE="2")
    with pytest.raises(ConfigError, match="WORLD_SIZE=2 is set but not RANK"):
        refuse_half_launched(use_cpu=True)
    machine(0, RANK="0")
    refuse_half_launched(use_cpu=True)


def test_processes_have_a_gpu_each(machine):
    machine(2, RANK="0", WORLD_SIZE="3", LOCAL_WORLD_SIZE="3")
    refuse_half_launched(use_cpu=True)
    with pytest.raises(ConfigError, match=r"3 processes were started for 2 GPU\(s\)"):
        refuse_half_launched(use_cpu=False)
    machine(3)
    refuse_half_launched(use_cpu=False)


def arguments(*overrides: str):
    experiment = load_experiment(str(ROOT / "configs" / "lm" / "demo.yaml"), ["training.bf16=false", *overrides])
    return training_arguments(experiment)


def test_one_process_takes_one_gpu(monkeypatch, tmp_path):
    """With several, the Trainer would split each batch over them by DataParallel."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    args = arguments("training.use_cpu=false", f"training.output_dir={tmp_path}")
    assert (args.n_gpu, args.train_batch_size) == (1, args.per_device_train_batch_size)


def test_the_launchers_precision_is_not_taken(monkeypatch, tmp_path):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert arguments("training.use_cpu=true", f"training.output_dir={tmp_path}").mixed_precision == "no"


@pytest.mark.parametrize(
    ("processes", "accumulation", "said"),
    [
        (1, 1, ""),
        (2, 1, " = 2 processes x 4"),
        (1, 3, " = 4 x 3 accumulated"),
        (2, 3, " = 2 processes x 4 x 3 accumulated"),
    ],
)
def test_a_batch_is_said_as_a_product(processes, accumulation, said):
    values = {"world_size": processes, "gradient_accumulation_steps": accumulation}
    assert share(SimpleNamespace(**vars(SINGLE) | values)) == said
