"""A disk that is really full, at any byte of a save: the run goes on, and what was saved before stays whole."""

import json
import shutil
import subprocess

import pytest

import train_algorithmic
import train_lm
from storage.checkpoint_manifest import find_damage
from tests.training.checkpoints.test_resume import GO_ON, place, run, runs  # noqa: F401
from tests.training.checkpoints.test_store import in_a_child
from training.checkpoints import saving_trainer
from training.checkpoints.store import Checkpoints, atomic_replace
from training.grokking import report

# ruff: noqa: F811


def at_night(*values):
    """Values that are tried at night."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


@pytest.fixture(scope="module")
def disk(place):
    """A file system of 8 MB, where one may be mounted."""
    here = place / "disk"
    here.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(here)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    yield here
    subprocess.run(["umount", "-l", str(here)], check=True)


def fill(disk, left: int):
    size = shutil.disk_usage(disk).free - left
    (disk / "filler").write_bytes(bytes(size))


def in_a_run(script, disk, name, prepare, *overrides) -> int:
    def work():
        prepare()
        run(script, disk, name, *overrides)

    for kind in ("lm.yaml", "equations.yaml"):
        shutil.copyfile(disk.parent / kind, disk / kind)
    code = in_a_child(work)
    (disk / "filler").unlink(missing_ok=True)
    return code


def size_of(folder) -> int:
    """In the blocks of the file system."""
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("share", [0.5, *at_night(0.0, 0.3, 0.8, 0.95)])
def test_a_save_that_does_not_fit_is_left_out(disk, runs, share, capfd):
    """Whatever file of it is the one that does not; for the next save there is room again."""
    expected, left = runs[train_lm], int(share * size_of(runs[train_lm] / "checkpoint-5"))

    def full_at_step_5():
        begin, failed = Checkpoints.begin, Checkpoints.record_failure

        def begin_full(self, staging):
            begin(self, staging)
            if staging.name.endswith("-5"):
                fill(disk, left)

        def failed_and_freed(self, step, why):
            (disk / "filler").unlink()
            failed(self, step, why)

        Checkpoints.begin, Checkpoints.record_failure = begin_full, failed_and_freed

    assert in_a_run(train_lm, disk, "run", full_at_step_5) == 0
    assert "step 5: the checkpoint could not be saved (" in capfd.readouterr().err
    assert [path.name for path in (disk / "run").iterdir() if path.is_dir()] == ["checkpoint-10"]
    assert find_damage(disk / "run" / "checkpoint-10") is None
    assert (disk / "run" / "model.safetensors").read_bytes() == (expected / "model.safetensors").read_bytes()
    shutil.rmtree(disk / "run")


@pytest.mark.parametrize("script", [train_lm, train_algorithmic])
@pytest.mark.parametrize("left", [24_000, *at_night(0, 12_000, 48_000)])
def test_what_came_out_is_written_when_there_is_room(disk, runs, script, left, capfd):
    """The end of a run that is full is one sentence, and the next command finishes it."""

    def full_at_the_end():
        def exchange_full(folder):
            if not (disk / "filler").exists():
                fill(disk, left)
            return atomic_replace(folder)

        saving_trainer.atomic_replace = report.atomic_replace = exchange_full

    assert in_a_run(script, disk, "run", full_at_the_end) == 1
    said = capfd.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("the results could not be written (")
    assert said.endswith("no saved step is repeated")
    assert not (disk / "run" / "metrics.json").exists()
    assert in_a_run(script, disk, "run", lambda: None, GO_ON) == 0
    assert json.loads((disk / "run" / "metrics.json").read_text())["steps"] == 10
    expected = runs[script] / "model.safetensors"
    assert (disk / "run" / "model.safetensors").read_bytes() == expected.read_bytes()
    shutil.rmtree(disk / "run")
