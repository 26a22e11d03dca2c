"""Loss curves of a run as a picture: against steps, tokens, seconds and FLOPs."""

import math
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import EngFormatter

AXES = {"step": "steps", "tokens": "tokens", "seconds": "wall-clock seconds", "total_flos": "training FLOPs"}


def draw_curves(history: list[dict], path: Path, floor_loss: float | None = None):
    """Draw training and validation loss of a log history into a PNG; `floor_loss` is in nats a token."""
    training = [row for row in history if "loss" in row]
    validation = [row for row in history if "eval_loss" in row]
    figure, panels = plt.subplots(2, 2, figsize=(10, 7), sharey=True, layout="constrained")
    for panel, (key, label) in zip(panels.flat, AXES.items(), strict=True):
        panel.plot([r[key] for r in training], [r["loss"] for r in training], color="0.65", lw=1, label="training")
        panel.plot(
            [r[key] for r in validation], [r["eval_loss"] for r in validation], "o-", color="tab:blue", ms=3.5, lw=1.5,
            label="validation",
        )  # fmt: skip
        if floor_loss is not None:
            panel.axhline(floor_loss, color="tab:red", ls="--", lw=1, label=f"floor {floor_loss:.3f}")
        panel.set_xlabel(label)
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
        panel.set_ylabel("loss (nats a token)")
        panel.grid(alpha=0.3)
        panel.set_ylim(*_visible_range([r["loss"] for r in training], [r["eval_loss"] for r in validation], floor_loss))
    panels.flat[0].legend(frameon=False)
    figure.savefig(path, dpi=110)
    figure.clear()  # else its parts, which know each other, wait for Python's collector
    plt.close(figure)


def _visible_range(training: list[float], validation: list[float], floor: float | None) -> tuple[float, float]:
    """From below the lowest point to the first validation loss or the training loss after a tenth of the run.

    The start would flatten everything after it. Losses that are not finite have no place on an axis.
    """
    later = training[len(training) // 10 :][:1]
    points = [loss for loss in [*training, *validation, *([floor] if floor is not None else [])] if math.isfinite(loss)]
    if not points:
        return 0.0, 1.0
    lowest = min(points)
    highest = max([loss for loss in [*validation[:1], *later] if math.isfinite(loss)], default=max(points))
    margin = 0.05 * (highest - lowest) or 0.05
    return lowest - margin, highest + margin


def draw_accuracies(runs: list[list[dict]], path: Path, title: str):
    """Draw accuracies, losses and weight norm of replicas against steps on a log axis: mean, and range as a band.

    `runs` has the evaluation rows of each replica, at the same steps in all of them.
    """
    steps = [row["step"] for row in runs[0]]
    splits = [name for name in SPLIT_COLOURS if f"{name}_accuracy" in runs[0][0]]
    figure, (accuracy, loss, norm) = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    for split in splits:
        _band(accuracy, steps, [[100 * row[f"{split}_accuracy"] for row in rows] for rows in runs], split)
        _band(loss, steps, [[row[f"{split}_loss"] for row in rows] for rows in runs], split)
    _band(norm, steps, [[row["weight_norm"] for row in rows] for rows in runs], "weights")
    for panel, label in ((accuracy, "accuracy (%)"), (loss, "loss (nats a target)"), (norm, "norm of all weights")):
        panel.set(xscale="log", xlabel="optimiser steps", ylabel=label)
        panel.grid(alpha=0.3)
    accuracy.set_ylim(-3, 103)
    loss.set_yscale("log")
    accuracy.legend(frameon=False)
    figure.suptitle(title)
    figure.savefig(path, dpi=110)
    figure.clear()  # else its parts, which know each other, wait for Python's collector
    plt.close(figure)


SPLIT_COLOURS = {"train": "#D55E00", "validation": "0.55", "test": "#009E73"}  # as in experiments/figures.py


def _band(panel, steps: list[int], curves: list[list[float]], name: str):
    mean = [sum(values) / len(values) for values in zip(*curves, strict=True)]
    colour = SPLIT_COLOURS.get(name, "0.3")
    panel.plot(steps, mean, color=colour, lw=1.8, label=name)
    if len(curves) > 1:
        lowest, highest = ([side(values) for values in zip(*curves, strict=True)] for side in (min, max))
        panel.fill_between(steps, lowest, highest, color=colour, alpha=0.2, lw=0)
