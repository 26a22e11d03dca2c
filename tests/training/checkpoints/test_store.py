"""A checkpoint is whole or does not count: whatever is damaged, killed or full, a run ends as if nothing had been."""

import json
import os
import pickle
import random
import resource
import shutil
import signal
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, TrainerState, modeling_utils

from settings.checks import ConfigError
from storage import checkpoint_manifest
from storage.checkpoint_manifest import MANIFEST, STAGING_PREFIX, find_damage, write_manifest
from storage.files import write_atomically
from tests.training.checkpoints.test_data_position import prepare, train, weights, windows_of
from training.checkpoints import state as state_module
from training.checkpoints.resume import check_undamaged
from training.checkpoints.store import Checkpoints, latest_valid
from training.reporting.callbacks import MetricsFile
from training.trainer import KindlingTrainer

OPTIONS = {"max_steps": 6, "save_strategy": "steps", "save_steps": 2, "save_total_limit": 2}


def go_on(folder, **options):
    """Train from the newest whole checkpoint, or from the beginning, to the end."""
    last = latest_valid(folder) if folder.exists() else None
    trainer, _ = train(folder, checkpoint=last and str(last), **OPTIONS | options)
    return trainer


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run, of which checkpoints 2, 4 and 6 are kept, and its final weights."""
    folder = tmp_path_factory.mktemp("run")
    return folder, weights(go_on(folder, save_total_limit=None))


@pytest.fixture
def stopped(run, tmp_path):
    """A copy of the run as it was after four steps, and the weights that it will end with."""
    folder = shutil.copytree(run[0], tmp_path / "stopped")
    shutil.rmtree(folder / "checkpoint-6")
    return folder, run[1]


def same(ones: list[torch.Tensor], others: list[torch.Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(ones, others, strict=True))


# ---- damage


def flip(path, bit: int):
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


DAMAGE = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "zeroed": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "flipped": lambda path: flip(path, random.Random(path.name).randrange(8 * path.stat().st_size)),
}


def test_damage_of_any_kind_in_any_file_is_detected(stopped, capfd):
    folder, _ = stopped
    names = sorted(path.name for path in (folder / "checkpoint-4").iterdir())
    assert {"model.safetensors", "optimizer.safetensors", "scheduler.safetensors", "rng_state.safetensors"} < {*names}
    assert {"trainer_state.json", "config.json", MANIFEST} < {*names}
    for name in names:
        path = folder / "checkpoint-4" / name
        before = path.read_bytes()
        for kind, harm in DAMAGE.items():
            harm(path)
            assert latest_valid(folder) == folder / "checkpoint-2", (name, kind)
            said = capfd.readouterr().err
            assert said.startswith("checkpoint-4 is damaged (")
            assert said.endswith("): resuming from checkpoint-2\n")
            assert name in said or name == MANIFEST  # one that is damaged may tell of others
            path.write_bytes(before)
    assert latest_valid(folder) == folder / "checkpoint-4"
    assert capfd.readouterr().err == ""


def test_every_bit_of_the_manifest_counts(stopped):
    path = stopped[0] / "checkpoint-4" / MANIFEST
    for bit in range(0, 8 * path.stat().st_size, 41):
        flip(path, bit)
        assert find_damage(path.parent), bit
        flip(path, bit)
    assert find_damage(path.parent) is None


MANIFESTS = [
    *("", "[]", "3", "{}", '{"files": 3}', '{"files": {}}', '{"files": {"config.json": 3}}', "[" * 10**5),
    json.dumps({"files": {"a" * 300: {"size": 1, "xxh3_128": ""}}}),
]


def test_a_manifest_of_any_kind_is_no_traceback(stopped):
    for text in MANIFESTS:
        (stopped[0] / "checkpoint-4" / MANIFEST).write_text(text)
        assert find_damage(stopped[0] / "checkpoint-4") == "checkpoint.json is damaged", text[:50]


def test_what_the_disk_no_longer_gives_is_damaged(stopped, monkeypatch):
    def broken(path):
        if path.parent.name == "checkpoint-4" and path.name == "optimizer.safetensors":
            raise OSError(5, "Input/output error")
        return hashed(path)

    hashed = checkpoint_manifest._hash
    monkeypatch.setattr(checkpoint_manifest, "_hash", broken)
    assert find_damage(stopped[0] / "checkpoint-4") == "optimizer.safetensors cannot be read, Input/output error"
    assert latest_valid(stopped[0]) == stopped[0] / "checkpoint-2"


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "scaler.safetensors", "pytorch_model_fsdp_0/", "more/custom.py", "vocab.txt"]
)
def test_what_was_put_into_a_checkpoint_is_seen(stopped, name):
    path = stopped[0] / "checkpoint-4" / name
    (path if name.endswith("/") else path.parent).mkdir(exist_ok=True)
    if not name.endswith("/"):
        path.touch()
    assert find_damage(stopped[0] / "checkpoint-4") == f"{name.partition('/')[0]} is none of its files"


@pytest.mark.parametrize("name", [".DS_Store", "notes.txt", "README.md"])
def test_what_no_loader_reads_harms_no_checkpoint(stopped, name):
    (stopped[0] / "checkpoint-4" / name).touch()
    assert find_damage(stopped[0] / "checkpoint-4") is None


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "rng_state.safetensors"])
def test_from_the_one_before_it_ends_the_same(stopped, name):
    folder, expected = stopped
    DAMAGE["flipped"](folder / "checkpoint-4" / name)
    trainer = go_on(folder)
    assert same(weights(trainer), expected)
    assert [row["step"] for row in trainer.state.log_history if "loss" in row] == [1, 2, 3, 4, 5, 6]
    assert find_damage(folder / "checkpoint-4") is None


def test_if_none_is_whole_it_is_one_sentence(stopped):
    folder, _ = stopped
    (folder / "checkpoint-4" / "optimizer.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"checkpoint-4 is damaged: optimizer.safetensors is missing; give another"):
        check_undamaged(folder / "checkpoint-4")
    (folder / "checkpoint-2" / MANIFEST).unlink()  # as an older Kindling left them
    with pytest.raises(ConfigError) as error:
        latest_valid(folder)
    assert "checkpoint-4 is damaged (optimizer.safetensors is missing); checkpoint-2 is damaged" in str(error.value)
    assert "\n" not in str(error.value)


# ---- kills

EVENTS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir"}


def in_a_child(work) -> int:
    """Do it in a fork of this process; how that ended."""
    return in_children([work])[0]


def in_children(works) -> list[int]:
    """Do each in a fork of this process, all at once; how they ended."""
    children = [_start(work) for work in works]
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def _start(work) -> int:
    if child := os.fork():
        return child
    try:
        work()
        os._exit(0)
    except SystemExit as end:
        print(end, file=sys.stderr, flush=True)
        os._exit(end.code if isinstance(end.code, int) else 1)
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)


def die_at(at: int | None, is_meant: Callable[[str], bool]) -> list[str]:
    """Have this process die at an event by which a file that is meant comes, goes or is written to; None is never.

    Returns the names of the files of these events, as they come.
    """
    names = []

    def watch(event, arguments):
        if event not in EVENTS:
            return
        path, mode = str(arguments[0]), (arguments[2] or 0) if event == "open" else os.O_WRONLY
        if not mode & (os.O_WRONLY | os.O_RDWR) or not is_meant(path):
            return
        names.append(os.path.basename(path))
        if len(names) - 1 == at:
            if mode & os.O_TRUNC and os.path.exists(path):  # the next moment it is empty
                os.truncate(path, 0)
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    return names


def run_and_die(folder, at: int | None, log=None):
    """Train; in the save of step 4 die at an event, or only log their files."""
    saving = False
    save = KindlingTrainer.save_checkpoint

    def noted(self, *arguments):
        nonlocal saving
        saving = self.state.global_step == 4
        save(self, *arguments)
        saving = False

    KindlingTrainer.save_checkpoint = noted
    names = die_at(at, lambda _: saving)
    go_on(folder, save_total_limit=1)
    if log:
        log.write_text(json.dumps(names))


def events_of_a_save(folder) -> int:
    assert in_a_child(lambda: run_and_die(folder / "counted", None, folder / "events.json")) == 0
    names = json.loads((folder / "events.json").read_text())
    assert {MANIFEST, "trainer_state.json", ".staging-checkpoint-4", "checkpoint-2"} < {*names}
    return len(names)


def survive(folder, expected, points):
    for point in points:
        there = folder / str(point)
        assert in_a_child(lambda there=there, point=point: run_and_die(there, point)) == -signal.SIGKILL
        last = latest_valid(there)
        assert last.name in ("checkpoint-2", "checkpoint-4"), point
        assert same(weights(go_on(there, save_total_limit=1)), expected), point
        assert not [*there.glob(f"{STAGING_PREFIX}*")]
        assert [path.name for path in there.iterdir() if path.is_dir()] == ["checkpoint-6"]
        shutil.rmtree(there)


def test_a_kill_at_a_write_of_a_save(run, tmp_path):
    count = events_of_a_save(tmp_path)
    survive(tmp_path, run[1], [*range(0, count, 9), count - 1])


@pytest.mark.slow
def test_a_kill_at_every_write_of_a_save(run, tmp_path):
    survive(tmp_path, run[1], range(events_of_a_save(tmp_path)))


def go_on_noting(folder, log):
    """Save at every step, and note in a file each step that is made before it is saved."""
    save = KindlingTrainer.log_save_evaluate

    def note_and_save(self, *arguments, **given):
        write_atomically(log, str(self.state.global_step))
        save(self, *arguments, **given)

    KindlingTrainer.log_save_evaluate = note_and_save
    go_on(folder, save_steps=1)


def kill_at_random(folder, expected, kills: int):
    """At random moments of runs that save at every step, until so many kills were made; never is a save lost."""
    chance, made = random.Random(0), 0
    whole = folder / "timed"
    started = time.perf_counter()
    assert in_a_child(lambda: go_on_noting(whole, folder / "made")) == 0
    seconds = time.perf_counter() - started
    while made < kills:
        there, log = folder / f"run-{made}", folder / f"made-{made}"
        log.write_text("0")
        while True:
            child = os.fork()
            if child == 0:
                go_on_noting(there, log)
                os._exit(0)
            time.sleep(chance.uniform(0, seconds) if made < kills else 0)
            if made < kills:
                os.kill(child, signal.SIGKILL)
            if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
                break
            made += 1
            last = latest_valid(there) if there.exists() else None
            step = int(last.name.partition("-")[2]) if last else 0
            assert step >= int(log.read_text()) - 1  # the step that was being saved
        assert find_damage(there / "checkpoint-6") is None
        final = AutoModelForCausalLM.from_pretrained(there / "checkpoint-6")
        assert same([p.detach() for p in final.parameters()], expected)


@pytest.mark.slow
def test_six_kills_at_random(run, tmp_path):
    kill_at_random(tmp_path, run[1], 6)


@pytest.mark.slow
def test_fifty_kills_at_random(run, tmp_path):
    kill_at_random(tmp_path, run[1], 50)


def final_save(folder, at: int | None = None, log=None):
    """Write the model of checkpoint 6 into its run folder; die at an event, or only log their files."""
    trainer, _ = prepare(folder, **OPTIONS)
    trainer.load_weights(str(folder / "checkpoint-6"), None)
    names = die_at(at, lambda _: True)
    trainer.save_model()
    if log:
        log.write_text(json.dumps(names))


def half_a_final_save(folder):
    """The same, killed while the weights are being written, of which Python has no event."""

    def save_file(tensors, path, **given):  # noqa: ARG001
        Path(path).write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)

    modeling_utils.safe_save_file = save_file
    final_save(folder)


def test_a_model_in_the_run_folder_is_whole_at_any_moment(run, tmp_path):
    """The one before, until that of the run's end is there."""
    before = shutil.copytree(run[0], tmp_path / "before")
    trainer, _ = prepare(before, **OPTIONS)
    trainer.save_model()
    fresh = weights(trainer)
    torn = shutil.copytree(before, tmp_path / "torn")
    assert in_a_child(lambda: half_a_final_save(torn)) == -signal.SIGKILL
    model = AutoModelForCausalLM.from_pretrained(torn)
    assert same([parameter.detach() for parameter in model.parameters()], fresh)
    log = tmp_path / "events.json"
    assert in_a_child(lambda: final_save(shutil.copytree(before, tmp_path / "counted"), log=log)) == 0
    count = len(json.loads(log.read_text()))
    found = []
    for point in [*range(0, count, 5), count - 1]:
        there = shutil.copytree(before, tmp_path / str(point))
        assert in_a_child(lambda there=there, point=point: final_save(there, point)) == -signal.SIGKILL
        model = AutoModelForCausalLM.from_pretrained(there)
        parameters = [parameter.detach() for parameter in model.parameters()]
        found.append(same(parameters, run[1]))
        assert found[-1] or same(parameters, fresh), point
        shutil.rmtree(there)
    assert {*found} == {False, True}
    assert found == sorted(found)


# ---- rotation


def make(run, *steps: int):
    for age, step in enumerate(steps):
        folder = run / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        (folder / "weights").write_text(str(step))
        write_manifest(folder)
        os.utime(folder, (10**9 - age, 10**9 - age))  # a clock that goes backwards


def kept(run) -> list[int]:
    return sorted(int(path.name.partition("-")[2]) for path in run.glob("checkpoint-*"))


@pytest.mark.parametrize(
    ("limit", "broken", "best", "left"),
    [
        (None, [], None, [1, 2, 3, 10]),
        (2, [], None, [3, 10]),
        (1, [], None, [10]),
        (1, [], 1, [1, 10]),
        (2, [], 1, [1, 10]),
        (2, [3], None, [2, 3, 10]),
        (1, [2, 3], None, [2, 3, 10]),
        (1, [3], 2, [2, 3, 10]),
    ],
)
def test_rotation_counts_and_removes_whole_ones(tmp_path, limit, broken, best, left):
    make(tmp_path, 1, 2, 3, 10)
    for step in broken:
        flip(tmp_path / f"checkpoint-{step}" / "weights", 0)
    one = best and tmp_path / f"checkpoint-{best}"
    Checkpoints(tmp_path, limit).rotate(tmp_path / "checkpoint-10", one)
    assert kept(tmp_path) == left
    assert latest_valid(tmp_path) == tmp_path / "checkpoint-10"


def test_what_was_just_saved_is_never_removed(tmp_path):
    """Resumed from an early checkpoint, while later ones of another attempt are there."""
    make(tmp_path, 2, 20, 30)
    Checkpoints(tmp_path, 1).rotate(tmp_path / "checkpoint-2", None)
    assert kept(tmp_path) == [2, 30]


def test_the_best_is_kept_and_found_again(tmp_path):
    folder = tmp_path / "run"
    trainer, _ = train(folder, stop=4, **OPTIONS)
    trainer.state.best_global_step = 2
    trainer.checkpoints.limit, trainer._saved = 1, None
    trainer.save_checkpoint()
    assert kept(folder) == [2, 4]
    assert trainer.state.best_model_checkpoint == str(folder / "checkpoint-2")
    text = (folder / "checkpoint-4" / "trainer_state.json").read_text()
    assert json.loads(text)["best_global_step"] == 2
    assert str(tmp_path) not in text
    moved = folder.rename(tmp_path / "moved")
    resumed = go_on(moved, save_total_limit=1)
    assert resumed.state.best_model_checkpoint == str(moved / "checkpoint-2")
    assert kept(moved) == [2, 6]


@pytest.mark.parametrize("harmed", [True, False])
def test_the_best_is_taken_if_it_is_what_was_written(tmp_path, capfd, harmed):
    trainer, _ = train(tmp_path, stop=4, **OPTIONS)
    trainer.state.best_global_step, last = 2, weights(trainer)
    best = trainer._find_best()
    trainer.state.best_model_checkpoint = str(best)
    expected = load_file(best / "model.safetensors")["model.embed_tokens.weight"]
    if harmed:
        flip(best / "model.safetensors", 8 * (best / "model.safetensors").stat().st_size - 9)
    trainer.load_best_model()
    assert same(weights(trainer), last) == harmed
    assert torch.equal(trainer.model.model.embed_tokens.weight, expected) != harmed
    assert ("the best checkpoint, checkpoint-2, is damaged" in capfd.readouterr().err) == harmed


LOSSES = [9, 5, 1, 7, 6, 8]
BEST = OPTIONS | {"eval_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": True, "save_total_limit": 1}


@pytest.mark.parametrize(("fails", "best"), [((), 3), ((3,), 2), ((2, 3), 5)])
def test_the_best_is_saved_when_it_is_found_and_taken_in_the_end(tmp_path, monkeypatch, fails, best):
    """Of those that could be saved; though every second step alone has a checkpoint."""
    monkeypatch.setattr(KindlingTrainer, "_measure", lambda self, _: {"loss": LOSSES[self.state.global_step - 1]})
    expected = weights(train(tmp_path / "until", stop=best, **OPTIONS | {"save_strategy": "no"})[0])
    monkeypatch.setattr(state_module, "save_file", full(*fails))
    trainer, _ = train(tmp_path / "run", parts={"eval_dataset": windows_of(2)}, **BEST)
    assert (trainer.state.best_global_step, trainer.state.best_metric) == (best, LOSSES[best - 1])
    assert kept(tmp_path / "run") == [best, 6]
    assert same(weights(trainer), expected)


def test_a_best_that_was_left_behind_is_told(tmp_path, monkeypatch, capfd):
    """Of a run that goes on in another folder."""
    monkeypatch.setattr(KindlingTrainer, "_measure", lambda self, _: {"loss": LOSSES[self.state.global_step - 1]})
    parts = {"eval_dataset": windows_of(2)}
    train(tmp_path / "run", stop=5, parts=parts, **BEST)
    assert kept(tmp_path / "run") == [3, 5]
    last = str(tmp_path / "run" / "checkpoint-5")
    trainer, _ = train(tmp_path / "other", checkpoint=last, parts=parts, **BEST)
    assert "the best checkpoint so far, checkpoint-3, is not in" in capfd.readouterr().err
    assert trainer.state.best_model_checkpoint == str(tmp_path / "other" / "checkpoint-6")


def test_one_step_is_saved_once(tmp_path, monkeypatch):
    """For to write it anew, it would have to go first."""
    trainer, _ = train(tmp_path, stop=4, **OPTIONS)
    monkeypatch.setattr(Checkpoints, "commit", None)
    trainer.save_checkpoint()
    assert find_damage(tmp_path / "checkpoint-4") is None


# ---- a disk that is full


def full(*steps: int, error=None):
    """A `save_file` that fails in the saves of these steps."""
    save = state_module.save_file

    def save_file(tensors, path, **kwargs):
        if int(path.parent.name.rpartition("-")[2]) in steps:
            path.write_bytes(b"half")
            raise error or OSError(28, "No space left on device")
        save(tensors, path, **kwargs)

    return save_file


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left"), SafetensorError("No space left"), Exception("os error 28")]
)
def test_a_full_disk_does_not_stop_the_training(run, tmp_path, monkeypatch, capfd, error):
    monkeypatch.setattr(state_module, "save_file", full(4, error=error))
    trainer = go_on(tmp_path)
    assert same(weights(trainer), run[1])
    assert kept(tmp_path) == [2, 6]
    assert not [*tmp_path.glob(f"{STAGING_PREFIX}*")]
    lines = [line for line in capfd.readouterr().err.splitlines() if "the checkpoint could not be saved" in line]
    assert len(lines) == 1
    assert "step 4: the checkpoint could not be saved (" in lines[0]
    trainer.checkpoints.exit_if_unsaved()


def test_the_last_save_that_fails_shows_in_the_exit_code(run, tmp_path, monkeypatch):
    monkeypatch.setattr(state_module, "save_file", full(4, 6))
    trainer = go_on(tmp_path)
    assert kept(tmp_path) == [2]
    with pytest.raises(SystemExit, match="its last 2 checkpoint"):
        trainer.checkpoints.exit_if_unsaved()
    monkeypatch.undo()
    assert same(weights(go_on(tmp_path)), run[1])


def test_three_failures_in_a_row_end_the_run(run, tmp_path):
    """On a disk that takes no file of more than 20 kB, where the weights fit and the state of AdamW does not."""
    options = OPTIONS | {"save_steps": 1}
    assert in_a_child(lambda: train(tmp_path, stop=2, **options)) == 0

    def no_room():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        try:
            go_on(tmp_path, save_steps=1)
        except SystemExit as end:
            os._exit(17 if "step 5: 3 checkpoints in a row could not be saved" in end.code else 1)

    assert in_a_child(no_room) == 17
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-1", "checkpoint-2"]
    assert same(weights(go_on(tmp_path)), run[1])


def test_a_mistake_in_the_code_is_no_full_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(state_module, "save_file", full(2, error=KeyError("x")))
    with pytest.raises(KeyError):
        go_on(tmp_path)


# ---- no pickle


def test_no_file_is_a_pickle_and_none_is_read(stopped, monkeypatch):
    folder, expected = stopped
    for path in folder.rglob("*"):
        if path.is_file():
            assert not zipfile.is_zipfile(path), path
            with pytest.raises((pickle.UnpicklingError, ValueError, EOFError, IndexError, KeyError, AttributeError)):
                Nothing(path.open("rb")).load()

    monkeypatch.setattr(torch, "load", None)
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "pytorch_model.bin"):
        (folder / "checkpoint-4" / name).write_bytes(pickle.dumps({}))
    write_manifest(folder / "checkpoint-4")
    assert same(weights(go_on(folder)), expected)


class Nothing(pickle.Unpickler):
    def find_class(self, module, name):
        raise AssertionError(f"a pickle of {module}.{name}")


def test_a_checkpoint_of_another_model_is_refused(stopped):
    """Though it is whole."""
    folder, _ = stopped
    weights = load_file(folder / "checkpoint-4" / "model.safetensors")
    weights.pop("model.norm.weight")
    save_file(weights, folder / "checkpoint-4" / "model.safetensors", metadata={"format": "pt"})
    write_manifest(folder / "checkpoint-4")
    with pytest.raises(
        ConfigError, match=r"the checkpoint does not fit this model: only one of them has model\.norm\.weight"
    ):
        go_on(folder)


def test_a_stock_trainer_starts_from_the_weights(run):
    model = AutoModelForCausalLM.from_pretrained(run[0] / "checkpoint-6")
    assert same([parameter.detach() for parameter in model.parameters()], run[1])


def test_a_line_that_a_full_disk_has_cost_comes_with_the_next(tmp_path, monkeypatch, capfd):
    state = TrainerState(log_history=[], is_world_process_zero=True)
    file = MetricsFile(tmp_path)
    file.on_train_begin(None, state, None)
    for step in range(1, 5):
        state.log_history.append({"step": step})
        with monkeypatch.context() as patch:
            if step in (2, 3):
                patch.setattr(Path, "open", full_disk)
            file.on_log(None, state, None)
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3, 4]
    assert (
        capfd.readouterr().err.count("MetricsFile could not write ([Errno 28] No space left); training continues") == 2
    )


def full_disk(*_, **__):
    raise OSError(28, "No space left")
