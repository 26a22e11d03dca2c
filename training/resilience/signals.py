"""SIGTERM, SIGINT and SIGHUP: the step is finished, the run is saved, and the exit code says what ended it."""

import os
import select
import signal
import threading
import time
from contextlib import contextmanager, suppress

import torch
from accelerate.utils import gather
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

ECHO = 1.0
"""Seconds within which a signal that comes again is the same one: launchers pass on what the terminal sends to all."""

LAST_SECONDS = 30
"""How long a data loader's worker stays after a SIGTERM, which launchers send to the whole group of a process."""


def silence_broken_pipes():
    """Let output go nowhere whose reader is gone: the Ctrl-C that ends a run also ends the `tee` behind it."""
    for output in (1, 2) if hasattr(select, "poll") else ():
        poll = select.poll()
        poll.register(output, 0)
        if any(event & (select.POLLERR | select.POLLNVAL) for _, event in poll.poll(0)):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, output)
            os.close(nowhere)


def is_left_to_nohup(number: int) -> bool:
    """Whether a signal is the terminal's end, which `nohup` or a shell has this process ignore."""
    return number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN


def origin(marks: list[bool]) -> str:
    """Of several processes those that are marked, in words; nothing if all are, or there is one."""
    marked = [str(rank) for rank, mark in enumerate(marks) if mark]
    if len(marked) == len(marks):
        return ""
    return f"process {marked[0]}" if len(marked) == 1 else f"processes {', '.join(marked)}"


class EvaluationCutOff(BaseException):
    """A signal has come during an evaluation, which may take longer than the run has time left. It is no error."""


class Signals(TrainerCallback, ExportableState):
    """Ends a training after the step in which a signal came, with a checkpoint; a second signal ends it at once.

    An evaluation is cut off by `EvaluationCutOff`, or left out; that the run `owes` one is kept in the checkpoint.
    """

    HEEDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    def __init__(self):
        self.came = 0
        """The signal that came to this process, or 0."""
        self.agreed = 0
        """That which the run ends by: of several processes, all have the same."""
        self.origin = ""
        """Of several processes, to which of them it came."""
        self.owes = False
        """Whether the checkpoint was saved before an evaluation that was due at its step."""
        self._is_heeding = False
        self._since = 0.0
        self._process = os.getpid()

    @contextmanager
    def heeded(self):
        """Within, signals are answered; before and after, they end the process as ever."""
        self.came = self.agreed = 0
        if threading.current_thread() is not threading.main_thread():  # where Python lets nobody do so
            yield
            return
        heeded = [one for one in self.HEEDED if not is_left_to_nohup(one)]
        before = {one: signal.signal(one, self._answer) for one in heeded}
        self._is_heeding = True
        try:
            yield
        finally:
            self._is_heeding = False
            for one, handler in before.items():
                signal.signal(one, handler)

    def _answer(self, number: int, frame):  # noqa: ARG002
        if os.getpid() != self._process:  # a data loader's worker, which has this from its parent
            if number == signal.SIGTERM:  # its last batches may be waited for, but it must not stay for ever
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.alarm(LAST_SECONDS)
        elif not self.came:
            self.came, self._since = number, time.monotonic()
            name = signal.Signals(number).name
            with suppress(OSError):  # not by print: the signal may have come in the midst of one
                os.write(
                    2, f"\n{name}: ending after this step, with a checkpoint; once more ends it at once\n".encode()
                )
            silence_broken_pipes()
        elif time.monotonic() - self._since > ECHO:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def state(self) -> dict:
        """What the Trainer writes into `trainer_state.json`."""
        return {"args": {}, "attributes": {"owes": self.owes}}

    def on_train_begin(self, args, state, control, **kwargs):  # noqa: ARG002
        before = state.stateful_callbacks.get(type(self).__name__, {}).get("attributes", {})
        self.owes = before.get("owes", False)

    def on_prediction_step(self, args, state, control, **kwargs):  # noqa: ARG002
        if self._is_heeding and self.agree(args):
            raise EvaluationCutOff

    def agree(self, args) -> int:
        """The signal that the run is to end by, the same in all processes; 0 if there was none."""
        if args.world_size == 1:
            self.agreed = self.came
        else:
            self.settle(gather(torch.tensor([self.came], device=args.device)).tolist())
        return self.agreed

    def settle(self, came: list[int]):
        """Agree on the last of the signals that have come, one a process."""
        self.agreed = int(max(came))
        self.origin = origin([number == self.agreed for number in came])

    def on_step_end(self, args, state, control, **kwargs):  # noqa: ARG002
        if args.world_size == 1:  # one that came since is heeded at once
            self.agreed = self.came
        if self.came:
            silence_broken_pipes()
        if self.agreed:
            control.should_save = control.should_training_stop = True
