"""The number of examples whose training spends a budget of tokens or FLOPs."""

from collections.abc import Callable
from functools import partial

import numpy as np

from data_prep.collator import CausalLMCollator
from data_prep.tokens.counts import document_sizes
from data_prep.tokens.order import first_shuffled, key
from data_prep.tokens.windows import Documents, Windows
from modeling.accounting import training_flops_of
from modeling.configuration_kindling import KindlingConfig
from settings.checks import ConfigError


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
