"""The processes of a run: checks of how they were started, and how they split a batch."""

import os
import shlex
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import torch
from transformers import TrainingArguments

from settings.checks import ConfigError, warn

LAUNCH = "accelerate launch --config_file configs/accelerate/multi_gpu.yaml"

# Resumed in several processes on the CPU, transformers before 5.18 asks for tensors on "cpu:0", unknown to torch.
torch.serialization.register_package(11, lambda _: None, lambda storage, place: storage if place == "cpu:0" else None)


def check_launched(use_cpu: bool):
    """`ConfigError` if this process would wait for others that do not exist, or share its GPU with another."""
    count, here = (int(os.environ.get(name, 1)) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    if count > 1 and "RANK" not in os.environ:
        raise ConfigError(
            f"WORLD_SIZE={count} is set but not RANK, so no launcher has started the other processes; "
            f"unset WORLD_SIZE, or start them all by `{LAUNCH}`"
        )
    if not use_cpu and here > (gpus := max(1, torch.accelerator.device_count())):
        raise ConfigError(
            f"{here} processes were started for {gpus} GPU(s); give --num_processes {gpus}, or train on the CPU by "
            "training.use_cpu=true"
        )


def warn_of_cpu():
    """Warn that several processes train on the CPU; called if that was not requested and no GPU is visible."""
    if "RANK" in os.environ and (count := int(os.environ.get("WORLD_SIZE", 1))) > 1:
        warn(
            f"PyTorch sees no GPU here, so {count} processes train on the CPU; if that is intended, give "
            "--config_file configs/accelerate/cpu.yaml or training.use_cpu=true"
        )


def unused_devices(args: TrainingArguments) -> list[str]:
    """A line if fewer processes run than were requested from the launcher, or than there are GPUs; else nothing.

    accelerate silently starts one process if its configuration is not distributed, as with `--cpu --num_processes 2`
    (huggingface/accelerate#2741); MASTER_PORT shows that several were requested.
    """
    if "ACCELERATE_DYNAMO_BACKEND" in os.environ and "MASTER_PORT" in os.environ and "RANK" not in os.environ:
        return [
            "processes   1, though several were requested from accelerate: its configuration is not distributed; "
            "give --config_file configs/accelerate/cpu.yaml, or multi_gpu.yaml"
        ]
    visible = torch.accelerator.device_count() if args.device.type != "cpu" else 0
    used = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if visible > used:
        return [f"processes   {used}, though {visible} GPUs are visible; `{LAUNCH} --num_processes {visible}` uses all"]
    return []


def batch_size(args: TrainingArguments) -> int:
    """Examples per step, over all devices."""
    return args.train_batch_size * args.gradient_accumulation_steps * args.world_size


def share(args: TrainingArguments) -> str:
    """How the examples of a step are split, as text; empty if they are not."""
    factors = [f"{args.world_size} processes"] if args.world_size > 1 else []
    factors += [str(args.train_batch_size)]
    factors += [f"{args.gradient_accumulation_steps} accumulated"] if args.gradient_accumulation_steps > 1 else []
    return f" = {' x '.join(factors)}" if len(factors) > 1 else ""


def matching_batch_settings(batch: int, args: TrainingArguments) -> str:
    """Settings for batches of `batch` examples with the present processes and at most the present size per device."""
    each, left = divmod(batch, args.world_size)
    if left:
        fitting = [count for count in range(1, batch + 1) if batch % count == 0]
        below = [count for count in fitting if count < args.world_size][-1:]
        above = [count for count in fitting if count > args.world_size][:1]
        counts = " or ".join(map(str, below + above))
        return f"{batch} examples cannot be split evenly over {args.world_size} processes; start {counts}"
    size = max(count for count in range(1, min(each, args.train_batch_size) + 1) if each % count == 0)
    settings = {"per_device_train_batch_size": size, "gradient_accumulation_steps": each // size}
    changed = [f"training.{name}={value}" for name, value in settings.items() if getattr(args, name) != value]
    return f"give {' and '.join(changed)}"


def command() -> str:
    """The command line that started this run, including the launcher's if there is one."""
    words = ["python", *sys.argv]
    if "TORCHELASTIC_RUN_ID" in os.environ:
        with suppress(psutil.Error, AttributeError, ValueError):  # the launcher is gone, or there is none
            _, program, *rest = psutil.Process().parent().cmdline()
            words = ["python", program, *rest] if program.startswith("-") else [Path(program).name, *rest]
    return shlex.join(words)
