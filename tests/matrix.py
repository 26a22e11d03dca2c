"""Runs the tests of the models under every minor release of transformers, and under the oldest and the newest torch.

    python tests/matrix.py                  # make matrix
    python tests/matrix.py --only newest    # what the scheduled job runs: the newest transformers with the newest torch

One virtual environment a row, below `.venv-matrix`. A row that was run on these sources is not run again, so an
interrupted matrix goes on where it was. The table goes to the terminal and to `experiments/results/matrix.md`; the exit
code is 1 if a row failed.
"""

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import time
import tomllib
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HOME = ROOT / ".venv-matrix"
TABLE = ROOT / "experiments" / "results" / "matrix.md"
ABOUT = """# Releases of transformers and torch

`make matrix`: how many tests passed, and how many failed where any did. Each row is an environment of its own, with
what pip installs for that transformers today and else with the pinned packages; the table `COLUMNS` of
`tests/matrix.py` has the tests of each column.
"""

COLUMNS = {
    "model contract": ["modeling/test_configuration.py", "modeling/test_modeling.py", "modeling/test_contract.py",
                       "modeling/test_layers.py", "modeling/test_parity.py", "modeling/test_releases.py"],
    "generation, every cache": ["modeling/test_generation.py", "modeling/test_decoding.py"],
    "saving and loading": ["modeling/test_loading.py", "modeling/test_hub.py"],
    "Trainer": ["training/test_trainer.py", "training/test_trainer_hooks.py", "training/grokking/test_replicas.py"],
    "native export": ["ecosystem/test_export.py"],
}  # fmt: skip
"""What a row tests, and by which files."""
TOOLS = ("pytest", "pytest-xdist", "hypothesis")


@dataclass(frozen=True)
class Row:
    """One environment: a release of transformers with a release of torch."""

    transformers: str
    torch: str

    @property
    def folder(self) -> Path:
        return HOME / f"transformers-{self.transformers}-torch-{self.torch}"

    @property
    def python(self) -> str:
        return str(self.folder / "bin" / "python")


def minor(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")[:2]))


def released(package: str) -> list[str]:
    """Its releases on the index, newest first, without pre-releases and builds."""
    command = [sys.executable, "-m", "pip", "index", "versions", package, "--disable-pip-version-check"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return re.findall(r"(?<![\w.+])\d+\.\d+\.\d+(?![\w.+])", printed.partition("Available versions:")[2])


def floor(package: str) -> str:
    """The oldest release that pyproject.toml allows."""
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    return next(text.partition(">=")[2] for text in dependencies if re.match(rf"{package}\b", text))


def pinned(package: str) -> str:
    return re.search(rf"^{package}==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]


def rows() -> list[Row]:
    """The newest transformers with the newest torch first, then every minor release, then the oldest torch."""
    newest = {}
    for version in released("transformers"):
        if minor(version) >= minor(floor("transformers")):
            newest.setdefault(minor(version), version)
    latest, *older = newest.values()
    oldest_torch = next(one for one in released("torch") if minor(one) == minor(floor("torch")))
    extremes = [Row(latest, released("torch")[0]), Row(latest, oldest_torch)]
    return [extremes[0], *(Row(version, pinned("torch")) for version in (latest, *older)), extremes[1]]


def make(row: Row):
    """The row's environment; torch and all but transformers lie in one that rows with the same torch share."""
    shared = HOME / f"torch-{row.torch}"
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    others = [text for text in dependencies if not re.match(r"(torch|transformers)\b", text)]
    HOME.mkdir(exist_ok=True)
    pins = (ROOT / "constraints.txt").read_text()
    (HOME / "pins.txt").write_text(re.sub(r"^torch==.*\n", "", pins, flags=re.MULTILINE))
    _environment(shared, [f"torch=={row.torch}"], [*others, *TOOLS, "--constraint", str(HOME / "pins.txt")])
    _environment(row.folder, [], [f"transformers=={row.transformers}"], sees=shared)


def _environment(folder: Path, first: list[str], then: list[str], sees: Path | None = None):
    """A virtual environment, which may see another's packages; `first` comes from TORCH_INDEX if that is set."""
    ready, wanted = folder / "ready.txt", "\n".join([*first, *then])
    if ready.is_file() and ready.read_text() == wanted:
        return
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    if sees is not None:
        (packages,) = sees.glob("lib/python*/site-packages")
        (own,) = folder.glob("lib/python*/site-packages")
        (own / "shared.pth").write_text(f"{packages}\n")
    pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    index = ["--index-url", os.environ["TORCH_INDEX"]] if os.environ.get("TORCH_INDEX") else []
    if first:
        subprocess.run([*pip, *index, *first], check=True)
    subprocess.run([*pip, *then], check=True)
    ready.write_text(wanted)


def sources() -> str:
    """A hash of all that a row's outcome depends on, but its packages."""
    rooms = ("modeling", "training", "data_prep", "publishing", "settings", "storage")
    paths = [*ROOT.glob("*.py"), *(path for room in rooms for path in (ROOT / room).rglob("*.py"))]
    paths += (ROOT / "tests").rglob("conftest.py")
    paths += [ROOT / "tests" / name for names in COLUMNS.values() for name in names]
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def test(row: Row) -> dict[str, list[int]]:
    """How many tests of each column passed and failed in the row's environment."""
    kept, state, report = row.folder / "outcome.json", sources(), row.folder / "report.xml"
    if kept.is_file() and (outcome := json.loads(kept.read_text()))["sources"] == state:
        return outcome["columns"]
    report.unlink(missing_ok=True)
    files = [f"tests/{name}" for names in COLUMNS.values() for name in names]
    subprocess.run([row.python, "-m", "pytest", "-q", f"--junitxml={report}", "--no-header", *files], cwd=ROOT)
    columns = {column: _count(report, names) for column, names in COLUMNS.items()}
    kept.write_text(json.dumps({"sources": state, "columns": columns}))
    return columns


def _count(report: Path, names: list[str]) -> list[int]:
    """Tests in files that passed and that failed; where none was run, because a process ended, one has failed."""
    modules = {f"tests.{name.removesuffix('.py').replace('/', '.')}" for name in names}
    cases = ElementTree.parse(report).iter("testcase") if report.is_file() else ()
    of_files = [case for case in cases if case.get("classname") in modules]
    failed = sum(case.find("failure") is not None or case.find("error") is not None for case in of_files)
    skipped = sum(case.find("skipped") is not None for case in of_files)
    passed = len(of_files) - failed - skipped
    return [passed, failed or int(passed == 0)]


def table(outcomes: dict[Row, dict[str, list[int]]]) -> str:
    """A Markdown table of the rows that are there, by release."""
    lines = [f"| transformers | torch | {' | '.join(COLUMNS)} |", "|---|---|" + "---|" * len(COLUMNS)]
    for row in sorted(outcomes, key=lambda one: (minor(one.transformers), minor(one.torch)), reverse=True):
        cells = (
            f"{passed} passed" + f", **{failed} failed**" * (failed > 0) for passed, failed in outcomes[row].values()
        )
        lines.append(f"| {row.transformers} | {row.torch} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["newest"], help="one row: the newest transformers with the newest torch")
    arguments = parser.parse_args()
    wanted = rows()[:1] if arguments.only else rows()
    outcomes, began = {}, time.monotonic()
    for i, row in enumerate(wanted, 1):
        print(f"transformers {row.transformers}, torch {row.torch} ({i} of {len(wanted)}, "
              f"{(time.monotonic() - began) / 60:.0f} min so far)", flush=True)  # fmt: skip
        make(row)
        outcomes[row] = test(row)
    print(table(outcomes))
    if not arguments.only:
        TABLE.write_text(f"{ABOUT}\n{table(outcomes)}\n", encoding="utf-8")
    sys.exit(any(failed for columns in outcomes.values() for _, failed in columns.values()))


if __name__ == "__main__":
    main()
