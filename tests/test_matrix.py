"""The matrix of releases: which rows there are, what is run again, and what its table in the repository says."""

import json

import pytest

from tests import matrix

INDEX = {
    "transformers": ["6.1.0", "6.0.2", "6.0.1", "5.14.0", "5.13.2", "5.13.0", "5.12.9", "4.57.0"],
    "torch": ["2.20.0", "2.13.0", "2.10.1", "2.10.0", "2.9.0"],
}
REPORT = '<testsuites><testsuite tests="5" failures="1" errors="1" skipped="1"/></testsuites>'


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


def test_a_row_is_tested_once_for_the_same_sources(monkeypatch, tmp_path):
    """And again once they have changed; a column that crashed counts as failed."""
    row, calls = matrix.Row("6.1.0", "2.20.0"), []
    monkeypatch.setattr(matrix, "HOME", tmp_path)
    row.folder.mkdir()

    def run(command, **_):
        calls.append(command)
        if len(calls) % len(matrix.COLUMNS) != 0:  # the last column's process dies
            (row.folder / "report.xml").write_text(REPORT)

    monkeypatch.setattr(matrix.subprocess, "run", run)
    for state, runs in (("a", 1), ("a", 1), ("b", 2)):
        monkeypatch.setattr(matrix, "sources", lambda state=state: state)
        outcome = matrix.test(row)
        assert list(outcome.values()) == [[2, 2]] * (len(matrix.COLUMNS) - 1) + [[0, 1]]
        assert len(calls) == runs * len(matrix.COLUMNS)
    assert json.loads((row.folder / "outcome.json").read_text())["sources"] == "b"
    assert "| 6.1.0 | 2.20.0 | 2 passed, **2 failed** |" in matrix.table({row: outcome})


@pytest.mark.parametrize(("counts", "found"), [((5, 1, 1, 1), [2, 2]), ((3, 0, 0, 3), [0, 1]), ((3, 0, 0, 1), [2, 0])])
def test_a_column_in_which_nothing_passed_has_failed(tmp_path, counts, found):
    words = " ".join(
        f'{name}="{n}"' for name, n in zip(("tests", "failures", "errors", "skipped"), counts, strict=True)
    )
    (tmp_path / "report.xml").write_text(f"<testsuites><testsuite {words}/></testsuites>")
    assert matrix._count(tmp_path / "report.xml") == found


def test_every_file_of_the_matrix_is_there():
    for names in matrix.COLUMNS.values():
        assert all((matrix.ROOT / "tests" / name).is_file() for name in names)
