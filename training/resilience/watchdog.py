"""Watches the processes of a run: one that stops responding is named, and the others exit."""

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
"""Points of a step at which processes wait for one another, in order."""
TIMEOUT_SHARE = 0.75
"""Share of `training.ddp_timeout` after which a process counts as unresponsive; the libraries would time out later."""
HEARTBEAT_SECONDS = 5.0
"""Seconds between two heartbeats, unless the limit is short."""


class Watch:
    """Within `with`, each process publishes a heartbeat and its progress, and watches those of the others.

    If one is silent (stopped, swapped out, its machine gone) or falls behind while others wait for it, for longer than
    `TIMEOUT_SHARE` of `training.ddp_timeout`, all others exit with code 1, and the first of them prints which one it
    was. Heartbeats go through the launcher's store, so they work while everything else waits.
    """

    def __init__(self, args: TrainingArguments, about: Callable[[], str]):
        """`about` returns what to print about the run when it ends: what is saved, how to resume."""
        self.rank, self.others = args.process_index, {*range(args.world_size)} - {args.process_index}
        self.limit = TIMEOUT_SHARE * args.ddp_timeout
        self.pause = min(HEARTBEAT_SECONDS, self.limit / 10)
        self.about = about
        self.progress = [0, 0, 0]
        """The last waiting point that this process has reached: step, point and its number."""
        self._depth, self._left, self._thread = 0, threading.Event(), None
        self._suspects = False

    def __enter__(self):
        self._depth += 1
        if self._depth == 1 and self.others and "MASTER_ADDR" in os.environ:
            with suppress(Exception):  # no such store: then nothing is watched
                self._start()
        return self

    def _start(self):
        store = TCPStore(
            os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, wait_for_workers=False,
            timeout=timedelta(seconds=2 * self.limit),
        )  # fmt: skip
        self._exchange(store, 0)  # before any step: from now on silence is noticed
        self._left.clear()
        self._thread = threading.Thread(target=self._watch, args=(store,), name="watch", daemon=True)
        self._thread.start()

    def __exit__(self, kind, *_):
        self._depth -= 1
        if self._depth == 0 and self._thread is not None:
            if kind is not None and self._suspects:  # a library has timed out first, or failed for the same reason
                self._thread.join(self.limit)
            self._left.set()
            self._thread.join(2 * self.pause)  # no longer: its store may be gone
            self._thread = None

    def arrive(self, step: int, *place: int):
        """Called where processes wait for one another: record the point of a step that this one has reached."""
        self.progress = [step, *place]

    def _watch(self, store: TCPStore):
        with suppress(Exception):  # the store is gone: the run has ended, or is about to
            self._heartbeat_loop(store)
            store.set(_key(self.rank), "")

    def _heartbeat_loop(self, store: TCPStore):
        known, beat, last = {}, 0, time.monotonic()
        with ThreadPoolExecutor(1) as aside:  # so that an unresponsive store is noticed, too
            while not self._left.wait(self.pause):
                beat, before, last = beat + 1, last, time.monotonic()
                if last - before > 3 * self.pause:  # this process itself was stopped
                    known.clear()
                try:
                    states = aside.submit(self._exchange, store, beat).result(self.limit)
                except TimeoutError:
                    self._end(f"the store of the run, which its launcher or process 0 keeps, {_silent(self.limit)}", 0)
                found = self._unresponsive(known, states, time.monotonic())
                if found:
                    healthy = {self.rank, *self.others} - found.keys()
                    self._end("; ".join(found.values()), sorted(healthy).index(self.rank))

    def _exchange(self, store: TCPStore, beat: int) -> dict[int, dict]:
        """Publish this process's state; return the states of the others that are watching."""
        mine = {"beat": beat, "progress": self.progress, "process": os.getpid(), "host": platform.node()}
        store.set(_key(self.rank), json.dumps(mine))
        told = {rank: store.get(_key(rank)) for rank in self.others if store.check([_key(rank)])}
        return {rank: json.loads(text) for rank, text in told.items() if text}

    def _unresponsive(self, known: dict, states: dict[int, dict], now: float) -> dict[int, str]:
        """The processes without a change for too long, each described; `known` has the time of each last change."""
        furthest = max([self.progress, *(state["progress"] for state in states.values())])
        found, self._suspects = {}, False
        for rank, state in states.items():
            who = f"process {rank} ({state['process']} on {state['host']})"
            since = {}
            # Falling behind is a change: time that all of them spent together, as in an evaluation, is not waiting.
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
        """Exit; the first process prints why, and the others give it time to do so."""
        if place == 0:
            os.write(2, f"\n{what} (the limit is {TIMEOUT_SHARE} of training.ddp_timeout): {self.about()}\n".encode())
        else:
            time.sleep(2 * self.pause)
        os._exit(1)  # whatever the main thread waits for


def _silent(seconds: float) -> str:
    return f"has been silent for {seconds:,.0f} seconds"


def _key(rank: int) -> str:
    return f"kindling/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}/{rank}"
