"""A sweep end to end, with a script that writes what a run writes: skipped, failed, resumed, stopped, side by side."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from types import SimpleNamespace

import pytest

from experiments import cells, sweep
from experiments.cells import read_sweep
from settings.checks import ConfigError
from settings.paths import ROOT

# A run whose number of steps says what becomes of it: 17 and 18 are refused, 13 fails, 99 waits to be stopped, 98 for a
# file, 2 for another 2.
SCRIPT = """
import json, os, sys, time
from pathlib import Path

config, *overrides = sys.argv[1:]
settings = dict(text.split("=", 1) for text in overrides)
folder, steps = Path(settings["training.output_dir"]), settings["training.max_steps"]
if steps in ("17", "18"):
    print(f"train_algorithmic.py: steps={steps} is no even number; give one", file=sys.stderr)
    sys.exit(2)
folder.mkdir(parents=True, exist_ok=True)
print("config", config, "steps", steps)
(folder / "begun").touch()
if steps == "13" and not Path("mended").exists():
    sys.exit("thirteen steps are not possible")
if steps == "99" and "training.resume_from_checkpoint" not in settings:
    time.sleep(60)
while steps == "98" and not Path("go").exists():
    time.sleep(0.01)
if steps == "2":
    deadline = time.time() + 20
    while len(list(folder.parent.glob("*/begun"))) < 2 and time.time() < deadline:
        time.sleep(0.01)
    assert time.time() < deadline, "there is no second one"
kept = {"threads": os.environ.get("OMP_NUM_THREADS"), "seconds": 90}
(folder / "metrics.json").write_text(json.dumps({"steps": int(steps), "settings": settings, **kept}))
"""


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A stand-in for the repository: the script, a configuration, and sweeps over numbers of steps."""
    for module in (cells, sweep):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(sweep, "POLL_SECONDS", 0.01)
    (tmp_path / "train_algorithmic.py").write_text(SCRIPT)
    (tmp_path / "base.yaml").write_text("training: {max_steps: 5}\n")
    return tmp_path


def write_sweep(repository, *steps: int, settings: str = "{}") -> str:
    path = repository / "s.yaml"
    grid = f"grid: {{training.max_steps: {list(steps)}}}"
    path.write_text(f"script: train_algorithmic.py\nconfig: base.yaml\nsettings: {settings}\n{grid}\n")
    return str(path)


def run(*words: str) -> int:
    return sweep.main(sweep.parse_arguments(list(words)))


def metrics(repository, steps: int) -> dict:
    return json.loads((repository / "runs" / "sweeps" / "s" / f"max_steps={steps}" / "metrics.json").read_text())


def states(path: str) -> list[str]:
    return [cell.state for cell in read_sweep(path).cells]


def test_failed_cells_are_marked_and_run_again_finished_ones_are_not(repository, capsys):
    path = write_sweep(repository, 1, 13, 3)
    assert run(path, "data.train_fraction=0.4") == 1
    assert states(path) == ["finished", "failed (1)", "finished"]
    printed = capsys.readouterr().out
    assert "thirteen steps are not possible" in printed
    assert f"python -m experiments.report {path}" in printed
    _, failed, _ = read_sweep(path).cells
    log = failed.log.read_text()
    assert "$ python train_algorithmic.py base.yaml training.max_steps=13 data.train_fraction=0.4" in log
    assert "config base.yaml steps 13" in log
    assert failed.record["exit_code"] == 1

    first = read_sweep(path).cells[0].folder / "metrics.json"
    before = first.stat().st_mtime_ns
    (repository / "mended").touch()
    assert run(path, "data.train_fraction=0.4") == 0
    assert states(path) == ["finished"] * 3
    assert metrics(repository, 13)["settings"]["training.resume_from_checkpoint"] == "true"
    assert "training.resume_from_checkpoint" not in metrics(repository, 1)["settings"]
    assert metrics(repository, 1)["settings"]["training.output_dir"] == "runs/sweeps/s/max_steps=1"
    assert first.stat().st_mtime_ns == before


def test_nothing_starts_if_any_cell_is_off(repository):
    path = write_sweep(repository, 1, -3, settings="{data.train_fraction: 2}")
    with pytest.raises(ConfigError, match=r"the cell max_steps=1: data\.train_fraction=2"):
        run(path, "--only", "max_steps=1")
    assert not (repository / "runs").exists()


def test_a_mistake_that_the_first_cell_finds_ends_the_sweep(repository):
    path = write_sweep(repository, 17, 18, 1)
    with pytest.raises(ConfigError) as error:
        run(path)
    assert str(error.value) == (
        "the cell max_steps=17 was refused by train_algorithmic.py: steps=17 is no even number; give one; "
        "cells not started: 2"
    )
    assert states(path) == ["failed (2)", "pending", "pending"]


def test_a_mistake_of_one_cell_does_not_keep_the_others(repository):
    path = write_sweep(repository, 1, 17, 3)
    assert run(path) == 1
    assert states(path) == ["finished", "failed (2)", "finished"]


def test_a_misspelt_override_has_no_status(repository):
    with pytest.raises(ConfigError, match=r"training\.max_stps is not a setting; did you mean max_steps"):
        run(write_sweep(repository, 1), "--status", "training.max_stps=3")


def test_a_finished_cell_of_other_settings_is_refused(repository):
    assert run(write_sweep(repository, 1)) == 0
    with pytest.raises(ConfigError, match=r"data\.seed=\(unset\) \(now 4\); delete or rename"):
        run(write_sweep(repository, 1, 3), "data.seed=4")
    assert not (repository / "runs" / "sweeps" / "s" / "max_steps=3").exists()


def test_only_some_and_their_status(repository, capsys):
    path = write_sweep(repository, 1, 3, 13)
    assert run(path, "--only", "*=1", "--only", "*=13") == 1
    capsys.readouterr()
    assert run(path, "--status") == 0
    lines = [line.split()[:-1] for line in capsys.readouterr().out.splitlines()]
    assert lines == [["cell", "state"], ["max_steps=1", "finished"], ["max_steps=3", "pending"],
                     ["max_steps=13", "failed", "(1)"]]  # fmt: skip
    with pytest.raises(ConfigError, match="--only nothing matches no cell; the cells are max_steps=1"):
        run(path, "--only", "nothing")


def test_jobs_run_side_by_side_and_share_the_cores(repository, monkeypatch):
    monkeypatch.setattr(sweep, "CORES", 5)
    monkeypatch.delenv("OMP_NUM_THREADS")
    path = repository / "s.yaml"
    path.write_text(
        "script: train_algorithmic.py\nconfig: base.yaml\n"
        "settings: {training.max_steps: 2}\ncells: {one: {}, two: {}}\n"
    )
    assert run(str(path), "--jobs", "2") == 0
    kept = json.loads((repository / "runs" / "sweeps" / "s" / "two" / "metrics.json").read_text())
    assert kept["threads"] == "2"
    with pytest.raises(ConfigError, match="--jobs 0 is too small"):
        run(str(path), "--jobs", "0")


def test_the_environment_of_the_user_stays(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert sweep.environment(jobs=100)["OMP_NUM_THREADS"] == "7"
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert sweep.environment(jobs=100)["OMP_NUM_THREADS"] == "1"


def test_an_interrupt_stops_the_children_and_the_next_call_goes_on(repository, monkeypatch):
    path = write_sweep(repository, 99, 1)
    begun = repository / "runs" / "sweeps" / "s" / "max_steps=99" / "begun"

    class Clock:
        monotonic = time.monotonic

        @staticmethod
        def sleep(seconds):  # noqa: ARG004
            if begun.exists():
                raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(sweep, "time", Clock)
        with pytest.raises(KeyboardInterrupt):
            run(path)
    assert states(path) == ["interrupted", "pending"]  # a child that lived on would hold its log: "running"
    assert run(path) == 0
    assert metrics(repository, 99)["settings"]["training.resume_from_checkpoint"] == "true"


@pytest.fixture
def other(repository, monkeypatch):  # noqa: ARG001
    """Start another sweep of a file, and do something to it once this one is waiting."""
    monkeypatch.setattr(sweep, "SECONDS_TO_RECORD", 0.05)
    started = []

    def start(path: str, begun: str, then):
        child = os.fork()
        if child == 0:
            os._exit(run(path, "--only", f"*={begun}"))
        started.append(child)
        (cell,) = [cell for cell in read_sweep(path).cells if cell.name.endswith(f"={begun}")]
        while not (cell.folder / "begun").exists():
            time.sleep(0.01)

        class Clock:
            monotonic = time.monotonic

            @staticmethod
            def sleep(seconds):
                time.sleep(seconds)
                if cell.is_running() and cell.name not in done and all(state != "pending" for state in states(path)):
                    done.append(cell.name)
                    then(child, cell)

        done = []
        monkeypatch.setattr(sweep, "time", Clock)
        return cell

    yield start
    for child in started:
        with suppress(OSError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_what_a_killed_sweep_has_left_is_gone_on_with(repository, other, capsys):
    """The sweep is killed, and its cell too."""
    path = write_sweep(repository, 99, 1)

    def kill_both(child: int, cell):
        os.kill(child, signal.SIGKILL)
        os.kill(cell.record["pid"], signal.SIGKILL)

    cell = other(path, "99", kill_both)
    assert run(path) == 0
    assert states(path) == ["finished", "finished"]
    assert metrics(repository, 99)["settings"]["training.resume_from_checkpoint"] == "true"
    assert f"{cell.name}: another process runs it" in capsys.readouterr().out


def test_a_cell_that_outlives_its_sweep_is_waited_for_and_says_how_long_it_took(repository, other, capsys):
    path = write_sweep(repository, 98)

    def kill_the_sweep(child: int, cell):
        os.kill(child, signal.SIGKILL)
        assert cell.state == "running"
        (repository / "go").touch()

    cell = other(path, "98", kill_the_sweep)
    assert run(path) == 0
    assert "training.resume_from_checkpoint" not in metrics(repository, 98)["settings"]
    assert cell.minutes == 1.5
    assert "finished      max_steps=98  1.5 minutes" in capsys.readouterr().out
    assert run(path, "--status") == 0
    assert capsys.readouterr().out.split()[-3:] == ["max_steps=98", "finished", "1.5"]


@pytest.mark.parametrize(("code", "state"), [(1, "failed (1)"), (-9, "failed (-9)")])
def test_a_cell_that_failed_elsewhere_is_not_run_again_and_shows(repository, monkeypatch, code, state):
    path = write_sweep(repository, 1)
    (cell,) = read_sweep(path).cells
    cell.folder.mkdir(parents=True)
    cell.write_record(cells.describe(cell) | {"started": "2026-01-01T00:00:00", "pid": 1})
    log = cell.log.open("a")
    print("no such luck", file=log, flush=True)
    assert cells.lock(log)

    class Clock:
        monotonic = time.monotonic

        @staticmethod
        def sleep(seconds):
            if seconds == sweep.POLL_SECONDS:
                cell.write_record(cell.record | {"exit_code": code, "pid": None})
                log.close()

    monkeypatch.setattr(sweep, "time", Clock)
    assert run(path) == 1
    assert states(path) == [state]


def test_an_unfinished_cell_is_a_failure(repository):
    """It says that all is well, and has left nothing."""
    path = write_sweep(repository, 1, 3)
    script = repository / "train_algorithmic.py"
    script.write_text(SCRIPT.replace('if steps == "13"', 'if steps == "3":\n    sys.exit()\nif steps == "13"'))
    assert run(path) == 1
    assert states(path) == ["finished", "failed (0)"]


def test_an_end_is_not_written_over_the_record_of_another_process(repository):
    cell = read_sweep(write_sweep(repository, 1)).cells[0]
    cell.folder.mkdir(parents=True)
    record = {"started": "2026-01-01T00:00:00", "seconds": 0, "exit_code": None, "pid": 7}
    cell.write_record(record)
    sweep.record_end(cell, SimpleNamespace(pid=8, returncode=1))
    assert cell.record == record
    sweep.record_end(cell, SimpleNamespace(pid=7, returncode=1))
    assert (cell.record["exit_code"], cell.record["pid"]) == (1, None)


def test_a_cell_whose_state_is_being_asked_for_starts_all_the_same(repository, monkeypatch):
    path = write_sweep(repository, 1)
    cell = read_sweep(path).cells[0]
    cell.folder.parent.mkdir(parents=True)
    asked = cell.log.open("a")
    assert cells.lock(asked, fcntl.LOCK_SH)

    class Clock:
        monotonic = time.monotonic

        @staticmethod
        def sleep(seconds):  # noqa: ARG004
            asked.close()

    monkeypatch.setattr(sweep, "time", Clock)
    assert run(path) == 0
    assert states(path) == ["finished"]


def test_a_mistake_on_the_command_line_is_a_sentence_and_code_2():
    command = [sys.executable, "-m", "experiments.sweep", "nothing.yaml"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.startswith("experiments.sweep: there is no sweep file nothing.yaml;")
