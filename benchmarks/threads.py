"""Time a training step by OpenMP's wait policy, on an idle machine and next to a busy process.

usage: python -m benchmarks.threads [ROUNDS]        prints a table and writes experiments/results/threads.json

Each policy has a process of its own, because it is read when torch is loaded. In every round each policy in turn makes
some steps alone, and again while another process computes; the ratios are to two spinning threads, the default of
libgomp, in the same round and condition. `load_before` shows whether the machine was idle.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

from command_line.terminal import OPENMP_WAIT, USER_WAIT_VARIABLES
from settings.paths import ROOT

ROUNDS, SECONDS = 9, 0.5
POLICIES = {
    "default": {},
    "passive": {"OMP_WAIT_POLICY": "passive"},
    "spin 1,000": {"GOMP_SPINCOUNT": "1000"},
    "spin 10,000": {"GOMP_SPINCOUNT": "10000"},
    "spin 100,000": {"GOMP_SPINCOUNT": "100000"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
MODELS = {"equations": (128, 2, 4, 512, 4), "demo": (192, 4, 3, 16, 160)}
"""Width, layers, heads, examples and tokens of a step: those of configs/algorithmic/fast.yaml and lm/demo.yaml."""


def work():
    """The process of a policy: for each model named on stdin, the median milliseconds of a step."""
    import torch
    from transformers import AutoModelForCausalLM

    import modeling  # noqa: F401
    from modeling.configuration_kindling import KindlingLlamaConfig

    def build(width, layers, heads, *_):
        sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
        return AutoModelForCausalLM.from_config(KindlingLlamaConfig(vocab_size=256, **sizes))

    models = {name: build(*shape) for name, shape in MODELS.items()}
    print("ready", flush=True)
    for name in map(str.strip, sys.stdin):
        ids, taken, until = torch.zeros(MODELS[name][3:], dtype=torch.int64), [], time.perf_counter() + SECONDS
        while not taken or time.perf_counter() < until:
            started = time.perf_counter()
            models[name](input_ids=ids, labels=ids, use_cache=False).loss.backward()
            taken.append(time.perf_counter() - started)
        print(1000 * statistics.median(taken), flush=True)


def start(policy: dict) -> subprocess.Popen:
    """The process of a policy."""
    free = {name: value for name, value in os.environ.items() if name not in (*USER_WAIT_VARIABLES, "OMP_NUM_THREADS")}
    words = [sys.executable, "-m", "benchmarks.threads", "work"]
    return subprocess.Popen(
        words, cwd=ROOT, env=free | {"OMP_NUM_THREADS": "2"} | policy, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        encoding="utf-8",
    )  # fmt: skip


def measure(rounds: int) -> list[dict]:
    """A row a model and place: milliseconds of each policy, and their ratios to the default's."""
    workers = {name: start(policy) for name, policy in POLICIES.items()}
    for worker in workers.values():
        worker.stdout.readline()
    taken = {(model, place): {name: [] for name in POLICIES} for model in MODELS for place in ("idle", "busy")}
    for _ in range(rounds + 1):  # the first warms up
        for (model, place), times in taken.items():
            other = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if place == "busy" else None
            for name, worker in workers.items():
                print(model, file=worker.stdin, flush=True)
                times[name].append(float(worker.stdout.readline()))
            if other:
                other.kill()
                other.wait()
    for worker in workers.values():
        worker.communicate()
    return [{"model": model, "place": place} | summary(times) for (model, place), times in taken.items()]


def summary(times: dict[str, list[float]]) -> dict:
    """Medians over the rounds."""
    ratios = {
        name: statistics.median(x / y for x, y in zip(own[1:], times["default"][1:], strict=True))
        for name, own in times.items()
    }
    return {
        "milliseconds": {name: round(statistics.median(own[1:]), 2) for name, own in times.items()},
        "ratio_to_default": {name: round(ratio, 3) for name, ratio in ratios.items()},
    }


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.threads", description=__doc__.splitlines()[0])
    parser.add_argument("rounds", type=int, nargs="?", default=ROUNDS, help=f"of each setting (default {ROUNDS})")
    rounds = parser.parse_args().rounds
    about = {
        "chosen": OPENMP_WAIT,
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
        "rounds": rounds,
    }
    rows = measure(rounds)
    for row in rows:
        print(row["model"], row["place"], row["ratio_to_default"], row["milliseconds"]["default"], "ms", flush=True)
    path = ROOT / "experiments" / "results" / "threads.json"
    path.write_text(json.dumps(about | {"rows": rows}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    work() if sys.argv[1:] == ["work"] else main()
