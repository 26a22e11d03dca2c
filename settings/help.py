"""The text of `--help`: every setting with its type, default and meaning."""

import textwrap

from .experiment import ALWAYS_DONE, Experiment, LanguageExperiment
from .fields import Field
from .schema import section_fields, sections_of

HELP_WIDTH = 100


def describe_sections(kind: type[Experiment] = LanguageExperiment) -> str:
    """The help text: each section's fields with type, default and meaning, and why some cannot be set."""
    lines = []
    for section in sections_of(kind):
        fields = section_fields(section, kind)
        lines += [f"\n{section}:", *(_describe(section, name, field, kind) for name, field in fields.items())]
    return "\n".join(lines)


def _describe(section: str, name: str, field: Field, kind: type[Experiment]) -> str:
    default = kind.chosen.get(f"{section}.{name}", "null" if field.default is None else field.default)
    mark, meanings = "", [field.meaning] if field.meaning else []
    if section == "training" and name in kind.unsupported:
        mark, meanings = ", not supported", [f"Not supported: {kind.unsupported[name]}.", *meanings]
    elif section == "training" and name in ALWAYS_DONE:
        meanings = [f"Not needed: {ALWAYS_DONE[name][1]} in any case.", *meanings]
    default = '""' if default == "" else default
    head = f"{name}  ({field.type_name}, default {default}{mark})"
    head = head if len(head) < HELP_WIDTH else head.replace("|", " | ")  # so that it can be wrapped
    return "\n".join([_wrapped(head, "  "), *(_wrapped(meaning, "      ") for meaning in meanings)])


def _wrapped(text: str, indent: str) -> str:
    """Wrap a text to the width of the help, with `indent` before its first line."""
    about = {"initial_indent": indent, "subsequent_indent": "      ", "break_long_words": False}
    return textwrap.fill(text, HELP_WIDTH, break_on_hyphens=False, **about)
