"""Report the results of a sweep: a table with intervals over seeds, the numbers behind it, and figures.

    python -m experiments.report configs/sweeps/fraction.yaml

writes table.md, figures, and the results of all runs (experiments/saved_results.py) into runs/sweeps/NAME/report; with
`--out experiments/results/NAME` into the results that the README shows. Cells without a run folder are shown from the
results that an earlier report saved there. The sweep file says what is shown:

    report:
      columns: [steps_to_grok, test_accuracy, "worst_after:min"]    # centre and spread, or :min, :max, :median, :all
      figure: {kind: lines, x: train_fraction, y: steps_to_grok, hue: recipe, log_y: true}
      figures:                              # more of them, each NAME.png; experiments/figures/kinds.py has the kinds
        curves: {kind: curves, hue: recipe, panels: train_fraction}
      labels: {train_fraction: share of equations trained on, ours: our recipe}    # axes, metrics and values
      beside: {published (%): {long: 99.57}}    # more columns: published results, by cell

A row is a cell, or a group of replicas; runs that differ only in their seeds share a row. Columns are metrics of a
run's metrics.json, and `wall_seconds`: the time of its cell, start and saving included, all replicas together. Without
`columns` the main results of the script are shown. A run that the guard stopped is shown with the step at which it
diverged.
"""

import argparse
import json
import shlex
from pathlib import Path

from command_line.run import exit_on_user_error
from experiments.figures.options import check_figure_name
from settings.checks import ConfigError
from storage.files import check_writable, read_mapping

from .cells import Cell, Sweep, differences, mapping, read_sweep, work_folder
from .footnotes import describe_evaluation_spacing, describe_seeds
from .runs import REMEDY, Row, Run, group, has_diverged, read_runs
from .saved_results import EVALUATIONS, PROVENANCE, has_other_settings, read_saved_results, save_results
from .statistics import MEAN, MEDIAN, RANGE, SUMMARIES, is_milestone, scale

KEYS = ("columns", "figure", "figures", "labels", "beside")
DEFAULTS = {
    "train_algorithmic.py": ("steps_to_fit", "first_99", "steps_to_grok", "worst_after:min", "test_accuracy"),
    "train_lm.py": ("eval_loss", "eval_perplexity", "eval_bits_per_byte", "tokens", "total_flos"),
}
"""The columns of a table, by script, if the sweep file names none."""


class Labels(dict):
    """Names of axes, metrics and values: from the sweep file, else the defaults, else their keys with spaces."""

    def __missing__(self, name: str) -> str:
        return name.replace("_", " ")

    def of_metric(self, name: str) -> str:
        return self[name] + (" (%)" if scale(name) == 100 else "")

    def of_value(self, value) -> str:
        text = value if isinstance(value, str) else json.dumps(value)
        return self.get(text, text)

    def of_row(self, axes: dict) -> str:
        """The values of a row in words; numbers with the name of their axis."""
        named = {key: "" if isinstance(value, str) else f"{self[key]} " for key, value in axes.items()}
        return ", ".join(named[key] + self.of_value(value) for key, value in axes.items())


def default_columns(rows: list[Row], script: str) -> list[str]:
    """The default columns of a script that every row has: bits per byte, for example, are not known for all runs."""
    names = [set().union(*(run.metrics for run in row.runs if run.diverged is None)) for row in rows]
    there = set.intersection(*(filter(None, names) if any(names) else [set()]))
    return [column for column in DEFAULTS.get(script, ()) if _split(column)[0] in there]


def table(rows: list[Row], columns: list[str], labels: Labels, beside: dict[str, dict]) -> list[str]:
    """The rows as a Markdown table: values on the axes, number of runs, one column per metric, cited columns."""
    axes = list(dict.fromkeys(key for row in rows for key in row.axes))
    split = [_split(column) for column in columns]
    head = [labels[axis] for axis in axes] + ["runs"]
    head += [labels.of_metric(name) + (f", {how}" if how else "") for name, how in split] + [*beside]
    lines = [_line(head), "|" + "---|" * len(head)]
    for row in rows:
        where = [labels.of_value(row.axes.get(axis, "")) for axis in axes]
        shown = [row.entry(name, how) for name, how in split]
        others = [str(values.get(row.runs[0].cell, "")) for values in beside.values()]
        lines.append(_line([*where, _count(row), *shown, *others]))
    return lines


def _split(column: str) -> tuple[str, str]:
    name, colon, how = column.partition(":")
    if colon and how not in SUMMARIES:
        raise ConfigError(f"the column {column} is not known; after the colon write {', '.join(SUMMARIES)}")
    return name, how


def _count(row: Row) -> str:
    steps = [run.diverged for run in row.runs if run.diverged is not None]
    at = ", ".join(f"{step:,}" for step in sorted(set(steps)))
    return f"{len(row.runs)}" + (f", {len(steps)} diverged at step {at}" if steps else "")


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def caption(rows: list[Row], columns: list[str], sweep: Sweep, kept: dict[str, dict]) -> list[str]:
    """Footnotes of a table, missing cells included; `kept` has the provenance of cells from an earlier report."""
    names, shown = [_split(column)[0] for column in columns], {run.cell for row in rows for run in row.runs}
    runs = [run for row in rows for run in row.runs]
    changed = [c.name for c in sweep.cells if c.name in shown and _has_changed(c, kept)]
    missing = [cell.name for cell in sweep.cells if cell.name not in shown]
    lines = [
        *filter(None, [" ".join(explanation(rows, columns))]),
        *([describe_seeds(sweep.cells, sweep.script)] if any(len(row.runs) > 1 for row in rows) else []),
        *describe_evaluation_spacing(runs, sweep.cells, sweep.script, names),
    ]
    if "wall_seconds" in names:
        lines.append("Wall seconds are those of a cell, start and saving included, all replicas together.")
    if changed:
        lines.append(f"Run with other settings or another configuration than the sweep now has: {', '.join(changed)}.")
    if missing:
        lines.append(
            f"{len(missing)} of {len(sweep.cells)} cells are not finished and not shown: {', '.join(missing)}."
        )
    return lines


def _has_changed(cell: Cell, kept: dict[str, dict]) -> bool:
    """Whether the sweep file has other settings than the cell was run with; `kept` are those of a saved report."""
    return has_other_settings(cell, kept[cell.name]) if cell.name in kept else bool(differences(cell))


EXPLAINED = {
    MEDIAN: "Steps: median over runs (earliest to latest); `> N`: not reached within N steps.",
    MEAN: "Other metrics: mean ± half-width of the 95 % t-interval.",
    RANGE: "Without ±: mean (lowest to highest), where a t-interval would include impossible values.",
}


def explanation(rows: list[Row], columns: list[str]) -> list[str]:
    """What the entries of a table mean."""
    split = [_split(column) for column in columns]
    found = {
        summary.spread
        for row in rows
        for name, how in split
        if not how and (summary := row.summary(name)) and (summary.spread != RANGE or summary.low < summary.high)
    }
    lines = [text for spread, text in EXPLAINED.items() if spread in found]
    if any(is_milestone(name) and how for name, how in split) and MEDIAN not in found:
        lines.append("`> N`: not reached within N steps.")
    if any(None in row.values(name) for row in rows for name, how in split if how != "all" and len(row.runs) > 1):
        lines.append("`2 of 3`: 2 of 3 runs have a value.")
    if any(scale(name) == 100 for name, _ in split):
        lines.append("Accuracies are in percent.")
    return lines


def read_report(sweep: Sweep) -> dict:
    """The report section with all its keys; `figure` becomes one of `figures`. `ConfigError` if it is invalid.

    `columns` are None where none are named.
    """
    if unknown := [key for key in sweep.report if key not in KEYS]:
        raise ConfigError(f"report.{unknown[0]} is not known; there are {', '.join(KEYS)}")
    columns, shown, labels = sweep.report.get("columns"), {}, mapping("labels", sweep.report.get("labels"))
    if columns is not None and not (isinstance(columns, list) and all(isinstance(column, str) for column in columns)):
        raise ConfigError(f"report.columns={columns!r} is not a list of metrics; write [NAME, NAME:min, ...]")
    if "figure" in sweep.report:
        shown["figure"] = mapping("figure", sweep.report["figure"])
    for name, settings in mapping("figures", sweep.report.get("figures")).items():
        check_figure_name(name)
        shown[name] = mapping(name, settings)
    labels = Labels({str(key): str(value) for key, value in labels.items()})
    return {"columns": columns, "figures": shown, "labels": labels, "beside": _read_beside(sweep)}


def _read_beside(sweep: Sweep) -> dict[str, dict]:
    """Cited columns; `ConfigError` if one names a cell that does not exist."""
    columns = mapping("beside", sweep.report.get("beside"))
    known = [cell.name for cell in sweep.cells]
    for title, values in columns.items():
        if unknown := [name for name in mapping(title, values) if name not in known]:
            raise ConfigError(
                f"beside: {title} names {unknown[0]}, which is not a cell; the cells are {', '.join(known)}"
            )
    return columns


def main(arguments: argparse.Namespace):
    sweep = read_sweep(arguments.sweep, runs=arguments.runs)
    wanted = read_report(sweep)
    out = arguments.out or work_folder() / "runs" / "sweeps" / sweep.name / "report"
    check_report_folder(out, sweep.cells)
    runs, origins, kept = gather(sweep.cells, out)
    if not runs:
        raise ConfigError(
            f"no cell of {arguments.sweep} is finished; start "
            f"python -m experiments.sweep {shlex.quote(str(arguments.sweep))}"
        )
    rows, labels = group(runs), wanted["labels"]
    columns = default_columns(rows, sweep.script) if wanted["columns"] is None else wanted["columns"]
    lines = [*table(rows, columns, labels, wanted["beside"]), "", *caption(rows, columns, sweep, kept)]

    from .figures.kinds import draw  # after what can be refused: this takes a second

    drawn, left = (
        {},
        [f"kept     {', '.join(kept)}: no run folder, taken from the earlier report in {out}"] if kept else [],
    )
    for name, settings in wanted["figures"].items():
        if kept and settings.get("kind") == "curves" and not all(run.evaluations for run in runs):
            left.append(f"not redrawn  {out / name}.png: not all evaluations were saved in {out / EVALUATIONS}")
        else:
            drawn[name] = draw(name, {"title": sweep.title} | settings, rows, labels)
    write(out, sweep.title, lines, drawn)
    save_results(out, runs, origins)
    print("\n".join([*lines, "", *(f"written  {path}" for path in sorted(out.iterdir())), *left]))


def check_report_folder(out: Path, cells: list[Cell]):
    """`ConfigError` if a report cannot be written into a folder, or the folder is a cell's."""
    if taken := [cell.name for cell in cells if out.resolve().is_relative_to(cell.folder.resolve())]:
        raise ConfigError(f"--out {out} is the folder of the cell {taken[0]}; give another")
    check_writable(out, f"--out {out}")


def gather(cells: list[Cell], out: Path) -> tuple[list[Run], dict[str, dict], dict[str, dict]]:
    """All runs, the provenance of each cell, and that of cells whose runs were only saved in `out`."""
    earlier, origins = read_saved_results(out)
    runs, found, kept = [], {}, {}
    for cell in cells:
        if cell.finished or has_diverged(cell):
            runs += read_runs(cell)
            found[cell.name] = read_mapping(cell.folder / PROVENANCE, REMEDY)
        elif cell.name in earlier:
            runs += earlier[cell.name]
            found[cell.name] = kept[cell.name] = origins.get(cell.name, {})
    return runs, {name: origin for name, origin in found.items() if origin}, kept


def write(out: Path, title: str, lines: list[str], drawn: dict):
    """Write table.md and the figures."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "table.md").write_text("\n".join([f"# {title}", "", *lines, ""]), encoding="utf-8")
    for name, figure in drawn.items():
        figure.savefig(out / f"{name}.png", dpi=130)


def parse_arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sweep", help="a sweep file")
    parser.add_argument("--runs", type=Path, metavar="FOLDER", help="its cells (default: runs/sweeps/NAME)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where to write (default: runs/sweeps/NAME/report)")
    return parser.parse_args(words)


if __name__ == "__main__":
    with exit_on_user_error("experiments.report"):
        main(parse_arguments())
