"""Whether a run's checkpoints fit on the disk, and its training steps in memory."""

import math
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import psutil
import torch
from transformers import TrainingArguments

from modeling.accounting import FLOAT32_BYTES
from modeling.memory import EVALUATION, OPTIMIZER, step_memory
from settings.checks import ConfigError
from settings.wording import format_memory
from storage.checkpoint_manifest import checkpoint_folders, checkpoint_step
from training.checkpoints.store import remove_stale
from training.machine.hardware import memory_limit

from .memory import Trained, count_numbers, state_floats, step_of


def weight_bytes(trained: Trained) -> int:
    """Bytes of the saved weights: in float32, with tied matrices counted once."""
    return FLOAT32_BYTES * sum(count_numbers(model.parameters()) for model, _, _ in trained)


def checkpoint_bytes(args: TrainingArguments, trained: Trained, averages: int = 0) -> int:
    """Bytes of a checkpoint: weights and, unless it is a model only, optimiser state and `averages` of the weights."""
    state = FLOAT32_BYTES * state_floats(trained) + averages * weight_bytes(trained)
    return weight_bytes(trained) + (0 if args.save_only_model else state)


def saves_until(step: int, args: TrainingArguments, steps_an_epoch: int) -> int:
    """How many checkpoints a run of `args.max_steps` steps has saved after `step` steps."""
    every = {"steps": args.save_steps, "epoch": steps_an_epoch, "best": args.eval_steps or math.inf}
    if args.load_best_model_at_end and args.save_strategy == "steps":  # each could be the best
        every["steps"] = args.eval_steps
    if (interval := every.get(args.save_strategy.value)) is None:
        return 0
    interval = math.ceil(args.max_steps * interval) if interval < 1 else interval
    return math.ceil(step / interval) if step == args.max_steps else int(step // interval)


def token_saves(counts: Iterable[int], tokens_a_step: int, steps: int, done: int) -> int:
    """How many checkpoints at these numbers of tokens a run of so many steps has still to save, with `done` made."""
    at = {math.ceil(count / tokens_a_step) for count in counts}
    return sum(done < step <= steps for step in at)


def most_checkpoints(args: TrainingArguments, saves: int) -> int:
    """The largest number of checkpoints that a run of so many saves has at a time."""
    limit = args.save_total_limit or math.inf
    kept = max(limit, 2) if args.metric_for_best_model else limit  # the best and the last
    return min(saves, kept + 1)  # the oldest is removed once the newest is complete


def check_disk_space(
    args: TrainingArguments, trained: Trained, examples: int, done: int, averages: int = 0, kept_saves: int = 0
):
    """`ConfigError` if a run over so many examples, with `done` steps made, would fill the disk.

    Counts the checkpoints still to come, `kept_saves` of them that are never removed, and the model, which is written
    beside a former one. Stale staging folders are removed first. Only the process that saves checks it.
    """
    if not args.should_save:
        return
    folder = Path(args.output_dir)
    remove_stale(folder)
    # Later ones are all damaged, or the run would resume from them.
    there = [step for step in map(checkpoint_step, checkpoint_folders(folder)) if step <= done]
    batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    steps_an_epoch = math.ceil(examples / batch)
    to_come = saves_until(args.max_steps, args, steps_an_epoch) - saves_until(done, args, steps_an_epoch)
    most = most_checkpoints(args, len(there) + to_come)
    more = max(most - len(there), min(to_come, 1)) + kept_saves
    size, model = checkpoint_bytes(args, trained, averages), weight_bytes(trained)
    needed, free = more * size + model, shutil.disk_usage(folder).free
    if needed > free:
        raise ConfigError(
            f"{folder} has room for {format_memory(free)}, and the run needs {format_memory(needed)}, {more} x "
            f"{format_memory(size)} for checkpoints and {format_memory(model)} for its model; free some space, lower "
            "training.save_total_limit, or choose another training.output_dir"
        )


def memory_line(args: TrainingArguments, trained: Trained, length: int, **recipe) -> str:
    """The line on the memory that a run needs and has, with advice if it is not enough."""
    step = step_of(args, trained, length, **recipe)
    phases = {name: sum(parts.values()) for name, parts in step_memory(*step).items()}
    peak, weights = max(phases.values()), weight_bytes(trained)
    lasting = phases[OPTIMIZER]
    if args.device.type == "cuda":
        used = 0  # the weights may be there already, or not yet
        machine = torch.cuda.mem_get_info(args.device)[0] + torch.cuda.memory_reserved(args.device)
    else:
        here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        used = here * psutil.Process().memory_info().rss
        peak, machine = here * (peak - weights) + used, psutil.virtual_memory().available + used
        machine = min(machine, memory_limit())
        lasting = here * (lasting - weights) + used
    if peak <= machine:
        return f"memory      about {format_memory(peak)} of {format_memory(machine)}"
    advice = "lower training.per_device_train_batch_size, and raise training.gradient_accumulation_steps"
    if phases[EVALUATION] == max(phases.values()):
        advice = "lower training.per_device_eval_batch_size"
    if lasting > machine:
        advice = "choose a smaller model"
    return f"memory      needs about {format_memory(peak)} of {format_memory(machine)}: {advice}"
