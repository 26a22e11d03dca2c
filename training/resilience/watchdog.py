"""A process of a run that no longer answers is named, in place of being waited for without a word."""

import json
import os
import platform
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta

from torch.distributed import TCPStore
from transformers import TrainingArguments

SAVE, BATCH, AGREEMENT = range(3)
"""Places of a step where processes wait for one another, in their order."""
SHARE = 0.75
"""Of `training.ddp_timeout`, after which the libraries give up, and name nobody; two pauses come on top."""
PAUSE = 5.0
"""Seconds between two beats, if the limit is long."""


class Watch:
    """Within `with`, one of several processes shows the others that it lives, and how far it is, and looks at them.

    Where one is silent (stopped, swapped out, its machine gone), or stays behind while others wait for it, for `SHARE`
    of `training.ddp_timeout`, all others end with exit code 1, and the first of them says which one it was. What passes
    between them goes through the launcher's store, so that it works while all else waits.
    """

    def __init__(self, args: TrainingArguments, about: Callable[[], str]):
        """`about` is what to say of the run in the end: what is saved, how to go on."""
        self.rank, self.others = args.process_index, {*range(args.world_size)} - {args.process_index}
        self.limit = SHARE * args.ddp_timeout
        self.pause = min(PAUSE, self.limit / 10)
        self.about = about
        self.progress = [0, 0, 0]
        """The last place where processes wait for one another that this one has come to, in their order."""
        self._depth, self._left, self._thread = 0, threading.Event(), None
        self._suspects = False

    def __enter__(self):
        self._depth += 1
        if self._depth == 1 and self.others and "MASTER_ADDR" in os.environ:
            with suppress(Exception):  # no store of that kind: then nobody is watched
                self._start()
        return self

    def _start(self):
        store = TCPStore(
            os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, wait_for_workers=False,
            timeout=timedelta(seconds=2 * self.limit),
        )  # fmt: skip
        self._exchange(store, 0)  # before any step: from now on it is missed if it falls silent
        self._left.clear()
        self._thread = threading.Thread(target=self._watch, args=(store,), name="watch", daemon=True)
        self._thread.start()

    def __exit__(self, kind, *_):
        self._depth -= 1
        if self._depth == 0 and self._thread is not None:
            if kind is not None and self._suspects:  # the library has given up first, or failed for the same reason
                self._thread.join(self.limit)
            self._left.set()
            self._thread.join(2 * self.pause)  # no longer: its store may be gone
            self._thread = None

    def arrive(self, step: int, *place: int):
        """To be called where processes wait for one another: this one has come to a place of a step."""
        self.progress = [step, *place]

    def _watch(self, store: TCPStore):
        with suppress(Exception):  # a store that is gone: then the run has ended, or is about to
            self._look_around(store)
            store.set(_key(self.rank), "")

    def _look_around(self, store: TCPStore):
        known, beat, last = {}, 0, time.monotonic()
        with ThreadPoolExecutor(1) as aside:  # so that a store that does not answer is noticed, too
            while not self._left.wait(self.pause):
                beat, before, last = beat + 1, last, time.monotonic()
                if last - before > 3 * self.pause:  # it was this process that was stopped
                    known.clear()
                try:
                    states = aside.submit(self._exchange, store, beat).result(self.limit)
                except TimeoutError:
                    self._end(f"the store of the run, which its launcher or process 0 keeps, {_silent(self.limit)}", 0)
                found = self._missing(known, states, time.monotonic())
                if found:
                    healthy = {self.rank, *self.others} - found.keys()
                    self._end("; ".join(found.values()), sorted(healthy).index(self.rank))

    def _exchange(self, store: TCPStore, beat: int) -> dict[int, dict]:
        """Tell the others how far this process is; return what they have told, but for those that do not watch."""
        mine = {"beat": beat, "progress": self.progress, "process": os.getpid(), "host": platform.node()}
        store.set(_key(self.rank), json.dumps(mine))
        told = {rank: store.get(_key(rank)) for rank in self.others if store.check([_key(rank)])}
        return {rank: json.loads(text) for rank, text in told.items() if text}

    def _missing(self, known: dict, states: dict[int, dict], now: float) -> dict[int, str]:
        """Those that have not changed for too long, and what is said of them; `known` has each thing's last change."""
        furthest = max([self.progress, *(state["progress"] for state in states.values())])
        found, self._suspects = {}, False
        for rank, state in states.items():
            who = f"process {rank} ({state['process']} on {state['host']})"
            since = {}
            # Falling behind is a change: what all of them did for long, as an evaluation, is no waiting.
            told = {"beat": state["beat"], "progress": (state["progress"], state["progress"] < furthest)}
            for thing, value in told.items():
                before, since[thing] = known.get((rank, thing), (None, now))
                if value != before:
                    since[thing] = now
                known[rank, thing] = value, since[thing]
            self._suspects |= now - since["beat"] > 3 * self.pause
            if now - since["beat"] > self.limit:
                found[rank] = f"{who} {_silent(now - since['beat'])}"
            elif told["progress"][1] and now - since["progress"] > self.limit:
                found[rank] = f"{who} has been waited for by others for {now - since['progress']:,.0f} seconds"
        return found

    def _end(self, what: str, place: int):
        """The first one says it, and the others leave it time to do so."""
        if place == 0:
            os.write(2, f"\n{what} (the limit is {SHARE} of training.ddp_timeout): {self.about()}\n".encode())
        else:
            time.sleep(2 * self.pause)
        os._exit(1)  # whatever the main thread waits for


def _silent(seconds: float) -> str:
    return f"has been silent for {seconds:,.0f} seconds"


def _key(rank: int) -> str:
    return f"kindling/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}/{rank}"
