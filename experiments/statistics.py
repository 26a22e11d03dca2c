"""What the values of several runs come to: a middle and a spread, also where some never got there."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import stdtrit

MILESTONES = ("steps_", "first_", "gap", "delay_")
STEPS = MILESTONES[:2]


@dataclass(frozen=True)
class Summary:
    """The middle of some runs and what lies around it; infinity stands for what was not reached."""

    middle: float
    low: float
    high: float
    spread: str


MEDIAN, MEAN, RANGE = "median and range", "mean and 95 % t-interval", "mean and range"


def scale(metric: str) -> int:
    """100 for accuracies, which are shown in percent, else 1."""
    return 100 if "accuracy" in metric or metric.startswith("worst_") else 1


def is_milestone(metric: str) -> bool:
    """Whether runs that do not have a metric have not reached it yet: their value would be a large one."""
    return metric.startswith(MILESTONES)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half-width of its 95 % t-interval, mean ± t(0.975, n - 1) s / sqrt(n); nan where it has none."""
    mean, n = statistics.fmean(values), len(values)
    if n == 1 or not math.isfinite(mean):
        return mean, math.nan
    return mean, float(stdtrit(n - 1, 0.975)) * statistics.stdev(values) / math.sqrt(n)


def summarize(values: Sequence[float | None], metric: str) -> Summary | None:
    """Median and range of a milestone, None counted as later than all others; else mean and interval of what there is.

    An interval that would leave what is possible, below zero or above 100 %, gives way to the range. None if there is
    nothing.
    """
    there = [value for value in values if value is not None]
    if is_milestone(metric) and values:
        reached = [math.inf if value is None else value for value in values]
        return Summary(statistics.median(reached), min(reached), max(reached), MEDIAN)
    if not there:
        return None
    mean, half = interval(there)
    highest = 100 if scale(metric) == 100 else math.inf
    if mean - half >= 0 and mean + half <= highest and half > 0:
        return Summary(mean, mean - half, mean + half, MEAN)
    return Summary(mean, min(there), max(there), RANGE)


def number(value: float, digits: int | None) -> str:
    """A number with so many decimals; None means whole where it is whole or large, else four significant digits."""
    if digits is None and (float(value).is_integer() or abs(value) >= 1000):
        digits = 0
    return f"{value:.4g}" if digits is None else f"{value:,.{digits}f}"


def describe_reasons(values: Sequence[float | None], metric: str, never: str, how: str = "") -> str:
    """The values as text, summed up as `how` says: `summarize`, or one of `CHOICES`.

    `never` stands for what was not reached. Where some runs have no value, it is said how many have.
    """
    digits = 2 if scale(metric) == 100 else None
    there = [value for value in values if value is not None]
    counted = "" if len(there) == len(values) or len(values) == 1 else f"{len(there)} of {len(values)}"
    if how == "all":
        return ", ".join(never if value is None else number(value, digits) for value in values)
    if not there:
        return f"{never} ({counted})" if counted else never
    if how:
        values = [math.inf if value is None else value for value in values] if is_milestone(metric) else there
        return _noted(_or_never(CHOICES[how](values), digits, never), counted)
    return _of_summary(summarize(values, metric), digits, never, counted)


CHOICES = {"min": min, "max": max, "median": statistics.median}
SUMMARIES = (*CHOICES, "all")


def _of_summary(found: Summary, digits: int | None, never: str, counted: str) -> str:
    if found.spread == MEAN:
        half = found.high - found.middle
        return _noted(f"{_beside(found.middle, half, digits)}", counted)
    middle = _or_never(found.middle, digits, never)
    if found.low == found.high or math.isnan(found.middle):
        return _noted(middle, counted)
    around = f"{number(found.low, digits)} to {_or_never(found.high, digits, never)}"
    return _noted(middle, "; ".join(filter(None, (around, counted))))


def _beside(mean: float, half: float, digits: int | None) -> str:
    """Mean ± half-width, with as many digits as show two of the latter's."""
    if digits is None:
        digits = max(0, 1 - math.floor(math.log10(half)))
    return f"{mean:,.{digits}f} ± {half:,.{digits}f}"


def _or_never(value: float, digits: int | None, never: str) -> str:
    return never if value == math.inf else number(value, digits)


def _noted(text: str, note: str) -> str:
    return f"{text} ({note})" if note else text
