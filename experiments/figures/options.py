"""Settings of the figures in a sweep file: which ones each kind of figure has, and what values they take."""

import inspect
import re
from collections.abc import Callable, Mapping

from settings.checks import ConfigError


def is_text(value) -> bool:
    """Whether a value is a non-empty text."""
    return isinstance(value, str) and value != ""


def are_texts(value) -> bool:
    """Whether a value is a non-empty list of non-empty texts."""
    return isinstance(value, list) and bool(value) and all(map(is_text, value))


TEXT = ("a text", is_text)
AXIS = ("an axis", is_text)
MAYBE = ("an axis or null", lambda value: value is None or is_text(value))
METRIC = ("a metric", is_text)
SWITCH = ("true or false", lambda value: isinstance(value, bool))
TAKES = {
    "title": TEXT, "x": AXIS, "hue": MAYBE, "panels": MAYBE, "split": TEXT, "y": METRIC,
    "log": SWITCH, "log_x": SWITCH, "log_y": SWITCH,
}  # fmt: skip
OTHERWISE = {
    ("bars", "y"): ("a metric, or a list of metrics", lambda value: is_text(value) or are_texts(value)),
    ("gaps", "y"): ("a list of two metrics", lambda value: are_texts(value) and len({*value}) == len(value) == 2),
}
"""Settings that take other values in one kind of figure."""
NAME = re.compile(r"[^/\\\0]{1,200}")


def check_figure_name(name):
    """`ConfigError` unless a figure of that name can be a file."""
    if not NAME.fullmatch(str(name)):
        raise ConfigError(f"the figure {name!r} cannot be a file name; leave out slashes")


def read_figure(name: str, settings: dict, kinds: Mapping[str, Callable]) -> tuple[str, str, dict]:
    """A figure's kind, one of `kinds`, its title and its other settings; `ConfigError` if a setting is invalid."""
    options = dict(settings)
    kind = options.pop("kind", None)
    if kind not in list(kinds):
        raise ConfigError(f"{name} is of kind {kind}; choose one of {', '.join(kinds)}")
    parameters = inspect.signature(kinds[kind]).parameters.values()
    known = {p.name: p.default for p in parameters if p.kind == p.KEYWORD_ONLY}
    for key in [key for key in options if key not in ("title", *known)]:
        raise ConfigError(f"{name} sets {key}; a figure of kind {kind} has title, {', '.join(known)}")
    for key in [key for key in known if known[key] is inspect.Parameter.empty and key not in options]:
        raise ConfigError(f"{name} does not set {key}; a figure of kind {kind} needs it")
    for key, value in options.items():
        wanted, fits = OTHERWISE.get((kind, key), TAKES[key])
        if not fits(value):
            raise ConfigError(f"{name} sets {key}: {value!r}; it takes {wanted}")
    return kind, options.pop("title"), options
