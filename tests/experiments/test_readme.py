"""The README's numbers are those of the files in experiments/results."""

import json
import re
import shutil
from types import SimpleNamespace

import pytest

from experiments import cited_numbers, readme, report
from experiments.cited_numbers import MARK, RESULTS, rewrite_claims
from experiments.figures import kinds
from experiments.readme import pages, rewrite
from experiments.runs import Run
from experiments.saved_results import read_saved_results, save_results
from settings.checks import ConfigError
from settings.paths import ROOT
from training.grokking.report import milestones

README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", pages(), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_tables_and_numbers_are_up_to_date(page):
    text = page.read_text(encoding="utf-8")
    assert rewrite(text, page) == text
    assert len(MARK.findall(text)) == len(re.findall(r"<!-- \S+/", text)), "a mark that is not understood"


@pytest.mark.parametrize(
    "folder", sorted(path.parent for path in RESULTS.glob("*/cells.json")), ids=lambda path: path.name
)
def test_tables_of_results_are_those_of_their_cells(folder, tmp_path, monkeypatch):
    shutil.copytree(folder, tmp_path / folder.name)
    monkeypatch.setattr(kinds, "draw", lambda *_: SimpleNamespace(savefig=lambda *_, **__: None))
    sweep = ROOT / "configs" / "sweeps" / f"{folder.name}.yaml"
    given = [str(sweep), "--runs", str(tmp_path / "none"), "--out", str(tmp_path / folder.name)]
    report.main(report.parse_arguments(given))
    for name in ("table.md", "cells.json", "provenance.json"):
        if (folder / name).exists():
            assert (tmp_path / folder.name / name).read_bytes() == (folder / name).read_bytes(), name
    assert read_saved_results(tmp_path / folder.name) == read_saved_results(folder)


def test_milestones_of_results_are_those_of_the_evaluations_kept():
    runs = [
        run
        for path in RESULTS.glob("*/evaluations.jsonl.gz")
        for cell in read_saved_results(path.parent)[0].values()
        for run in cell
    ]
    on_equations = [run for run in runs if run.evaluations and "train_accuracy" in run.evaluations[0]]
    whole = [run for run in on_equations if run.diverged is None]
    assert len(whole) >= 20
    for run in whole:
        found = milestones(run.evaluations)
        for key, value in found.items():
            assert run.metrics[key] == (value if value is None else pytest.approx(value, rel=1e-5)), key
        assert run.evaluations[-1]["step"] == run.metrics["steps"]


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """Three runs of a cell, of which one never got there, and two of another."""
    values = {"a-1": [(140, 0.995), (160, 0.997), (None, 0.25)], "a-2": [(200, 0.5), (300, 0.7)]}
    runs = [
        Run(cell, f"seed={i}", {}, {"first_99": first, "test_accuracy": accuracy, "steps": 600})
        for cell, pairs in values.items()
        for i, (first, accuracy) in enumerate(pairs)
    ]
    (tmp_path / "s").mkdir()
    save_results(tmp_path / "s", runs, {})
    monkeypatch.setattr(cited_numbers, "RESULTS", tmp_path)
    cited_numbers._kept.cache_clear()
    yield
    cited_numbers._kept.cache_clear()


CLAIMS = [
    ("s/a-1 first_99", "160 (140 to > 600; 2 of 3)"),
    ("s/a-1 first_99:range", "140 to > 600"),
    ("s/a-2 first_99:range", "200 to 300"),
    ("s/a-1 first_99:lowest", "140"),
    ("s/a-1 first_99:count", "2"),
    ("s/a-* first_99:runs", "5"),
    ("s/a-* test_accuracy:min", "25.00"),
    ("s/a-2 test_accuracy:all", "50.00, 70.00"),
    ("s/a-2~a-2 test_accuracy:welch", "1.00"),
    ("s/a-1~a-2 test_accuracy:welch", "0.63"),  # t = 0.548, 2.6 degrees of freedom
]


@pytest.mark.parametrize(("mark", "text"), CLAIMS)
def test_a_marked_number_is_that_of_its_cells(kept, mark, text):  # noqa: ARG001
    told = rewrite_claims(
        f"it is <!-- {mark} -->something\nelse<!-- end --> %, <!-- s/a-2 test_accuracy:max -->?<!-- end -->"
    )
    assert told == f"it is <!-- {mark} -->{text}<!-- end --> %, <!-- s/a-2 test_accuracy:max -->70.00<!-- end -->"


@pytest.mark.parametrize("mark", ["s/b first_99", "none/a-1 first_99", "s/a-1 first_98", "s/a-1 first_99:mode"])
def test_a_mark_that_fits_nothing_is_an_error(kept, mark):  # noqa: ARG001
    with pytest.raises(ConfigError):
        rewrite_claims(f"<!-- {mark} -->1<!-- end -->")


def test_published_numbers_and_ours_stand_side_by_side():
    lines = readme.side_by_side("report", "report-paper", "report-ours").splitlines()
    assert len(lines) == 2 + 12
    (row,) = (line for line in lines if line.startswith("| grokking batch 128 |"))
    assert row.startswith("| grokking batch 128 | 97.85 | 37.63, 35.84, 28.90 | ")


def test_a_table_shows_the_numbers_of_its_file():
    metrics = json.loads((RESULTS / "demo" / "metrics.json").read_text())
    assert f"{metrics['eval_bits_per_byte']:.3f} (floor {metrics['floor_bits_per_byte']:.3f}" in README
    assert f"{metrics['seconds'] / 60:.1f} minutes" in README


def test_the_table_of_a_sweep_leaves_its_title_out(tmp_path, monkeypatch):
    monkeypatch.setattr(readme, "RESULTS", tmp_path)
    report.write(tmp_path / "s", "A title", ["| runs |", "|---|", "| 3 |", "", "Of three seeds."], {})
    assert readme.sweep_table("s") == "| runs |\n|---|\n| 3 |\n\nOf three seeds."


def test_results_name_no_machines_paths():
    for path in RESULTS.rglob("*"):
        if path.suffix in {".json", ".jsonl", ".yaml"}:
            text = path.read_text(encoding="utf-8")
            assert not any(root in text for root in ("/home/", "/tmp/", "/Users/")), path


def test_every_result_has_its_settings_and_curves():
    for folder in (path.parent for path in RESULTS.glob("*/metrics.json")):
        names = {path.name for path in folder.iterdir()}
        assert {"experiment.yaml", "provenance.json", "metrics.jsonl", "curves.png", "samples.jsonl"} <= names
