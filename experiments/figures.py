"""Figures of a sweep: lines against an axis, bars, gaps between two milestones, accuracy curves.

`KINDS` has a function a kind; its keyword arguments are what the sweep file may set, besides `title`. `rows` are
`runs.Row`s, `labels` are `report.Labels`; rows that lack an axis of the figure are left out. Each run is shown, not
means alone. A run that never reached a milestone is an open triangle at the steps it was trained for.
"""

import math
import statistics
import textwrap
from collections.abc import Callable

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullFormatter

from experiments.settings import read_figure
from sections import ConfigError

# Okabe and Ito (2008): told apart with any kind of colour vision
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
TRAIN, TEST, GREY = PALETTE[1], PALETTE[2], "0.55"
DOT = {"marker": "o", "ls": "none", "ms": 6}
TRIANGLE = {"marker": "^", "ls": "none", "mfc": "none", "ms": 7, "clip_on": False}


def draw(name: str, settings: dict, rows: list, labels) -> Figure:
    """The figure that a sweep file sets under `name`; `ConfigError` if a setting, an axis or a metric is not known."""
    kind, title, options = read_figure(name, settings, KINDS)
    try:
        figure = KINDS[kind](rows, labels, **options)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from None
    figure.suptitle(textwrap.fill(title, int(9 * figure.get_figwidth())))
    return figure


def lines(rows, labels, *, x, y, hue=None, panels=None, log_x=False, log_y=False) -> Figure:
    """A metric against an axis: a line through the means over the runs that have it, and each run a dot."""
    rows, (x, hue, panels) = _with_axes(rows, x, hue, panels)
    figure, parts = _panels(rows, labels, panels)
    colors, places = _colors(rows, hue), _places(rows, x, log_x)
    for axes, panel_rows in parts:
        for value, line_rows in _by(panel_rows, hue).items():
            _refuse_several(line_rows, x)
            _line(axes, {places[row.axes[x]]: row for row in line_rows}, y, colors[value])
    for axes in figure.axes:
        _scale(axes.yaxis, log_y)
        axes.set_xscale("log" if log_x else "linear")
        axes.set_xticks(list(places.values()), [labels.of_value(value) for value in places])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(labels[x])
    figure.supylabel(labels.of_metric(y), fontsize="medium")
    _hue_legend(figure, colors, labels, hue, _triangle_handle(rows, y))
    return figure


def _places(rows: list, x: str, log: bool) -> dict:
    """Where each value of an axis stands: a number at itself, words side by side."""
    values = list(_by(rows, x))
    numbers = _all_numbers(values)
    if log and not (numbers and min(values) > 0):
        raise ConfigError(
            f"log_x with {x} = {', '.join(map(str, values))}; leave log_x out, or keep to numbers above 0"
        )
    return {value: value if numbers else i for i, value in enumerate(values)}


def _line(axes: Axes, rows: dict, y: str, color):
    """The rows by their places on the x axis."""
    places = sorted(rows)
    means = [(place, rows[place].mean(y)[0]) for place in places if rows[place].mean(y)]
    dots = [(place, value) for place in places for value in rows[place].values(y) if value is not None]
    never = [(place, steps) for place in places for steps in _never(rows[place], y)]
    _plot(axes, means, color=color, lw=1.8)
    _plot(axes, dots, "o", color=color, ms=4.5, alpha=0.6, mec="none")
    _plot(axes, never, color=color, **TRIANGLE)


def bars(rows, labels, *, y, log=False) -> Figure:
    """A bar a row: mean of a metric, whiskers for its interval, a dot each run; several metrics stand side by side."""
    names = [y] if isinstance(y, str) else y
    figure = _row_panels(rows, labels, len(names))
    for axes, name in zip(figure.axes, names, strict=True):
        for place, row in enumerate(rows):
            if mean := row.mean(name):
                axes.barh(place, mean[0], height=0.6, color=PALETTE[0], alpha=0.4)
                axes.errorbar(mean[0], place, xerr=mean[1], color="0.2", capsize=4, lw=1.3)
            _marks(axes, row, name, place, "o", PALETTE[0])
        _scale(axes.xaxis, log)
        axes.set_xlabel(labels.of_metric(name))
    whisker = Line2D([], [], color="0.2", marker="|", label="mean and 95 % t-interval")
    dot = Line2D([], [], color=PALETTE[0], label="a run", **DOT)
    never = [handle for name in names for handle in _triangle_handle(rows, name)]
    _legend(figure, [whisker, dot, *never[:1]])
    return figure


def gaps(rows, labels, *, y=("steps_to_fit", "steps_to_grok"), log=True) -> Figure:
    """From one milestone to another: a row each, a dot at each mean, a line between, a light mark each run."""
    ends = dict(zip(y, (TRAIN, TEST), strict=True))
    figure = _row_panels(rows, labels, 1)
    for place, row in enumerate(rows):
        _gap(figure.axes[0], place, row, ends)
    _scale(figure.axes[0].xaxis, log)
    figure.axes[0].set_xlabel("steps")
    dots = [Line2D([], [], color=color, label=labels[name], **DOT) for name, color in ends.items()]
    _legend(figure, [*dots, *_triangle_handle(rows, y[-1])])
    return figure


def _gap(axes: Axes, place: int, row, ends: dict):
    """One row: dotted on to where the runs ended that did not get to the second milestone."""
    means = {name: row.mean(name)[0] for name in ends if row.mean(name)}
    line = [(mean, place) for mean in means.values()]
    _plot(axes, line + [(steps, place) for steps in _never(row, [*ends][-1])], ":", color=GREY, lw=1.2, zorder=1)
    _plot(axes, line, color=GREY, lw=2.5, zorder=1)
    for name, color in ends.items():
        _marks(axes, row, name, place, "|", color)
    for name, mean in means.items():
        axes.plot(mean, place, "o", color=ends[name])


def curves(rows, labels, *, hue=None, panels=None, split="test", y="accuracy", log_y=False) -> Figure:
    """Train (dashed) and test curves against steps on a log axis: mean over runs, and a band from lowest to highest."""
    rows, (hue, panels) = _with_axes(rows, hue, panels)
    figure, parts = _panels(rows, labels, panels)
    colors = _colors(rows, hue)
    for axes, panel_rows in parts:
        for value, line_rows in _by(panel_rows, hue).items():
            _refuse_several(line_rows)
            for name, color, style in _splits(split, y, colors[value] if hue else None):
                _curve(axes, [run.curve(name) for run in line_rows[0].runs], color, style)
    for axes in figure.axes:
        _scale(axes.xaxis, True)
        _scale(axes.yaxis, log_y)
        axes.set_xlabel("steps")
    figure.supylabel(labels.of_metric(y), fontsize="medium")
    styles = [
        Line2D([], [], color=color, ls=style, lw=1.8, label=labels[name.removesuffix(f"_{y}")])
        for name, color, style in _splits(split, y, GREY if hue else None)
    ]
    _hue_legend(figure, colors, labels, hue, styles)
    return figure


def _splits(split: str, y: str, color) -> list[tuple]:
    """Metric, colour and line style of the training split and the other; each its own colour where none is given."""
    return [(f"train_{y}", color or TRAIN, (0, (4, 2))), (f"{split}_{y}", color or TEST, "-")]


def _curve(axes: Axes, curves: list[dict[int, float]], color, style):
    """Over the steps at which all runs were evaluated; step 0 has no place on a log axis."""
    steps = sorted(step for step in set.intersection(*map(set, curves)) if step > 0)
    values = [[curve[step] for curve in curves] for step in steps]
    axes.plot(steps, [statistics.fmean(v) for v in values], color=color, ls=style, lw=1.8)
    if len(curves) > 1:
        axes.fill_between(steps, [min(v) for v in values], [max(v) for v in values], color=color, alpha=0.15, lw=0)


KINDS: dict[str, Callable[..., Figure]] = {"lines": lines, "bars": bars, "gaps": gaps, "curves": curves}


def _with_axes(rows: list, *names: str | None) -> tuple[list, list[str | None]]:
    """The rows that have all the axes given by name or dotted key, and the axes' names; None stays None."""
    known = list(dict.fromkeys(key for row in rows for key in row.axes))
    axes = [name if name is None or name in known else name.split(".")[-1] for name in names]
    if wrong := [name for name, axis in zip(names, axes, strict=True) if axis not in (None, *known)]:
        raise ConfigError(f"{wrong[0]} is no axis of the runs; there are {', '.join(known)}")
    kept = [row for row in rows if all(axis in (None, *row.axes) for axis in axes)]
    if not kept:
        raise ConfigError(f"no run has all of {', '.join(filter(None, axes))}; choose axes of the same grid")
    return kept, axes


def _by(rows: list, axis: str | None) -> dict:
    """The rows by their value on an axis, in their order; by None without one."""
    groups = {}
    for row in rows:
        groups.setdefault(row.axes.get(axis), []).append(row)
    return groups


def _refuse_several(rows: list, *axes: str):
    """`ConfigError` if two rows agree on `axes`: they would be drawn as one, and are different runs."""
    for other in rows:
        same = [row for row in rows if all(row.axes[axis] == other.axes[axis] for axis in axes)]
        if len(same) > 1:
            differ = [axis for axis in other.axes if len(_by(same, axis)) > 1]
            raise ConfigError(f"the runs differ in {', '.join(differ)} too; make it hue or panels of the figure")


def _never(row, metric: str) -> list[int]:
    """Steps trained of each run that did not reach a milestone; none for a metric that is not in steps."""
    pairs = zip(row.values(metric), row.runs, strict=True) if metric.startswith(("steps_", "first_", "gap")) else ()
    return [run.metrics["steps"] for value, run in pairs if value is None]


def _marks(axes: Axes, row, metric: str, place: int, marker: str, color):
    values = [(value, place) for value in row.values(metric) if value is not None]
    _plot(axes, values, marker, color=color, alpha=0.7, ms=5 if marker == "o" else 12)
    _plot(axes, [(steps, place) for steps in _never(row, metric)], color=color, **TRIANGLE)


def _plot(axes: Axes, points: list[tuple], *style: str, **look):
    if points:  # an empty line that is not clipped would count as a point in the corner of the layout
        axes.plot(*zip(*points, strict=True), *style, **look)


def _all_numbers(values) -> bool:
    return all(isinstance(value, int | float) for value in values)


def _colors(rows: list, hue: str | None) -> dict:
    """A colour a value: shades in order for more than two numbers, else colours told apart."""
    values = list(_by(rows, hue))
    if len(values) > len(PALETTE) or (len(values) > 2 and _all_numbers(values)):
        return {value: colormaps["viridis"](0.85 * i / (len(values) - 1)) for i, value in enumerate(values)}
    return dict(zip(values, PALETTE, strict=False))


def _panels(rows: list, labels, axis: str | None) -> tuple[Figure, list[tuple]]:
    """A figure with a panel for each value of an axis, at most three abreast, and (axes, rows) of each."""
    groups = _by(rows, axis)
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


def _row_panels(rows: list, labels, count: int) -> Figure:
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


def _scale(axis: Axis, log: bool):
    """Large numbers as 10k; a log axis of few decades has ticks at 2 and 5 of each too. Call it when all is drawn."""
    if log:
        axis.axes.set(**{f"{axis.axis_name}scale": "log"})
        low, high = getattr(axis.axes, f"get_{axis.axis_name}lim")()
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,), numticks=20))
        axis.set_minor_formatter(NullFormatter())
    axis.set_major_formatter(FuncFormatter(_short))


def _short(value: float, position: int | None = None) -> str:  # noqa: ARG001  matplotlib gives a tick's position
    return EngFormatter(sep="")(value) if abs(value) >= 1000 else f"{value:g}"


def _triangle_handle(rows: list, metric: str) -> list[Line2D]:
    never = any(_never(row, metric) for row in rows)
    return [Line2D([], [], color=GREY, label="not reached in so many steps", **TRIANGLE)] if never else []


def _hue_legend(figure: Figure, colors: dict, labels, hue: str | None, others: list[Line2D]):
    """A legend of hues and other handles. Numbers need their axis said, names speak for themselves."""
    handles = [Line2D([], [], color=c, lw=2.5, label=labels.of_value(v)) for v, c in colors.items() if hue]
    _legend(figure, [*handles, *others], labels[hue] if hue and _all_numbers(colors) else None)


def _legend(figure: Figure, handles: list[Line2D], title: str | None = None):
    """A legend beneath everything: one line if it fits, else columns; the figure grows by its height."""
    if not handles:
        return
    widths = [len(handle.get_label()) + 8 for handle in handles]
    room = int(13 * figure.get_figwidth())
    across = len(handles) if sum(widths) <= room else max(1, room // max(widths))
    figure.set_figheight(figure.get_figheight() + 0.2 * (math.ceil(len(handles) / across) + bool(title)))
    figure.legend(handles=handles, title=title, loc="outside lower center", ncols=across, frameon=False)
