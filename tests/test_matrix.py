"""The matrix of releases: which rows there are, what is run again, and what its table in the repository says."""

import json

import pytest

from modeling.releases import NEWEST
from tests import matrix

INDEX = {
    "transformers": ["6.1.0", "6.0.2", "6.0.1", "5.14.0", "5.13.2", "5.13.0", "5.12.9", "4.57.0"],
    "torch": ["2.20.0", "2.13.0", "2.10.1", "2.10.0", "2.9.0"],
}
CASES = {"": 2, "<failure/>": 1, "<error/>": 1, "<skipped/>": 1}


@pytest.fixture
def index(monkeypatch):
    """Another index and another floor."""
    floors = {"transformers": "5.13", "torch": "2.10"}
    monkeypatch.setattr(matrix, "released", INDEX.__getitem__)
    monkeypatch.setattr(matrix, "floor", floors.__getitem__)
    monkeypatch.setattr(matrix, "pinned", {"torch": "2.13.0"}.__getitem__)


@pytest.mark.usefixtures("index")
def test_rows_are_the_latest_patch_of_each_minor_release_and_the_extremes_of_torch():
    rows = [(row.transformers, row.torch) for row in matrix.rows()]
    assert rows == [
        ("6.1.0", "2.20.0"), ("6.1.0", "2.13.0"), ("6.0.2", "2.13.0"), ("5.14.0", "2.13.0"), ("5.13.2", "2.13.0"),
        ("6.1.0", "2.10.1"),
    ]  # fmt: skip


def test_the_index_is_read_without_pre_releases_and_builds(monkeypatch):
    versions = "2.15.0, 2.14.0rc1, 2.13.0+cpu, 2.13.0, 2.9.1.post2, 0.1"
    printed = f"torch (2.15.0)\nAvailable versions: {versions}\n  INSTALLED: 2.1\n"
    monkeypatch.setattr(matrix.subprocess, "run", lambda *_, **__: type("Done", (), {"stdout": printed}))
    assert matrix.released("torch") == ["2.15.0", "2.13.0"]


def test_floors_and_pins_are_the_projects():
    assert matrix.minor(matrix.floor("transformers")) == (5, 13)
    assert matrix.minor(matrix.floor("torch")) <= matrix.minor(matrix.pinned("torch"))


def write_report(path, files):
    """As pytest does: of each file two tests that pass, and one each that fails, breaks and is skipped."""
    modules = [f"tests.{name.removesuffix('.py').replace('/', '.')}" for name in files]
    cases = [f'<testcase classname="{one}">{end}</testcase>' * n for one in modules for end, n in CASES.items()]
    path.write_text(f"<testsuites><testsuite>{''.join(cases)}</testsuite></testsuites>")


def test_a_row_is_tested_once_for_the_same_sources(monkeypatch, tmp_path):
    """And again once they have changed; a column of which nothing was run, because the process died, has failed."""
    row, calls = matrix.Row("6.1.0", "2.20.0"), []
    monkeypatch.setattr(matrix, "HOME", tmp_path)
    row.folder.mkdir()
    *run_ones, never_run = matrix.COLUMNS

    def run(command, **_):
        calls.append(command)
        write_report(row.folder / "report.xml", [name for column in run_ones for name in matrix.COLUMNS[column]])

    monkeypatch.setattr(matrix.subprocess, "run", run)
    for state, runs in (("a", 1), ("a", 1), ("b", 2)):
        monkeypatch.setattr(matrix, "sources", lambda state=state: state)
        outcome = matrix.test(row)
        expected = {column: [2 * len(matrix.COLUMNS[column])] * 2 for column in run_ones}
        assert outcome == expected | {never_run: [0, 1]}
        assert len(calls) == runs
    assert json.loads((row.folder / "outcome.json").read_text())["sources"] == "b"
    assert "| 6.1.0 | 2.20.0 | 12 passed, **12 failed** |" in matrix.table({row: outcome})


def test_every_file_of_the_matrix_is_there():
    for names in matrix.COLUMNS.values():
        assert all((matrix.ROOT / "tests" / name).is_file() for name in names)


def test_the_table_in_the_repository_is_green_up_to_the_release_that_the_code_names():
    text = matrix.TABLE.read_text()
    assert "failed**" not in text
    minors = {matrix.minor(line.split()[1]) for line in text.splitlines() if line.startswith("| 5")}
    oldest, newest = matrix.minor(matrix.floor("transformers")), matrix.minor(NEWEST)
    assert minors == {(5, number) for number in range(oldest[1], newest[1] + 1)}
