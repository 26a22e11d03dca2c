"""A run's budget, resolved: its length in examples, and how a batch of so many tokens is split."""

from collections.abc import Callable
from functools import partial

import numpy as np
from transformers import TrainingArguments

from data_prep.collator import CausalLMCollator
from data_prep.tokens.counts import document_sizes
from data_prep.tokens.order import first_shuffled, key
from data_prep.tokens.windows import Documents, Windows
from modeling.accounting import training_flops_of
from modeling.configuration_kindling import KindlingConfig
from settings.checks import ConfigError, warn
from settings.experiment import LanguageExperiment

from .model import build_config


def _targets(config: KindlingConfig, targets, lengths):  # noqa: ARG001
    return targets


def _flops(config: KindlingConfig, targets, lengths):  # noqa: ARG001
    return training_flops_of(config, lengths, lengths**2)


COSTS: dict[str, Callable] = {"tokens": _targets, "flops": _flops}
"""What training once on examples costs, by the name of a budget: of their targets and their tokens, as arrays."""


def budgeted_examples(
    amounts: dict[str, float],
    examples: Windows | Documents,
    seed: int,
    collate: CausalLMCollator,
    config: KindlingConfig,
) -> int | None:
    """The number of examples, repeated ones included, whose training spends a budget; None without one in `COSTS`.

    Documents are counted in the order in which a run of this `seed` reads them; windows all cost the same.
    """
    for name in amounts.keys() & COSTS.keys():
        amount, cost = amounts[name], partial(COSTS[name], config)
        if isinstance(examples, Documents):
            costs = cost(*document_sizes(examples, collate)).astype(float)
        else:
            costs = np.array([cost(examples.length - max(collate.mask_first_n, 1), examples.length)], dtype=float)
        if not costs.sum():
            raise ConfigError(f"budget.{name}={amount:g} is never spent, because no token of the data is a target")
        return examples_to_spend(amount, costs, seed)
    return None


def examples_to_spend(amount: float, costs: np.ndarray, seed: int) -> int:
    """The number of examples that costs closest to `amount`, in the order of a run; `costs` are those of an epoch."""
    epochs, rest = divmod(amount, costs.sum())
    order = first_shuffled(len(costs), len(costs), key(seed, int(epochs)))
    spent = np.concatenate([[0.0], np.cumsum(costs[order])])
    return int(epochs) * len(costs) + int(np.abs(spent - rest).argmin())


def split_batch(args: TrainingArguments, experiment: LanguageExperiment, checkpoint: str | None):
    """Set batch and accumulation per process in `args`, so that a step has `budget.batch_tokens`, if given.

    The accumulated batches are the largest of at most `per_device_train_batch_size` that divide the whole.
    """
    wanted, limit = experiment.budget.batch_tokens, args.per_device_train_batch_size
    if wanted is None:
        return
    start = experiment.model.get("path") and (checkpoint or experiment.model["path"])
    length = experiment.window(build_config(experiment.model, {}, start).max_position_embeddings, start)
    each = max(1, round(wanted / (length * args.world_size)))
    size = max(count for count in range(1, min(each, limit) + 1) if each % count == 0)
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
