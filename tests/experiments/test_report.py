"""The report's numbers against numbers worked out by hand; what it says of runs that did not get there."""

import json
import math
from pathlib import Path

import pytest

from experiments import report
from experiments.cells import Cell, describe
from experiments.report import Labels, entry, number, table
from experiments.runs import Row, Run, group, interval, read_runs
from sections import ConfigError

# quantiles of Student's t at 0.975, from printed tables
T1, T2, T4 = 12.706, 4.303, 2.776


def rows_of(*values, name: str = "steps_to_grok") -> Row:
    runs = [Run("cell", f"seed={i}", {}, {name: value, "steps": 500}, Path()) for i, value in enumerate(values)]
    return Row({}, runs)


def test_intervals_are_students():
    assert interval([1, 3]) == (2, pytest.approx(T1, rel=1e-4))  # s = sqrt 2, n = 2
    assert interval([1, 2, 3]) == (2, pytest.approx(T2 / math.sqrt(3), rel=1e-4))  # s = 1
    assert interval([1, 2, 3, 4, 5]) == (3, pytest.approx(T4 * math.sqrt(2.5 / 5), rel=1e-3))  # s^2 = 2.5
    mean, half = interval([4.0])
    assert mean == 4
    assert math.isnan(half)


ENTRIES = [
    ((140, 150, 160), "mean", "150 ± 25"),  # 4.303 x 10 / sqrt 3 = 24.8
    ((1400, 1500, 1600), "mean", "1,500 ± 248"),
    ((1.0, 1.1, 1.2), "mean", "1.10 ± 0.25"),
    ((150, 150), "mean", "150"),
    ((0.25, 0.25), "mean", "0.25"),
    ((228.0, 228.0), "mean", "228"),
    ((150, None, 150), "mean", "2/3: 150"),
    ((150,), "mean", "150"),
    ((1.23456,), "mean", "1.235"),
    ((140, None, 160), "mean", "2/3: 150 ± 127"),  # 12.706 x 10
    ((140, None), "mean", "1/2: 140"),
    ((None, None, None), "mean", "0/3"),
    ((None,), "mean", "never"),
    ((160, 140, 155), "min", "140"),
    ((160, 140, 155), "max", "160"),
    ((160, 140, 155), "median", "155"),
    ((160, None, 155), "min", "2/3: 155"),
    ((160, None, 1550), "all", "160, never, 1,550"),
]


@pytest.mark.parametrize(("values", "how", "text"), ENTRIES)
def test_entries(values, how, text):
    assert entry(rows_of(*values), "steps_to_grok", how) == text


def test_accuracies_are_in_percent():
    row = rows_of(0.9996, 0.9998, name="test_accuracy")
    assert entry(row, "test_accuracy") == "99.97 ± 0.13"  # 12.706 x 0.01
    assert entry(row, "test_accuracy", "min") == "99.96"
    assert entry(rows_of(1.0, 1.0, name="test_accuracy"), "test_accuracy") == "100.00"
    assert entry(rows_of(0.5, name="worst_after"), "worst_after") == "50.00"
    assert Labels().of_metric("test_accuracy") == "test accuracy (%)"
    assert Labels().of_metric("steps_to_fit") == "steps to fit"


def test_losses_that_are_not_finite_are_shown():
    assert entry(rows_of(math.nan, 1.0), "steps_to_grok") == "nan ± nan"
    assert number(math.inf, None) == "inf"


def test_a_metric_or_a_summary_that_is_not_known():
    with pytest.raises(ConfigError, match="'steps_to_gork' is no metric of these runs; there are steps_to_grok, steps"):
        entry(rows_of(1), "steps_to_gork")
    with pytest.raises(ConfigError, match="steps_to_grok:mode is not known; after the colon write mean, min"):
        entry(rows_of(1), "steps_to_grok", "mode")


def test_runs_are_grouped_by_all_but_seeds():
    axes = [
        {"training.seed": s, "data.seed": d, "recipe": r} for r in ("ours", "paper") for s in (0, 1) for d in (3, 4)
    ]
    rows = group([Run("cell", "", values, {}, Path()) for values in axes])
    assert [(row.axes, len(row.runs)) for row in rows] == [({"recipe": "ours"}, 4), ({"recipe": "paper"}, 4)]


SWEEP = """
title: A title
script: train_algorithmic.py
config: configs/algorithmic/fast.yaml
grid:
  recipe: {ours: {}, paper: {}, other: {}}
report:
  columns: [steps_to_grok, "test_accuracy:min"]
  figure: {kind: gaps}
  figures: {shares: {kind: bars, y: test_accuracy, title: Another title}}
  labels: {ours: Muon, weight_decay: decay, 2.0: two}
"""


def write_run(folder: Path, grok: int | None):
    folder.mkdir(parents=True)
    numbers = {"steps_to_fit": 100, "steps_to_grok": grok, "test_accuracy": 0.995, "steps": 500}
    (folder / "metrics.json").write_text(json.dumps(numbers))
    (folder / "provenance.json").write_text(json.dumps({"command": f"python {folder.name}"}))


@pytest.fixture
def runs(tmp_path) -> Path:
    """Two finished cells, one of them of four replicas, and one that is not finished."""
    for seed, decay, grok in ((0, 0.0, None), (1, 0.0, 300), (0, 2.0, 140), (1, 2.0, 160)):
        write_run(tmp_path / "recipe=ours" / f"seed={seed},weight_decay={decay}", grok)
    names = [path.name for path in sorted((tmp_path / "recipe=ours").iterdir())]
    (tmp_path / "recipe=ours" / "metrics.json").write_text(json.dumps({"replicas": names}))
    (tmp_path / "recipe=ours" / "provenance.json").write_text(json.dumps({"command": "python ours"}))
    write_run(tmp_path / "recipe=paper", 400)
    (tmp_path / "recipe=other").mkdir()
    return tmp_path


def report_of(tmp_path, text: str = SWEEP) -> Path:
    path = tmp_path / "s.yaml"
    path.write_text(text)
    words = [str(path), "--runs", str(tmp_path), "--out", str(tmp_path / "out")]
    report.main(report.parse_arguments(words))
    return tmp_path / "out"


def test_a_report(runs):
    out = report_of(runs)
    lines = (out / "table.md").read_text().splitlines()
    assert lines[0] == "# A title"
    assert lines[2:7] == [
        "| recipe | decay | runs | steps to grok | test accuracy (%), min |",
        "|---|---|---|---|---|",
        "| Muon | 0.0 | 2 | 1/2: 300 | 99.50 |",
        "| Muon | two | 2 | 150 ± 127 | 99.50 |",
        "| paper |  | 1 | 400 | 99.50 |",
    ]
    assert "95 % t-interval over runs that differ in seeds only" in lines[8]
    assert lines[-1] == "1 of 3 cells are not finished and not shown: recipe=other."
    assert sorted(path.name for path in out.iterdir()) == [
        "cells.json", "figure.png", "provenance.json", "shares.png", "table.md"
    ]  # fmt: skip
    origins = json.loads((out / "provenance.json").read_text())
    assert {cell: origin["command"] for cell, origin in origins.items()} == {
        "recipe=ours": "python ours", "recipe=paper": "python recipe=paper"
    }  # fmt: skip
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in out.glob("*.png"))
    numbers = json.loads((out / "cells.json").read_text())
    assert len(numbers) == 5
    assert numbers[0] == {
        "cell": "recipe=ours",
        "replica": "seed=0,weight_decay=0.0",
        "axes": {"recipe": "ours", "seed": 0, "weight_decay": 0.0},
        "metrics": {
            "steps_to_fit": 100, "steps_to_grok": None, "test_accuracy": 0.995, "steps": 500, "wall_seconds": None
        },
    }  # fmt: skip


def test_cells_that_were_run_with_other_settings_are_named(runs):
    record = {"config": "configs/algorithmic/fast.yaml", "config_sha256": "", "overrides": {"training.max_steps": "5"}}
    (runs / "recipe=paper.json").write_text(json.dumps(record))
    lines = (report_of(runs) / "table.md").read_text().splitlines()
    assert "Run with other settings than the sweep file now has: recipe=paper." in lines


def test_what_others_found_stands_beside(runs):
    text = SWEEP + "  beside: {published (%): {recipe=paper: 97.9 to 99.96, recipe=other: 17}}\n"
    lines = (report_of(runs, text) / "table.md").read_text().splitlines()
    assert lines[2].endswith("| steps to grok | test accuracy (%), min | published (%) |")
    assert lines[4:7] == [
        "| Muon | 0.0 | 2 | 1/2: 300 | 99.50 |  |",
        "| Muon | two | 2 | 150 ± 127 | 99.50 |  |",
        "| paper |  | 1 | 400 | 99.50 | 97.9 to 99.96 |",
    ]


def test_wall_seconds_are_those_of_the_cell(runs):
    as_it_is = describe(Cell("recipe=ours", {}, "configs/algorithmic/fast.yaml", {}, runs / "recipe=ours"))
    (runs / "recipe=ours.json").write_text(json.dumps(as_it_is | {"exit_code": 0, "seconds": 228.4}))
    no_end = as_it_is | {"exit_code": None, "seconds": 3}  # no sweep saw it end
    (runs / "recipe=paper.json").write_text(json.dumps(no_end))
    lines = (report_of(runs, SWEEP.replace("columns: [", "columns: [wall_seconds, ")) / "table.md").read_text()
    assert "| Muon | 0.0 | 2 | 228.4 | 1/2: 300 |" in lines
    assert "| paper |  | 1 | never | 400 |" in lines
    assert "Wall seconds are a cell's, start and saving included" in lines
    assert "other settings" not in lines


MISTAKES = [
    ("kind: gaps", "kind: pie", "figure is of kind pie; choose one of lines, bars, gaps, curves"),
    ("{kind: bars, ", "{kind: bars, x: recipe, ", "shares sets x; a figure of kind bars has title, y, log"),
    ("y: test_accuracy, ", "", "shares does not set y; a figure of kind bars needs it"),
    ("y: test_accuracy", "y: accuracy", "shares: 'accuracy' is no metric of these runs; there are steps_to_fit"),
    ("{kind: gaps}", "gaps", "figure holds 'gaps'; write keys and values"),
    ("columns: [", "columns: [{steps: min}, ", "is no list of metrics; write [NAME, NAME:min, ...]"),
    ("  labels", "  label", "report.label is not known; there are columns, figure, figures, labels, beside"),
    (
        "  labels",
        "  beside: {theirs: {paper: 1}}\n  labels",
        "beside: theirs names paper, which is no cell;",
    ),
    ("  labels", "  beside: {theirs: 1}\n  labels", "theirs holds 1; write keys and values beneath it"),
    ("{shares:", "{a/b:", "the figure 'a/b' cannot be a file of that name; leave out slashes"),
    ("kind: gaps", "kind: [bars]", "figure is of kind ['bars']; choose one of lines, bars, gaps, curves"),
    ("kind: gaps", "kind: gaps, y: [a]", "figure sets y: ['a']; it takes a list of two metrics"),
    ("kind: gaps", "kind: gaps, y: [a, a]", "figure sets y: ['a', 'a']; it takes a list of two metrics"),
    ("kind: gaps", "kind: gaps, log: 3", "figure sets log: 3; it takes true or false"),
    ("kind: gaps", "kind: lines, x: recipe, y: [a]", "figure sets y: ['a']; it takes a metric"),
    ("kind: gaps", "kind: lines, x: [a], y: a", "figure sets x: ['a']; it takes an axis"),
    ("y: test_accuracy", "y: 5", "shares sets y: 5; it takes a metric, or a list of metrics"),
    ("y: test_accuracy", "y: []", "shares sets y: []; it takes a metric, or a list of metrics"),
    ("Another title", "[a]", "shares sets title: ['a']; it takes a text"),
    ("title: A title", "title: [a]", "title holds ['a']; write a text"),
]


@pytest.mark.parametrize(("old", "new", "complaint"), MISTAKES)
def test_mistakes_are_said_before_anything_is_written(runs, old, new, complaint):
    assert old in SWEEP
    with pytest.raises(ConfigError) as error:
        report_of(runs, SWEEP.replace(old, new, 1))
    assert complaint in str(error.value)
    assert not (runs / "out").exists()


DAMAGED = [
    ("recipe=paper/provenance.json", None, "cannot be read: No such file or directory; delete or rename its folder"),
    ("recipe=paper/metrics.json", "{", "is damaged: Expecting property name enclosed in double quotes"),
    ("recipe=paper/metrics.json", "[]", "is damaged: it holds no keys and values; delete or rename its folder, and"),
    ("recipe=ours/metrics.json", '{"replicas": ["seed=9"]}', "seed=9/metrics.json cannot be read: No such file"),
    ("recipe=paper.json", "{", "is damaged: Expecting property name"),
]


@pytest.mark.parametrize(("name", "text", "complaint"), DAMAGED)
def test_damage_is_said_before_anything_is_written(runs, name, text, complaint):
    (runs / name).unlink() if text is None else (runs / name).write_text(text)
    with pytest.raises(ConfigError) as error:
        report_of(runs)
    assert complaint in str(error.value)
    assert not (runs / "out").exists()


def test_a_place_that_cannot_be_written_to(runs):
    (runs / "out").touch()
    with pytest.raises(ConfigError, match=r"--out .*out cannot be written to: Not a directory; give another"):
        report_of(runs)


def test_no_cell_is_finished(tmp_path):
    with pytest.raises(ConfigError, match=r"no cell of .* is finished; start python -m experiments\.sweep"):
        report_of(tmp_path)


def test_the_table_of_a_report_without_columns(runs):
    out = report_of(runs, SWEEP.split("report:", 1)[0])
    assert "| ours | 2.0 | 2 |" in (out / "table.md").read_text()
    assert not list(out.glob("*.png"))


def test_single_runs_are_their_own_replica(runs):
    (run,) = read_runs(Cell("recipe=paper", {"recipe": "paper"}, "base.yaml", {}, runs / "recipe=paper"))
    assert (run.replica, run.axes, run.metrics["steps_to_grok"]) == ("", {"recipe": "paper"}, 400)
    assert table(group([run]), ["steps_to_fit"], Labels(), {})[-1] == "| paper | 1 | 100 |"
