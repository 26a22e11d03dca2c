"""The README's numbers are those of the files in experiments/results."""

import json

from config import ROOT
from experiments import readme, report
from experiments.readme import RESULTS, rewrite

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readmes_tables_are_up_to_date():
    assert rewrite(README) == README


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
