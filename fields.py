"""What a class's fields accept, read from its source: annotation, default, and the sentence beneath each.

Importing the class would be simpler, and would cost seconds where it lives in a package that imports torch.
"""

import ast
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Field:
    """One setting: what it accepts, its default as a user would write it, its meaning in a sentence."""

    accepts: list
    """Type names, and tuples of the values that a Literal allows."""
    default: Any
    meaning: str

    def check(self, value: Any) -> Any:
        """Return the value as the annotation wants it (`1e3` as an int, `1` as a float), or raise `ValueError`."""
        if value is False and any(kind.endswith("Strategy") for kind in self.accepts if isinstance(kind, str)):
            value = "no"  # YAML reads an unquoted `no` as false
        for kind in self.accepts:
            if isinstance(kind, tuple):
                if value in kind:
                    return value
            elif kind == "None":
                if value is None:
                    return None
            elif (cast := CASTS.get(kind, _leave)(value)) is not None:
                return cast
        raise ValueError(f"it takes {self.type_name}")

    @property
    def type_name(self) -> str:
        """The accepted types as a reader of YAML would write them."""
        names = ["|".join(map(str, kind)) if isinstance(kind, tuple) else kind for kind in self.accepts]
        return " or ".join("null" if name == "None" else name for name in names)


def _cast_int(value):
    integral = isinstance(value, int | float) and not isinstance(value, bool) and float(value).is_integer()
    return int(value) if integral else None


def _cast_float(value):
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _instance_of(kind) -> Callable:
    return lambda value: value if isinstance(value, kind) else None


def _leave(value):
    return value


# A type that is not here (an enumeration of transformers, say) is left to its own constructor.
CASTS = {
    "int": _cast_int,
    "float": _cast_float,
    "bool": _instance_of(bool),
    "str": _instance_of(str),
    "list": _instance_of(list),
    "dict": _instance_of(dict),
}


def _union_members(node: ast.expr, aliases: dict[str, str]) -> list:
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
def read_fields(path: Path, class_name: str) -> dict[str, Field]:
    """The annotated fields of a class, read from its source without importing it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    aliases = {
        ast.unparse(node.targets[0]): ast.unparse(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.value).startswith("Literal[")
    }
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == class_name)
    fields = {}
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign):
            default, meaning = _default_and_help(node.value)
            if isinstance(after, ast.Expr):
                meaning = " ".join(ast.literal_eval(after.value).split())
            fields[node.target.id] = Field(_union_members(node.annotation, aliases), default, meaning)
    return fields


def _default_and_help(node: ast.expr | None) -> tuple[Any, str]:
    """Default and help of `x: T = 1` or of `x: T = field(default=1, metadata={"help": "..."})`."""
    if isinstance(node, ast.Call):
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        return _default_and_help(given.get("default"))[0], _help(given.get("metadata"))
    try:
        return ast.literal_eval(node), ""
    except (ValueError, TypeError):
        return None, ""


def _help(metadata: ast.expr | None) -> str:
    """The text of `{"help": "...", ...}`, whatever else is computed in there."""
    for key, value in zip(metadata.keys, metadata.values, strict=True) if isinstance(metadata, ast.Dict) else ():
        if ast.literal_eval(key) == "help" and isinstance(value, ast.Constant):
            return " ".join(value.value.split())
    return ""
