"""Compare the peak memory of training steps, as PyTorch's allocator hands it out, with what the model of it says.

usage: python -m benchmarks.memory         prints a table and writes experiments/results/memory.json

Each case trains two steps, and evaluates, in a process of its own. The allocator's peak is what counts: it is the same
each time. The operating system's (the rise of VmHWM) is given beside it; it also has what libraries take, and pages
that the C library keeps.
"""

import argparse
import gc
import json
import multiprocessing
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

if __name__ == "__main__":  # before the imports that take seconds
    argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__.splitlines()[0]).parse_args()

import torch
from torch.profiler import ProfilerActivity, profile
from transformers import TrainingArguments, __version__

from data_prep.collator import CausalLMCollator
from modeling.configuration_kindling import FAMILIES
from modeling.memory import peak_memory
from settings.paths import ROOT
from settings.sections import OptimizerSection
from training.budgets.calibration import random_windows
from training.model import build_model
from training.preflight.memory import step_of
from training.trainer import KindlingTrainer

BF16, CHECKPOINTED = {"bf16": True}, {"activation_checkpointing": True}
ACCUMULATED = {"gradient_accumulation_steps": 2}


@dataclass(frozen=True)
class Case:
    """A training step to measure."""

    family: str
    layers: int
    width: int
    vocabulary: int
    batch: int
    length: int = 256
    optimizer: str = "adamw"
    model: dict = field(default_factory=dict)
    training: dict = field(default_factory=dict)
    z_loss: float = 0.0

    def config(self):
        """The model's configuration."""
        sizes = {"hidden_size": self.width, "num_hidden_layers": self.layers, "num_attention_heads": self.width // 64}
        sizes |= {"vocab_size": self.vocabulary, "max_position_embeddings": self.length}
        return FAMILIES[f"kindling_{self.family}"](**sizes | self.model)

    def arguments(self, folder: str) -> TrainingArguments:
        """The arguments of a run of two steps, in which nothing is logged or saved."""
        quiet = {"report_to": "none", "disable_tqdm": True, "save_strategy": "no", "logging_strategy": "no"}
        sizes = {"per_device_train_batch_size": self.batch, "per_device_eval_batch_size": self.batch}
        settings = quiet | sizes | {"use_cpu": True, "max_steps": 2, "remove_unused_columns": False} | self.training
        return TrainingArguments(output_dir=folder, **settings)

    def prepare(self, folder: str) -> KindlingTrainer:
        """The run's Trainer."""
        args, config = self.arguments(folder), self.config()
        windows = random_windows(config, self.length, 2 * self.batch * args.gradient_accumulation_steps)
        return KindlingTrainer(
            model=build_model(config, args),
            args=args,
            train_dataset=windows,
            eval_dataset=windows,
            data_collator=CausalLMCollator(pad_token_id=0),
            text_bytes=None,
            peak_flops=1.0,
            optimizer=OptimizerSection(kind=self.optimizer),
            z_loss=self.z_loss,
        )

    def work(self):
        """Build the model, train and evaluate."""
        with tempfile.TemporaryDirectory() as folder:
            trainer = self.prepare(folder)
            trainer.train()
            trainer.evaluate()

    def estimate(self) -> tuple[str, int]:
        """The phase with the largest memory, and the bytes, by the model of it."""
        section, config = OptimizerSection(kind=self.optimizer), self.config()
        with tempfile.TemporaryDirectory() as folder:
            args = self.arguments(folder)
            with torch.device("meta"):
                model = build_model(config, args)
            phase, parts = peak_memory(*step_of(args, [(model, args, section)], self.length, z_loss=self.z_loss > 0))
        return phase, sum(parts.values())


LARGE = 50_257
CASES = [
    Case("llama", 4, 256, 4096, 4),
    Case("llama", 4, 256, 4096, 4, training=BF16),
    Case("llama", 4, 256, 4096, 4, training=CHECKPOINTED),
    Case("llama", 4, 256, 4096, 4, training=BF16 | CHECKPOINTED),
    Case("llama", 4, 256, 4096, 2, training=ACCUMULATED),
    Case("llama", 4, 256, 4096, 2, training=BF16 | ACCUMULATED),
    Case("llama", 8, 384, 256, 2),
    Case("llama", 8, 384, 256, 2, training=BF16),
    Case("llama", 8, 384, 256, 2, training=BF16 | CHECKPOINTED | ACCUMULATED),
    Case("llama", 8, 384, 256, 1, optimizer="muon"),
    Case("llama", 8, 384, 256, 2, optimizer="muon", training=BF16),
    Case("llama", 4, 256, 4096, 2, model={"num_key_value_heads": 1, "qk_norm": True}),
    Case("gpt", 2, 256, LARGE, 1),
    Case("gpt", 2, 256, LARGE, 1, training=BF16 | ACCUMULATED),
    Case("gpt", 2, 256, LARGE, 1, length=128, model={"tie_word_embeddings": False}),
    Case("gpt", 4, 256, 256, 8, training=CHECKPOINTED),
    Case("gpt", 4, 256, 256, 4, optimizer="muon", training=BF16 | ACCUMULATED),
    Case("gpt", 4, 256, 1024, 4, model={"hidden_dropout": 0.1, "embedding_dropout": 0.1}),
    Case("llama", 4, 256, 4096, 4, training=BF16, z_loss=1e-4),
]


def allocated_peak(work: Callable[[], None]) -> int:
    """The most bytes that PyTorch's CPU allocator had handed out at a time during `work`, beyond those before."""
    gc.collect()  # garbage of an earlier profile would be subtracted
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        work()
    events = recorded.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    now = most = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most


def resident_peak() -> int:
    """The most bytes of memory that this process has had (VmHWM)."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE)[1])


def measure(case: Case) -> dict:
    """Both peaks of a case: the operating system's first, without the profiler's own memory."""
    torch.set_num_threads(1)
    before = resident_peak()
    case.work()
    return {"resident": resident_peak() - before, "allocated": allocated_peak(case.work)}


def compare(case: Case) -> dict:
    """A case, its measured peaks in a process of its own, and the estimate with its share of the allocator's."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        measured = pool.apply(measure, (case,))
    phase, estimate = case.estimate()
    found = vars(case) | measured | {"estimate": estimate, "phase": phase}
    return found | {"ratio": round(estimate / measured["allocated"], 4)}


def main():
    found = []
    for case in CASES:
        found.append(compare(case))
        about, ratio = found[-1], found[-1]["ratio"]
        print(*vars(case).values(), about["allocated"], about["resident"], about["estimate"], ratio, flush=True)
    path = ROOT / "experiments" / "results" / "memory.json"
    versions = {"torch": torch.__version__, "transformers": __version__}
    path.write_text(json.dumps(versions | {"cases": found}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
