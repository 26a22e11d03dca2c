"""Which combinations of a test's axes run by day; the others are left to `make nightly`."""

import itertools
from collections.abc import Iterable

import pytest


def by_day(chosen: Iterable[tuple], *axes: Iterable) -> list:
    """All combinations of the axes as parameters, those that are not `chosen` marked slow; `chosen` are among them."""
    chosen, every = list(chosen), list(itertools.product(*axes))
    assert all(one in every for one in chosen)
    return [one if one in chosen else pytest.param(*one, marks=pytest.mark.slow) for one in every]
