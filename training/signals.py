"""SIGTERM and SIGINT: the step is finished, the run is saved, and the exit code says what ended it."""

import os
import signal
import threading
import time
from contextlib import contextmanager

from transformers import TrainerCallback

ECHO = 1.0
"""Seconds within which a signal that comes again is the same one: launchers pass on what the terminal sends to all."""


class Signals(TrainerCallback):
    """Ends a training after the step in which a signal came, with a checkpoint; a second signal ends it at once."""

    HEEDED = (signal.SIGTERM, signal.SIGINT)

    def __init__(self):
        self.came = 0
        """The signal that came to this process, or 0."""
        self.agreed = 0
        """That which the run ends by: of several processes, all have the same."""
        self._since = 0.0
        self._process = os.getpid()

    @contextmanager
    def heeded(self):
        """Within, signals are answered; before and after, they end the process as ever."""
        if threading.current_thread() is not threading.main_thread():  # where Python lets nobody do so
            yield
            return
        before = {one: signal.signal(one, self._answer) for one in self.HEEDED}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)

    def _answer(self, number: int, frame):  # noqa: ARG002
        if os.getpid() != self._process:  # a data loader's worker, which has this from its parent, and is ended by it
            if number == signal.SIGTERM:
                os._exit(128 + number)
        elif not self.came:
            self.came, self._since = number, time.monotonic()
            name = signal.Signals(number).name
            # Not by print: the signal may have come in the midst of one.
            os.write(2, f"\n{name}: ending after this step, with a checkpoint; once more ends it at once\n".encode())
        elif time.monotonic() - self._since > ECHO:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def on_step_end(self, args, state, control, **kwargs):  # noqa: ARG002
        if args.world_size == 1:  # one that came since is heeded at once
            self.agreed = self.came
        if self.agreed:
            control.should_save = control.should_training_stop = True
