"""Results of runs: final metrics and evaluations, grouped so that runs that differ only in seeds share a row."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from settings.checks import ConfigError
from settings.experiment import AlgorithmicExperiment
from settings.loading import load_experiment
from storage.files import read_json_lines, read_mapping, report_file_errors

from .cells import Cell
from .statistics import Summary, format_values, scale, summarize

METRICS, DIVERGED = "metrics.json", "diverged.json"
REMEDY = "delete or rename its folder, and run its cell again"
BOOKKEEPING_KEYS = {"replica", "epoch", "tokens", "total_flos", "seconds"}
"""Keys of an evaluation's row that are neither its step nor a measurement."""


@dataclass(frozen=True)
class Run:
    """One trained model: its values on the axes, its final metrics, its evaluations."""

    cell: str
    replica: str
    axes: dict
    metrics: dict
    evaluations: list[dict] = field(default_factory=list)

    @property
    def diverged(self) -> int | None:
        """The first of the steps for which the guard stopped the run: non-finite losses or gradients, or spikes."""
        return self.metrics.get("diverged")

    def curve(self, name: str) -> dict[int, float]:
        """One metric of each evaluation, by step; accuracies in percent."""
        rows = [row for row in self.evaluations if name in row]
        if not rows:
            where = ", ".join(filter(None, (self.cell, self.replica)))
            raise ConfigError(f"{where} has no {name} in its evaluations; choose a split that was evaluated")
        return {row["step"]: row[name] * scale(name) for row in rows}


@dataclass(frozen=True)
class Row:
    """The runs that differ only in their seeds."""

    axes: dict
    runs: list[Run]

    def values(self, name: str) -> list[float | None]:
        """A metric of each run, None where it has none; accuracies in percent."""
        whole = [run for run in self.runs if set(run.metrics) - {"diverged", "steps"}]
        if whole and not any(name in run.metrics for run in whole):
            known = [key for key, value in whole[0].metrics.items() if value is None or _is_number(value)]
            raise ConfigError(f"{name!r} is not a metric of these runs; the metrics are {', '.join(known)}")
        found = [run.metrics.get(name) for run in self.runs]
        return [value * scale(name) if _is_number(value) else None for value in found]

    def summary(self, name: str) -> Summary | None:
        """Centre and spread of a metric over runs; None if no run has it."""
        return summarize(self.values(name), name)

    def entry(self, name: str, how: str = "") -> str:
        """The summary as text, or the one that `how` names."""
        return format_values(self.values(name), name, self.missing_text(name), how)

    def missing_text(self, name: str) -> str:
        """The text for a value that a run does not have."""
        without = [run for run, value in zip(self.runs, self.values(name), strict=True) if value is None]
        if any(run.diverged is not None for run in without):
            return "diverged"
        ends = [run.metrics["steps"] for run in without if "steps" in run.metrics]
        return f"> {min(ends):,}" if ends and name.startswith(("steps_", "first_")) else "never"


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def read_runs(cell: Cell) -> list[Run]:
    """The runs of a cell that is finished or has diverged: its replicas, or the one that it is.

    Values of replicas count as axes. `wall_seconds` of the cell, all attempts together, is added to the metrics; None
    if no sweep recorded its end.
    """
    if not cell.finished:
        return _diverged_runs(cell)
    record = cell.record
    wall = {"wall_seconds": record.get("seconds") if record.get("exit_code") == 0 else None}
    metrics = read_mapping(cell.folder / METRICS, REMEDY)
    if "replicas" not in metrics:
        return [Run(cell.name, "", cell.axes, metrics | wall, _evaluations(cell.folder))]
    with report_file_errors(cell.folder / METRICS, REMEDY):
        folders = {replica: cell.folder / replica for replica in metrics["replicas"]}
    return [
        Run(cell.name, replica, axes_of(cell, replica), read_mapping(folder / METRICS, REMEDY) | wall,
            _evaluations(folder))
        for replica, folder in folders.items()
    ]  # fmt: skip


def has_diverged(cell: Cell) -> bool:
    """Whether the guard stopped its run, because of non-finite losses or gradients, or of spikes."""
    return not cell.finished and (cell.folder / DIVERGED).exists()


def _diverged_runs(cell: Cell) -> list[Run]:
    with report_file_errors(cell.folder / DIVERGED, REMEDY):
        step = int(read_mapping(cell.folder / DIVERGED, REMEDY)["step"])
    evaluations = _evaluations(cell.folder)
    return [
        Run(cell.name, name, axes_of(cell, name), {"diverged": step, "steps": step},
            [row for row in evaluations if not name or row.get("replica") == name])
        for name in _replicas(cell.folder / "experiment.yaml")
    ]  # fmt: skip


def _replicas(settings: Path) -> list[str]:
    """The names of a run's replicas according to its settings; one empty name for a run without replicas."""
    if not read_mapping(settings, REMEDY).get("replicas"):
        return [""]
    return [one.name for one in load_experiment(str(settings), [], AlgorithmicExperiment).replicated()]


def _evaluations(folder: Path) -> list[dict]:
    """The rows of `metrics.jsonl` that are evaluations; none if there is no such file."""
    path = folder / "metrics.jsonl"
    rows = read_json_lines(path, REMEDY) if path.exists() else []
    return [row for row in rows if "step" in row and any(is_evaluation_metric(key) for key in row)]


def is_evaluation_metric(key: str) -> bool:
    """Whether a key of a log is a metric of an evaluation."""
    return key.startswith("eval_") or key.endswith("_accuracy")


def axes_of(cell: Cell, replica: str) -> dict:
    """The values of a replica: its cell's, and those in its name, such as `seed=0,weight_decay=2.0`."""
    pairs = [part.partition("=") for part in replica.split(",")] if replica else []
    return cell.axes | {key: _parse(text) for key, _, text in pairs}


def _parse(text: str):
    try:
        return json.loads(text)
    except ValueError:
        return text


def group(runs: list[Run]) -> list[Row]:
    """Rows of runs that agree on every axis but seeds, in the order of their first runs."""
    rows = {}
    for run in runs:
        axes = {key: value for key, value in run.axes.items() if key.split(".")[-1] != "seed"}
        rows.setdefault(json.dumps(axes), Row(axes, [])).runs.append(run)
    return list(rows.values())
