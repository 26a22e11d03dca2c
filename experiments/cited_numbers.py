"""Numbers in sentences of the documentation, computed from saved results.

    ends at <!-- bars/division test_accuracy:min -->100.00<!-- end --> % or more

The mark names a folder of experiments/results, a cell (or a shell pattern of cells), a metric, and how the values of
all their runs are summarised: as in a column of a report, or by one of `OTHER_SUMMARIES`. `python -m
experiments.readme` rewrites the text between the marks; a test compares it.
"""

import functools
import math
import re
from collections.abc import Callable
from fnmatch import fnmatchcase

from settings.checks import ConfigError
from settings.paths import ROOT

from .runs import Row, Run
from .saved_results import read_saved_results
from .statistics import SUMMARIES, format_number, scale

RESULTS = ROOT / "experiments" / "results"
MARK = re.compile(
    r"<!-- (?P<sweep>[\w-]+)/(?P<cells>\S+) (?P<metric>\w+)(?::(?P<how>\w+))? -->.*?<!-- end -->", re.DOTALL
)


def rewrite_claims(text: str) -> str:
    """The text with every marked number recomputed; `ConfigError` for a mark that matches nothing."""
    return MARK.sub(lambda found: f"{found[0].split('-->')[0]}-->{claim(**found.groupdict())}<!-- end -->", text)


def claim(sweep: str, cells: str, metric: str, how: str | None) -> str:
    """The text of one mark."""
    if how not in (None, "welch", *OTHER_SUMMARIES, *SUMMARIES):
        raise ConfigError(
            f"{metric}:{how} is not known; after the colon write {', '.join((*SUMMARIES, *OTHER_SUMMARIES, 'welch'))}"
        )
    groups = [_row(sweep, pattern) for pattern in cells.split("~")]
    if how == "welch":
        return f"{_welch(*(_numbers(row, metric) for row in groups)):.2f}"
    (row,) = groups
    digits = 2 if scale(metric) == 100 else None
    if how in OTHER_SUMMARIES:
        return OTHER_SUMMARIES[how](row.values(metric), row.missing_text(metric), digits)
    return row.entry(metric, how or "")


def _row(sweep: str, pattern: str) -> Row:
    runs = [run for cell, runs in _kept(sweep).items() if fnmatchcase(cell, pattern) for run in runs]
    if not runs:
        raise ConfigError(
            f"{sweep}/{pattern} matches no cell of experiments/results/{sweep}; there are {', '.join(_kept(sweep))}"
        )
    return Row({}, runs)


@functools.cache
def _kept(sweep: str) -> dict[str, list[Run]]:
    return read_saved_results(RESULTS / sweep)[0]


def _numbers(row: Row, metric: str) -> list[float]:
    return [value for value in row.values(metric) if value is not None]


def _welch(first: list[float], second: list[float]) -> float:
    """The p-value of Welch's t-test for equal means."""
    from scipy import stats  # deferred, because --help does not need it

    return float(stats.ttest_ind(first, second, equal_var=False).pvalue)


def _range(values: list[float | None], never: str, digits: int | None) -> str:
    reached = [math.inf if value is None else value for value in values]
    low, high = (never if value == math.inf else format_number(value, digits) for value in (min(reached), max(reached)))
    return low if low == high else f"{low} to {high}"


OTHER_SUMMARIES: dict[str, Callable[[list, str, int | None], str]] = {
    "range": _range,
    "lowest": lambda values, never, digits: format_number(min(value for value in values if value is not None), digits),  # noqa: ARG005
    "count": lambda values, never, digits: str(sum(value is not None for value in values)),  # noqa: ARG005
    "runs": lambda values, never, digits: str(len(values)),  # noqa: ARG005
}
