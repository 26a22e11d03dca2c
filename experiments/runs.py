"""What finished runs came to: their numbers, their curves, and the runs that differ in nothing but seeds together."""

import json
import math
import statistics
from dataclasses import dataclass
from pathlib import Path

from scipy.special import stdtrit

from experiments.cells import Cell
from files import read_mapping, read_rows, told_of
from sections import ConfigError

METRICS = "metrics.json"
REMEDY = "delete or rename its folder, and run its cell anew"


@dataclass(frozen=True)
class Run:
    """One trained model: where it stands on the axes, its final numbers, its folder."""

    cell: str
    replica: str
    axes: dict
    metrics: dict
    folder: Path

    def curve(self, name: str) -> dict[int, float]:
        """A number of each evaluation, by step; accuracies in percent."""
        rows = [row for row in read_rows(self.folder / "metrics.jsonl", REMEDY) if {name, "step"} <= row.keys()]
        if not rows:
            raise ConfigError(f"{self.folder} has no {name} in its metrics.jsonl; choose a split that was evaluated")
        return {row["step"]: row[name] * scale(name) for row in rows}


@dataclass(frozen=True)
class Row:
    """The runs that differ in nothing but seeds."""

    axes: dict
    runs: list[Run]

    def values(self, name: str) -> list[float | None]:
        """A metric of each run, None where it has none; accuracies in percent."""
        if not any(name in run.metrics for run in self.runs):
            known = [key for key, value in self.runs[0].metrics.items() if value is None or _is_number(value)]
            raise ConfigError(f"{name!r} is no metric of these runs; there are {', '.join(known)}")
        found = [run.metrics.get(name) for run in self.runs]
        return [value * scale(name) if _is_number(value) else None for value in found]

    def mean(self, name: str) -> tuple[float, float] | None:
        """Mean and half-width of its interval over the runs that have the metric; None if none has."""
        reached = [value for value in self.values(name) if value is not None]
        return interval(reached) if reached else None


def scale(metric: str) -> int:
    """100 for accuracies, which are shown in percent, else 1."""
    return 100 if "accuracy" in metric or metric.startswith("worst_") else 1


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def interval(values: list[float]) -> tuple[float, float]:
    """Mean and half-width of its 95 % t-interval, mean ± t(0.975, n - 1) s / sqrt(n); nan where it has none."""
    mean, n = statistics.fmean(values), len(values)
    if n == 1 or not math.isfinite(mean):
        return mean, math.nan
    return mean, float(stdtrit(n - 1, 0.975)) * statistics.stdev(values) / math.sqrt(n)


def read_runs(cell: Cell) -> list[Run]:
    """The runs of a finished cell: its replicas, or the one that it is. Replicas' values count as axes.

    To their metrics comes the cell's `wall_seconds`, all calls together; None if no sweep saw it end.
    """
    record = cell.record
    wall = {"wall_seconds": record.get("seconds") if record.get("exit_code") == 0 else None}
    metrics = read_mapping(cell.folder / METRICS, REMEDY)
    if "replicas" not in metrics:
        return [Run(cell.name, "", cell.axes, metrics | wall, cell.folder)]
    with told_of(cell.folder / METRICS, REMEDY):
        folders = {replica: cell.folder / replica for replica in metrics["replicas"]}
    return [
        Run(cell.name, replica, cell.axes | _values(replica), read_mapping(folder / METRICS, REMEDY) | wall, folder)
        for replica, folder in folders.items()
    ]


def _values(replica: str) -> dict:
    """{"seed": 0, "weight_decay": 2.0} of `seed=0,weight_decay=2.0`."""
    pairs = [part.partition("=") for part in replica.split(",")]
    return {key: _parse(text) for key, _, text in pairs}


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
