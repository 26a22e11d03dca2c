"""Whether a run's checkpoints fit on the disk, and its training steps in memory."""

import copy
import math
import os
import shutil
from pathlib import Path

import psutil
import torch
from torch import nn
from transformers import TrainingArguments

from modeling.accounting import FLOAT32_BYTES, activation_memory
from modeling.configuration_kindling import KindlingConfig
from settings.checks import ConfigError
from settings.sections import OptimizerSection
from settings.wording import format_memory
from storage.checkpoint_manifest import checkpoint_folders, checkpoint_step
from training.checkpoints.store import remove_stale
from training.hardware import memory_limit
from training.optimization.optimizers import MATRIX_OPTIMIZERS, split_parameters
from training.run import Run

Trained = list[tuple[nn.Module, TrainingArguments, OptimizerSection]]
"""Models that are trained together, as `build_optimizer` takes them."""


def _count(parameters) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _adafactor(parameters: list[nn.Parameter], options: str) -> int:  # noqa: ARG001
    """Means over rows and columns instead of whole matrices."""
    return sum(sum(p.shape) if p.ndim == 2 else p.numel() for p in parameters)


STATES = {
    "sgd": lambda parameters, options: _count(parameters) * ("momentum" in options),
    "adagrad": lambda parameters, options: _count(parameters),  # noqa: ARG005
    "rmsprop": lambda parameters, options: _count(parameters) * (1 + ("momentum" in options) + ("centered" in options)),
    "adafactor": _adafactor,
}
"""State floats of transformers' optimisers that differ from AdamW, given `training.optim_args`."""


def state_floats(trained: Trained) -> int:
    """Floats of optimiser state; for an unknown optimiser two per parameter, as AdamW has."""
    total = 0
    for model, args, section in trained:
        parameters = list(model.parameters())
        if section.is_stock:
            state = STATES.get(args.optim.value, lambda parameters, options: 2 * _count(parameters))  # noqa: ARG005
            total += state(parameters, args.optim_args or "")
            continue
        matrices, rest = split_parameters(model, section.kind)
        own = MATRIX_OPTIMIZERS[section.kind].state_floats if matrices else 0
        total += own * _count(matrices) + 2 * _count(rest) + _count(parameters) * (section.grokfast_lambda > 0)
    return total


def weight_bytes(trained: Trained) -> int:
    """Bytes of the saved weights: in float32, with tied matrices counted once."""
    return FLOAT32_BYTES * sum(_count(model.parameters()) for model, _, _ in trained)


def checkpoint_bytes(args: TrainingArguments, trained: Trained) -> int:
    """Bytes of a checkpoint: weights and, unless it is a model only, optimiser state."""
    return weight_bytes(trained) + (0 if args.save_only_model else FLOAT32_BYTES * state_floats(trained))


def saves_until(step: int, args: TrainingArguments, steps_an_epoch: int) -> int:
    """How many checkpoints a run of `args.max_steps` steps has saved after `step` steps."""
    every = {"steps": args.save_steps, "epoch": steps_an_epoch, "best": args.eval_steps or math.inf}
    if args.load_best_model_at_end and args.save_strategy == "steps":  # each could be the best
        every["steps"] = args.eval_steps
    if (interval := every.get(args.save_strategy.value)) is None:
        return 0
    interval = math.ceil(args.max_steps * interval) if interval < 1 else interval
    return math.ceil(step / interval) if step == args.max_steps else int(step // interval)


def check_disk(run: Run, trained: Trained, examples: int):
    """`ConfigError` if a run over so many examples would fill the disk; checked by the process that saves."""
    if run.args.should_save:
        check_disk_space(run.folder, run.args, trained, examples, run.fingerprint.done)


def check_disk_space(folder: Path, args: TrainingArguments, trained: Trained, examples: int, done: int):
    """`ConfigError` if a run over so many examples, with `done` steps made, would fill the disk.

    Counts the checkpoints still to come, and the model, which is written beside a former one. Stale staging folders are
    removed first.
    """
    remove_stale(folder)
    # Later ones are all damaged, or the run would resume from them.
    there = [step for step in map(checkpoint_step, checkpoint_folders(folder)) if step <= done]
    batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    steps_an_epoch = math.ceil(examples / batch)
    to_come = saves_until(args.max_steps, args, steps_an_epoch) - saves_until(done, args, steps_an_epoch)
    limit = args.save_total_limit or math.inf
    kept = max(limit, 2) if args.metric_for_best_model else limit  # the best and the last
    most = min(len(there) + to_come, kept + 1)  # the oldest is removed once the newest is complete
    more = max(most - len(there), min(to_come, 1))
    size, model = checkpoint_bytes(args, trained), weight_bytes(trained)
    needed, free = more * size + model, shutil.disk_usage(folder).free
    if needed > free:
        raise ConfigError(
            f"{folder} has room for {format_memory(free)}, and the run needs {format_memory(needed)}, {more} x "
            f"{format_memory(size)} for checkpoints and {format_memory(model)} for its model; free some space, lower "
            "training.save_total_limit, or choose another training.output_dir"
        )


def step_bytes(args: TrainingArguments, trained: Trained, length: int) -> dict[str, int]:
    """Bytes of memory that training in float32 takes on a device, by part, with sequences of `length` tokens.

    Training needs activations (log-probabilities included), logits, the gradients of logits and log-probabilities, and
    one layer's gradients; validation needs logits, a shifted copy and log-probabilities. Autocast takes less.
    """
    config, weights, batch = trained[0][0].config, weight_bytes(trained), args.per_device_train_batch_size
    logits = len(trained) * FLOAT32_BYTES * length * config.vocab_size
    one, inputs = _with_one_layer(config), FLOAT32_BYTES * batch * length * config.hidden_size
    a_layer = sum(activation_memory(one, length, batch).values())
    activations = sum(activation_memory(config, length, batch).values())
    if args.gradient_checkpointing:  # of the other layers, only what goes into them
        activations = a_layer + (config.num_hidden_layers - 1) * inputs
    return {
        "weights": weights,
        "gradients": weights,
        "optimiser": FLOAT32_BYTES * state_floats(trained),
        "training": len(trained) * (activations + a_layer) + 2 * logits * batch,
        "validation": 3 * logits * args.per_device_eval_batch_size,
    }


def _with_one_layer(config: KindlingConfig) -> KindlingConfig:
    one = copy.deepcopy(config)
    one.num_hidden_layers = 1
    return one


def memory_line(args: TrainingArguments, trained: Trained, length: int) -> str:
    """The line on the memory that a run needs and has, with advice if it is not enough."""
    parts = step_bytes(args, trained, length)
    lasting = parts["weights"] + parts["gradients"] + parts["optimiser"]
    peak = lasting + max(parts["training"], parts["validation"])
    if args.device.type == "cuda":
        used = 0  # the weights may be there already, or not yet
        machine = torch.cuda.mem_get_info(args.device)[0] + torch.cuda.memory_reserved(args.device)
    else:
        here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        used = here * psutil.Process().memory_info().rss
        peak, machine = here * (peak - parts["weights"]) + used, psutil.virtual_memory().available + used
        machine = min(machine, memory_limit())
        lasting = here * (lasting - parts["weights"]) + used
    if peak <= machine:
        return f"memory      about {format_memory(peak)} of {format_memory(machine)}"
    advice = "lower training.per_device_train_batch_size, and raise training.gradient_accumulation_steps"
    if parts["validation"] > parts["training"]:
        advice = "lower training.per_device_eval_batch_size"
    if lasting > machine:
        advice = "choose a smaller model"
    return f"memory      needs about {format_memory(peak)} of {format_memory(machine)}: {advice}"
