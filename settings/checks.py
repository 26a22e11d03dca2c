"""What is checked of more than one setting: ranges, folders, names; whatever is wrong is a `ConfigError`."""

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
"""Some that the Hub knows; it knows more."""


LANGUAGE_CODE = r"[a-z]{2,3}([-_][A-Za-z0-9]{2,8})*|multilingual|code"


class ConfigError(Exception):
    """What is wrong with what the user gave, in one sentence: what was given, what is allowed, what to do."""


@cache
def warn(sentence: str):
    """Say what is odd in what the user gave, once, by one of the processes of a run."""
    if int(os.environ.get("RANK", 0)) == 0:
        print(f"warning: {sentence}", file=sys.stderr)


def check_minimum(section: str, values, **minima):
    """Fields of a section that are None or no smaller."""
    for key, least in minima.items():
        if (value := getattr(values, key)) is not None and value < least:
            raise ConfigError(f"{section}.{key}={value} is too small; it must be at least {least}")


def check_maximum(section: str, values, **maxima):
    """Fields of a section that are None or no larger."""
    for key, most in maxima.items():
        if (value := getattr(values, key)) is not None and value > most:
            raise ConfigError(f"{section}.{key}={value} is too large; it must be at most {most:,}")


def check_fraction(section: str, values, *keys: str):
    """Fields of a section that are shares, 1 left out."""
    for key in keys:
        if not 0 <= (value := getattr(values, key)) < 1:
            raise ConfigError(f"{section}.{key}={value} is out of range; it must be at least 0 and below 1")


def check_licence(name: str, licence: str | None):
    """`ConfigError` for what is no text; a warning for what does not have the form of the Hub's names of licences."""
    if licence is None or re.fullmatch(r"[a-z0-9]+([.+-]+[a-z0-9]+)*\+*", licence):
        return
    plain = "-".join(licence.lower().strip("[]{}").split())
    nearest = difflib.get_close_matches(plain, LICENCES, n=1) or ["apache-2.0, mit or cc-by-4.0"]
    _check_not_list(name, licence, nearest[0])
    warn(f"{name}={licence} is written as no licence of the Hub is, which may refuse the card; near it is {nearest[0]}")


def check_language(name: str, language: str | None):
    """The same, of the codes of languages."""
    if language is None or re.fullmatch(LANGUAGE_CODE, language):
        return
    _check_not_list(name, language, "one code of ISO 639, such as en or de")
    warn(f"{name}={language} is no code of ISO 639, such as en or de, so that the Hub may refuse the card")


def _check_not_list(name: str, text: str, remedy: str):
    if not text or text[0] in "[{":
        raise ConfigError(
            f"{name}={text} is {'a list or a mapping' if text else 'empty'}; give {remedy}, or leave it out"
        )


def build(cls: type, section: str, values: dict):
    """Construct what a section describes; the constructor's own complaint becomes a `ConfigError`."""
    try:
        return cls(**values)
    except (ValueError, TypeError, StrictDataclassError) as error:
        complaint = str(error).strip().splitlines()[-1].strip()
        raise ConfigError(f"{section}: {complaint.removeprefix('ValueError: ').removeprefix('TypeError: ')}") from None
