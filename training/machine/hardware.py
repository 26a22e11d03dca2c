"""Describes the hardware: device, memory limit, peak FLOP/s."""

import ctypes
import functools
import math
import os
import platform
import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from transformers import TrainingArguments

from .datasheet import find_device

CONTROL_GROUPS = Path("/sys/fs/cgroup")


OWN_GROUPS = Path("/proc/self/cgroup")


CPU_INFO = Path("/proc/cpuinfo")


LIMITS = {"": ("", "memory.max"), "memory": ("memory", "memory.limit_in_bytes")}
"""Of version 2 and 1 of Linux' control groups: where those of memory are, and the file that has a group's limit."""


CPU_SIZES, SIZES = (256, 512, 1024), (1024, 2048, 4096, 8192)
"""Widths of the matrices by which CPUs and other devices are measured."""


ROUNDS, TRIES, SECONDS = 4, 2, 0.04
"""Rounds over all sizes, so that a busy moment affects no size for good; and products of a size per round."""


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
            for one in (group, *group.parents):  # a group's limit holds for all groups below it
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
    """Whether the device multiplies bfloat16 matrices in hardware."""
    if not use_cpu:
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def describe_hardware(args: TrainingArguments) -> dict:
    """Device, precision, processes and threads of a run, and the peak FLOP/s for its utilisation (MFU)."""
    peak, origin = peak_flops(args)
    return {
        "device": torch.cuda.get_device_name() if args.device.type == "cuda" else args.device.type,
        "precision": "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32",
        "processes": args.world_size,
        "processor": f"{processor_name()}, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        "peak_flops": peak * args.world_size,
        "peak_origin": origin,
    }


def processor_name() -> str:
    """The processor's model, if known, and its architecture."""
    with suppress(OSError):
        if found := re.search(r"^model name\s*:\s*(.+)$", CPU_INFO.read_text(encoding="utf-8"), re.MULTILINE):
            return f"{' '.join(found[1].split())}, {platform.machine()}"
    model = platform.processor()
    return platform.machine() if model in ("", platform.machine()) else f"{model}, {platform.machine()}"


def peak_flops(args: TrainingArguments) -> tuple[float, str]:
    """Peak FLOP/s of one process in the run's precision, and its origin: the data sheet or a measurement."""
    device = find_device(torch.cuda.get_device_name()) if args.device.type == "cuda" else None
    if device and (args.bf16 or args.fp16):
        return device.half, "data sheet"
    dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else torch.float32
    threads = torch.get_num_threads() if args.device.type == "cpu" else 1
    peak, origin = measured_peak(args.device, dtype)
    return threads * peak, f"{origin}, times {threads} threads" if threads > 1 else origin


@functools.cache
def measured_peak(device: torch.device, dtype: torch.dtype) -> tuple[float, str]:
    """FLOP/s of the fastest of square matrix products of several sizes, and a description of it.

    On a CPU with one thread, since several would wait for each other whenever something else runs; and with small
    matrices too, which finish before the core is given to another process.
    """
    threads, on_cpu = torch.get_num_threads(), device.type == "cpu"
    if on_cpu:
        torch.set_num_threads(1)
    try:
        found = dict.fromkeys(CPU_SIZES if on_cpu else SIZES, 0.0)
        for size in [*found] * ROUNDS:
            found[size] = max(found[size], measure_flops(device, dtype, size))
    finally:
        torch.set_num_threads(threads)
    best = max(found, key=found.get)
    *first, last = found
    tried = f"{', '.join(map(str, first))} and {last} wide{' on one thread' * on_cpu}"
    return found[best], f"measured: the fastest {str(dtype).removeprefix('torch.')} product of {tried}, that of {best}"


def measure_flops(
    device: torch.device, dtype: torch.dtype, size: int, clock: Callable[[], float] = time.perf_counter
) -> float:
    """FLOP/s of the fastest product of two square matrices, out of at least `TRIES` and at least `SECONDS`."""
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best, started, tries = math.inf, clock(), 0
    while tries < TRIES or clock() - started < SECONDS:
        before = clock()
        (left @ right)[0, 0].item()  # reading a value waits for the device
        best, tries = min(best, clock() - before), tries + 1
    return 2 * size**3 / best
