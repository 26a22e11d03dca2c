"""`ConfigError`, warnings, and checks shared by several settings: ranges, licences and language codes."""

import difflib
import os
import re
import sys
from functools import cache

from huggingface_hub.errors import StrictDataclassError

LICENCES = (
    "apache-2.0", "mit", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc0-1.0", "bsd-3-clause",
    "gpl-3.0", "lgpl-3.0", "agpl-3.0", "mpl-2.0", "openrail", "cdla-sharing-1.0", "odc-by", "llama3", "unknown",
    "other",
)  # fmt: skip
"""Common licences of the Hub, to suggest a near one; the Hub knows more."""


LANGUAGE_CODE = r"[a-z]{2,3}([-_][A-Za-z0-9]{2,8})*|multilingual|code"


class ConfigError(Exception):
    """A user's mistake in one sentence: what was given, what is allowed, what to do."""


@cache
def warn(sentence: str):
    """Print a warning once, on the first process of a run only."""
    if int(os.environ.get("RANK", 0)) == 0:
        print(f"warning: {sentence}", file=sys.stderr)


def check_minimum(section: str, values, **minima):
    """`ConfigError` if a field is below its minimum; None is allowed."""
    for key, least in minima.items():
        if (value := getattr(values, key)) is not None and value < least:
            raise ConfigError(f"{section}.{key}={value} is too small; it must be at least {least}")


def check_maximum(section: str, values, **maxima):
    """`ConfigError` if a field is above its maximum; None is allowed."""
    for key, most in maxima.items():
        if (value := getattr(values, key)) is not None and value > most:
            raise ConfigError(f"{section}.{key}={value} is too large; it must be at most {most:,}")


def check_fraction(section: str, values, *keys: str):
    """`ConfigError` if a field is not in [0, 1)."""
    for key in keys:
        if not 0 <= (value := getattr(values, key)) < 1:
            raise ConfigError(f"{section}.{key}={value} is out of range; it must be at least 0 and below 1")


def check_licence(name: str, licence: str | None):
    """`ConfigError` for a licence that is empty, a list or a mapping; warn if it does not look like a Hub licence."""
    if licence is None or re.fullmatch(r"[a-z0-9]+([.+-]+[a-z0-9]+)*\+*", licence):
        return
    plain = "-".join(licence.lower().strip("[]{}").split())
    nearest = difflib.get_close_matches(plain, LICENCES, n=1) or ["apache-2.0, mit or cc-by-4.0"]
    _check_not_list(name, licence, nearest[0])
    warn(
        f"{name}={licence} is not written like a Hub licence, and the Hub may reject the model card; "
        f"did you mean {nearest[0]}?"
    )


def check_language(name: str, language: str | None):
    """As `check_licence`, for a language code."""
    if language is None or re.fullmatch(LANGUAGE_CODE, language):
        return
    _check_not_list(name, language, "one ISO 639 code, such as en or de")
    warn(
        f"{name}={language} is not an ISO 639 code, and the Hub may reject the model card; give a code such as en or de"
    )


def _check_not_list(name: str, text: str, remedy: str):
    if not text or text[0] in "[{":
        raise ConfigError(
            f"{name}={text} is {'a list or a mapping' if text else 'empty'}; give {remedy}, or leave it out"
        )


def build(cls: type, section: str, values: dict):
    """Construct `cls` from a section's values; an error of the constructor becomes a `ConfigError`."""
    try:
        return cls(**values)
    except (ValueError, TypeError, StrictDataclassError) as error:
        message = str(error).strip().splitlines()[-1].strip()
        raise ConfigError(f"{section}: {message.removeprefix('ValueError: ').removeprefix('TypeError: ')}") from None
