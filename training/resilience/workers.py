"""Restarts data loader workers that have died, most often for lack of memory, at the same batch."""

import itertools
import math
import signal
import threading
from collections.abc import Iterator

import torch
from accelerate import skip_first_batches
from transformers import Trainer

MAX_RESTARTS = 3
"""How many times a run restarts workers."""


def restore_default_sigchld():
    """Let a worker's death raise where the next batch is fetched, instead of anywhere in the main process."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler raises there


WORKER_GONE_ERRORS = (EOFError, ConnectionError, FileNotFoundError)
"""What fetching a batch raises if the worker that holds it in its memory is gone."""


def is_worker_death(error: Exception, workers: int) -> bool:
    """Whether a worker has died; an exception that it raised itself says `Caught ... in DataLoader ...` instead."""
    if isinstance(error, WORKER_GONE_ERRORS):
        return workers > 0 and " in DataLoader worker process " not in str(error)
    return str(error).startswith("DataLoader worker")


def restarted_batches(trainer: Trainer) -> Iterator:
    """The remaining batches of a trainer's present epoch, after the last step that it has made."""
    loader, accumulation = trainer.get_train_dataloader(), trainer.args.gradient_accumulation_steps
    epoch, step = divmod(trainer.state.global_step, math.ceil(len(loader) / accumulation))
    if step:
        loader = skip_first_batches(loader, step * accumulation)
    if hasattr(loader, "set_epoch"):
        loader.set_epoch(epoch)
    with torch.random.fork_rng(devices=[]):  # starting a loader draws a random number, as the first one did
        batches = iter(loader)
        first = next(batches)
    return itertools.chain([first], batches)
