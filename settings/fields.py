"""Reads the fields of a class from its source: annotation, default, and docstring of each.

Importing the class would be simpler, but takes seconds if its package imports torch.
"""

import ast
import math
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Field:
    """One setting: the types that it accepts, its default as a user would write it, its meaning in a sentence."""

    accepts: list
    """Type names, and tuples of the values of a Literal."""
    default: Any
    meaning: str

    def check(self, value: Any) -> Any:
        """Return the value converted to the annotated type (`1e3` to an int, `1` to a float), or raise `ValueError`."""
        choices = [choice for kind in self.accepts if isinstance(kind, tuple) for choice in kind]
        if value is False and "no" in [self.default, *choices]:
            value = "no"  # YAML reads an unquoted `no` as false
        for kind in self.accepts:
            if isinstance(kind, tuple):
                if value in kind:
                    return value
            elif kind == "None":
                if value is None:
                    return None
            elif (cast := CASTS.get(kind, _unchanged)(value)) is not None:
                return cast
        finite = ", which must be finite" if isinstance(value, float) and not math.isfinite(value) else ""
        raise ValueError(f"it takes {self.type_name}{finite}")

    @property
    def type_name(self) -> str:
        """The accepted types as a reader of YAML would write them."""
        kinds = [kind for kind in self.accepts if kind != "int" or "float" not in self.accepts]
        names = ["|".join(map(str, kind)) if isinstance(kind, tuple) else kind for kind in kinds]
        return " or ".join("null" if name == "None" else name for name in names)


def _cast_int(value):
    integral = isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1
    return int(value) if integral else None


def _cast_float(value):
    """Reject NaN and infinities: no setting has a meaning for them, and range checks do not catch NaN."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) <= sys.float_info.max else None


def _instance_of(kind) -> Callable:
    return lambda value: value if isinstance(value, kind) else None


def _unchanged(value):
    return value


# Types that are not listed here (such as enumerations of transformers) are checked by their own constructors.
CASTS = {
    "int": _cast_int,
    "float": _cast_float,
    "bool": _instance_of(bool),
    "str": _instance_of(str),
    "list": _instance_of(list),
    "dict": _instance_of(dict),
}


EMPTY = {"list": list, "dict": dict}
"""Default factories by name."""


def _union_members(node: ast.expr, aliases: Mapping[str, str]) -> list:
    """`int | Norm | None` as ["int", ("rmsnorm", ...), "None"]: names, or tuples of the values a Literal allows."""
    if isinstance(node, ast.BinOp):
        return _union_members(node.left, aliases) + _union_members(node.right, aliases)
    if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Literal":
        values = ast.literal_eval(node.slice)
        return [values if isinstance(values, tuple) else (values,)]
    if isinstance(node, ast.Subscript):
        return [ast.unparse(node.value)]
    name = ast.unparse(node)
    if name in aliases:
        return _union_members(ast.parse(aliases[name], mode="eval").body, aliases)
    return [name]


@cache
def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def read_fields(path: Path, class_name: str, *with_enumerations: Path) -> dict[str, Field]:
    """The annotated fields of a class, read from its source without importing it.

    Of an enumeration that is in the same source or in those `with_enumerations`, its values are accepted; of
    `Literal[tuple(TABLE)]`, the keys of a dictionary there.
    """
    tree = _parse(path)
    tables = {name: keys for one in (path, *with_enumerations) for name, keys in _tables(one)}
    aliases = {
        ast.unparse(node.targets[0]): re.sub(r"tuple\((\w+)\)", lambda table: tables[table[1]], ast.unparse(node.value))
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.value).startswith("Literal[")
    }
    enumerations = {name: f"Literal{values}" for one in (path, *with_enumerations) for name, values in _values(one)}
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == class_name)
    known = _assigned(body)
    fields = {}
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign):
            default, about = _default_and_metadata(node.value, known)
            meaning = " ".join((about.get("help") or "").replace("%%", "%").split())  # as argparse wants it
            if isinstance(after, ast.Expr):
                meaning = " ".join(ast.literal_eval(after.value).split())
            accepts = _union_members(node.annotation, aliases | enumerations)
            choices = [tuple(about["choices"])] if "choices" in about else []
            if choices or enumerations.keys() & set(ast.unparse(node.annotation).split(" | ")):
                accepts = choices + [kind for kind in accepts if kind != "str"]  # by whose annotation any text would do
            fields[node.target.id] = Field(accepts, default, meaning)
    return fields


def _values(path: Path) -> list[tuple[str, list[str]]]:
    """The enumerations of texts in a source: names and values."""
    classes = [node for node in _parse(path).body if isinstance(node, ast.ClassDef)]
    return [
        (node.name, [ast.literal_eval(part.value) for part in node.body if isinstance(part, ast.Assign)])
        for node in classes
        if [ast.unparse(base) for base in node.bases] == ["ExplicitEnum"]
    ]


def _tables(path: Path) -> list[tuple[str, str]]:
    """The dictionaries of a source, as names and tuples of keys, written out."""
    assigned = [node for node in _parse(path).body if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)]
    return [
        (ast.unparse(node.targets[0]), f"({''.join(f'{ast.unparse(key)}, ' for key in node.value.keys if key)})")
        for node in assigned
    ]


def _assigned(body: list[ast.stmt]) -> dict[str, Any]:
    """What the names in a class are, by the last assignment that is written out; an `if` is taken to hold."""
    found = {}
    for node in (node for statement in body for node in ast.walk(statement)):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            with suppress(ValueError, TypeError):
                found[node.targets[0].id] = ast.literal_eval(node.value)
    return found


def _default_and_metadata(node: ast.expr | None, known: Mapping[str, Any]) -> tuple[Any, dict]:
    """Default and metadata of `x: T = 1` or of `x: T = field(default=1, metadata={"help": "..."})`.

    A default that is a name is what is `known` of it; of a factory of lists or mappings it is an empty one.
    """
    if isinstance(node, ast.Call):
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        if "default_factory" in given:
            return EMPTY.get(ast.unparse(given["default_factory"]), lambda: None)(), _metadata(given.get("metadata"))
        return _default_and_metadata(given.get("default"), known)[0], _metadata(given.get("metadata"))
    if isinstance(node, ast.Name):
        return known.get(node.id), {}
    try:
        return ast.literal_eval(node), {}
    except (ValueError, TypeError):
        return None, {}


def _metadata(node: ast.expr | None) -> dict:
    """What is written out in `{"help": "...", ...}`, whatever else is computed in there."""
    found = {}
    for key, value in zip(node.keys, node.values, strict=True) if isinstance(node, ast.Dict) else ():
        with suppress(ValueError):
            found[ast.literal_eval(key)] = ast.literal_eval(value)
    return found
