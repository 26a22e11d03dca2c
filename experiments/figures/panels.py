"""Building blocks of figures: panels, scales, colours and legends."""

import math
import textwrap

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullFormatter

# Okabe and Ito (2008): distinguishable with any kind of colour vision
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def by_axis(rows: list, axis: str | None) -> dict:
    """The rows by their value on an axis, in their order; by None without one."""
    groups = {}
    for row in rows:
        groups.setdefault(row.axes.get(axis), []).append(row)
    return groups


def all_numbers(values) -> bool:
    return all(isinstance(value, int | float) for value in values)


def panels_of(rows: list, labels, axis: str | None) -> tuple[Figure, list[tuple]]:
    """A figure with a panel for each value of an axis, at most three per line, and (axes, rows) of each."""
    groups = by_axis(rows, axis)
    across = 2 if len(groups) == 4 else min(len(groups), 3)
    down = math.ceil(len(groups) / across)
    figure = Figure(figsize=(max(7, 3.8 * across), 1.0 + 3.2 * down), layout="constrained")
    panels = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).flat
    for axes in panels[len(groups) :]:
        axes.remove()
    for axes, value in zip(figure.axes, groups, strict=True):
        _plain(axes)
        axes.tick_params(labelbottom=True)
        axes.set_title(labels.of_row({axis: value}) if axis else "", fontsize=10)
    return figure, list(zip(figure.axes, groups.values(), strict=True))


def row_panels(rows: list, labels, count: int) -> Figure:
    """A figure with a line of space for each row, named at the left, and `count` panels side by side."""
    names = [textwrap.fill(labels.of_row(row.axes), 40) for row in rows]
    width = 0.08 * max(len(line) for name in names for line in name.split("\n"))
    figure = Figure(figsize=(max(7, width + 3.6 * count), 1.5 + 0.42 * len(rows)), layout="constrained")
    figure.subplots(1, count, sharey=True)
    for axes in figure.axes:
        _plain(axes)
    figure.axes[0].set_yticks(range(len(rows)), names)
    figure.axes[0].set_ylim(len(rows) - 0.4, -0.6)
    return figure


def _plain(axes: Axes):
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)


def scale_axis(axis: Axis, log: bool):
    """Large numbers as 10k; a log axis of few decades has ticks at 2 and 5 of each too. Call it when all is drawn."""
    if log:
        axis.axes.set(**{f"{axis.axis_name}scale": "log"})
        low, high = getattr(axis.axes, f"get_{axis.axis_name}lim")()
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,), numticks=20))
        axis.set_minor_formatter(NullFormatter())
    axis.set_major_formatter(FuncFormatter(_short))


def _short(value: float, position: int | None = None) -> str:  # noqa: ARG001  matplotlib gives a tick's position
    return EngFormatter(sep="")(value) if abs(value) >= 1000 else f"{value:g}"


def colors_of(rows: list, hue: str | None) -> dict:
    """One colour per value: a gradient for more than two numbers, else distinct colours."""
    values = list(by_axis(rows, hue))
    if len(values) > len(PALETTE) or (len(values) > 2 and all_numbers(values)):
        return {value: colormaps["viridis"](0.85 * i / (len(values) - 1)) for i, value in enumerate(values)}
    return dict(zip(values, PALETTE, strict=False))


def legend(figure: Figure, handles: list[Line2D], title: str | None = None):
    """A legend beneath everything: one line if it fits, else columns; the figure grows by its height."""
    if not handles:
        return
    widths = [len(handle.get_label()) + 8 for handle in handles]
    room = int(13 * figure.get_figwidth())
    across = len(handles) if sum(widths) <= room else max(1, room // max(widths))
    figure.set_figheight(figure.get_figheight() + 0.2 * (math.ceil(len(handles) / across) + bool(title)))
    figure.legend(handles=handles, title=title, loc="outside lower center", ncols=across, frameon=False)
