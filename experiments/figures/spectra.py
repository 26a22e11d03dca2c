"""The figure of `experiments.spectrum`: spectra of number embeddings, and accuracy and sparsity over time."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from experiments.fourier import TOP, Model, Snapshot

from .kinds import GREY, TEST, TRAIN
from .panels import PALETTE

OUTLINE = withStroke(linewidth=2, foreground="white")


def draw(models: list[Model]) -> Figure:
    """Spectra of the first model, one panel per step; below them accuracies and sparsity of all models."""
    model = models[0]
    count = len(model.shown)
    figure = Figure(figsize=(9, 1.5 * count + 3.4), layout="constrained")
    grid = figure.add_gridspec(count + 1, 1, height_ratios=[1] * count + [1.7])
    panels = [figure.add_subplot(grid[0])]
    panels += [figure.add_subplot(grid[i], sharex=panels[0], sharey=panels[0]) for i in range(1, count)]
    top = 100 * max(shares.max() for shares in model.shown.values())
    panels[0].set(xlim=(0, len(model.order) // 2 + 1), ylim=(0, 1.25 * top))
    snapshots = {one.step: one for one in model.snapshots}
    for axes, (step, shares) in zip(panels, model.shown.items(), strict=True):
        _spectrum(axes, snapshots[step], 100 * shares, top)
        axes.tick_params(labelbottom=axes is panels[-1])
    numbers = ", ".join(map(str, model.order[:4]))
    panels[-1].set_xlabel(f"frequency along the numbers {numbers}, ... (modulo {model.modulus})")
    _history(figure.add_subplot(grid[count]), models)
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    figure.align_ylabels()
    which = f" ({model.name}; at the bottom {len(models)} models)" if len(models) > 1 else ""
    figure.suptitle(f"Fourier spectrum of the number embeddings: {model.operation} modulo {model.modulus}{which}")
    return figure


def _spectrum(axes: Axes, one: Snapshot, percent: np.ndarray, top: float):
    """One bar per frequency, the strongest coloured and labelled; `top` is the highest bar of all panels."""
    places = range(1, len(percent) + 1)
    axes.bar(places, percent, color=[PALETTE[0] if k in one.frequencies else "0.75" for k in places])
    accuracies = f"train {one.train_accuracy:.1%}, test {one.test_accuracy:.1%}"
    title = f"step {one.step:,}: {accuracies}; {one.top_share:.0%} of the power at the {TOP} strongest"
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_ylabel("share (%)")
    wide, high = 0.009 * len(str(len(percent))) * len(percent), 0.2 * top  # the space of a label
    heights = {}
    for k in reversed(one.frequencies):
        heights[k] = percent[k - 1]
        for taken in sorted(height for other, height in heights.items() if 0 < abs(other - k) < wide):
            heights[k] = taken + high if abs(heights[k] - taken) < high else heights[k]
        axes.text(k, heights[k] + 0.02 * top, str(k), ha="center", fontsize=8, path_effects=[OUTLINE])
    axes.set_ylim(top=max(axes.get_ylim()[1], max(heights.values()) + high))


def _history(axes: Axes, models: list[Model]):
    """Accuracies at all evaluations, and the share of the strongest frequencies at all saved steps."""
    for model in models[1:]:
        _curves(axes, model, lw=1, alpha=0.5)
    names = ("train accuracy", "test accuracy", f"power at the {TOP} strongest")
    for line, name in zip(_curves(axes, models[0], lw=1.8), names, strict=True):
        line.set_label(name)
    axes.axhline(100 * models[0].random_share, color=PALETTE[0], ls=":", label=f"at any {TOP} of a random embedding")
    for step in models[0].shown:
        axes.axvline(step, color=GREY, lw=0.8, zorder=0)
    axes.set(xscale="log", xlabel="steps (vertical lines: the spectra above)", ylabel="share (%)", ylim=(-3, 103))
    last = models[0].evaluations[-1]["step"]
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if last < 2000 else (1,), numticks=20))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)


def _curves(axes: Axes, model: Model, **look) -> list[Line2D]:
    """One model's lines: train accuracy, test accuracy, share of the strongest frequencies."""
    steps = [row["step"] for row in model.evaluations]
    train, test = ([100 * row[f"{split}_accuracy"] for row in model.evaluations] for split in ("train", "test"))
    kept, shares = [one.step for one in model.snapshots], [100 * one.top_share for one in model.snapshots]
    return [
        *axes.plot(steps, train, color=TRAIN, ls=(0, (4, 2)), **look),
        *axes.plot(steps, test, color=TEST, **look),
        *axes.plot(kept, shares, "o-", color=PALETTE[0], ms=4, **look),
    ]
