"""Train on Tiny Shakespeare by characters as nanoGPT's recipe for a CPU does, and by ours, side by side.

usage: python -m benchmarks.shakespeare [--source FILE] [--seeds 0 1 2] [--out FOLDER]

One side is the stock Trainer with GPT2LMHeadModel at nanoGPT's documented settings; the other is
configs/lm/shakespeare_char.yaml, as it is and with few steps. The loss is that
of the full validation text, the last tenth, every target weighted equally. On a machine that does other work too, the
seconds of whole runs cannot be compared: steps of both sides are timed in turns, and a run's time is its steps times
theirs. Results and a picture go to experiments/results/shakespeare.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from settings.paths import ROOT


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shakespeare", description=__doc__.splitlines()[0])
    parser.add_argument("--source", default="tinyshakespeare", help="the text, a file; default: from the Hub")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default 0 1 2; other seeds' runs stay")
    parser.add_argument("--out", type=Path, default=ROOT / "experiments" / "results" / "shakespeare")
    return parser.parse_args(arguments)


if __name__ == "__main__":  # before the imports that take seconds
    parse_arguments()

import torch
from matplotlib.figure import Figure
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, set_seed

from data_prep.tokens.prepare import prepare
from data_prep.tokens.windows import TokenArray, Windows
from settings.loading import load_experiment
from storage.files import write_json
from training.machine.hardware import has_bf16, processor_name
from training.model import build_config, build_model
from training.optimization.optimizers import build_optimizer

CONFIG = ROOT / "configs" / "lm" / "shakespeare_char.yaml"
CONTEXT, BATCH, STEPS = 64, 12, 2000
PUBLISHED = 1.88
"""nanoGPT's validation loss after these steps, an estimate from 20 random batches."""
SIDES = {"stock": {}, "ours, few steps": {"training.max_steps": 250, "training.eval_steps": 250}, "ours": {}}
ROUNDS, STEPS_A_ROUND = 15, 2
"""Rounds of steps that are timed, after one that warms up."""
COLORS = {"stock": "tab:gray", "ours, few steps": "tab:orange", "ours": "tab:blue"}


class RandomWindows(Dataset):
    """Windows at random places of a text, as nanoGPT draws them."""

    def __init__(self, ids: TokenArray, count: int, seed: int):
        generator = torch.Generator().manual_seed(seed)
        self.ids, self.starts = ids, torch.randint(len(ids) - CONTEXT, (count,), generator=generator).tolist()

    def __len__(self):
        return len(self.starts)

    def __getitem__(self, index):
        return as_example(self.ids.read(self.starts[index], self.starts[index] + CONTEXT + 1))


def as_example(ids) -> dict:
    """A window of CONTEXT inputs and as many targets from one token more, in the names of transformers' losses."""
    return {"input_ids": ids[:-1], "labels": ids[1:], "shift_labels": ids[1:]}


def stock_model(vocabulary: int, seed: int) -> GPT2LMHeadModel:
    """GPT-2 at nanoGPT's sizes."""
    set_seed(seed)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=vocabulary, n_positions=CONTEXT, n_embd=128, n_layer=4, n_head=4, resid_pdrop=0.0,
            embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=None, eos_token_id=None,
        )
    )  # fmt: skip


def train_stock(ids: TokenArray, validation: TokenArray, vocabulary: int, seed: int, steps: int = STEPS) -> dict:
    """nanoGPT's recipe by the stock Trainer: seconds of training, and the loss on the full validation text."""
    model = stock_model(vocabulary, seed)
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            output_dir=folder, use_cpu=True, max_steps=steps, per_device_train_batch_size=BATCH, learning_rate=1e-3,
            lr_scheduler_type="cosine_with_min_lr", lr_scheduler_kwargs={"min_lr": 1e-4},
            warmup_steps=min(100, steps // 2), adam_beta2=0.99, weight_decay=0.1, max_grad_norm=1.0, save_strategy="no",
            logging_steps=250, report_to="none", disable_tqdm=True, remove_unused_columns=False, seed=seed,
        )  # fmt: skip
        trainer = Trainer(model=model, args=args, train_dataset=RandomWindows(ids, BATCH * steps, seed))
        seconds = trainer.train().metrics["train_runtime"]
    counts = {"steps": steps, "tokens": steps * BATCH * CONTEXT, "seconds": seconds}
    return counts | {"loss": full_loss(model, validation)}


@torch.no_grad()
def full_loss(model: nn.Module, ids: TokenArray) -> float:
    """Mean loss over every target of a text, cut into windows of CONTEXT."""
    model.eval()
    nats = targets = 0
    windows = Windows(ids, CONTEXT + 1)
    for window in (windows[index]["input_ids"] for index in range(len(windows))):
        ids_BT = torch.as_tensor(window)[None]
        logits_TV = model(input_ids=ids_BT[:, :-1]).logits[0]
        nats += nn.functional.cross_entropy(logits_TV, ids_BT[0, 1:], reduction="sum").item()
        targets += len(window) - 1
    return nats / targets


def train_ours(overrides: list[str]) -> dict:
    """A run of `train_lm.py`, in a process of its own: seconds, evaluations included, and its last validation loss."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        command = [sys.executable, str(ROOT / "train_lm.py"), str(CONFIG), f"training.output_dir={run}", *overrides]
        subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
        found = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    return {key: found[key] for key in ("steps", "tokens", "seconds")} | {"loss": found["eval_loss"]}


class Side:
    """Training steps of one side, forward to optimiser, on batches of the text's size."""

    def __init__(self, model: nn.Module, optimizer: Optimizer, batch: int, length: int, bf16: bool):
        self.model, self.optimizer, self.bf16 = model.train(), optimizer, bf16
        self.ids_BT = torch.randint(model.config.vocab_size, (batch, length))

    def step(self):
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            loss = self.model(input_ids=self.ids_BT, labels=self.ids_BT, use_cache=False).loss
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


def build_sides(vocabulary: int) -> dict[str, Side]:
    """Both sides, with the models, batches, precision and optimisers of their runs."""
    stock, experiment = stock_model(vocabulary, seed=0), load_experiment(str(CONFIG), [])
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(output_dir=folder, use_cpu=True, bf16=has_bf16(use_cpu=True), report_to="none")
    ours = build_model(build_config(experiment.model, {"vocab_size": vocabulary}), args)
    length, batch = ours.config.max_position_embeddings, experiment.training["per_device_train_batch_size"]
    return {
        "stock": Side(stock, torch.optim.AdamW(stock.parameters(), fused=True), BATCH, CONTEXT, bf16=False),
        "ours": Side(ours, build_optimizer([(ours, args, experiment.optimizer)]), batch, length, args.bf16),
    }


def time_steps(vocabulary: int, rounds: int = ROUNDS) -> dict[str, dict]:
    """Median milliseconds and processor milliseconds of a step of each side, in rounds of both."""
    sides = build_sides(vocabulary)
    taken = {name: [] for name in sides}
    for _ in range(rounds + 1):
        for name, side in sides.items():
            before = time.perf_counter(), time.process_time()
            for _ in range(STEPS_A_ROUND):
                side.step()
            taken[name].append((time.perf_counter() - before[0], time.process_time() - before[1]))
    medians = {name: [statistics.median(kind) for kind in zip(*all_[1:], strict=True)] for name, all_ in taken.items()}
    names = ("milliseconds", "processor_milliseconds")
    return {
        name: {key: round(1000 * value / STEPS_A_ROUND, 2) for key, value in zip(names, values, strict=True)}
        for name, values in medians.items()
    }


def summarise(runs: list[dict], steps: dict[str, dict]) -> dict:
    """For each side: mean, lowest and highest loss over seeds, and its share of the time of the stock side's steps."""
    table = {}
    for side in SIDES:
        own = [run for run in runs if run["side"] == side]
        losses = [run["loss"] for run in own]
        step, stock = steps["stock" if side == "stock" else "ours"], steps["stock"]
        count = own[0]["steps"]
        shares = {f"share_of_{key}": round(count * step[key] / (STEPS * stock[key]), 3) for key in stock}
        loss = {"mean": round(statistics.mean(losses), 4), "range": [round(min(losses), 4), round(max(losses), 4)]}
        table[side] = {"steps": count, "tokens": own[0]["tokens"], "loss": loss} | shares
    return table


def draw(runs: list[dict], sides: dict) -> Figure:
    """Each run's loss against the share of the stock side's processor time that its steps take."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for side, color in COLORS.items():
        losses = [run["loss"] for run in runs if run["side"] == side]
        places = [sides[side]["share_of_processor_milliseconds"]] * len(losses)
        axes.plot(places, losses, "o", color=color, alpha=0.7, ms=8, label=f"{side} ({sides[side]['steps']:,} steps)")
    axes.axhline(PUBLISHED, color="tab:gray", ls="--", lw=1)
    axes.annotate(f"nanoGPT's documented {PUBLISHED}", (0.02, PUBLISHED), (0, 4), textcoords="offset points", c="0.4")
    axes.axvline(1 / 3, color="tab:gray", ls=":", lw=1)
    axes.set_xlim(0, 1.05)
    axes.set_xlabel("time of all training steps, as a share of the stock Trainer's")
    axes.set_ylabel("validation loss (nats per character)")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def main(arguments: list[str] | None = None):
    asked = parse_arguments(arguments)
    given = [f"data.source={asked.source}"]
    experiment = load_experiment(str(CONFIG), given)
    prepared = prepare(experiment.data, experiment.tokenizer)
    texts = [prepared.examples(name, "packed", CONTEXT + 1).ids for name in ("train", "validation")]
    runs = []
    for seed in asked.seeds:
        for side, settings in SIDES.items():
            overrides = [*given, f"training.seed={seed}", *(f"{key}={value}" for key, value in settings.items())]
            found = train_stock(*texts, len(prepared.tokenizer), seed) if side == "stock" else train_ours(overrides)
            runs.append({"side": side, "seed": seed} | found)
            print(", ".join(f"{key} {value}" for key, value in runs[-1].items()), flush=True)
    path = asked.out / "shakespeare.json"
    before = json.loads(path.read_text(encoding="utf-8"))["runs"] if path.exists() else []
    runs = sorted(runs + [run for run in before if run["seed"] not in asked.seeds], key=lambda run: run["seed"])
    steps = time_steps(len(prepared.tokenizer))
    sides = summarise(runs, steps)
    report = {
        "runs": runs,
        "step": steps,
        "sides": sides,
        "published": PUBLISHED,
        "machine": {"processor": processor_name(), "threads": torch.get_num_threads(), "torch": torch.__version__},
    }
    asked.out.mkdir(parents=True, exist_ok=True)
    write_json(path, report)
    draw(runs, sides).savefig(asked.out / "figure.png", dpi=110)
    print(json.dumps(sides, indent=2))


if __name__ == "__main__":
    main()
