"""Formats counts and sizes for sentences."""

import math

DECIMAL_UNITS = {"GB": 10**9, "MB": 10**6, "kB": 10**3}
BINARY_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")


def format_count(count: int, noun: str) -> str:
    """A count with its noun: `1 document`, `1,000 documents`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def count_is(count: int, noun: str) -> str:
    """A count with its noun and verb: `1 document is`, `2 documents are`."""
    return f"{format_count(count, noun)} {'is' if count == 1 else 'are'}"


def all_count_is(count: int, noun: str) -> str:
    """As `count_is`, for all that there are: `the only document is`, `all 2 documents are`."""
    return f"the only {noun} is" if count == 1 else f"all {count_is(count, noun)}"


def format_bytes(count: float) -> str:
    """The size of a text: `1 byte`, `1.5 kB`, `2.2 GB`."""
    unit = next((unit for unit, size in DECIMAL_UNITS.items() if count >= size), None)
    return f"{count / DECIMAL_UNITS[unit]:.1f} {unit}" if unit else format_count(round(count), "byte")


def format_memory(count: int) -> str:
    """An amount of memory or disk: `1,023 bytes`, `1.5 GiB`."""
    unit = min(int(math.log(max(count, 1), 1024)), len(BINARY_UNITS) - 1)
    return f"{count / 1024**unit:,.{1 if unit else 0}f} {BINARY_UNITS[unit]}"


TIME_UNITS = {"days": 86_400, "hours": 3600, "minutes": 60}


def format_seconds(seconds: float) -> str:
    """A time: `42.0 seconds`, `1.5 minutes`, `3.2 hours`, `6,584 days`."""
    unit = next((unit for unit, size in TIME_UNITS.items() if seconds >= 1.5 * size), "seconds")
    number = seconds / TIME_UNITS.get(unit, 1)
    return f"{number:,.0f} {unit}" if number >= 100 else f"{number:.3g} {unit}"
