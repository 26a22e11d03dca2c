"""SIGTERM, SIGINT and SIGHUP: finish the step, save a checkpoint, and exit with the signal's exit code."""

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

ECHO_SECONDS = 1.0
"""Seconds within which a repeated signal counts as one: a launcher forwards what the terminal has sent already."""

WORKER_GRACE_SECONDS = 30
"""How long a data loader worker lives on after SIGTERM, which launchers send to the whole process group."""


def silence_broken_pipes():
    """Redirect stdout and stderr to nowhere if their reader is gone: Ctrl-C also ends a `tee` behind the run."""
    for output in (1, 2) if hasattr(select, "poll") else ():
        poll = select.poll()
        poll.register(output, 0)
        if any(event & (select.POLLERR | select.POLLNVAL) for _, event in poll.poll(0)):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, output)
            os.close(nowhere)


def is_ignored_hangup(number: int) -> bool:
    """Whether a signal is SIGHUP and was set to be ignored, as `nohup` does."""
    return number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN


def origin(marks: list[bool]) -> str:
    """The marked ones of several processes, as text; empty if all are marked."""
    marked = [str(rank) for rank, mark in enumerate(marks) if mark]
    if len(marked) == len(marks):
        return ""
    return f"process {marked[0]}" if len(marked) == 1 else f"processes {', '.join(marked)}"


class EvaluationCutOff(BaseException):
    """A signal was received during an evaluation, which may take longer than the run has left. Not an error."""


class Signals(TrainerCallback, ExportableState):
    """Ends training, with a checkpoint, after the step in which a signal was received; a second one ends it at once.

    An evaluation is cut off by `EvaluationCutOff`, or left out; `evaluation_pending` is saved in the checkpoint.
    """

    HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

    def __init__(self):
        self.received = 0
        """The signal that this process received, or 0."""
        self.agreed_signal = 0
        """The signal that the run ends by, the same in all processes; 0 if there is none."""
        self.origin = ""
        """Which of several processes received it, as text."""
        self.evaluation_pending = False
        """Whether the checkpoint was saved before an evaluation due at its step; its key in checkpoints is `owes`."""
        self._is_handling = False
        self._since = 0.0
        self._process = os.getpid()

    @contextmanager
    def handle_signals(self):
        """Within, signals are handled; before and after, they have their usual effect."""
        self.received = self.agreed_signal = 0
        if threading.current_thread() is not threading.main_thread():  # Python sets handlers in the main thread only
            yield
            return
        handled = [one for one in self.HANDLED if not is_ignored_hangup(one)]
        before = {one: signal.signal(one, self._answer) for one in handled}
        self._is_handling = True
        try:
            yield
        finally:
            self._is_handling = False
            for one, handler in before.items():
                signal.signal(one, handler)

    def _answer(self, number: int, frame):  # noqa: ARG002
        if os.getpid() != self._process:  # a data loader worker, which inherits the handler
            if number == signal.SIGTERM:  # its last batches may be needed, but it must not live on for ever
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.alarm(WORKER_GRACE_SECONDS)
        elif not self.received:
            self.received, self._since = number, time.monotonic()
            name = signal.Signals(number).name
            with suppress(OSError):  # not print: the signal may have interrupted one
                os.write(
                    2, f"\n{name}: ending after this step, with a checkpoint; once more ends it at once\n".encode()
                )
            silence_broken_pipes()
        elif time.monotonic() - self._since > ECHO_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def state(self) -> dict:
        """What the Trainer writes into `trainer_state.json`."""
        return {"args": {}, "attributes": {"owes": self.evaluation_pending}}

    def on_train_begin(self, args, state, control, **kwargs):  # noqa: ARG002
        before = state.stateful_callbacks.get(type(self).__name__, {}).get("attributes", {})
        self.evaluation_pending = before.get("owes", False)

    def on_prediction_step(self, args, state, control, **kwargs):  # noqa: ARG002
        if self._is_handling and self.agree(args):
            raise EvaluationCutOff

    def agree(self, args) -> int:
        """Agree on the signal that the run ends by, and return it; 0 if no process has received one."""
        if args.world_size == 1:
            self.agreed_signal = self.received
        else:
            self.agree_on(gather(torch.tensor([self.received], device=args.device)).tolist())
        return self.agreed_signal

    def agree_on(self, received: list[int]):
        """Set `agreed_signal` to the highest of the signals received, one per process."""
        self.agreed_signal = int(max(received))
        self.origin = origin([number == self.agreed_signal for number in received])

    def on_step_end(self, args, state, control, **kwargs):  # noqa: ARG002
        if args.world_size == 1:  # one received since then is handled at once
            self.agreed_signal = self.received
        if self.received:
            silence_broken_pipes()
        if self.agreed_signal:
            control.should_save = control.should_training_stop = True
