"""A run folder is for one run at a time, and for whoever asks second it says who has it."""

import json
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import train_lm
from publishing.snapshot import snapshot
from settings.checks import ConfigError
from settings.paths import ROOT
from training.run_folder import LOCK, locked_run_folder

HOLD = """
import sys, time
from pathlib import Path
from training.run_folder import locked_run_folder
with locked_run_folder(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
FORKED = """
import os, sys, time
from pathlib import Path
from training.run_folder import locked_run_folder
with locked_run_folder(Path(sys.argv[1])):
    started, told = os.pipe()
    if os.fork() == 0:  # as a loader of data is
        os.write(told, b"x")
        time.sleep(1)
        os._exit(0)
    os.read(started, 1)  # the lock's own part of a fork comes after it, in the child
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def hold():
    """A function: a folder to a process that holds it."""
    started = []

    def start(folder: Path, code: str = HOLD) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(folder)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_a_second_process_is_told_who_has_it_and_touches_nothing(tmp_path, hold):
    folder = tmp_path / "run"
    process = hold(folder)
    (tmp_path / "tiny.yaml").write_text(f"training: {{output_dir: {folder}}}")
    before = {path: (path.stat().st_mtime_ns, path.read_text()) for path in folder.iterdir()}
    assert {path.name for path in before} == {LOCK}
    for _ in range(2):  # the first to be refused has not wiped out who has it
        done = subprocess.run(
            [sys.executable, "train_lm.py", str(tmp_path / "tiny.yaml")],
            cwd=ROOT, capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        assert done.returncode == 2
        assert done.stderr.startswith(
            f"train_lm.py: {folder} is in use by process {process.pid} on {platform.node()} since 20"
        )
        assert done.stderr.endswith("; wait for it, stop it, or choose another training.output_dir\n")
        assert done.stderr.count("\n") == 1
    assert {path: (path.stat().st_mtime_ns, path.read_text()) for path in folder.iterdir()} == before
    process.communicate("")
    assert process.returncode == 0
    assert not folder.exists()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs POSIX signals")
@pytest.mark.parametrize("code", [HOLD, FORKED], ids=["alone", "with a loader"])
def test_a_killed_process_leaves_a_folder_that_can_be_had(tmp_path, hold, code):
    process = hold(tmp_path / "run", code)
    process.kill()
    process.wait()
    assert {path.name for path in (tmp_path / "run").iterdir()} == {LOCK}
    with locked_run_folder(tmp_path / "run"):
        about = json.loads((tmp_path / "run" / LOCK).read_text())
        assert (about["process"], about["host"]) == (os.getpid(), platform.node())
    assert list((tmp_path / "run").iterdir()) == []  # it was there before


def test_a_left_lock_is_no_run(tmp_path):
    """A new run begins in the folder of one that was killed before its first step: it comes to its own mistake."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).write_text('{"process": 1, "host": "elsewhere", "since": "2020-01-01 00:00:00"}\n')
    (tmp_path / "tiny.yaml").write_text(f"training: {{output_dir: {tmp_path / 'run'}}}\nmodel: {{hidden_size: 70}}")
    with pytest.raises(ConfigError, match="does not divide hidden_size=70"):
        train_lm.main(str(tmp_path / "tiny.yaml"), [])


def test_it_is_held_in_one_process_too(tmp_path):
    with locked_run_folder(tmp_path / "run"), pytest.raises(ConfigError, match=f"by process {os.getpid()} on"):  # noqa: SIM117
        with locked_run_folder(tmp_path / "run"):
            pytest.fail("two have it")
    with locked_run_folder(tmp_path / "run"):
        pass


@pytest.mark.parametrize("error", [None, ConfigError, KeyboardInterrupt])
def test_what_was_made_and_stayed_empty_is_removed(tmp_path, error):
    try:
        with locked_run_folder(tmp_path / "runs" / "mine"):
            if error is not None:
                raise error
    except (ConfigError, KeyboardInterrupt):
        pass
    assert list(tmp_path.iterdir()) == []


def test_what_has_become_a_run_stays(tmp_path):
    with locked_run_folder(tmp_path / "run"):
        (tmp_path / "run" / "experiment.yaml").write_text("")
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"experiment.yaml"}


@pytest.mark.parametrize("place", ["file", "file/run", "/proc/1/run"])
def test_where_nothing_can_be_written_it_says_so(tmp_path, place):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match=r"training\.output_dir=.* cannot be written to \(.*\); choose another"):  # noqa: SIM117
        with locked_run_folder(tmp_path / place):
            pytest.fail("it cannot be had")
    assert (tmp_path / "file").read_text() == "in the way"
    assert len(list(tmp_path.iterdir())) == 1


def test_of_several_processes_the_first_holds_it_for_all(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with locked_run_folder(tmp_path / "run"):
        assert not (tmp_path / "run").exists()
    monkeypatch.setenv("RANK", "0")
    with locked_run_folder(tmp_path / "run"):
        monkeypatch.setenv("RANK", "1")
        with locked_run_folder(tmp_path / "run"):
            assert (tmp_path / "run" / LOCK).exists()


def test_the_lock_is_not_published(tmp_path):
    for name in ("model.safetensors", "config.json", LOCK):
        (tmp_path / name).write_text("{}")
    there = snapshot(tmp_path, tmp_path)
    assert {path.name for path in there.iterdir()} == {"model.safetensors", "config.json"}
