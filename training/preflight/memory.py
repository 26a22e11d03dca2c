"""The memory of a run's training step, from its arguments, models and optimisers."""

from collections import Counter
from collections.abc import Iterable

import torch
from torch import nn
from transformers import TrainingArguments

from modeling.accounting import FLOAT32_BYTES
from modeling.configuration_kindling import KindlingConfig
from modeling.memory import HALF_BYTES, OptimizerMemory, Step
from settings.experiment import LanguageExperiment
from settings.sections import OptimizerSection
from training.optimization.optimizers import MATRIX_OPTIMIZERS, split_parameters

Trained = list[tuple[nn.Module, TrainingArguments, OptimizerSection]]
"""Models that are trained together, as `build_optimizer` takes them."""


def count_numbers(parameters: Iterable[torch.Tensor]) -> int:
    """The numbers in tensors."""
    return sum(parameter.numel() for parameter in parameters)


def _adafactor(parameters: list[nn.Parameter], options: str) -> int:  # noqa: ARG001
    """Means over rows and columns instead of whole matrices."""
    return sum(sum(p.shape) if p.ndim == 2 else p.numel() for p in parameters)


STATES = {
    "sgd": lambda parameters, options: count_numbers(parameters) * ("momentum" in options),
    "adagrad": lambda parameters, options: count_numbers(parameters),  # noqa: ARG005
    "rmsprop": lambda parameters, options: (
        count_numbers(parameters) * (1 + ("momentum" in options) + ("centered" in options))
    ),
    "adafactor": _adafactor,
}
"""State floats of transformers' optimisers that differ from AdamW, given `training.optim_args`."""


def state_floats(trained: Trained) -> int:
    """Floats of optimiser state; for an unknown optimiser two per parameter, as AdamW has."""
    total = 0
    for model, args, section in trained:
        parameters = list(model.parameters())
        if section.is_stock:
            state = STATES.get(args.optim.value, lambda parameters, options: 2 * count_numbers(parameters))  # noqa: ARG005
            total += state(parameters, args.optim_args or "")
            continue
        matrices, rest = split_parameters(model, section.kind)
        own = MATRIX_OPTIMIZERS[section.kind].state_floats if matrices else 0
        total += (
            own * count_numbers(matrices)
            + 2 * count_numbers(rest)
            + count_numbers(parameters) * (section.grokfast_lambda > 0)
        )
    return total


def step_working_bytes(trained: Trained, half: bool) -> int:
    """Bytes that a step of the optimiser takes besides its state; `half` is that training is in 16 bits."""
    kind = trained[0][2].kind
    if MATRIX_OPTIMIZERS[kind] is None:
        return 0
    shapes = Counter(tuple(matrix.shape) for model, _, _ in trained for matrix in split_parameters(model, kind)[0])
    return MATRIX_OPTIMIZERS[kind].step_bytes(shapes, HALF_BYTES if half else FLOAT32_BYTES)


def step_of(
    args: TrainingArguments, trained: Trained, length: int, **recipe
) -> tuple[KindlingConfig, Step, OptimizerMemory]:
    """The arguments of `modeling.memory.step_memory` for a run on sequences of `length` tokens.

    `recipe` are `Step`'s `averages` and `z_loss`.
    """
    half, config, on_cpu = args.bf16 or args.fp16, trained[0][0].config, args.device.type == "cpu"
    step = Step(
        length,
        args.per_device_train_batch_size,
        args.gradient_accumulation_steps,
        half=half,
        half_attention=not on_cpu,  # as `attention_implementation` chooses
        explicit_attention=on_cpu and config.attention_dropout > 0,
        checkpointed=_checkpointed_blocks(args, config.num_hidden_layers),
        evaluation_batch=args.per_device_eval_batch_size,
        models=len(trained),
        **recipe,
    )
    state, working = FLOAT32_BYTES * state_floats(trained), step_working_bytes(trained, half)
    return config, step, OptimizerMemory(state, working)


def recipe_memory(experiment: LanguageExperiment) -> dict:
    """What of an experiment's recipe takes memory, as fields of `Step`."""
    return {"averages": experiment.averaging.count, "z_loss": experiment.loss.z_loss > 0}


def _checkpointed_blocks(args: TrainingArguments, layers: int) -> int:
    """How many blocks are checkpointed: all, or each of so many as `every_n_layers` says."""
    if not args.gradient_checkpointing:
        return 0
    return -(-layers // (args.gradient_checkpointing_kwargs or {}).get("every_n_layers", 1))
