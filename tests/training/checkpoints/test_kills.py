"""A whole run, from its start-up to its last words, killed at any write: resumed, it is the run that was not killed.

What happens within the save of a checkpoint is in `test_checkpoint.py`.
"""

import json
import shutil
import signal

import pytest

import train_algorithmic
import train_lm
from storage.checkpoint_manifest import STAGING_PREFIX
from tests.training.checkpoints.test_resume import GO_ON, half, place, run, runs  # noqa: F401
from tests.training.checkpoints.test_store import die_at, in_a_child

# ruff: noqa: F811

REQUIRED_FILES = ("provenance.json", "samples.jsonl", "metrics.json")


def go_on(script, folder, at: int | None = None, log=None) -> int:
    """Resume a run in a child that is killed at an event of its files, checkpoints aside; its exit code.

    A log, if one is wanted, tells of which files the events were.
    """

    def work():
        names = die_at(at, lambda path: path.startswith(f"{folder}/") and "checkpoint-" not in path)
        run(script, folder.parent, folder.name, GO_ON)
        if log is not None:
            log.write_text("\n".join(names))

    return in_a_child(work)


def writes(script, folder) -> list[str]:
    """The files of the events of a run that is not killed."""
    copy, log = shutil.copytree(folder, folder.with_name(f"{folder.name}-whole")), folder.with_suffix(".writes")
    assert go_on(script, copy, log=log) == 0
    return log.read_text().split("\n")


def survive(script, folder, expected, points):
    for point in points:
        copy = shutil.copytree(folder, folder.with_name(f"{folder.name}-{point}"))
        assert go_on(script, copy, at=point) == -signal.SIGKILL
        assert go_on(script, copy) == 0, point
        same_run(copy, expected)
        shutil.rmtree(copy)


def same_run(folder, expected):
    """All that a run leaves, but for what tells of time and place."""
    left = [path for path in folder.rglob("*") if path.name.startswith(STAGING_PREFIX) or path.name.endswith(".new")]
    assert not left
    for pattern in ("*.safetensors", "samples.jsonl", "config.json", "tokenizer.json"):
        for path in expected.glob(pattern):
            assert (folder / path.name).read_bytes() == path.read_bytes(), path.name
    for name in ("README.md", "curves.png", "provenance.json", "experiment.yaml"):
        assert (folder / name).stat().st_size > 500, name
    assert logged(folder) == logged(expected)
    assert json.loads((folder / "metrics.json").read_text())["steps"] == 10


def logged(folder) -> list[tuple]:
    """Steps and losses of the rows of a log."""
    found = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    keys = ("step", "loss", "eval_loss", "train_loss", "test_loss")
    return [tuple(row.get(key) for key in keys) for row in found]


def test_a_kill_outside_of_a_save(place, runs, half):
    """At the last event of each of the files that a later command needs."""
    folder = place / half(train_lm)
    files = [name.removeprefix(".").removesuffix(".new") for name in writes(train_lm, folder)]
    last = {name: number for number, name in enumerate(files)}
    survive(train_lm, folder, runs[train_lm], [last[name] for name in REQUIRED_FILES])


@pytest.mark.slow
@pytest.mark.parametrize("script", [train_lm, train_algorithmic])
def test_a_kill_at_any_write_of_a_run(place, runs, half, script):
    folder = place / half(script)
    survive(script, folder, runs[script], range(len(writes(script, folder))))
