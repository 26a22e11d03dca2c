"""Data loader workers that die, most often for lack of memory: the run goes on with new ones, at the same batch."""

import itertools
import math
import signal
import threading
from collections.abc import Iterator

import torch
from accelerate import skip_first_batches
from transformers import Trainer

RESTARTS = 3
"""How often a run starts new workers."""


def leave_deaths_to_the_loader():
    """Have a worker's death come up where the next batch is asked for, and not wherever the main process is by then."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler raises there


LOST = (EOFError, ConnectionError, FileNotFoundError)
"""What fetching a batch ends in, if the worker that has it in its memory is gone by then."""


def is_death(error: Exception, workers: int) -> bool:
    """Whether a worker has died, rather than raised something itself, which comes as `Caught ... in DataLoader ...`."""
    if isinstance(error, LOST):
        return workers > 0 and " in DataLoader worker process " not in str(error)
    return str(error).startswith("DataLoader worker")


def from_new_workers(trainer: Trainer) -> Iterator:
    """The batches of the epoch that a trainer is in, from after the last step that it has made."""
    loader, accumulation = trainer.get_train_dataloader(), trainer.args.gradient_accumulation_steps
    epoch, step = divmod(trainer.state.global_step, math.ceil(len(loader) / accumulation))
    if step:
        loader = skip_first_batches(loader, step * accumulation)
    if hasattr(loader, "set_epoch"):
        loader.set_epoch(epoch)
    with torch.random.fork_rng(devices=[]):  # a loader that starts draws a number, which the first one has done
        batches = iter(loader)
        first = next(batches)
    return itertools.chain([first], batches)
