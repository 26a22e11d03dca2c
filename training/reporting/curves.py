"""Curves of a run as a picture: losses, learning rate and gradient, or the accuracies of replicas."""

import math
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from .averages import averaged_losses

TRAINING, VALIDATION, FLOOR = "tab:gray", "tab:blue", "tab:red"
AVERAGES = {"ema": "tab:orange", "tail": "tab:green"}
SMOOTHED_FROM, SMOOTHED_OVER = 30, 25
"""Number of training losses from which a smoothed line is added, and the inverse width of its window in the run."""
RATES = 1000
"""Number of points at which a known learning-rate schedule is drawn."""
LOG_FROM = 3
"""Ratio of the highest to the lowest loss from which the axis is logarithmic."""


def draw_curves(
    history: list[dict], path: Path, floor_loss: float | None = None, rate_of: Callable[[int], float] | None = None
):
    """Draw a log history into a PNG: losses against steps, with learning rate and norm of the gradient below.

    Each tick of the step axis is also labelled with tokens, time and FLOPs. `floor_loss`, in nats
    per token, is the exact -log p of the validation text under its source. `rate_of` is the learning rate of a step by
    the schedule, where it is known; it is drawn if all logged rates agree with it, which they do not if the run was
    resumed with another schedule.
    """
    training = [row for row in history if "loss" in row]
    validation = [row for row in history if "eval_loss" in row]
    figure, (losses, rates) = plt.subplots(
        2, 1, figsize=(9, 6.5), sharex=True, height_ratios=(3, 1), layout="constrained"
    )
    _draw_losses(losses, training, validation, floor_loss)
    _draw_rates(rates, training, rate_of)
    rates.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
    rates.xaxis.set_major_formatter(FuncFormatter(Costs([*training, *validation])))
    rates.annotate(
        "steps\ntokens\ntime\nFLOPs", (0, 0), (-12, -7), "axes fraction", "offset points", ha="right", va="top"
    )
    if training or validation:
        rates.set_xlim(0, 1.01 * max(row["step"] for row in (*training, *validation)))
    for panel in (losses, rates):
        panel.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    figure.clear()  # frees reference cycles now, without the garbage collector
    plt.close(figure)


def _draw_losses(panel, training: list[dict], validation: list[dict], floor: float | None):
    steps, losses = _finite(training, "loss")
    smooth = len(losses) >= SMOOTHED_FROM
    style = {"alpha": 0.5} if smooth else {"marker": ".", "label": "training" if steps else None}
    panel.plot(steps, losses, color=TRAINING, lw=1, **style)
    if smooth:
        panel.plot(steps, _smoothed(losses), color=TRAINING, lw=1.8, label="training, smoothed")
    if validation:
        panel.plot(*_finite(validation, "eval_loss"), "o-", color=VALIDATION, ms=4, lw=1.5, label="validation")
    for name in sorted({name for row in validation for name in averaged_losses(row)}):
        style = {"color": AVERAGES.get(name), "ms": 3, "lw": 1.2, "label": f"validation, {name} of the weights"}
        panel.plot(*_finite(validation, f"eval_{name}_loss"), "s-", **style)
    if floor is not None:
        panel.axhline(floor, color=FLOOR, ls="--", lw=1, label=f"floor {floor:.3f}: -log p of the validation text")
    lost = [row["step"] for row in (*training, *validation) if not math.isfinite(row.get("loss", row.get("eval_loss")))]
    if lost:
        panel.axvline(min(lost), color=FLOOR, ls=":", lw=1.5, label=f"non-finite loss, first at step {min(lost):,}")
    every = [*losses, *_finite(validation, "eval_loss")[1], *([] if floor is None else [floor])]
    if every and min(every) > 0 and max(every) / min(every) > LOG_FROM:
        panel.set_yscale("log")
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7) if max(every) < 50 * min(every) else (1,)))
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panel.yaxis.set_minor_formatter(NullFormatter())
    panel.set_ylabel("loss (nats per token)")
    if panel.get_legend_handles_labels()[0]:
        panel.legend(frameon=False, loc="upper right")


def _draw_rates(panel, training: list[dict], rate_of: Callable | None):
    """Learning rate on the left, norm of the gradient on the right."""
    steps, values = _finite(training, "learning_rate")
    if rate_of and steps and all(math.isclose(rate_of(s), v, rel_tol=1e-6) for s, v in zip(steps, values, strict=True)):
        steps = sorted({*np.linspace(1, max(steps), RATES).astype(int).tolist(), *steps})
        values = [rate_of(step) for step in steps]
    panel.plot(steps, values, color="tab:green", lw=1.5)
    panel.set_ylabel("learning rate", color="tab:green")
    panel.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    panel.set_ylim(bottom=0)
    norms = panel.twinx()
    norms.plot(*_finite(training, "grad_norm"), color="tab:purple", lw=1, alpha=0.8)
    norms.set_ylabel("gradient norm", color="tab:purple")
    norms.set_ylim(bottom=0)


def _finite(rows: list[dict], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of the rows with a finite value; others cannot be drawn."""
    kept = [(row["step"], row[name]) for row in rows if name in row and math.isfinite(row[name])]
    return [step for step, _ in kept], [value for _, value in kept]


def _smoothed(values: list[float]) -> list[float]:
    """A running mean, with a narrower window at both ends."""
    half = max(1, len(values) // (2 * SMOOTHED_OVER))
    windows = ((max(0, i - half), i + half + 1) for i in range(len(values)))
    return [sum(values[start:stop]) / len(values[start:stop]) for start, stop in windows]


class Costs:
    """Tick labels for the step axis: step, tokens, time and FLOPs, interpolated between logs."""

    def __init__(self, rows: list[dict]):
        rows = sorted(rows, key=lambda row: row["step"])
        self.steps = [0, *(row["step"] for row in rows)]
        self.known = {name: [0, *(row[name] for row in rows)] for name in ("tokens", "seconds", "total_flos")}

    def __call__(self, step: float, _=None) -> str:
        if not 0 <= step <= self.steps[-1]:
            return ""
        if step == 0:
            return "0\n0\n0\n0"
        tokens, seconds, flops = (float(np.interp(step, self.steps, values)) for values in self.known.values())
        return f"{step:,.0f}\n{_short(tokens)}\n{_duration(seconds)}\n{flops:.1e}".replace("e+", "e")


def _short(count: float) -> str:
    return f"{count:.0f}" if count < 1000 else EngFormatter(places=1, sep="")(count).replace("G", "B")


def _duration(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"


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
    for panel, label in ((accuracy, "accuracy (%)"), (loss, "loss (nats per target)"), (norm, "norm of all weights")):
        panel.set(xscale="log", xlabel="optimiser steps", ylabel=label)
        panel.grid(alpha=0.3)
    accuracy.set_ylim(-3, 103)
    loss.set_yscale("log")
    accuracy.legend(frameon=False)
    figure.suptitle(title)
    figure.savefig(path, dpi=110)
    figure.clear()  # frees reference cycles now, without the garbage collector
    plt.close(figure)


SPLIT_COLOURS = {"train": "#D55E00", "validation": "0.55", "test": "#009E73"}  # as in experiments/figures/kinds.py


def _band(panel, steps: list[int], curves: list[list[float]], name: str):
    mean = [sum(values) / len(values) for values in zip(*curves, strict=True)]
    colour = SPLIT_COLOURS.get(name, "0.3")
    panel.plot(steps, mean, color=colour, lw=1.8, label=name)
    if len(curves) > 1:
        lowest, highest = ([side(values) for values in zip(*curves, strict=True)] for side in (min, max))
        panel.fill_between(steps, lowest, highest, color=colour, alpha=0.2, lw=0)
