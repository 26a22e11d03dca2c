"""The coordinate check of muP: how far a few steps move activations, by width, beside standard parametrization.

usage: python -m benchmarks.coordinates [--widths W ...] [--seeds N] [--out FOLDER]

Trains two-layer LLaMAs of every width on the same bytes of fables and measures, on a batch that is not trained on, the
root mean square of what has changed since the start: of attention scores and states after the last block, and of
logits. With muP it is the same at every width (Yang et al., 2022, appendix D.1). Writes coordinates.json and
coordinates.png into experiments/results/coordinates.
"""

import argparse
import json
import math
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

from settings.paths import ROOT

WIDTHS = (64, 128, 256, 512, 1024)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coordinates", description=__doc__)
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "experiments" / "results" / "coordinates")
    return parser.parse_args()


if __name__ == "__main__":  # before the imports that take seconds
    parse_arguments()

import matplotlib

matplotlib.use("Agg")
import torch
from matplotlib import pyplot as plt
from torch import nn
from transformers import AttentionInterface, AutoModelForCausalLM

import modeling  # noqa: F401  registers the models
from data_prep.fables import fables
from modeling.attention import eager_attention
from modeling.configuration_kindling import KindlingLlamaConfig
from settings.sections import OptimizerSection
from training.optimization.optimizers import build_optimizer

STEPS = (1, 2, 4, 8)
"""The steps after which activations are measured."""
ROWS, LENGTH, LAYERS, HEADS = 8, 32, 2, 4
SETTINGS = SimpleNamespace(
    learning_rate=8e-3, weight_decay=0.1, adam_beta1=0.9, adam_beta2=0.95, adam_epsilon=1e-8, bf16=True
)
"""The rate that is best at the smallest width (configs/sweeps/transfer.yaml), constant; bf16 is for Muon's products."""
CASES = [(kind, parametrization) for kind in ("adamw", "muon") for parametrization in ("standard", "mup")]
QUANTITIES = {"scores": "attention scores", "states": "states after the last block", "logits": "logits"}


def remember_scores(module, query, key, value, mask, scaling, **kwargs):
    """Eager attention that leaves its scores (B, N, T, T) behind."""
    key_of_each_head = key.repeat_interleave(module.num_key_value_groups, dim=1)
    module.scores = query @ key_of_each_head.transpose(2, 3) * scaling
    return eager_attention(module, query, key, value, mask, scaling, **kwargs)


AttentionInterface.register("remember_scores", remember_scores)


def build(width: int, parametrization: str, base: int, seed: int) -> nn.Module:
    """A LLaMA over bytes, whose heads grow with the width."""
    config = KindlingLlamaConfig(
        vocab_size=256, hidden_size=width, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        max_position_embeddings=LENGTH, parametrization=parametrization, mup_base_width=base,
    )  # fmt: skip
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config, attn_implementation="remember_scores")


def batches(count: int, seed: int) -> torch.Tensor:
    """So many batches of bytes of fables (count, B, T)."""
    text = "\n".join(islice(fables(seed), count)).encode()
    size = count * ROWS * LENGTH
    return torch.frombuffer(bytearray(text[:size]), dtype=torch.uint8).long().view(count, ROWS, LENGTH)


@torch.no_grad()
def activations(model: nn.Module, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """Scores of the last attention as far as a token may look, states after the last block, and logits."""
    states = []
    hook = model.model.layers[-1].register_forward_hook(lambda _module, _inputs, output: states.append(output))
    logits = model(ids, use_cache=False).logits
    hook.remove()
    scores = model.model.layers[-1].self_attn.scores
    seen = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    return {"scores": scores[..., seen], "states": states[0], "logits": logits}


def changes(model: nn.Module, kind: str, ids: torch.Tensor, steps=STEPS) -> dict[str, list[float]]:
    """Train on all but the first batch; the root mean square of each quantity's change on that one after `steps`."""
    optimizer = build_optimizer([(model, SETTINGS, OptimizerSection(kind=kind))])
    before, found = activations(model, ids[0]), {name: [] for name in QUANTITIES}
    for step, batch in enumerate(ids[1 : 1 + max(steps)], start=1):
        model(batch, labels=batch, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step in steps:
            for name, value in activations(model, ids[0]).items():
                found[name].append((value - before[name]).pow(2).mean().sqrt().item())
    return found


def measure(widths=WIDTHS, seeds: int = 3, steps=STEPS) -> list[dict]:
    """A row for each case, width, quantity and step, with the mean over seeds."""
    ids, rows = batches(1 + max(steps), seed=0), []
    for (kind, parametrization), width in ((case, width) for case in CASES for width in widths):
        runs = [changes(build(width, parametrization, widths[0], seed), kind, ids, steps) for seed in range(seeds)]
        for name in QUANTITIES:
            for index, step in enumerate(steps):
                mean = sum(run[name][index] for run in runs) / seeds
                about = {"optimizer": kind, "parametrization": parametrization, "quantity": name, "width": width}
                rows.append(about | {"step": step, "change": float(f"{mean:.5g}")})
    return rows


def exponent(rows: list[dict]) -> float:
    """The power of the width that the changes follow, by least squares on logarithms."""
    x, y = ([math.log(row[key]) for row in rows] for key in ("width", "change"))
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    slope = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return slope / sum((a - mean_x) ** 2 for a in x)


def select(rows: list[dict], **values) -> list[dict]:
    """The rows with these values."""
    return [row for row in rows if all(row[key] == value for key, value in values.items())]


def exponents(rows: list[dict]) -> list[dict]:
    """For each case and quantity the exponent after the last step."""
    last = max(row["step"] for row in rows)
    return [
        {"optimizer": kind, "parametrization": parametrization, "quantity": name}
        | {"exponent": round(exponent(select(
            rows, optimizer=kind, parametrization=parametrization, quantity=name, step=last
        )), 3)}
        for kind, parametrization in CASES
        for name in QUANTITIES
    ]  # fmt: skip


def draw(rows: list[dict], path: Path):
    """A panel for each quantity and case, a line for each step."""
    figure, panels = plt.subplots(
        len(QUANTITIES), len(CASES), figsize=(13, 8), sharex=True, sharey="row", layout="constrained"
    )
    steps = sorted({row["step"] for row in rows})
    for line, (name, title) in zip(panels, QUANTITIES.items(), strict=True):
        for panel, (kind, parametrization) in zip(line, CASES, strict=True):
            for index, step in enumerate(steps):
                own = select(rows, optimizer=kind, parametrization=parametrization, quantity=name, step=step)
                color = plt.get_cmap("viridis")(0.85 * index / max(1, len(steps) - 1))
                panel.plot([row["width"] for row in own], [row["change"] for row in own], "o-", color=color, label=step)
            panel.set(xscale="log", yscale="log")
            panel.grid(alpha=0.3)
            if name == next(iter(QUANTITIES)):
                names = {"adamw": "AdamW", "muon": "Muon", "standard": "standard", "mup": "muP"}
                panel.set_title(f"{names[kind]}, {names[parametrization]}")
        line[0].set_ylabel(f"{title}:\nRMS of the change")
    widths = sorted({row["width"] for row in rows})
    for panel in panels[-1]:
        panel.set_xticks(widths, map(str, widths))
        panel.minorticks_off()
        panel.set_xlabel("width")
    panels[0, 0].legend(title="after step", fontsize="small")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main():
    arguments = parse_arguments()
    rows = measure(tuple(arguments.widths), arguments.seeds)
    powers = exponents(rows)
    for one in powers:
        print("{optimizer:8}{parametrization:10}{quantity:10}{exponent:>8}".format(**one))
    arguments.out.mkdir(parents=True, exist_ok=True)
    draw(rows, arguments.out / "coordinates.png")
    found = {"seeds": arguments.seeds, "learning_rate": SETTINGS.learning_rate, "exponents": powers, "changes": rows}
    (arguments.out / "coordinates.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
