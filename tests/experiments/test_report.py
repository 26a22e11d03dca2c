"""The report's numbers against numbers worked out by hand; what it says of runs that did not get there."""

import gzip
import json
import math
import shutil
import statistics
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments import report
from experiments.cells import Cell, describe
from experiments.footnotes import describe_seeds, measured_spacing
from experiments.report import Labels, default_columns, table
from experiments.runs import Row, Run, group, read_runs
from experiments.statistics import format_number, interval
from settings.checks import ConfigError

# quantiles of Student's t at 0.975, from printed tables
T1, T2, T4 = 12.706, 4.303, 2.776


def rows_of(*values, name: str = "steps_to_grok") -> Row:
    runs = [Run("cell", f"seed={i}", {}, {name: value, "steps": 600}) for i, value in enumerate(values)]
    return Row({}, runs)


def test_intervals_are_students():
    assert interval([1, 3]) == (2, pytest.approx(T1, rel=1e-4))  # s = sqrt 2, n = 2
    assert interval([1, 2, 3]) == (2, pytest.approx(T2 / math.sqrt(3), rel=1e-4))  # s = 1
    assert interval([1, 2, 3, 4, 5]) == (3, pytest.approx(T4 * math.sqrt(2.5 / 5), rel=1e-3))  # s^2 = 2.5
    mean, half = interval([4.0])
    assert mean == 4
    assert math.isnan(half)


ENTRIES = [
    ((140, 150, 190), "", "150 (140 to 190)"),  # of steps the median, and all of them
    ((1400, 1500, 1600), "", "1,500 (1,400 to 1,600)"),
    ((140, 151), "", "145.5 (140 to 151)"),
    ((150, 150), "", "150"),
    ((150,), "", "150"),
    ((150, None, 150), "", "150 (150 to > 600; 2 of 3)"),  # who did not get there would have been later than all others
    ((140, None, None), "", "> 600 (140 to > 600; 1 of 3)"),
    ((140, 150, None, None), "", "> 600 (140 to > 600; 2 of 4)"),
    ((None, None, None), "", "> 600 (0 of 3)"),
    ((None,), "", "> 600"),
    ((160, 140, 155), "min", "140"),
    ((160, 140, 155), "max", "160"),
    ((160, 140, 155), "median", "155"),
    ((160, None, None), "median", "> 600 (1 of 3)"),
    ((160, None, 155), "min", "155 (2 of 3)"),
    ((160, None, 155), "max", "> 600 (2 of 3)"),
    ((160, None, 1550), "all", "160, > 600, 1,550"),
]


@pytest.mark.parametrize(("values", "how", "text"), ENTRIES)
def test_entries(values, how, text):
    assert rows_of(*values).entry("steps_to_grok", how) == text


OTHERS = [
    ((1400.0, 1500.0, 1600.0), "1,500 ± 248"),  # 4.303 x 100 / sqrt 3 = 248.4
    ((1.0, 1.1, 1.2), "1.10 ± 0.25"),
    ((0.25, 0.25), "0.25"),
    ((1.23456,), "1.235"),
    ((228.0, 228.0), "228"),
    ((1.0, 9.0), "5 (1 to 9)"),  # 5 ± 51 would go below zero
    ((140.0, None, 141.0), "140.5 ± 6.4 (2 of 3)"),  # 12.706 x 0.5
    ((None, None), "never (0 of 2)"),
]


@pytest.mark.parametrize(("values", "text"), OTHERS)
def test_entries_of_what_is_no_step(values, text):
    assert rows_of(*values, name="wall_seconds").entry("wall_seconds") == text


@given(st.lists(st.none() | st.integers(1, 600), min_size=1, max_size=7))
def test_a_median_with_runs_that_did_not_get_there(values):
    """It is known if it is the same whenever they would have got there."""
    summary = rows_of(*values).summary("steps_to_grok")
    sooner, later = (statistics.median([late if one is None else one for one in values]) for late in (10**4, 10**6))
    assert summary.middle == (sooner if sooner == later else math.inf)
    assert (summary.high == math.inf) == (None in values)


def test_accuracies_are_in_percent():
    row = rows_of(0.9996, 0.9998, name="test_accuracy")
    assert row.entry("test_accuracy") == "99.97 (99.96 to 99.98)"  # 12.706 x 0.01: the interval would pass 100 %
    assert rows_of(0.5, 0.502, name="test_accuracy").entry("test_accuracy") == "50.10 ± 1.27"
    assert row.entry("test_accuracy", "min") == "99.96"
    assert rows_of(1.0, 1.0, name="test_accuracy").entry("test_accuracy") == "100.00"
    assert rows_of(0.5, name="worst_after").entry("worst_after") == "50.00"
    assert Labels().of_metric("test_accuracy") == "test accuracy (%)"
    assert Labels().of_metric("steps_to_fit") == "steps to fit"


def test_losses_that_are_not_finite_are_shown():
    assert rows_of(math.nan, 1.0, name="test_loss").entry("test_loss") == "nan"
    assert format_number(math.inf, None) == "inf"


def test_a_metric_or_a_summary_that_is_not_known():
    with pytest.raises(
        ConfigError, match="'steps_to_gork' is not a metric of these runs; the metrics are steps_to_grok, steps"
    ):
        rows_of(1).entry("steps_to_gork")
    with pytest.raises(ConfigError, match="steps_to_grok:mean is not known; after the colon write min, max, median"):
        table([rows_of(1)], ["steps_to_grok:mean"], Labels(), {})


def test_runs_are_grouped_by_all_but_seeds():
    axes = [
        {"training.seed": s, "data.seed": d, "recipe": r} for r in ("ours", "paper") for s in (0, 1) for d in (3, 4)
    ]
    rows = group([Run("cell", "", values, {}) for values in axes])
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


COMMAND = "python train_algorithmic.py configs/algorithmic/fast.yaml training.output_dir="


def write_run(folder: Path, grok: int | None):
    folder.mkdir(parents=True)
    numbers = {"steps_to_fit": 100, "steps_to_grok": grok, "test_accuracy": 0.995, "steps": 500}
    (folder / "metrics.json").write_text(json.dumps(numbers))
    (folder / "provenance.json").write_text(json.dumps({"command": COMMAND + folder.name}))


@pytest.fixture
def runs(tmp_path) -> Path:
    """Two finished cells, one of them of four replicas, and one that is not finished."""
    for seed, decay, grok in ((0, 0.0, None), (1, 0.0, 300), (0, 2.0, 140), (1, 2.0, 160)):
        write_run(tmp_path / "recipe=ours" / f"seed={seed},weight_decay={decay}", grok)
    names = [path.name for path in sorted((tmp_path / "recipe=ours").iterdir())]
    (tmp_path / "recipe=ours" / "metrics.json").write_text(json.dumps({"replicas": names}))
    (tmp_path / "recipe=ours" / "provenance.json").write_text(json.dumps({"command": COMMAND + "ours"}))
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
        "| Muon | 0.0 | 2 | > 500 (300 to > 500; 1 of 2) | 99.50 |",
        "| Muon | two | 2 | 150 (140 to 160) | 99.50 |",
        "| paper |  | 1 | 400 | 99.50 |",
    ]
    assert lines[8].startswith("Steps: median over runs (earliest to latest);")
    assert "`2 of 3`: 2 of 3 runs have a value." in lines[8]
    assert "draw initial weights, order and split" in lines[9]
    assert lines[-1] == "1 of 3 cells are not finished and not shown: recipe=other."
    assert sorted(path.name for path in out.iterdir()) == [
        "cells.json", "figure.png", "provenance.json", "shares.png", "table.md"
    ]  # fmt: skip
    origins = json.loads((out / "provenance.json").read_text())
    assert {cell: origin["command"] for cell, origin in origins.items()} == {
        "recipe=ours": COMMAND + "ours", "recipe=paper": COMMAND + "recipe=paper"
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
    assert "Run with other settings or another configuration than the sweep now has: recipe=paper." in lines


def write_evaluations(folder: Path, steps, **more):
    rows = [{"loss": 3.0, "step": 5, "learning_rate": 1e-3}]
    rows += [more | {"step": s, "epoch": s / 10, "train_accuracy": 1 / 3, "test_accuracy": s / 1000} for s in steps]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def diverge(runs: Path, name: str, step: int, replicas: tuple = ()):
    """A cell as the guard leaves it."""
    folder = runs / name
    folder.mkdir(exist_ok=True)
    (folder / "provenance.json").write_text(json.dumps({"command": f"python {name}"}))
    (folder / "diverged.json").write_text(json.dumps({"step": step, "why": "its loss is nan"}))
    held = f"replicas: {{training: {{seed: {json.dumps(replicas)}}}}}" if replicas else "training: {seed: 1}"
    (folder / "experiment.yaml").write_text(held)


def test_a_cell_that_diverged_is_shown_with_the_step(runs):
    diverge(runs, "recipe=other", 31, replicas=(4, 7))
    text = SWEEP.replace("columns: [", "columns: ['steps_to_fit:all', 'test_accuracy:all', ")
    out = report_of(runs, text)
    lines = (out / "table.md").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("| other"))
    assert line == "| other |  | 2, 2 diverged at step 31 | diverged, diverged | diverged, diverged | " + (
        "diverged (0 of 2) | diverged (0 of 2) |"
    )
    assert not any("not finished" in line for line in lines)
    kept = [one for one in json.loads((out / "cells.json").read_text()) if one["cell"] == "recipe=other"]
    assert [(one["replica"], one["metrics"]) for one in kept] == [
        ("seed=4", {"diverged": 31, "steps": 31}), ("seed=7", {"diverged": 31, "steps": 31})
    ]  # fmt: skip


def test_a_run_of_the_other_script_that_diverged_is_shown(runs):
    diverge(runs, "recipe=other", 3)
    assert "| other |  | 1, 1 diverged at step 3 | diverged |" in (report_of(runs) / "table.md").read_text()


def test_a_replica_that_diverged_beside_others_is_shown(runs):
    path = runs / "recipe=ours" / "seed=1,weight_decay=2.0" / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"steps_to_grok": None, "diverged": 120}))
    lines = (report_of(runs) / "table.md").read_text().splitlines()
    assert "| Muon | two | 2, 1 diverged at step 120 | diverged (140 to diverged; 1 of 2) | 99.50 |" in lines


def test_what_a_report_has_kept_is_as_good_as_the_runs(runs, capsys):
    """Without the runs the same table comes of it; a cell that is run anew takes the place of what was kept."""
    write_evaluations(runs / "recipe=ours" / "seed=0,weight_decay=2.0", (10, 20, 30, 40))
    out = report_of(runs)
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.suffix != ".png"}
    rows = [json.loads(line) for line in gzip.decompress(before["evaluations.jsonl.gz"]).splitlines()]
    assert rows[0] == {
        "cell": "recipe=ours", "replica": "seed=0,weight_decay=2.0", "step": 10, "train_accuracy": 0.333333,
        "test_accuracy": 0.01,
    }  # fmt: skip
    assert len(rows) == 4
    shutil.rmtree(runs / "recipe=ours")
    assert {path.name: path.read_bytes() for path in report_of(runs).iterdir() if path.suffix != ".png"} == before
    assert "kept     recipe=ours: no run folder" in capsys.readouterr().out
    write_run(runs / "recipe=ours", 77)
    assert "| Muon | 1 | 77 | 99.50 |" in (report_of(runs) / "table.md").read_text()


def test_a_kept_cell_of_another_command_is_named(runs):
    out = report_of(runs)
    shutil.rmtree(runs / "recipe=ours")
    shutil.rmtree(runs / "recipe=paper")
    origins = {
        "recipe=ours": {"command": "python train_algorithmic.py configs/algorithmic/fast.yaml training.output_dir=a"},
        "recipe=paper": {"command": "python train_algorithmic.py configs/algorithmic/fast.yaml training.seed=3"},
    }
    (out / "provenance.json").write_text(json.dumps(origins))
    text = (report_of(runs) / "table.md").read_text()
    assert "Run with other settings or another configuration than the sweep now has: recipe=paper.\n" in text


def test_curves_whose_evaluations_were_not_kept_are_left_as_they_are(runs, capsys):
    text = SWEEP.replace("kind: gaps", "kind: curves, panels: recipe, hue: weight_decay")
    for folder in (*(runs / "recipe=ours").glob("seed=*"), runs / "recipe=paper"):
        write_evaluations(folder, (10, 20))
    out = report_of(
        runs, text.replace("grid:\n  recipe: {ours: {}, paper: {}, other: {}}", "grid:\n  recipe: {ours: {}}")
    )
    picture = (out / "figure.png").read_bytes()
    shutil.rmtree(runs / "recipe=ours")
    (out / "evaluations.jsonl.gz").unlink()
    report_of(runs, text.replace("grid:\n  recipe: {ours: {}, paper: {}, other: {}}", "grid:\n  recipe: {ours: {}}"))
    assert (out / "figure.png").read_bytes() == picture
    assert "not redrawn" in capsys.readouterr().out


def test_a_report_is_written_beside_its_runs_and_not_over_results(runs, tmp_path, monkeypatch):
    (tmp_path / "s.yaml").write_text(SWEEP)
    monkeypatch.setattr(report, "work_folder", lambda: tmp_path)
    report.main(report.parse_arguments([str(tmp_path / "s.yaml"), "--runs", str(runs)]))
    assert (tmp_path / "runs" / "sweeps" / "s" / "report" / "table.md").exists()


def test_a_report_is_not_written_into_a_cell(runs, tmp_path):
    (tmp_path / "s.yaml").write_text(SWEEP)
    words = [str(tmp_path / "s.yaml"), "--runs", str(runs), "--out", str(runs / "recipe=paper" / "report")]
    with pytest.raises(ConfigError, match="is the folder of the cell recipe=paper; give another"):
        report.main(report.parse_arguments(words))


SPACINGS = [
    (range(10, 400, 10), "at most 10 steps apart"),
    (sorted({round(10 ** (i / 10)) for i in range(27)} | {*range(10, 510, 10)}), "at most 10 steps apart"),
    ([round(10 ** (i / 20)) for i in range(67)], "up to 12 % apart, 217 steps at the most"),  # 10^(1/20) = 1.122
    ([1, 2, 4], ""),
]


@pytest.mark.parametrize(("steps", "text"), SPACINGS)
def test_how_far_apart_evaluations_are(steps, text):
    assert measured_spacing(Run("cell", "", {}, {}, [{"step": step} for step in steps])) == text


def test_tables_say_how_far_apart_their_looks_are(runs):
    write_evaluations(runs / "recipe=paper", range(10, 400, 10))
    text = (report_of(runs) / "table.md").read_text()
    assert "12 % apart by the settings (recipe=ours); at most 10 steps apart (recipe=paper). A step is that" in text


SEEDS = [
    ({"replicas.training.seed": "[0, 1]"}, "draw initial weights, order and split: a spread is of all three"),
    ({"replicas.training.seed": "[0, 1]", "data.seed": "3"}, "draw initial weights and order."),
    ({"data.seed": "3"}, "draw initial weights and order."),
]


@pytest.mark.parametrize(("settings", "text"), SEEDS)
def test_what_seeds_draw(settings, text):
    cell = Cell("a", {}, "configs/algorithmic/fast.yaml", settings, Path())
    assert text in describe_seeds([cell], "train_algorithmic.py")


def test_what_seeds_draw_of_text():
    cell = Cell("a", {}, "configs/lm/demo.yaml", {}, Path())
    assert describe_seeds([cell], "train_lm.py").endswith("which draw initial weights and order.")


def test_what_looks_mean_is_said_where_a_column_depends_on_them(runs):
    write_evaluations(runs / "recipe=paper", range(10, 400, 10))
    text = (
        report_of(runs, SWEEP.replace('[steps_to_grok, "test_accuracy:min"]', "[test_accuracy]")) / "table.md"
    ).read_text()
    assert "at most 10 steps apart (recipe=paper).\n" in text


def test_what_others_found_stands_beside(runs):
    text = SWEEP + "  beside: {published (%): {recipe=paper: 97.9 to 99.96, recipe=other: 17}}\n"
    lines = (report_of(runs, text) / "table.md").read_text().splitlines()
    assert lines[2].endswith("| steps to grok | test accuracy (%), min | published (%) |")
    assert lines[4:7] == [
        "| Muon | 0.0 | 2 | > 500 (300 to > 500; 1 of 2) | 99.50 |  |",
        "| Muon | two | 2 | 150 (140 to 160) | 99.50 |  |",
        "| paper |  | 1 | 400 | 99.50 | 97.9 to 99.96 |",
    ]


def test_wall_seconds_are_those_of_the_cell(runs):
    as_it_is = describe(Cell("recipe=ours", {}, "configs/algorithmic/fast.yaml", {}, runs / "recipe=ours"))
    (runs / "recipe=ours.json").write_text(json.dumps(as_it_is | {"exit_code": 0, "seconds": 228.4}))
    no_end = as_it_is | {"exit_code": None, "seconds": 3}  # no sweep saw it end
    (runs / "recipe=paper.json").write_text(json.dumps(no_end))
    lines = (report_of(runs, SWEEP.replace("columns: [", "columns: [wall_seconds, ")) / "table.md").read_text()
    assert "| Muon | 0.0 | 2 | 228.4 | > 500 (300 to > 500; 1 of 2) |" in lines
    assert "| paper |  | 1 | never | 400 |" in lines
    assert "Wall seconds are those of a cell, start and saving included" in lines
    assert "other settings" not in lines


MISTAKES = [
    ("kind: gaps", "kind: pie", "figure is of kind pie; choose one of lines, bars, gaps, curves"),
    ("{kind: bars, ", "{kind: bars, x: recipe, ", "shares sets x; a figure of kind bars has title, y, log"),
    ("y: test_accuracy, ", "", "shares does not set y; a figure of kind bars needs it"),
    (
        "y: test_accuracy",
        "y: accuracy",
        "shares: 'accuracy' is not a metric of these runs; the metrics are steps_to_fit",
    ),
    ("{kind: gaps}", "gaps", "figure holds 'gaps'; write keys and values"),
    ("columns: [", "columns: [{steps: min}, ", "is not a list of metrics; write [NAME, NAME:min, ...]"),
    ("  labels", "  label", "report.label is not known; there are columns, figure, figures, labels, beside"),
    (
        "  labels",
        "  beside: {theirs: {paper: 1}}\n  labels",
        "beside: theirs names paper, which is not a cell;",
    ),
    ("  labels", "  beside: {theirs: 1}\n  labels", "theirs holds 1; write keys and values beneath it"),
    ("{shares:", "{a/b:", "the figure 'a/b' cannot be a file name; leave out slashes"),
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
    (
        "recipe=paper/metrics.json",
        "[]",
        "is damaged: it is not a mapping of keys to values; delete or rename its folder, and",
    ),
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
    """What the script is about, as far as the runs have it."""
    out = report_of(runs, SWEEP.split("report:", 1)[0])
    text = (out / "table.md").read_text()
    assert "| recipe | weight decay | runs | steps to fit | steps to grok | test accuracy (%) |" in text
    assert "| ours | 2.0 | 2 | 100 | 150 (140 to 160) | 99.50 |" in text
    assert not list(out.glob("*.png"))
    none = report_of(
        runs,
        SWEEP.replace('[steps_to_grok, "test_accuracy:min"]', "[]").replace(
            "kind: gaps", "kind: bars, y: test_accuracy"
        ),
    )
    assert "| Muon | two | 2 |\n" in (none / "table.md").read_text()


def test_columns_of_language_models_are_those_that_all_rows_have():
    def row(**metrics):
        return Row({}, [Run("cell", "", {}, metrics)])

    names = ("eval_loss", "eval_perplexity", "eval_bits_per_byte", "tokens", "total_flos")
    whole, diverged = row(**dict.fromkeys(names, 1.0), steps=5), row(diverged=3, steps=3)
    masked = row(eval_loss=1.0, eval_perplexity=2.7, tokens=10, total_flos=9)
    assert default_columns([whole, diverged], "train_lm.py") == [*names]
    assert default_columns([whole, masked], "train_lm.py") == ["eval_loss", "eval_perplexity", "tokens", "total_flos"]
    assert default_columns([diverged], "train_lm.py") == []


def test_single_runs_are_their_own_replica(runs):
    (run,) = read_runs(Cell("recipe=paper", {"recipe": "paper"}, "base.yaml", {}, runs / "recipe=paper"))
    assert (run.replica, run.axes, run.metrics["steps_to_grok"]) == ("", {"recipe": "paper"}, 400)
    assert table(group([run]), ["steps_to_fit"], Labels(), {})[-1] == "| paper | 1 | 100 |"
