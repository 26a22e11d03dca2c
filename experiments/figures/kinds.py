"""Figures of a sweep: lines against an axis, bars, gaps between two milestones, accuracy curves.

`KINDS` has a function a kind; its keyword arguments are what the sweep file may set, besides `title`. `rows` are
`runs.Row`s, `labels` are `report.Labels`; rows that lack an axis of the figure are left out. Each run is shown, not
middles alone. A run that never reached a milestone is an open triangle at the steps it was trained for, one that
diverged a cross, with its step.
"""

import math
import statistics
import textwrap
from collections.abc import Callable

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from experiments.statistics import STEPS, is_milestone, scale
from settings.checks import ConfigError

from .options import read_figure
from .panels import PALETTE, all_numbers, by_axis, colors_of, legend, panels_of, row_panels, scale_axis

TRAIN, TEST, GREY = PALETTE[1], PALETTE[2], "0.55"
DOT = {"marker": "o", "ls": "none", "ms": 6}
TRIANGLE = {"marker": "^", "ls": "none", "mfc": "none", "ms": 7, "clip_on": False}
CROSS = {"marker": "x", "ls": "none", "color": "#B00000", "ms": 8, "mew": 2, "clip_on": False, "zorder": 5}


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
    """A metric against an axis: a line through the middles of rows, where most runs got there, and each run a dot."""
    rows, (x, hue, panels) = _with_axes(rows, x, hue, panels)
    figure, parts = panels_of(rows, labels, panels)
    colors, places = colors_of(rows, hue), _places(rows, x, log_x)
    for axes, panel_rows in parts:
        for value, line_rows in by_axis(panel_rows, hue).items():
            _require_distinct_rows(line_rows, x)
            _line(axes, {places[row.axes[x]]: row for row in line_rows}, y, colors[value])
    for axes, panel_rows in parts:
        scale_axis(axes.yaxis, log_y)
        for row in panel_rows:
            _crosses(axes, row, y, x=places[row.axes[x]])
        axes.set_xscale("log" if log_x else "linear")
        axes.set_xticks(list(places.values()), [labels.of_value(value) for value in places])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(labels[x])
    figure.supylabel(labels.of_metric(y), fontsize="medium")
    _hue_legend(figure, colors, labels, hue, _ends(rows, y))
    return figure


def _places(rows: list, x: str, log: bool) -> dict:
    """Where each value of an axis stands: a number at itself, words side by side."""
    values = list(by_axis(rows, x))
    numbers = all_numbers(values)
    if log and not (numbers and min(values) > 0):
        raise ConfigError(
            f"log_x with {x} = {', '.join(map(str, values))}; leave log_x out, or keep to numbers above 0"
        )
    return {value: value if numbers else i for i, value in enumerate(values)}


def _line(axes: Axes, rows: dict, y: str, color):
    """The rows by their places on the x axis."""
    places = sorted(rows)
    middles = [(place, middle) for place in places if (middle := _middle(rows[place], y)) is not None]
    dots = [(place, value) for place in places for value in rows[place].values(y) if value is not None]
    never = [(place, steps) for place in places for steps in _never(rows[place], y)]
    _plot(axes, middles, color=color, lw=1.8)
    _plot(axes, dots, "o", color=color, ms=4.5, alpha=0.6, mec="none")
    _plot(axes, never, color=color, **TRIANGLE)


def _middle(row, metric: str) -> float | None:
    """The middle of a row's runs, if it was reached."""
    summary = row.summary(metric)
    return summary.middle if summary and math.isfinite(summary.middle) else None


def bars(rows, labels, *, y, log=False) -> Figure:
    """A bar a row: the middle of a metric, whiskers for its spread, a dot each run; several metrics stand side by side.

    A median that was not reached has no bar, and a whisker ends where the last run was that got there.
    """
    names = [y] if isinstance(y, str) else y
    figure = row_panels(rows, labels, len(names))
    for axes, name in zip(figure.axes, names, strict=True):
        for place, row in enumerate(rows):
            _bar(axes, place, row, name)
            _marks(axes, row, name, place, "o", PALETTE[0])
        scale_axis(axes.xaxis, log)
        axes.set_xlabel(labels.of_metric(name))
        for place, row in enumerate(rows):
            _crosses(axes, row, name, y=place)
    spreads = dict.fromkeys(summary.spread for name in names for row in rows if (summary := row.summary(name)))
    whiskers = [Line2D([], [], color="0.2", marker="|", label=spread) for spread in spreads]
    dot = Line2D([], [], color=PALETTE[0], label="a run", **DOT)
    legend(figure, [*whiskers, dot, *_ends(rows, *names)])
    return figure


def _bar(axes: Axes, place: int, row, name: str):
    summary, middle = row.summary(name), _middle(row, name)
    if middle is not None:
        axes.barh(place, middle, height=0.6, color=PALETTE[0], alpha=0.4)
        high = max(value for value in (*row.values(name), middle) if value is not None)
        ends = summary.low, summary.high if math.isfinite(summary.high) else high
        axes.errorbar(
            middle, place, xerr=[[middle - ends[0]], [ends[1] - middle]], color="0.2", capsize=4, lw=1.3
        )  # fmt: skip


def gaps(rows, labels, *, y=("steps_to_fit", "steps_to_grok"), log=True) -> Figure:
    """From one milestone to another: a row each, a dot at each median, a line between, a light mark each run."""
    ends = dict(zip(y, (TRAIN, TEST), strict=True))
    figure = row_panels(rows, labels, 1)
    for place, row in enumerate(rows):
        _gap(figure.axes[0], place, row, ends)
    scale_axis(figure.axes[0].xaxis, log)
    figure.axes[0].set_xlabel("steps (dots: medians)")
    for place, row in enumerate(rows):
        _crosses(figure.axes[0], row, y[-1], y=place)
    dots = [Line2D([], [], color=color, label=labels[name], **DOT) for name, color in ends.items()]
    legend(figure, [*dots, *_ends(rows, y[-1])])
    return figure


def _gap(axes: Axes, place: int, row, ends: dict):
    """One row: dotted on to where the runs ended that did not get to the second milestone."""
    middles = {name: middle for name in ends if (middle := _middle(row, name)) is not None}
    line = [(middle, place) for middle in middles.values()]
    _plot(axes, line + [(steps, place) for steps in _never(row, [*ends][-1])], ":", color=GREY, lw=1.2, zorder=1)
    _plot(axes, line, color=GREY, lw=2.5, zorder=1)
    for name, color in ends.items():
        _marks(axes, row, name, place, "|", color)
    for name, middle in middles.items():
        axes.plot(middle, place, "o", color=ends[name])


def curves(rows, labels, *, hue=None, panels=None, split="test", y="accuracy", log_y=False) -> Figure:
    """Train (dashed) and test curves against steps on a log axis: mean over runs, and a band from lowest to highest.

    A run that diverged has a thin line of its own.
    """
    rows, (hue, panels) = _with_axes(rows, hue, panels)
    figure, parts = panels_of(rows, labels, panels)
    colors = colors_of(rows, hue)
    for axes, panel_rows in parts:
        for value, line_rows in by_axis(panel_rows, hue).items():
            _require_distinct_rows(line_rows)
            for name, color, style in _splits(split, y, colors[value] if hue else None):
                _curve(axes, [run.curve(name) for run in line_rows[0].runs if run.diverged is None], color, style)
                _ended_curves(axes, line_rows[0].runs, name, color, style)
    for axes in figure.axes:
        scale_axis(axes.xaxis, True)
        scale_axis(axes.yaxis, log_y)
        axes.set_xlabel("steps")
    figure.supylabel(labels.of_metric(y), fontsize="medium")
    styles = [
        Line2D([], [], color=color, ls=style, lw=1.8, label=labels[name.removesuffix(f"_{y}")])
        for name, color, style in _splits(split, y, GREY if hue else None)
    ]
    _hue_legend(figure, colors, labels, hue, [*styles, *_ends(rows)])
    return figure


def _splits(split: str, y: str, color) -> list[tuple]:
    """Metric, colour and line style of the training split and the other; each its own colour where none is given."""
    return [(f"train_{y}", color or TRAIN, (0, (4, 2))), (f"{split}_{y}", color or TEST, "-")]


def _curve(axes: Axes, curves: list[dict[int, float]], color, style):
    """Over the steps at which all runs were evaluated; step 0 has no place on a log axis."""
    steps = sorted(step for step in set.intersection(*map(set, curves)) if step > 0) if curves else []
    values = [[curve[step] for curve in curves] for step in steps]
    _plot(
        axes,
        [(step, statistics.fmean(v)) for step, v in zip(steps, values, strict=True)],
        color=color,
        ls=style,
        lw=1.8,
    )
    if len(curves) > 1:
        axes.fill_between(steps, [min(v) for v in values], [max(v) for v in values], color=color, alpha=0.15, lw=0)


def _ended_curves(axes: Axes, runs: list, name: str, color, style):
    """Of the runs that diverged: up to their last evaluation, and the cross behind it."""
    for run in (run for run in runs if run.diverged is not None):
        rows = [row for row in run.evaluations if name in row and 0 < row["step"] <= run.diverged]
        points = [(row["step"], row[name] * scale(name)) for row in rows]
        _plot(axes, points, color=color, ls=style, lw=0.8)
        _cross(axes, run.diverged, points[-1][1] if points else None, run.diverged)


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


def _require_distinct_rows(rows: list, *axes: str):
    """`ConfigError` if two rows agree on `axes`: they would be drawn as one, and are different runs."""
    for other in rows:
        same = [row for row in rows if all(row.axes[axis] == other.axes[axis] for axis in axes)]
        if len(same) > 1:
            differ = [axis for axis in other.axes if len(by_axis(same, axis)) > 1]
            raise ConfigError(f"the runs differ in {', '.join(differ)} too; make it hue or panels of the figure")


def _never(row, metric: str) -> list[int]:
    """Steps trained of each run that did not reach a milestone; none for a metric that is not in steps."""
    pairs = zip(row.values(metric), row.runs, strict=True) if is_milestone(metric) and metric != "delay_factor" else ()
    return [run.metrics["steps"] for value, run in pairs if value is None and run.diverged is None]


def _crosses(axes: Axes, row, metric: str, *, x: float | None = None, y: float | None = None):
    """The runs of a row that diverged, at `x` or `y` and, across, at their step on an axis of steps, else their value.

    Call it when all else is drawn and scaled.
    """
    for run, value in zip(row.runs, row.values(metric), strict=True):
        if run.diverged is not None:
            at = run.diverged if metric.startswith(STEPS) else value
            _cross(axes, at if x is None else x, at if y is None else y, run.diverged)


def _cross(axes: Axes, x: float | None, y: float | None, step: int):
    """A cross with its step beside it; a coordinate that is None is the low end of its axis."""
    place = axes.get_xaxis_transform() if y is None else axes.get_yaxis_transform() if x is None else axes.transData
    x, y = (0 if value is None or not math.isfinite(value) else value for value in (x, y))
    axes.plot(x, y, transform=place, **CROSS)
    axes.annotate(
        f"{step:,}", (x, y), xycoords=place, xytext=(6, 4), textcoords="offset points", fontsize=7, color=CROSS["color"]
    )  # fmt: skip


def _marks(axes: Axes, row, metric: str, place: int, marker: str, color):
    values = [(value, place) for value in row.values(metric) if value is not None]
    _plot(axes, values, marker, color=color, alpha=0.7, ms=5 if marker == "o" else 12)
    _plot(axes, [(steps, place) for steps in _never(row, metric)], color=color, **TRIANGLE)


def _plot(axes: Axes, points: list[tuple], *style: str, **look):
    if points:  # an empty line that is not clipped would count as a point in the corner of the layout
        axes.plot(*zip(*points, strict=True), *style, **look)


def _ends(rows: list, *metrics: str) -> list[Line2D]:
    """Handles of the marks of runs that did not get there."""
    never = any(_never(row, metric) for row in rows for metric in metrics)
    diverged = any(run.diverged is not None for row in rows for run in row.runs)
    handles = [Line2D([], [], color=GREY, label="not reached in so many steps", **TRIANGLE)] if never else []
    return handles + ([Line2D([], [], label="diverged, at that step", **CROSS)] if diverged else [])


def _hue_legend(figure: Figure, colors: dict, labels, hue: str | None, others: list[Line2D]):
    """A legend of hues and other handles. Numbers need their axis said, names speak for themselves."""
    handles = [Line2D([], [], color=c, lw=2.5, label=labels.of_value(v)) for v, c in colors.items() if hue]
    legend(figure, [*handles, *others], labels[hue] if hue and all_numbers(colors) else None)
