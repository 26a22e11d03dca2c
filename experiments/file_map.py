"""The map of the source in docs/architecture.md: each room with its purpose, each file with its first line."""

import ast
from pathlib import Path

from settings.paths import ROOT

ROOMS = (
    "settings", "storage", "command_line", "data_prep", "modeling", "training", "publishing", "experiments",
    "benchmarks",
)  # fmt: skip
"""In the order in which a reader meets them."""
UNTITLED = {"benchmarks": "Side-by-side measurements; each file is a command, `python -m benchmarks.NAME`."}
"""Rooms that are no packages, so that no `__init__.py` says what they are."""


def file_map() -> str:
    """A table per folder: the scripts of the root first, then every room with the rooms inside it."""
    folders = [folder for room in ROOMS for folder in _with_subfolders(ROOT / room)]
    return "\n\n".join(["\n".join(_table(ROOT)), *("\n".join([_heading(one), "", *_table(one)]) for one in folders)])


def _with_subfolders(room: Path) -> list[Path]:
    """A top-level folder, and the folders with Python files inside it."""
    inside = sorted({path.parent for path in room.rglob("*.py")} - {room})
    return [room, *inside]


def _heading(folder: Path) -> str:
    init, name = folder / "__init__.py", folder.relative_to(ROOT).as_posix()
    return f"**`{name}/`** {_first_line(init) if init.exists() else UNTITLED[name]}"


def _table(folder: Path) -> list[str]:
    files = sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")
    rows = [f"| `{path.relative_to(ROOT).as_posix()}` | {_first_line(path)} |" for path in files]
    return ["| file | what is in it |", "|---|---|", *rows]


def _first_line(path: Path) -> str:
    """The first paragraph of a module's docstring in one line, as a cell of a table."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(docstring.partition("\n\n")[0].split()).replace("|", "\\|")
