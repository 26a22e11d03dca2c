"""Two processes train as one does with batches of twice the size; fewer than were meant are named."""

import json
import os
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from accelerate.commands.launch import launch_command_parser
from accelerate.utils import TorchDynamoPlugin
from accelerate.utils.launch import (
    prepare_deepspeed_cmd_env,
    prepare_multi_gpu_env,
    prepare_simple_launcher_cmd_env,
)

from settings import checks
from settings.checks import ConfigError
from settings.loading import load_experiment
from settings.paths import ROOT
from settings.sections import OptimizerSection
from tests.training.processes import in_processes, run_all
from training.preflight.arguments import training_arguments
from training.preflight.launcher import check_launcher
from training.processes import check_launched, matching_batch_settings, share, unused_devices, warn_of_cpu

BATCH = 4


def runs(folder, count: int) -> dict[tuple, list[dict]]:
    """What so many processes, forks of this one, say of each run."""
    folder.mkdir()
    ends = in_processes(count, lambda _: run_all(BATCH // count, folder))
    assert ends == [0] * count
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


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_several_processes_train_on_what_one_does(tmp_path, count):
    """To the end of the run, wherever that falls; with dropout everywhere, drawn alike."""
    one, several = runs(tmp_path / "one", 1), runs(tmp_path / "several", count)
    assert len(one) == 14
    assert one.keys() == several.keys()
    for key in one:
        assert (len(one[key]), len(several[key])) == (1, count)
        assert rows_by_step(several[key]) == rows_by_step(one[key])
        for said in several[key]:
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
    assert unused_devices(SINGLE) == []
    machine(4)
    (line,) = unused_devices(SINGLE)
    assert line.startswith("processes   1, though 4 GPUs are visible; ")
    assert "accelerate launch --config_file configs/accelerate/multi_gpu.yaml --num_processes 4" in line
    assert unused_devices(SimpleNamespace(**vars(SINGLE) | {"device": torch.device("cpu")})) == []
    machine(4, RANK="0", WORLD_SIZE="8", LOCAL_WORLD_SIZE="4", MASTER_PORT="1", ACCELERATE_DYNAMO_BACKEND="NO")
    assert unused_devices(SINGLE) == []


def test_a_launcher_that_started_one_process_is_named(machine):
    """What accelerate's simple launcher leaves in the environment if it is given --num_processes 2, or none."""
    machine(0, ACCELERATE_DYNAMO_BACKEND="NO")
    assert unused_devices(SINGLE) == []
    machine(0, MASTER_PORT="29500")
    (line,) = unused_devices(SINGLE)
    assert line.startswith("processes   1, though several were requested from accelerate")


def test_processes_that_nobody_started_are_not_waited_for(machine):
    machine(0, WORLD_SIZE="2")
    with pytest.raises(ConfigError, match="WORLD_SIZE=2 is set but not RANK"):
        check_launched(use_cpu=True)
    machine(0, RANK="0")
    check_launched(use_cpu=True)


def test_processes_have_a_gpu_each(machine):
    machine(2, RANK="0", WORLD_SIZE="3", LOCAL_WORLD_SIZE="3")
    check_launched(use_cpu=True)
    with pytest.raises(ConfigError, match=r"3 processes were started for 2 GPU\(s\)"):
        check_launched(use_cpu=False)
    machine(3)
    check_launched(use_cpu=False)


def arguments(*overrides: str):
    experiment = load_experiment(str(ROOT / "configs" / "lm" / "demo.yaml"), ["training.bf16=false", *overrides])
    return training_arguments(experiment)


def test_one_process_takes_one_gpu(monkeypatch, tmp_path):
    """With several, the Trainer would split each batch over them by DataParallel."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    args = arguments("training.use_cpu=false", f"training.output_dir={tmp_path}")
    assert (args.n_gpu, args.train_batch_size) == (1, args.per_device_train_batch_size)


FILLED_IN = {
    "mixed_precision": "no", "dynamo_backend": "no", "num_machines": 1, "num_processes": 1, "use_cpu": False,
    "deepspeed_fields_from_accelerate_config": "",
}  # fmt: skip
"""What accelerate would ask for, or fill in, on its way."""


@pytest.fixture
def launched(monkeypatch):
    """Set what `accelerate launch` with these flags sets, by its own code."""

    def launch(*flags: str, **environment: str):
        before = dict(os.environ)
        words = launch_command_parser().parse_args([*flags, "--num_cpu_threads_per_process", "1", "train_lm.py"])
        for name, value in FILLED_IN.items():
            if getattr(words, name, None) is None:
                setattr(words, name, value)
        if words.use_deepspeed:
            _, found = prepare_deepspeed_cmd_env(words)
        elif words.multi_gpu:
            found = prepare_multi_gpu_env(words)
        else:
            _, found = prepare_simple_launcher_cmd_env(words)
        os.environ.clear()
        os.environ.update(before)  # for accelerate writes into it, too
        for name, value in (found | environment).items():
            if before.get(name) != value:
                monkeypatch.setenv(name, value)

    for name in [name for name in os.environ if name.startswith(("ACCELERATE_", "FSDP_", "PARALLELISM_CONFIG_"))]:
        monkeypatch.delenv(name)
    return launch


TWO = ("--multi_gpu", "--num_processes", "2", "--main_process_port", "0")
PARALLEL = (*TWO, "--use_parallelism_config")
MUON = "optimizer.kind=muon"


@pytest.mark.parametrize(
    ("flags", "overrides", "said"),
    [
        ((*TWO, "--use_fsdp"), [], "FSDP, which the launcher's configuration asks for, needs several GPUs"),
        ((*TWO, "--use_fsdp", "--fsdp_version", "2"), [MUON], "FSDP, .* needs several GPUs"),
        ((*TWO, "--use_deepspeed", "--zero_stage", "2"), [], "asks for DeepSpeed, which is not"),
        ((*TWO, "--use_megatron_lm"), [], "asks for Megatron-LM, which is not supported; give --config_file"),
        ((*PARALLEL, "--parallelism_config_tp_size", "2"), [], "tensor parallelism over 2 processes"),
        ((*PARALLEL, "--parallelism_config_cp_size", "2"), [], "context parallelism over 2 processes"),
        ((*PARALLEL, "--parallelism_config_sp_size", "2"), [], "sequence parallelism over 2 processes"),
        ((*PARALLEL, "--parallelism_config_dp_shard_size", "2"), [], "sharded data parallelism over 2 processes"),
        (("--cpu",), ["training.use_cpu=false"], "asks for the CPU and training.use_cpu=False for a GPU"),
    ],
)
def test_what_a_launcher_asks_for_in_vain_is_refused(launched, tmp_path, flags, overrides, said):
    launched(*flags)
    where = () if overrides == ["training.use_cpu=false"] else ("training.use_cpu=true",)
    with pytest.raises(ConfigError, match=said):
        arguments(*where, *overrides, f"training.output_dir={tmp_path}")


def test_the_launchers_fsdp_takes_no_matrices_from_muon(launched):
    launched(*TWO, "--use_fsdp", WORLD_SIZE="2", RANK="0")
    values = {"use_cpu": False}
    check_launcher(values, OptimizerSection(), {})
    with pytest.raises(ConfigError, match=r"splits the weights that averaging.ema=0.1 needs whole; "):
        check_launcher(values, OptimizerSection(), {"ema": 0.1})
    with pytest.raises(ConfigError, match=r"FSDP, .* splits the matrices that optimizer\.kind=muon"):
        check_launcher(values, OptimizerSection(kind="muon"), {})
    with pytest.raises(ConfigError, match=r"FSDP, .* does not work with budget\.fit_memory=true"):
        check_launcher(values, OptimizerSection(), {}, fit_memory=True)


def test_the_launchers_cpu_is_followed(launched, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    launched("--cpu")
    args = arguments(f"training.output_dir={tmp_path}")
    assert (args.use_cpu, args.device.type) == (True, "cpu")


def test_processes_without_a_gpu_are_warned_of_once(machine, capsys):
    checks.warn.cache_clear()  # of what other tests have led to
    machine(0)
    warn_of_cpu()
    machine(0, RANK="1", WORLD_SIZE="3")
    warn_of_cpu()
    assert capsys.readouterr().err == ""
    machine(0, RANK="0", WORLD_SIZE="2")
    warn_of_cpu()
    warn_of_cpu()
    assert capsys.readouterr().err == (
        "warning: PyTorch sees no GPU here, so 2 processes train on the CPU; if that is intended, give --config_file "
        "configs/accelerate/cpu.yaml or training.use_cpu=true\n"
    )


@pytest.mark.parametrize(
    ("gpu", "override", "environment", "said"),
    [
        (False, [], {}, 1),
        (True, [], {}, 0),
        (False, ["training.use_cpu=true"], {}, 0),
        (False, [], {"ACCELERATE_USE_CPU": "true"}, 0),
    ],
)
def test_the_cpu_is_warned_of_where_nobody_asked_for_it(monkeypatch, tmp_path, gpu, override, environment, said):
    found = []
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("training.preflight.arguments.warn_of_cpu", lambda: found.append(1))
    monkeypatch.setattr("training.preflight.arguments.check_launcher", lambda *_: None)
    monkeypatch.setattr("training.preflight.arguments.build", lambda *_: found.append("built") or 1 / 0)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: gpu)
    with pytest.raises(ZeroDivisionError):
        arguments(f"training.output_dir={tmp_path}", *override)
    assert found == [1] * said + ["built"]


@pytest.mark.parametrize(
    ("flags", "environment", "told"),
    [
        (("--mixed_precision", "bf16"), {}, ["mixed_precision=bf16 has no effect"]),
        (("--mixed_precision", "no"), {}, []),
        ((*TWO, "--dynamo_backend", "inductor"), {}, ["dynamo_backend=INDUCTOR has no effect"]),
        (
            (*TWO,),
            {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"},
            ["gradient_accumulation_steps=4 has no effect"],
        ),
        ((*TWO,), {"ACCELERATE_GRADIENT_CLIPPING": "0.5"}, ["gradient_clipping=0.5 has no effect"]),
        ((*PARALLEL, "--parallelism_config_dp_replicate_size", "2"), {}, []),
    ],
)
def test_what_the_experiment_says_is_not_the_launchers(launched, capsys, tmp_path, flags, environment, told):
    """And whoever asked for it is told so, once; the libraries find nothing of it."""
    launched(*flags, **environment)
    for _ in range(2):
        args = arguments("training.use_cpu=true", f"training.output_dir={tmp_path}")
    assert (args.mixed_precision, args.gradient_accumulation_steps, args.max_grad_norm) == ("no", 1, 1.0)
    assert TorchDynamoPlugin().backend == "NO"
    assert "ACCELERATE_USE_PARALLELISM_CONFIG" not in os.environ
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("launcher    ")]
    assert len(lines) == len(told)
    for line, beginning in zip(lines, told, strict=True):
        assert line.startswith(f"launcher    {beginning}: the experiment decides (training.")


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


@pytest.mark.parametrize(
    ("batch", "processes", "size", "accumulation", "said"),
    [
        (8, 1, 4, 1, "give training.gradient_accumulation_steps=2"),  # 2 processes -> 1
        (8, 2, 8, 1, "give training.per_device_train_batch_size=4"),  # 1 -> 2
        (16, 2, 4, 1, "give training.gradient_accumulation_steps=2"),  # 4 -> 2
        (8, 4, 4, 2, "give training.per_device_train_batch_size=2 and training.gradient_accumulation_steps=1"),
        (12, 1, 5, 2, "give training.per_device_train_batch_size=4 and training.gradient_accumulation_steps=3"),
        (7, 1, 4, 1, "give training.per_device_train_batch_size=1 and training.gradient_accumulation_steps=7"),
        (8, 3, 4, 1, "8 examples cannot be split evenly over 3 processes; start 2 or 4"),
        (3, 4, 1, 1, "3 examples cannot be split evenly over 4 processes; start 3"),
    ],
)
def test_what_makes_a_batch_the_same_again_is_named(batch, processes, size, accumulation, said):
    names = ("train_batch_size", "per_device_train_batch_size")
    args = SimpleNamespace(world_size=processes, gradient_accumulation_steps=accumulation, **dict.fromkeys(names, size))
    assert matching_batch_settings(batch, args) == said
    if said.startswith("give"):
        for name, _, value in (word.partition("=") for word in said.split() if "=" in word):
            setattr(args, name.removeprefix("training."), int(value))
        assert args.per_device_train_batch_size * args.gradient_accumulation_steps * processes == batch
