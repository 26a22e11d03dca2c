"""What a sweep came to: a table with intervals over seeds, the numbers behind it, and figures.

    python -m experiments.report configs/sweeps/fraction.yaml

writes table.md, cells.json, provenance.json (each cell's command, commit, versions and hardware) and PNGs into
experiments/results/NAME. The sweep file says what they show:

    report:
      columns: [steps_to_grok, test_accuracy, "worst_after:min"]    # means, or :min, :max, :median, :all
      figure: {kind: lines, x: train_fraction, y: steps_to_grok, hue: recipe, log_y: true}
      figures:                                  # more of them, each NAME.png; experiments/figures.py has the kinds
        curves: {kind: curves, hue: recipe, panels: train_fraction}
      labels: {train_fraction: share of equations trained on, ours: our recipe}    # axes, metrics and values
      beside: {published (%): {long: 99.57}}    # more columns: what others found, by cell

A row is a cell, or a group of replicas; runs that differ in nothing but seeds are averaged. Columns are what a run's
metrics.json has, and `wall_seconds`: how long its cell took, start and saving included, all replicas together.
"""

import argparse
import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path

from config import one_sentence
from experiments import figures
from experiments.cells import Cell, Sweep, differences, mapping, read_sweep
from experiments.readme import RESULTS
from experiments.runs import REMEDY, Row, Run, group, interval, read_runs, scale
from experiments.settings import refuse_name
from files import read_mapping, refuse_unwritable
from sections import ConfigError

KEYS = ("columns", "figure", "figures", "labels", "beside")


class Labels(dict):
    """How axes, metrics and values are called: as the sweep file says, else their names with spaces."""

    def __missing__(self, name: str) -> str:
        return name.replace("_", " ")

    def of_metric(self, name: str) -> str:
        return self[name] + (" (%)" if scale(name) == 100 else "")

    def of_value(self, value) -> str:
        text = value if isinstance(value, str) else json.dumps(value)
        return self.get(text, text)

    def of_row(self, axes: dict) -> str:
        """A row's values in words; numbers are given their axis."""
        named = {key: "" if isinstance(value, str) else f"{self[key]} " for key, value in axes.items()}
        return ", ".join(named[key] + self.of_value(value) for key, value in axes.items())


def table(rows: list[Row], columns: list[str], labels: Labels, beside: dict[str, dict]) -> list[str]:
    """The rows as a Markdown table: values on the axes, number of runs, a column a metric, and what stands beside."""
    axes = list(dict.fromkeys(key for row in rows for key in row.axes))
    split = [column.partition(":") for column in columns]
    head = [labels[axis] for axis in axes] + ["runs"]
    head += [labels.of_metric(name) + (f", {how}" if how else "") for name, _, how in split] + [*beside]
    lines = [_line(head), "|" + "---|" * len(head)]
    for row in rows:
        where = [labels.of_value(row.axes.get(axis, "")) for axis in axes]
        shown = [entry(row, name, how or "mean") for name, _, how in split]
        others = [str(values.get(row.runs[0].cell, "")) for values in beside.values()]
        lines.append(_line([*where, str(len(row.runs)), *shown, *others]))
    return lines


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def entry(row: Row, name: str, how: str = "mean") -> str:
    """A metric of a row as text; `2/3: ...` where only so many runs have it."""
    if how not in SUMMARIES:
        raise ConfigError(f"the column {name}:{how} is not known; after the colon write {', '.join(SUMMARIES)}")
    values = row.values(name)
    reached = [value for value in values if value is not None]
    digits = 2 if scale(name) == 100 else None
    if len(reached) == len(values) or how == "all":
        return SUMMARIES[how](values, digits)
    if len(values) == 1:
        return "never"
    return f"{len(reached)}/{len(values)}" + (f": {SUMMARIES[how](reached, digits)}" if reached else "")


def _mean(values: list[float], digits: int | None) -> str:
    if len(set(values)) == 1:
        return number(values[0], digits)
    mean, half = interval(values)
    if digits is None and not 0 < half < math.inf:
        return f"{number(mean, None)} ± {half:.0f}"
    if digits is None:  # as many as show two of the half-width's
        digits = max(0, 1 - math.floor(math.log10(half)))
    return f"{mean:,.{digits}f} ± {half:,.{digits}f}"


SUMMARIES: dict[str, Callable[[list, int | None], str]] = {
    "mean": _mean,
    "min": lambda values, digits: number(min(values), digits),
    "max": lambda values, digits: number(max(values), digits),
    "median": lambda values, digits: number(statistics.median(values), digits),
    "all": lambda values, digits: ", ".join("never" if value is None else number(value, digits) for value in values),
}


def number(value: float, digits: int | None) -> str:
    """A number with so many decimals; None means whole where it is whole or large, else four significant digits."""
    if digits is None and (float(value).is_integer() or abs(value) >= 1000):
        digits = 0
    return f"{value:.4g}" if digits is None else f"{value:,.{digits}f}"


def caption(rows: list[Row], columns: list[str], cells: list[Cell]) -> list[str]:
    """What the numbers of a table are, and what is missing."""
    lines = [
        "Mean ± half-width of its 95 % t-interval over runs that differ in seeds only, or the one value that all of "
        "them have; accuracies in percent."
    ]
    if "wall_seconds" in {column.partition(":")[0] for column in columns}:
        lines.append("Wall seconds are a cell's, start and saving included, all its replicas together.")
    if any(None in row.values(column.partition(":")[0]) for row in rows for column in columns):
        lines.append("`2/3: x`: two of three runs reached it, and x is over those two.")
    if changed := [cell.name for cell in cells if cell.finished and differences(cell)]:
        lines.append(f"Run with other settings than the sweep file now has: {', '.join(changed)}.")
    if missing := [cell.name for cell in cells if not cell.finished]:
        lines.append(f"{len(missing)} of {len(cells)} cells are not finished and not shown: {', '.join(missing)}.")
    return lines


def read_report(sweep: Sweep) -> dict:
    """The report section with all its keys; `figure` becomes one of `figures`. `ConfigError` if it is off."""
    if unknown := [key for key in sweep.report if key not in KEYS]:
        raise ConfigError(f"report.{unknown[0]} is not known; there are {', '.join(KEYS)}")
    columns, shown, labels = sweep.report.get("columns") or [], {}, mapping("labels", sweep.report.get("labels"))
    if not isinstance(columns, list) or not all(isinstance(column, str) for column in columns):
        raise ConfigError(f"report.columns={columns!r} is no list of metrics; write [NAME, NAME:min, ...]")
    if "figure" in sweep.report:
        shown["figure"] = mapping("figure", sweep.report["figure"])
    for name, settings in mapping("figures", sweep.report.get("figures")).items():
        refuse_name(name)
        shown[name] = mapping(name, settings)
    labels = Labels({str(key): str(value) for key, value in labels.items()})
    return {"columns": columns, "figures": shown, "labels": labels, "beside": _read_beside(sweep)}


def _read_beside(sweep: Sweep) -> dict[str, dict]:
    """The columns that stand beside a sweep's own; `ConfigError` if one names a cell that there is not."""
    columns = mapping("beside", sweep.report.get("beside"))
    known = [cell.name for cell in sweep.cells]
    for title, values in columns.items():
        if unknown := [name for name in mapping(title, values) if name not in known]:
            raise ConfigError(f"beside: {title} names {unknown[0]}, which is no cell; there are {', '.join(known)}")
    return columns


def main(arguments: argparse.Namespace):
    sweep = read_sweep(arguments.sweep, runs=arguments.runs)
    wanted = read_report(sweep)
    out = arguments.out or RESULTS / sweep.name
    refuse_unwritable(out, f"--out {out}")
    runs = [run for cell in sweep.cells if cell.finished for run in read_runs(cell)]
    if not runs:
        raise ConfigError(
            f"no cell of {arguments.sweep} is finished; start python -m experiments.sweep {arguments.sweep}"
        )
    rows, labels = group(runs), wanted["labels"]
    lines = [
        *table(rows, wanted["columns"], labels, wanted["beside"]),
        "",
        *caption(rows, wanted["columns"], sweep.cells),
    ]
    drawn = {
        name: figures.draw(name, {"title": sweep.title} | settings, rows, labels)
        for name, settings in wanted["figures"].items()
    }
    finished = [cell for cell in sweep.cells if cell.finished]
    origins = {cell.name: read_mapping(cell.folder / "provenance.json", REMEDY) for cell in finished}
    write(out, sweep.title, lines, runs, drawn)
    (out / "provenance.json").write_text(json.dumps(origins, indent=1) + "\n", encoding="utf-8")
    print("\n".join([*lines, "", *(f"written  {path}" for path in sorted(out.iterdir()))]))


def write(out: Path, title: str, lines: list[str], runs: list[Run], drawn: dict):
    """table.md, cells.json and the figures."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "table.md").write_text("\n".join([f"# {title}", "", *lines, ""]), encoding="utf-8")
    numbers = [{"cell": r.cell, "replica": r.replica, "axes": r.axes, "metrics": r.metrics} for r in runs]
    (out / "cells.json").write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    for name, figure in drawn.items():
        figure.savefig(out / f"{name}.png", dpi=130)


def parse_arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sweep", help="a sweep file")
    parser.add_argument("--runs", type=Path, metavar="FOLDER", help="its cells (default: runs/sweeps/NAME)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where to write (default: experiments/results/NAME)")
    return parser.parse_args(words)


if __name__ == "__main__":
    with one_sentence("experiments.report"):
        main(parse_arguments())
