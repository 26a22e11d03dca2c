"""Summarise the values of several runs by centre and spread, also if some did not reach a milestone."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

MILESTONES = ("steps_", "first_", "gap", "delay_")
STEPS = MILESTONES[:2]


@dataclass(frozen=True)
class Summary:
    """Centre and spread of several runs; infinity stands for a milestone that was not reached."""

    middle: float
    low: float
    high: float
    spread: str


MEDIAN, MEAN, RANGE = "median and range", "mean and 95 % t-interval", "mean and range"


def scale(metric: str) -> int:
    """100 for accuracies, which are shown in percent, else 1."""
    return 100 if "accuracy" in metric or metric.startswith("worst_") else 1


def is_milestone(metric: str) -> bool:
    """Whether a missing value means that a run has not reached the milestone yet, so that its value would be large."""
    return metric.startswith(MILESTONES)


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half-width of its 95 % t-interval, mean ± t(0.975, n - 1) s / sqrt(n); nan where it has none."""
    mean, n = statistics.fmean(values), len(values)
    if n == 1 or not math.isfinite(mean):
        return mean, math.nan

    from scipy.special import stdtrit  # deferred, because --help does not need it

    return mean, float(stdtrit(n - 1, 0.975)) * statistics.stdev(values) / math.sqrt(n)


def summarize(values: Sequence[float | None], metric: str) -> Summary | None:
    """Median and range of a milestone, None counted as later than all others; else mean and interval of the values.

    An interval that would reach below zero or above 100 % is replaced by the range. None if there is no value.
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


def format_number(value: float, digits: int | None) -> str:
    """A number with `digits` decimals; None means none if it is an integer or large, else four significant digits."""
    if digits is None and (float(value).is_integer() or abs(value) >= 1000):
        digits = 0
    return f"{value:.4g}" if digits is None else f"{value:,.{digits}f}"


def format_values(values: Sequence[float | None], metric: str, never: str, how: str = "") -> str:
    """The values as text, summarised as `how` says: `summarize`, or one of `REDUCTIONS`.

    `never` is the text of a missing value. If only some runs have a value, the text says how many.
    """
    digits = 2 if scale(metric) == 100 else None
    there = [value for value in values if value is not None]
    counted = "" if len(there) == len(values) or len(values) == 1 else f"{len(there)} of {len(values)}"
    if how == "all":
        return ", ".join(never if value is None else format_number(value, digits) for value in values)
    if not there:
        return f"{never} ({counted})" if counted else never
    if how:
        values = [math.inf if value is None else value for value in values] if is_milestone(metric) else there
        return _with_note(_value_or_missing(REDUCTIONS[how](values), digits, never), counted)
    return _of_summary(summarize(values, metric), digits, never, counted)


REDUCTIONS = {"min": min, "max": max, "median": statistics.median}
SUMMARIES = (*REDUCTIONS, "all")


def _of_summary(found: Summary, digits: int | None, never: str, counted: str) -> str:
    if found.spread == MEAN:
        half = found.high - found.middle
        return _with_note(f"{_mean_and_interval(found.middle, half, digits)}", counted)
    middle = _value_or_missing(found.middle, digits, never)
    if found.low == found.high or math.isnan(found.middle):
        return _with_note(middle, counted)
    around = f"{format_number(found.low, digits)} to {_value_or_missing(found.high, digits, never)}"
    return _with_note(middle, "; ".join(filter(None, (around, counted))))


def _mean_and_interval(mean: float, half: float, digits: int | None) -> str:
    """Mean ± half-width, to two significant digits of the latter."""
    if digits is None:
        digits = max(0, 1 - math.floor(math.log10(half)))
    return f"{mean:,.{digits}f} ± {half:,.{digits}f}"


def _value_or_missing(value: float, digits: int | None, never: str) -> str:
    return never if value == math.inf else format_number(value, digits)


def _with_note(text: str, note: str) -> str:
    return f"{text} ({note})" if note else text
