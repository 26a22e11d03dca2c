"""Measure the cost of reliability: steps and saves of `ReliableTrainer` next to those of transformers' Trainer.

usage: python -m benchmarks.reliability          prints a table and writes experiments/results/reliability.json

Both sides train the same model on the same batches, alternating, in one process.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

if __name__ == "__main__":  # before the imports that take seconds
    argparse.ArgumentParser(prog="python -m benchmarks.reliability", description=__doc__.splitlines()[0]).parse_args()

import torch
from torch.utils.data import Dataset
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments
from transformers.utils.logging import disable_progress_bar

import modeling  # noqa: F401
from modeling.configuration_kindling import KindlingLlamaConfig
from settings.paths import ROOT
from storage.checkpoint_manifest import find_damage
from training.resilience.reliable_trainer import ReliableTrainer
from training.resilience.workers import restore_default_sigchld

ROUNDS, CALLS = 15, 500
SIDES = {"stock": Trainer, "ours": ReliableTrainer}
# Name: hidden size, layers, vocabulary, batch, length, steps per round. State of the last: weights and AdamW, 100 MB.
MODELS = {
    "tiny": (32, 2, 256, 8, 32, 60),
    "demo": (192, 4, 2048, 16, 160, 10),
    "100 MB": (320, 6, 3400, 1, 8, 2),
}


class RepeatedBatch(Dataset):
    """A data set whose examples are all the same."""

    def __init__(self, rows: int, length: int, vocabulary: int):
        self.ids = torch.randint(vocabulary, (length,), generator=torch.Generator().manual_seed(0))
        self.rows = rows

    def __len__(self):
        return self.rows

    def __getitem__(self, index):
        return {"input_ids": self.ids, "labels": self.ids}


class Clock(TrainerCallback):
    """Seconds of each step, from the batch to the next one."""

    def __init__(self):
        self.seconds, self._last = [], None

    def on_step_end(self, args, state, control, **kwargs):  # noqa: ARG002
        now = time.perf_counter()
        if self._last is not None:
            self.seconds.append(now - self._last)
        self._last = now

    def on_train_end(self, args, state, control, **kwargs):  # noqa: ARG002
        self._last = None


def build(kind: type[Trainer], folder: Path, size: tuple) -> tuple[Trainer, Clock]:
    """A trainer of one side."""
    hidden, layers, vocabulary, batch, length, steps = size
    torch.manual_seed(0)
    config = KindlingLlamaConfig(
        vocab_size=vocabulary, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=hidden // 32,
        max_position_embeddings=length,
    )  # fmt: skip
    args = TrainingArguments(
        output_dir=str(folder), use_cpu=True, max_steps=steps, per_device_train_batch_size=batch, report_to="none",
        save_strategy="no", logging_steps=10**6, disable_tqdm=True, save_total_limit=2,
    )  # fmt: skip
    clock = Clock()
    model = AutoModelForCausalLM.from_config(config)
    return kind(
        model=model, args=args, train_dataset=RepeatedBatch(10**4, length, vocabulary), callbacks=[clock]
    ), clock


def time_steps(folder: Path, size: tuple) -> dict:
    """Seconds per step of both sides, in rounds of adjacent runs: see `compare`."""
    both = {side: build(kind, folder / side, size) for side, kind in SIDES.items()}
    rounds = []
    for turn in range(ROUNDS + 1):  # the first warms up
        medians = {}
        for side in list(SIDES)[:: 1 if turn % 2 else -1]:
            trainer, clock = both[side]
            clock.seconds.clear()
            trainer.train()
            medians[side] = statistics.median(clock.seconds)
        if turn:
            rounds.append(medians)
    return compare(rounds)


def compare(rounds: list[dict[str, float]]) -> dict:
    """From seconds per step (one row per round): the median of the rounds' ratios, its 96 % interval, and all ratios.

    The speed of the machine drifts from round to round, and adjacent runs share it: the ratio is per round, and is
    not that of the medians over all rounds, which are returned in milliseconds. The interval is that of order
    statistics: of 15 ratios, the fourth and the twelfth.
    """
    ratios = [round(one["ours"] / one["stock"], 3) for one in rounds]
    by_size = sorted(ratios)
    return {
        "step_milliseconds": {side: round(1000 * statistics.median(one[side] for one in rounds), 3) for side in SIDES},
        "step_ratio": statistics.median(ratios),
        "interval": [by_size[3], by_size[-4]],
        "step_ratios": ratios,
    }


def time_parts(folder: Path, size: tuple) -> float:
    """Microseconds of what a step does besides, by itself: too few for the difference of two steps to show."""
    trainer, _ = build(ReliableTrainer, folder / "parts", size)
    trainer.train()
    trainer._loss, norm = torch.tensor(1.0), torch.tensor(1.0)
    taken = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for _ in range(CALLS):
            restore_default_sigchld()
            trainer.grad_norm = norm
            trainer.before_optimizer_step()
            for callback in (trainer.signals, trainer.guard):
                callback.on_step_end(trainer.args, trainer.state, trainer.control)
        taken.append(time.perf_counter() - started)
    return round(1e6 * statistics.median(taken) / CALLS, 1)


def time_saves(folder: Path, size: tuple) -> dict:
    """Median seconds of a save of each side, and the bytes of what it writes."""
    seconds = {side: [] for side in SIDES}
    both = {side: build(kind, folder / side, size)[0] for side, kind in SIDES.items()}
    for trainer in both.values():
        trainer.train()
    for turn in range(ROUNDS + 1):
        for side in list(SIDES)[:: 1 if turn % 2 else -1]:
            trainer = both[side]
            trainer.state.global_step += 1
            started = time.perf_counter()
            trainer._save_checkpoint(trainer.model, None)
            seconds[side].append(time.perf_counter() - started)
    last = folder / "ours" / f"checkpoint-{both['ours'].state.global_step}"
    started = time.perf_counter()
    assert find_damage(last) is None
    checked = time.perf_counter() - started
    written = sum(path.stat().st_size for path in last.rglob("*") if path.is_file())
    medians = {side: round(statistics.median(taken[1:]), 3) for side, taken in seconds.items()}
    return {"save_seconds": medians, "saved_megabytes": round(written / 1e6, 1), "check_seconds": round(checked, 3)}


def main():
    disable_progress_bar()
    found = {}
    for name, size in MODELS.items():
        with tempfile.TemporaryDirectory(dir=ROOT) as folder:
            measure = time_saves if name == "100 MB" else time_steps
            found[name] = measure(Path(folder), size)
            print(name, found[name], file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=ROOT) as folder:
        found["added_microseconds_a_step"] = time_parts(Path(folder), MODELS["tiny"])
    found["machine"] = {"threads": torch.get_num_threads(), "rounds": ROUNDS}
    path = ROOT / "experiments" / "results" / "reliability.json"
    path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
