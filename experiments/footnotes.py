"""Footnotes of a report: what the seeds of its runs vary, and how far apart evaluations were."""

import itertools
import statistics

from settings.checks import ConfigError
from settings.experiment import AlgorithmicExperiment, Experiment
from settings.loading import load_experiment
from settings.schema import KINDS

from .cells import Cell
from .runs import Run
from .statistics import is_milestone

MAX_EVEN_RATIO = 1.5
"""Evaluations are evenly spaced if no interval after the first tenth of a run exceeds this times the median."""


def describe_seeds(cells: list[Cell], script: str) -> str:
    """A sentence on what differs between the runs of a row."""
    found = [experiment for cell in cells if (experiment := _experiment(cell, script))]
    drawn = {draws for experiment in found for draws in _seeded_parts(experiment)} or {"initial weights", "order"}
    words = [word for word in ("initial weights", "order", "split") if word in drawn]
    line = f"The runs of a row differ in their seeds, which draw {', '.join(words[:-1])} and {words[-1]}"
    return f"{line}: a spread is of all three (`data.seed` holds the split)." if "split" in words else f"{line}."


def _seeded_parts(experiment: Experiment) -> set[str]:
    lists = getattr(experiment, "replicas", {})
    draws = {"initial weights", "order"} if "seed" in lists.get("training", {}) or not lists else set()
    splits = isinstance(experiment, AlgorithmicExperiment) and experiment.data.seed is None
    return draws | ({"split"} if splits or "seed" in lists.get("data", {}) else set())


def _experiment(cell: Cell, script: str) -> Experiment | None:
    """The experiment of a cell; None if its configuration has changed and is no longer valid."""
    try:
        return load_experiment(str(cell.config_path), cell.overrides, KINDS[script])
    except ConfigError:
        return None


def describe_evaluation_spacing(runs: list[Run], cells: list[Cell], script: str, metrics: list[str]) -> list[str]:
    """How far apart evaluations were, by recorded steps or else by the settings, and what that means for `metrics`."""
    by_cell = {cell.name: cell for cell in cells}
    found: dict[str, list[str]] = {}
    for name, group in itertools.groupby(runs, lambda run: run.cell):
        text = measured_spacing(next(group)) or configured_spacing(_experiment(by_cell[name], script))
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


def measured_spacing(run: Run) -> str:
    """How far apart a run's evaluations were; empty if there are too few to tell."""
    steps = sorted({row["step"] for row in run.evaluations if row["step"] > 0})
    later = [(before, after) for before, after in itertools.pairwise(steps) if before >= steps[-1] / 10]
    if len(later) < 3:
        return ""
    gaps = [after - before for before, after in later]
    if max(gaps) <= MAX_EVEN_RATIO * statistics.median(gaps):
        return f"at most {max(gaps)} steps apart"
    share = max(after / before - 1 for before, after in later)
    return f"up to {100 * share:.0f} % apart, {max(gaps)} steps at the most"


def configured_spacing(experiment: Experiment | None) -> str:
    """How far apart evaluations are according to the settings, for a run without recorded evaluations."""
    if not isinstance(experiment, AlgorithmicExperiment):
        return ""
    steps = experiment.training.get("eval_steps") or 0
    if experiment.training["eval_strategy"] == "steps" and steps >= 1:
        return f"at most {steps:g} steps apart by the settings"
    return f"{100 * 10 ** (1 / experiment.evaluation.evals_per_decade) - 100:.0f} % apart by the settings"
