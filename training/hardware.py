"""What the machine is and how fast it can multiply."""

import ctypes
import math
import os
import platform
import re
import time
from contextlib import suppress
from pathlib import Path

import torch
from transformers import TrainingArguments

# Dense bfloat16 (or float16) peak of the makers' data sheets, in FLOP/s, by a part of the device's name.
DATASHEET = {
    "B200": 2.25e15,
    "H200": 9.89e14,
    "H100": 9.89e14,
    "A100": 3.12e14,
    "L40S": 3.62e14,
    "L4": 1.21e14,
    "RTX 4090": 1.65e14,
    "RTX 3090": 7.1e13,
    "V100": 1.25e14,
    "T4": 6.5e13,
}

CONTROL_GROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")
LIMITS = {"": ("", "memory.max"), "memory": ("memory", "memory.limit_in_bytes")}
"""Of version 2 and 1 of Linux' control groups: where those of memory are, and the file that has a group's limit."""


def memory_limit() -> float:
    """Bytes of memory that this process is limited to by a container or a batch system; infinity if it is not."""
    limits = [math.inf]
    with suppress(OSError):
        for line in OWN_GROUPS.read_text(encoding="utf-8").splitlines():
            _, controller, own = line.split(":", 2)
            if controller not in LIMITS:
                continue
            top, name = CONTROL_GROUPS / LIMITS[controller][0], LIMITS[controller][1]
            group = top / own.lstrip("/")
            for one in (group, *group.parents):  # a group's limit is that of all below it
                if one.is_relative_to(top) and (one / name).exists():
                    limits.append(float((one / name).read_text(encoding="utf-8").replace("max", "inf")))
    return min(limits)


def keep_freed_memory():
    """Tell glibc, where that is the C library, to keep freed memory for the next step.

    By default it returns large blocks to the kernel, which hands them out again page by page, zeroed, at every step.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:
        return
    for parameter, value in ((-3, 2**30), (-1, 2**31 - 1)):  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD of malloc.h
        libc.mallopt(parameter, value)


def has_bf16(use_cpu: bool) -> bool:
    """Whether the processor multiplies bfloat16 matrices faster than float32 ones."""
    if not use_cpu:
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def describe_hardware(args: TrainingArguments) -> dict:
    """Device, precision and processes of a run, and the peak that its utilisation (MFU) is a share of."""
    peak, origin = peak_flops(args)
    return {
        "device": torch.cuda.get_device_name() if args.device.type == "cuda" else args.device.type,
        "precision": "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32",
        "processes": args.world_size,
        "processor": f"{platform.machine()}, {os.cpu_count()} cores",
        "peak_flops": peak * args.world_size,
        "peak_origin": origin,
    }


def peak_flops(args: TrainingArguments) -> tuple[float, str]:
    """FLOP/s of one device in the run's precision, and where the number is from: the data sheet or a measurement."""
    if args.device.type == "cuda" and (args.bf16 or args.fp16):
        name = torch.cuda.get_device_name()
        for part, peak in DATASHEET.items():
            if part in re.split(r"[\s-]", name) or (" " in part and part in name):
                return peak, "data sheet"
    return measure_flops(args.device, torch.bfloat16 if args.bf16 else torch.float32), "measured matrix product"


def measure_flops(device: torch.device, dtype: torch.dtype, size: int = 1024, tries: int = 30) -> float:
    """FLOP/s of the fastest of a few square matrix products."""
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(tries):
        started = time.perf_counter()
        _ = (left @ right).sum().item()  # reading a value waits for the device
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds)
