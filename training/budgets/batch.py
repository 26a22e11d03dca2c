"""Splits a batch of so many tokens over processes and accumulated parts."""

from transformers import TrainingArguments

from settings.checks import ConfigError, warn
from settings.experiment import LanguageExperiment
from settings.sections import MAX_ACCUMULATION
from training.model import build_config


def split_batch(args: TrainingArguments, experiment: LanguageExperiment, start: str | None):
    """Set batch and accumulation per process in `args`, so that a step has `budget.batch_tokens`, if given.

    The accumulated batches are the largest of at most `per_device_train_batch_size` that divide the whole. `start` is
    the checkpoint that the model starts from, if there is one.
    """
    wanted, limit = experiment.budget.batch_tokens, args.per_device_train_batch_size
    if wanted is None:
        return
    length = experiment.window(build_config(experiment.model, {}, start).max_position_embeddings, start)
    each = max(1, round(wanted / (length * args.world_size)))
    size = max(count for count in range(1, min(each, limit) + 1) if each % count == 0)
    if each // size > MAX_ACCUMULATION:
        raise ConfigError(
            f"budget.batch_tokens={wanted:,} needs {each // size:,} batches of {size} windows per step, and at most "
            f"{MAX_ACCUMULATION:,} can be accumulated; lower it, or raise training.per_device_train_batch_size"
        )
    if (actual := each * args.world_size * length) != wanted:
        warn(
            f"budget.batch_tokens={wanted:,} is no whole number of windows of {length} tokens for each of "
            f"{args.world_size} process(es), so a step has {actual:,}"
        )
    if 2 * size <= min(each, limit):
        warn(
            f"a step of {each} windows per process has no divisor between {size} and training."
            f"per_device_train_batch_size={limit}, so only {size} are computed at a time"
        )
    args.per_device_train_batch_size, args.gradient_accumulation_steps = size, each // size
