"""Save and read the results of a report (final metrics, evaluations, provenance), to rebuild it without the runs.

`cells.json` has each run's axes and metrics, `evaluations.jsonl.gz` every evaluation to six digits, `provenance.json`
each cell's command, commit, versions and hardware.
"""

import gzip
import json
import math
import shlex
from pathlib import Path

from storage.files import read_mapping, report_file_errors, write_atomically

from .cells import SET_BY_THE_SWEEP, Cell, resolve_paths
from .runs import BOOKKEEPING_KEYS, Run

CELLS, EVALUATIONS, PROVENANCE = "cells.json", "evaluations.jsonl.gz", "provenance.json"
REMEDY = "delete it, and make the report again from the runs"


def save_results(out: Path, runs: list[Run], origins: dict[str, dict]):
    """Write the three files, each atomically: the old ones may be all that is left of the runs."""
    numbers = [{"cell": r.cell, "replica": r.replica, "axes": r.axes, "metrics": r.metrics} for r in runs]
    rows = [{"cell": r.cell, "replica": r.replica, **_thin(row)} for r in runs for row in r.evaluations]
    if rows:
        text = "".join(json.dumps(row) + "\n" for row in rows)
        write_atomically(out / EVALUATIONS, gzip.compress(text.encode(), 9, mtime=0))
    else:
        (out / EVALUATIONS).unlink(missing_ok=True)
    if origins:
        write_atomically(out / PROVENANCE, json.dumps(origins, indent=1) + "\n")
    write_atomically(out / CELLS, json.dumps(numbers, indent=1) + "\n")


def _thin(row: dict) -> dict:
    return {key: _rounded(value) for key, value in row.items() if key not in BOOKKEEPING_KEYS}


def _rounded(value):
    return float(f"{value:.6g}") if isinstance(value, float) and math.isfinite(value) else value


def read_saved_results(out: Path) -> tuple[dict[str, list[Run]], dict[str, dict]]:
    """The runs that an earlier report saved in `out`, by cell, and the provenance of the cells; empty without one."""
    if not (out / CELLS).exists():
        return {}, {}
    evaluations, runs = _read_evaluations(out / EVALUATIONS), {}
    with report_file_errors(out / CELLS, REMEDY):
        for one in json.loads((out / CELLS).read_text(encoding="utf-8")):
            rows = evaluations.get((one["cell"], one["replica"]), [])
            runs.setdefault(one["cell"], []).append(Run(one["cell"], one["replica"], one["axes"], one["metrics"], rows))
    origins = read_mapping(out / PROVENANCE, REMEDY) if (out / PROVENANCE).exists() else {}
    return runs, origins


def _read_evaluations(path: Path) -> dict[tuple[str, str], list[dict]]:
    if not path.exists():
        return {}
    found = {}
    with report_file_errors(path, REMEDY):
        for line in gzip.decompress(path.read_bytes()).decode().splitlines():
            row = json.loads(line)
            found.setdefault((row.pop("cell"), row.pop("replica")), []).append(row)
    return found


def has_other_settings(cell: Cell, origin: dict) -> bool:
    """Whether the command of a saved cell has another configuration or other settings than the sweep has now."""
    if not origin:
        return False
    words = shlex.split(origin["command"])
    config, given = words[2:3], [word for word in words[3:] if not word.startswith(SET_BY_THE_SWEEP)]
    pairs = ([word.partition("=") for word in words] for words in (given, cell.overrides))
    was, now = ({key: resolve_paths(value) for key, _, value in pair} for pair in pairs)
    return [*map(resolve_paths, config)] != [resolve_paths(cell.config)] or was != now
