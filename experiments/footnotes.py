"""How the runs of a report were made, as far as its numbers depend on it: what seeds draw, when runs were evaluated."""

import itertools
import statistics

from settings.checks import ConfigError
from settings.experiment import AlgorithmicExperiment, Experiment
from settings.loading import load_experiment
from settings.schema import KINDS

from .cells import Cell
from .runs import Run
from .statistics import is_milestone

EVEN = 1.5
"""How much longer than their median the intervals may be that count as even, after the first tenth of a run."""


def describe_seeds(cells: list[Cell], script: str) -> str:
    """What the runs of a row differ in."""
    found = [experiment for cell in cells if (experiment := _experiment(cell, script))]
    drawn = {draws for experiment in found for draws in _drawn(experiment)} or {"initial weights", "order"}
    words = [word for word in ("initial weights", "order", "split") if word in drawn]
    line = f"The runs of a row differ in their seeds, which draw {', '.join(words[:-1])} and {words[-1]}"
    return f"{line}: a spread is of all three (`data.seed` holds the split)." if "split" in words else f"{line}."


def _drawn(experiment: Experiment) -> set[str]:
    lists = getattr(experiment, "replicas", {})
    draws = {"initial weights", "order"} if "seed" in lists.get("training", {}) or not lists else set()
    splits = isinstance(experiment, AlgorithmicExperiment) and experiment.data.seed is None
    return draws | ({"split"} if splits or "seed" in lists.get("data", {}) else set())


def _experiment(cell: Cell, script: str) -> Experiment | None:
    """What a cell runs; None if its file has changed, and no longer fits."""
    try:
        return load_experiment(str(cell.config_path), cell.overrides, KINDS[script])
    except ConfigError:
        return None


def describe_looks(runs: list[Run], cells: list[Cell], script: str, metrics: list[str]) -> list[str]:
    """How far apart evaluations were, by the steps recorded or else by the settings, and what follows for `metrics`."""
    by_cell = {cell.name: cell for cell in cells}
    found: dict[str, list[str]] = {}
    for name, group in itertools.groupby(runs, lambda run: run.cell):
        text = spacing(next(group)) or planned(_experiment(by_cell[name], script))
        found.setdefault(text, []).append(name)
    found.pop("", None)
    if not found:
        return []
    is_one = sum(map(len, found.values())) == len({run.cell for run in runs}) and len(found) == 1
    parts = [text if is_one else f"{text} ({', '.join(names)})" for text, names in found.items()]
    follows = (
        " A step is that of the first evaluation to show it, and the worst is the worst evaluation: more of them can "
        "only find earlier steps and lower values."
    )
    depends = any(is_milestone(name) or name.startswith("worst_") for name in metrics)
    return [f"Evaluations are {'; '.join(parts)}.{follows if depends else ''}"]


def spacing(run: Run) -> str:
    """How far apart a run's evaluations were; empty where there are too few to say."""
    steps = sorted({row["step"] for row in run.evaluations if row["step"] > 0})
    later = [(before, after) for before, after in itertools.pairwise(steps) if before >= steps[-1] / 10]
    if len(later) < 3:
        return ""
    gaps = [after - before for before, after in later]
    if max(gaps) <= EVEN * statistics.median(gaps):
        return f"at most {max(gaps)} steps apart"
    share = max(after / before - 1 for before, after in later)
    return f"up to {100 * share:.0f} % apart, {max(gaps)} steps at the most"


def planned(experiment: Experiment | None) -> str:
    """How far apart evaluations are by the settings, for a run that has left no record of them."""
    if not isinstance(experiment, AlgorithmicExperiment):
        return ""
    steps = experiment.training.get("eval_steps") or 0
    if experiment.training["eval_strategy"] == "steps" and steps >= 1:
        return f"at most {steps:g} steps apart by the settings"
    return f"{100 * 10 ** (1 / experiment.evaluation.evals_per_decade) - 100:.0f} % apart by the settings"
