"""Train on Tiny Shakespeare by characters as nanoGPT's recipe for a CPU does, and by ours, side by side.

usage: python -m benchmarks.shakespeare [--source FILE] [--seeds 0 1 2] [--out FOLDER]

One side is the stock Trainer with GPT2LMHeadModel at nanoGPT's documented settings; the other is
configs/lm/shakespeare_char.yaml, as it is and with few steps. All have the same tokens and targets, and take turns
seed by seed, so that a busy machine slows all equally. `seconds` are those of training, for ours with its evaluations;
`cpu_seconds`, which other work hardly changes, are those of training, for ours of the whole process. The loss is that
of the full validation text, the last tenth, every target weighted equally. Results and a picture go to
experiments/results/shakespeare.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import nn
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments, set_seed

from data_prep.tokens.prepare import prepare
from data_prep.tokens.windows import TokenArray, Windows
from settings.loading import load_experiment
from settings.paths import ROOT
from storage.files import write_json
from training.machine.hardware import processor_name

CONFIG = ROOT / "configs" / "lm" / "shakespeare_char.yaml"
CONTEXT, BATCH, STEPS = 64, 12, 2000
PUBLISHED = 1.88
"""nanoGPT's validation loss after these steps, an estimate from 20 random batches."""
SIDES = {"stock": {}, "ours, few steps": {"training.max_steps": 200}, "ours": {}}
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


def train_stock(ids: TokenArray, validation: TokenArray, vocabulary: int, seed: int, steps: int = STEPS) -> dict:
    """nanoGPT's recipe by the stock Trainer: seconds of training, and the loss on the full validation text."""
    set_seed(seed)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=vocabulary, n_positions=CONTEXT, n_embd=128, n_layer=4, n_head=4, resid_pdrop=0.0,
            embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=None, eos_token_id=None,
        )
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            output_dir=folder, use_cpu=True, max_steps=steps, per_device_train_batch_size=BATCH, learning_rate=1e-3,
            lr_scheduler_type="cosine_with_min_lr", lr_scheduler_kwargs={"min_lr": 1e-4},
            warmup_steps=min(100, steps // 2), adam_beta2=0.99, weight_decay=0.1, max_grad_norm=1.0, save_strategy="no",
            logging_steps=250, report_to="none", disable_tqdm=True, remove_unused_columns=False, seed=seed,
        )  # fmt: skip
        trainer = Trainer(model=model, args=args, train_dataset=RandomWindows(ids, BATCH * steps, seed))
        before = time.process_time()
        seconds = trainer.train().metrics["train_runtime"]
        cpu_seconds = time.process_time() - before
    times = {"seconds": seconds, "cpu_seconds": cpu_seconds}
    return {"steps": steps, "tokens": steps * BATCH * CONTEXT} | times | {"loss": full_loss(model, validation)}


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
        before = cpu_of_children()
        command = [sys.executable, str(ROOT / "train_lm.py"), str(CONFIG), f"training.output_dir={run}", *overrides]
        subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
        found = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    own = {key: found[key] for key in ("steps", "tokens", "seconds")}
    return own | {"cpu_seconds": cpu_of_children() - before, "loss": found["eval_loss"]}


def cpu_of_children() -> float:
    """Seconds of processor time that ended child processes took."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def summarise(runs: list[dict]) -> dict:
    """For each side: mean, lowest and highest loss over seeds, and the same of its time as a share of the stock side's.

    The share is that of the stock run with the same seed, its neighbour in time.
    """
    stock = {run["seed"]: run for run in runs if run["side"] == "stock"}
    table = {}
    for side in SIDES:
        own = [run for run in runs if run["side"] == side]
        measured = {"loss": [run["loss"] for run in own]} | {
            f"share_of_{key}": [run[key] / stock[run["seed"]][key] for run in own] for key in ("seconds", "cpu_seconds")
        }
        table[side] = {key: own[0][key] for key in ("steps", "tokens")} | {
            name: {"mean": round(statistics.mean(values), 4), "range": [round(min(values), 4), round(max(values), 4)]}
            for name, values in measured.items()
        }
    return table


def draw(runs: list[dict]) -> Figure:
    """Each run's loss against its share of the time that the stock side took with the same seed."""
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    seconds = {run["seed"]: run["seconds"] for run in runs if run["side"] == "stock"}
    for side, color in COLORS.items():
        own = [run for run in runs if run["side"] == side]
        places = [run["seconds"] / seconds[run["seed"]] for run in own]
        label = f"{side} ({own[0]['steps']:,} steps)"
        axes.plot(places, [run["loss"] for run in own], "o", color=color, alpha=0.7, ms=8, label=label)
    axes.axhline(PUBLISHED, color="tab:gray", ls="--", lw=1)
    axes.annotate(
        f"nanoGPT's documented {PUBLISHED}", (0.02, PUBLISHED), (0, 4), textcoords="offset points", color="0.4"
    )
    axes.axvline(1 / 3, color="tab:gray", ls=":", lw=1)
    axes.set(
        xlim=(0, None),
        xlabel="training time, as a share of the stock Trainer's",
        ylabel="validation loss (nats per character)",
    )
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shakespeare", description=__doc__.splitlines()[0])
    parser.add_argument("--source", default="tinyshakespeare", help="the text, a file; default: from the Hub")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default 0 1 2; other seeds' runs stay")
    parser.add_argument("--out", type=Path, default=ROOT / "experiments" / "results" / "shakespeare")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None):
    asked = parse(arguments)
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
    report = {
        "runs": runs,
        "sides": summarise(runs),
        "published": PUBLISHED,
        "machine": {"processor": processor_name(), "threads": torch.get_num_threads(), "torch": torch.__version__},
    }
    asked.out.mkdir(parents=True, exist_ok=True)
    write_json(path, report)
    draw(runs).savefig(asked.out / "figure.png", dpi=110)
    print(json.dumps(report["sides"], indent=2))


if __name__ == "__main__":
    main()
