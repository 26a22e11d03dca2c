"""SIGTERM, SIGINT and SIGHUP, wherever they land: the step is finished and saved, and the run goes on unharmed."""

import errno
import math
import os
import re
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import save_file
from transformers import Trainer, TrainerCallback

from settings.checks import ConfigError
from storage.checkpoint_manifest import MANIFEST, find_damage
from tests.night import by_day
from tests.training.checkpoints.test_data_position import Ledger, prepare, train, weights, windows_of
from tests.training.checkpoints.test_store import OPTIONS, go_on, in_a_child, kept, same
from training.checkpoints import saving_trainer
from training.checkpoints import state as state_module
from training.checkpoints.store import latest_valid
from training.resilience import reliable_trainer, signals
from training.trainer import KindlingTrainer

TERM, INT = signal.SIGTERM, signal.SIGINT

NEVER = {"save_strategy": "no", "max_steps": 6}


def interrupted(trainer, number: int, phase: str):
    """Have the signal come in this phase of step 3, or of the save after it."""

    def come(*arguments, **_):  # noqa: ARG001
        if trainer.state.global_step == 2 or phase == "save":
            os.kill(os.getpid(), number)

    def before(owner, name):
        function = getattr(owner, name)
        setattr(owner, name, lambda *given, **named: come() or function(*given, **named))

    match phase:
        case "data":
            call = Ledger.__call__
            Ledger.__call__ = lambda self, examples: come() or call(self, examples)
        case "forward":
            trainer.model.model.layers[0].register_forward_hook(come)
        case "backward":
            next(trainer.model.parameters()).register_hook(lambda gradient: come())  # noqa: ARG005
        case "optimizer":
            before(trainer.guard, "reason_to_skip")
        case "save":
            before(state_module, "save_file")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The final weights of a run that nothing happens to."""
    return weights(go_on(tmp_path_factory.mktemp("whole")))


def stopped(folder, number, phase, **options):
    def work():
        trainer, _ = prepare(folder, **OPTIONS | options)
        interrupted(trainer, number, phase)
        trainer.train()

    return in_a_child(work)


def test_a_terminal_that_hangs_up_ends_the_run_saved(tmp_path, whole, capfd):
    assert stopped(tmp_path, signal.SIGHUP, "forward", **NEVER) == 128 + signal.SIGHUP
    assert "SIGHUP: the run ends after step 3 of 6; it is saved, resume with" in capfd.readouterr().err
    assert find_damage(tmp_path / "checkpoint-3") is None
    assert same(weights(go_on(tmp_path)), whole)


def test_a_hang_up_that_nohup_has_ignored_stays_so(tmp_path, whole):
    def work():
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does, before it starts the run
        trainer, _ = prepare(tmp_path, **OPTIONS | NEVER)
        interrupted(trainer, signal.SIGHUP, "forward")
        trainer.train()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        assert same(weights(trainer), whole)

    assert in_a_child(work) == 0


@pytest.mark.parametrize(
    ("phase", "number"),
    by_day(
        [("data", TERM), ("forward", INT), ("backward", TERM), ("optimizer", INT), ("save", TERM)],
        ["data", "forward", "backward", "optimizer", "save"],
        [TERM, INT],
    ),
)
def test_a_signal_ends_the_run_after_its_step(tmp_path, whole, capfd, phase, number):
    options = {"save_steps": 3} if phase == "save" else NEVER
    assert stopped(tmp_path, number, phase, **options) == 128 + number
    said = capfd.readouterr().err
    step = 4 if phase == "save" else 3  # which comes after step 3: so one more is made
    assert f"{number.name}: the run ends after step {step} of 6; it is saved, resume with" in said
    assert kept(tmp_path)[-1] == step
    assert find_damage(tmp_path / f"checkpoint-{step}") is None
    assert same(weights(go_on(tmp_path)), whole)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_after_the_last_step_is_heeded(tmp_path, whole, capfd, number):
    """In the save that ends the run, which goes on with nothing left to do."""
    assert stopped(tmp_path, number, "save", save_steps=6) == 128 + number
    assert f"{number.name}: the run ends after step 6 of 6; it is saved, resume with" in capfd.readouterr().err
    assert kept(tmp_path) == [6]
    assert same(weights(go_on(tmp_path)), whole)


# Evaluations at steps 2, 4 and 6, of eight batches. At step 4 the rate becomes a tenth, for the loss is no tenth.
EVALUATED = {
    "max_steps": 6, "save_strategy": "no", "eval_strategy": "steps", "eval_steps": 2, "metric_for_best_model": "loss",
    "greater_is_better": False, "lr_scheduler_type": "reduce_lr_on_plateau", "per_device_eval_batch_size": 1,
    "lr_scheduler_kwargs": {"patience": 0, "threshold": 0.9},
}  # fmt: skip


class Batch(TrainerCallback):
    """Has a signal come in the evaluation after a step, in its second batch; counts the batches."""

    def __init__(self, step: int | None, number: int = signal.SIGTERM):
        self.step, self.number, self.count = step, number, 0

    def on_prediction_step(self, args, state, control, **kwargs):  # noqa: ARG002
        self.count += state.global_step == self.step
        if self.count == 2:
            os.kill(os.getpid(), self.number)


def evaluated(folder, batch: Batch, **options):
    """A run with evaluations, on from the newest checkpoint, in which that happens."""
    last = latest_valid(folder) if folder.exists() else None
    parts = {"eval_dataset": windows_of(8)}
    trainer, _ = prepare(folder, checkpoint=last and str(last), parts=parts, **EVALUATED | options)
    trainer.callback_handler.callbacks.insert(0, batch)
    try:
        trainer.train(last and str(last))
    finally:
        assert batch.count in (0, 2)
    return trainer


def evaluations(trainer) -> list[tuple]:
    return [(row["step"], row["eval_loss"]) for row in trainer.state.log_history if "eval_loss" in row]


@pytest.fixture(scope="module")
def evaluated_whole(tmp_path_factory):
    trainer = evaluated(tmp_path_factory.mktemp("evaluated"), Batch(None))
    rates = [row["learning_rate"] for row in trainer.state.log_history if "loss" in row]
    assert rates == pytest.approx([1e-2] * 4 + [1e-3] * 2)
    return weights(trainer), evaluations(trainer)


@pytest.mark.parametrize(("step", "number"), by_day([(4, TERM), (6, INT)], [4, 6], [TERM, INT]))
def test_an_evaluation_is_cut_off_and_made_up_for(tmp_path, evaluated_whole, capfd, step, number):
    """Also where the signal comes again while it is made up for; the checkpoint is then not written anew."""
    written = set()
    for _ in range(2):
        assert in_a_child(lambda: evaluated(tmp_path, Batch(step, number))) == 128 + number
        assert f"{number.name}: the run ends after step {step} of 6; it is saved, resume with" in capfd.readouterr().err
        assert kept(tmp_path) == [step]
        assert find_damage(tmp_path / f"checkpoint-{step}") is None
        written.add((tmp_path / f"checkpoint-{step}" / MANIFEST).stat().st_mtime_ns)
    assert len(written) == 1
    resumed = evaluated(tmp_path, Batch(None))
    assert same(weights(resumed), evaluated_whole[0])
    assert evaluations(resumed) == evaluated_whole[1]
    assert resumed.state.best_metric == min(loss for _, loss in evaluated_whole[1])
    assert all(row["tokens_per_second"] > 0 for row in resumed.state.log_history if "loss" in row)


def test_an_evaluation_that_was_left_out_is_made_up_for(tmp_path, evaluated_whole):
    """By a signal in the step before it."""

    def work():
        trainer, _ = prepare(tmp_path, parts={"eval_dataset": windows_of(8)}, **EVALUATED)
        trainer.model.model.layers[0].register_forward_hook(
            lambda *_: os.kill(os.getpid(), signal.SIGTERM) if trainer.state.global_step == 3 else None
        )
        trainer.train()

    assert in_a_child(work) == 143
    assert kept(tmp_path) == [4]
    elsewhere, last = tmp_path / "elsewhere", tmp_path / "checkpoint-4"
    parts = {"eval_dataset": windows_of(8)}
    train(elsewhere, checkpoint=str(last), stop=5, parts=parts, **EVALUATED | {"save_strategy": "best"})
    ones, others = ((folder / "rng_state.safetensors").read_bytes() for folder in (elsewhere / "checkpoint-4", last))
    assert ones == others  # saved there anew, before its first step
    resumed = evaluated(tmp_path, Batch(None), save_strategy="best")
    assert same(weights(resumed), evaluated_whole[0])
    assert evaluations(resumed) == evaluated_whole[1]
    assert resumed.state.best_metric == min(loss for _, loss in evaluated_whole[1])
    assert all(row["tokens_per_second"] > 0 for row in resumed.state.log_history if "loss" in row)


def test_an_evaluation_at_the_start_is_no_other(tmp_path, evaluated_whole):
    """It moves no schedule, so that which is owed comes after it."""
    assert in_a_child(lambda: evaluated(tmp_path, Batch(4))) == 143
    resumed = evaluated(tmp_path, Batch(None), eval_on_start=True)
    assert same(weights(resumed), evaluated_whole[0])
    assert sorted({*evaluations(resumed)}) == evaluated_whole[1]


@pytest.mark.parametrize("phase", ["forward", "best model"])
def test_a_signal_in_the_last_epoch_leaves_the_best_model_what_it_is(tmp_path, phase):
    """Whose last evaluation comes after its last save; and once the best model is loaded, nothing is saved."""
    best = {"save_strategy": "best" if phase == "best model" else "epoch", "load_best_model_at_end": True}
    options = EVALUATED | {"eval_strategy": "epoch"} | best

    def start(folder):
        trainer, _ = prepare(folder, parts={"eval_dataset": windows_of(8)}, **options)
        return trainer

    def work():
        trainer = start(tmp_path / "run")
        if phase == "forward":
            trainer.model.model.layers[0].register_forward_hook(
                lambda *_: os.kill(os.getpid(), signal.SIGTERM) if trainer.state.global_step == 5 else None
            )
        load = trainer.load_best_model
        trainer.load_best_model = lambda: (
            load() or (os.kill(os.getpid(), signal.SIGTERM) if phase == "best model" else None)
        )
        trainer.train()

    whole = start(tmp_path / "whole")
    whole.train()
    assert len(evaluations(whole)) == 2
    assert in_a_child(work) == 143
    resumed = evaluated(tmp_path / "run", Batch(None), **{"eval_strategy": "epoch"} | best)
    assert same(weights(resumed), weights(whole))
    assert resumed.state.best_global_step == whole.state.best_global_step
    assert kept(tmp_path / "run") == kept(tmp_path / "whole")


def test_a_signal_in_an_evaluation_before_the_first_step(tmp_path, evaluated_whole, capfd):
    assert in_a_child(lambda: evaluated(tmp_path, Batch(0), eval_on_start=True)) == 143
    assert "SIGTERM: the run ends after step 0 of 6; nothing is lost, resume with" in capfd.readouterr().err
    assert kept(tmp_path) == []
    assert same(weights(evaluated(tmp_path, Batch(None))), evaluated_whole[0])


@pytest.mark.parametrize("strategy", ["epoch", "best"])
def test_it_is_saved_whatever_the_strategy_and_not_evaluated(tmp_path, capfd, strategy):
    def work():
        options = OPTIONS | {"save_strategy": strategy, "eval_strategy": "epoch", "metric_for_best_model": "loss"}
        trainer, _ = prepare(tmp_path, parts={"eval_dataset": windows_of(2)}, **options)
        evaluate = trainer.evaluate

        def count(**given):
            assert not trainer.signals.received
            return evaluate(**given)

        trainer.evaluate = count
        interrupted(trainer, signal.SIGTERM, "forward")
        trainer.train()

    assert in_a_child(work) == 143
    assert "after step 3 of 6; it is saved" in capfd.readouterr().err
    assert kept(tmp_path) == [3]


def test_output_whose_reader_is_gone_does_not_cost_the_checkpoint(tmp_path):
    """As with `| tee`, which Ctrl-C ends as well."""

    def work():
        reader, writer = os.pipe()
        os.dup2(writer, 1)
        os.dup2(writer, 2)
        os.close(writer)
        trainer, _ = prepare(tmp_path, **NEVER | {"disable_tqdm": False})
        trainer.model.model.layers[0].register_forward_pre_hook(
            lambda *_: os.close(reader) if trainer.state.global_step == 2 else None
        )
        interrupted(trainer, signal.SIGINT, "forward")
        trainer.train()

    assert in_a_child(work) == 130
    assert kept(tmp_path) == [3]


def test_a_second_training_in_one_process_is_not_stopped_by_the_first_ones_signal(tmp_path):
    def work():
        trainer, _ = prepare(tmp_path, **NEVER)
        interrupted(trainer, signal.SIGTERM, "forward")
        with pytest.raises(SystemExit):
            trainer.train()
        assert trainer.signals.received
        with trainer.signals.handle_signals():
            assert not trainer.signals.received
            assert not trainer.signals.agreed_signal

    assert in_a_child(work) == 0


def test_a_second_signal_ends_it_at_once(tmp_path, monkeypatch):
    """Without a checkpoint; but the same one, passed on by a launcher, is no second one."""
    for echo, ends, left in ((60, 143, [3]), (0, -signal.SIGTERM, [])):
        monkeypatch.setattr(signals, "ECHO_SECONDS", echo)

        def work(folder=tmp_path / str(left)):
            trainer, _ = prepare(folder, **NEVER)
            for phase in ("forward", "backward"):
                interrupted(trainer, signal.SIGTERM, phase)
            trainer.train()

        assert in_a_child(work) == ends
        assert kept(tmp_path / str(left)) == left


def test_the_handlers_of_others_are_put_back(tmp_path):
    before = [signal.getsignal(one) for one in signals.Signals.HANDLED]
    go_on(tmp_path)
    assert [signal.getsignal(one) for one in signals.Signals.HANDLED] == before


@pytest.mark.parametrize(
    ("deaths", "ends", "accumulation"),
    [
        ([2, 4, 6], 0, 2),
        ([2, 4, 6, 8], 1, 1),
        *(pytest.param(*one, marks=pytest.mark.slow) for one in [([3], 0, 1), ([2, 4, 6, 8], 1, 2)]),
    ],
)
def test_a_worker_that_dies_is_replaced(tmp_path, capfd, deaths, ends, accumulation):
    """At the very same batch; the fourth time, the run is saved and ends."""
    options = OPTIONS | {"gradient_accumulation_steps": accumulation, "max_steps": 14}
    expected = weights(prepared_and_trained(tmp_path / "whole", **options))

    class Killing(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):  # noqa: ARG002
            if state.global_step in deaths:
                for worker in psutil.Process().children():
                    worker.kill()

    def work():
        trainer, _ = prepare(tmp_path / "run", dataloader_num_workers=2, dataloader_prefetch_factor=1, **options)
        trainer.add_callback(Killing())
        trainer.train()

    assert in_a_child(work) == ends
    said = capfd.readouterr().err
    assert said.count("continuing with new workers") == min(len(deaths), 3)
    if ends:
        assert "workers of the data loader have died 4 times" in said
        assert "it is saved, resume with" in said
        assert 8 <= kept(tmp_path / "run")[-1] < 14  # which batches were fetched before is a matter of luck
    assert same(weights(go_on(tmp_path / "run", **options)), expected)


@pytest.mark.parametrize(("deaths", "persistent"), by_day([(1, False), (4, True)], [1, 4], [False, True]))
def test_a_worker_that_dies_in_an_evaluation_is_replaced(tmp_path, evaluated_whole, capfd, deaths, persistent):
    """The evaluation begins again; the fourth time the run is saved, and owes it."""
    ends, workers = int(deaths > 3), {"dataloader_num_workers": 1, "dataloader_persistent_workers": persistent}

    class Killing(Batch):
        def on_prediction_step(self, args, state, control, **kwargs):  # noqa: ARG002
            if state.global_step == 4 and self.count < deaths:
                self.count += 1
                newest = max(psutil.Process().children(), key=lambda child: child.pid)  # the training has one, too
                newest.kill()
                while newest.status() != psutil.STATUS_ZOMBIE:  # whoever waits for it here hides its death from torch
                    time.sleep(0.01)

    def work():
        trainer, _ = prepare(tmp_path, parts={"eval_dataset": windows_of(40)}, **EVALUATED | workers)
        trainer.add_callback(Killing(None))
        trainer.train()

    assert in_a_child(work) == ends
    said = capfd.readouterr().err
    assert said.count("after step 4 a worker of the data loader has died") == min(deaths, 3)
    assert kept(tmp_path) == ([4] if ends else [])
    if ends:
        assert "workers of the data loader have died 4 times" in said
        assert same(weights(evaluated(tmp_path, Batch(None))), evaluated_whole[0])


def test_workers_that_die_before_the_first_step_leave_the_checkpoint_as_it_was(tmp_path, whole, monkeypatch):
    go_on(tmp_path, save_steps=3)
    shutil.rmtree(tmp_path / "checkpoint-6")
    before = (tmp_path / "checkpoint-3" / "trainer_state.json").stat().st_mtime_ns

    def die(*_):
        raise RuntimeError("DataLoader worker (pid 1) is killed")

    monkeypatch.setattr(Trainer, "get_batch_samples", die)
    monkeypatch.setattr(reliable_trainer, "restarted_batches", lambda trainer: [])  # noqa: ARG005
    with pytest.raises(SystemExit, match="have died 4 times"):
        go_on(tmp_path)
    assert (tmp_path / "checkpoint-3" / "trainer_state.json").stat().st_mtime_ns == before
    monkeypatch.undo()
    assert same(weights(go_on(tmp_path)), whole)


@pytest.mark.parametrize(
    ("kind", "workers"), [(RuntimeError, 0), (EOFError, 0), (FileNotFoundError, 0), (ConnectionError, 1)]
)
def test_what_a_worker_raises_is_no_death(tmp_path, kind, workers):
    class Raising(Ledger):
        def __call__(self, examples):  # noqa: ARG002
            raise kind("of mine")

    trainer, ledger = prepare(tmp_path, dataloader_num_workers=workers, **NEVER)
    ledger.__class__ = Raising
    with pytest.raises(kind, match="of mine"):
        trainer.train()
    assert trainer.restarts == 0


@pytest.mark.parametrize(("phase", "workers"), by_day([("data", 1), ("evaluation", 0)], ["data", "evaluation"], [0, 1]))
def test_a_run_whose_data_or_evaluation_fails_is_saved(tmp_path, evaluated_whole, capfd, phase, workers):
    """Of a stream that has failed, say; or whose evaluation takes too much memory."""

    def work():
        trainer, ledger = prepare(
            tmp_path, parts={"eval_dataset": windows_of(8)}, dataloader_num_workers=workers, **EVALUATED
        )
        if phase == "data":
            call = Ledger.__call__

            def failing(self, examples):
                self.calls = getattr(self, "calls", 0) + 1
                if len(examples) == 2 and self.calls > 4:
                    raise ConfigError("the stream is gone")
                return call(self, examples)

            ledger.__class__ = type("Failing", (Ledger,), {"__call__": failing})
            object.__setattr__(ledger, "calls", 0)
        else:
            trainer.prediction_step = failing_prediction
        trainer.train()

    assert in_a_child(work) == 1
    said = capfd.readouterr().err
    assert "the run ends after step " in said
    assert "; it is saved, resume with" in said
    assert ("the stream is gone" if phase == "data" else "out of memory") in said
    assert len(kept(tmp_path)) == 1
    resumed = evaluated(tmp_path, Batch(None))
    assert same(weights(resumed), evaluated_whole[0])
    assert evaluations(resumed) == evaluated_whole[1]


def failing_prediction(*_, **__):
    raise RuntimeError("out of memory")


def prepared_and_trained(folder, **options):
    trainer, _ = prepare(folder, **options)
    trainer.train()
    return trainer


def test_a_worker_that_the_signal_reaches_too_does_not_end_the_step(tmp_path, whole):
    """As with Ctrl-C in a terminal, which goes to every process."""

    class Worker(Ledger):
        def __call__(self, examples):
            if torch.utils.data.get_worker_info() is not None:
                os.kill(os.getpid(), signal.SIGINT)
            return super().__call__(examples)

    def work():
        trainer, ledger = prepare(tmp_path, dataloader_num_workers=1, **NEVER)
        ledger.__class__ = Worker
        interrupted(trainer, signal.SIGINT, "forward")
        trainer.train()

    assert in_a_child(work) == 130
    assert same(weights(go_on(tmp_path)), whole)


# ---- several processes


def in_two_processes(folder: Path, happens: Callable[[int], None] | None, where: int = 1, **options) -> list[int]:
    """Train, on from the newest checkpoint; in the second process something happens, and its step 5 is no number.

    It happens before the forward pass of a step or of a batch of an evaluation, and is told after which step. If that
    process was stopped, it is killed once the other one has ended, as launchers do.
    """
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(found.getsockname()[1])}
    children = []
    for rank in ("0", "1"):
        if (child := os.fork()) == 0:
            AcceleratorState._reset_state(reset_partial_state=True)  # the parent's, of one process
            os.environ |= place | {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
            os.setsid()
            run_and_exit(folder, happens if rank == str(where) else None, options)
        children.append(child)
    ends = {}
    for child in (children[1 - where], children[where]):
        _, ends[child] = os.waitpid(child, os.WUNTRACED)
        if os.WIFSTOPPED(ends[child]):
            os.kill(child, signal.SIGKILL)
            _, ends[child] = os.waitpid(child, 0)
    return [os.waitstatus_to_exitcode(ends[child]) for child in children]


def run_and_exit(folder: Path, happens: Callable[[int], None] | None, options: dict):
    def work():
        loss, prediction = KindlingTrainer.compute_loss, KindlingTrainer.prediction_step

        def compute_loss(self, *arguments, **given):
            if happens:
                happens(self.state.global_step)
            value = loss(self, *arguments, **given)
            return value * math.nan if os.environ["RANK"] == "1" and self.state.global_step == 4 else value

        def prediction_step(self, *arguments, **given):
            if happens:
                happens(self.state.global_step)
            return prediction(self, *arguments, **given)

        KindlingTrainer.compute_loss, KindlingTrainer.prediction_step = compute_loss, prediction_step
        trainer = go_on(folder, **options)
        save_file(dict(trainer.model.named_parameters()), folder / f"weights-{os.environ['RANK']}")

    try:
        work()
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr, flush=True)
        os._exit(end.code if isinstance(end.code, int) else 1)
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def came_to(folder: Path) -> set[bytes]:
    found = sorted(folder.glob("weights-*"))
    assert len(found) == 2
    return {path.read_bytes() for path in found}


@pytest.fixture(scope="module")
def whole_of_two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole-of-two")
    assert in_two_processes(folder, None) == [0, 0]
    return came_to(folder)


def signalled(number: int) -> Callable[[int], None]:
    """In step 3, for the whole group of the process, as from torch's launcher: for its workers too."""
    return lambda step: os.killpg(0, number) if step == 2 else None


@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_processes_agree_on_a_signal_that_one_has_got(tmp_path, whole_of_two, workers, capfd):
    """And on a step that is no number in one of them; which one it was is said of both."""
    assert in_two_processes(tmp_path, signalled(signal.SIGTERM), dataloader_num_workers=workers) == [143, 143]
    assert latest_valid(tmp_path).name == "checkpoint-3"
    assert in_two_processes(tmp_path, None) == [0, 0]
    assert came_to(tmp_path) == whole_of_two
    assert len(whole_of_two) == 1
    assert (tmp_path / "skipped.jsonl").read_text().count("its loss is nan, from process 1") == 2  # a line a process
    said = capfd.readouterr().err
    assert said.count("SIGTERM to process 1: the run ends after step 3 of 6; it is saved") == 1
    assert said.count("step 5 is skipped: its loss is nan, from process 1; its batch is in ") == 1


def test_a_process_that_dies_ends_the_other_and_the_run_goes_on(tmp_path, whole_of_two):
    ends = in_two_processes(tmp_path, signalled(signal.SIGKILL))
    assert ends == [1, -signal.SIGKILL]
    assert latest_valid(tmp_path).name == "checkpoint-2"
    assert in_two_processes(tmp_path, None) == [0, 0]
    assert came_to(tmp_path) == whole_of_two


def stopped_in(step: int) -> Callable[[int], None]:
    return lambda done: os.kill(os.getpid(), signal.SIGSTOP) if done == step - 1 else None


def test_a_process_that_is_stopped_is_named_and_the_run_goes_on(tmp_path, whole_of_two, capfd):
    assert in_two_processes(tmp_path, stopped_in(3), ddp_timeout=12) == [1, -signal.SIGKILL]
    said = capfd.readouterr().err
    assert re.search(
        r"^process 1 \(\d+ on \S+\) has been silent for \d+ seconds \(the limit is 0.75 of training.ddp_timeout\): the "
        r"run ends after checkpoint-2; resume with training.resume_from_checkpoint=true$",
        said,
        re.M,
    )
    assert "Error" not in said
    assert latest_valid(tmp_path).name == "checkpoint-2"
    assert in_two_processes(tmp_path, None) == [0, 0]
    assert came_to(tmp_path) == whole_of_two


@pytest.mark.slow
def test_the_first_process_is_named_too(tmp_path, capfd):
    """Here it keeps the store, as it does where no launcher of torch's has started it."""
    assert in_two_processes(tmp_path, stopped_in(3), where=0, ddp_timeout=12) == [-signal.SIGKILL, 1]
    assert "the store of the run, which its launcher or process 0 keeps, has been silent for 9 s" in (
        capfd.readouterr().err
    )
    assert latest_valid(tmp_path).name == "checkpoint-2"


@pytest.mark.slow
def test_a_process_that_the_others_wait_for_is_named(tmp_path, capfd):
    """It lives, and waits for a batch that never comes."""

    def hang(step):
        if step == 1:
            Ledger.__call__ = lambda *_: time.sleep(25)

    assert in_two_processes(tmp_path, hang, ddp_timeout=12) == [1, 1]
    assert re.search(r"^process 1 \(\d+ on \S+\) has been waited for by others for \d+ s", capfd.readouterr().err, re.M)


def test_a_save_that_fails_in_one_process_says_in_which(tmp_path, whole_of_two, capfd):
    """Of several, all leave that checkpoint out, and train on."""

    write = saving_trainer.SavingTrainer.save_random_state

    def no_room(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fail(step):
        if step in (2, 4):
            saving_trainer.SavingTrainer.save_random_state = no_room if step == 2 else write

    assert in_two_processes(tmp_path, fail) == [0, 0]
    said = capfd.readouterr().err
    failed = "step 4: the checkpoint could not be saved (process 1: [Errno 28] No space left on device)"
    told = f"{failed}; the previous one is kept"
    assert said.count(told) == 1
    assert kept(tmp_path) == [2, 6]
    assert came_to(tmp_path) == whole_of_two


def test_processes_cut_off_an_evaluation_together(tmp_path):
    """Of eight batches, four a process; step 4 is made by then, and evaluated when the run goes on."""
    options = EVALUATED | {"parts": {"eval_dataset": windows_of(8)}}
    assert in_two_processes(tmp_path / "whole", None, **options) == [0, 0]
    batches = iter(range(10))

    def come(step):
        if step == 4 and next(batches) == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    assert in_two_processes(tmp_path / "run", come, **options) == [143, 143]
    assert latest_valid(tmp_path / "run").name == "checkpoint-4"
    assert in_two_processes(tmp_path / "run", None, **options) == [0, 0]
    assert came_to(tmp_path / "run") == came_to(tmp_path / "whole")


def test_each_process_replaces_its_workers(tmp_path, whole_of_two, capfd):
    def die(step):
        for worker in psutil.Process().children() if step == 2 else ():
            worker.kill()

    assert in_two_processes(tmp_path, die, dataloader_num_workers=1, dataloader_prefetch_factor=1) == [0, 0]
    assert came_to(tmp_path) == whole_of_two
    assert "a worker of the data loader of process 1 has died" in capfd.readouterr().err
