"""Checks of the learning-rate schedule: it is built and evaluated before any work."""

import math
import warnings

import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import TrainingArguments, get_scheduler

from settings.checks import ConfigError, warn

from .best_model import METRIC_SCHEDULES

ASSUMED_STEPS = 10**6
"""Assumed steps of a run whose length depends on its data."""


CONSTANT = ("constant", "constant_with_warmup")


def check_lengths(args: TrainingArguments, default_warmup: float):
    """Warn where warm-up or decay are longer than the run, as in a short trial; not of the default warm-up."""
    kwargs = args.lr_scheduler_kwargs or {}
    decay, stable = kwargs.get("num_decay_steps") or 0, kwargs.get("num_stable_steps") or 0
    warmup = args.get_warmup_steps(max(args.max_steps, 0))
    if decay and 0 < args.max_steps < warmup + stable + decay:
        before = f"a warm-up of {warmup}" + (f" and num_stable_steps={stable}" if stable else "")
        left = fitting_kwargs(args, args.max_steps)["num_decay_steps"]
        then = "the run ends before the decay does" if stable else f"the rate decays over the last {left} steps"
        warn(
            f"training.lr_scheduler_kwargs.num_decay_steps={decay} after {before} is longer than "
            f"training.max_steps={args.max_steps}, so {then}"
        )
    if 0 < args.max_steps < warmup and args.warmup_steps != default_warmup:
        warn(
            f"training.warmup_steps={warmup} is longer than training.max_steps={args.max_steps}, so the learning rate "
            "is never reached"
        )


def check_schedule(args: TrainingArguments):
    """Build the schedule as the Trainer will, and check its learning rates."""
    # The Trainer always gives the total, so every schedule with num_stable_steps would cause this warning.
    warnings.filterwarnings("ignore", message="Both num_training_steps and num_stable_steps")
    try:
        _check_numbers(args.lr_scheduler_kwargs or {})
        if args.lr_scheduler_kwargs and args.lr_scheduler_type.value in CONSTANT:
            warn(
                f"training.lr_scheduler_type={args.lr_scheduler_type.value} does not use "
                f"training.lr_scheduler_kwargs={args.lr_scheduler_kwargs}"
            )
        steps = args.max_steps if args.max_steps > 0 else ASSUMED_STEPS
        _check_rates(schedule(args, steps), args, steps)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ConfigError(
            f"training.lr_scheduler_type={args.lr_scheduler_type.value} does not work with "
            f"training.learning_rate={args.learning_rate} and training.lr_scheduler_kwargs={args.lr_scheduler_kwargs}: "
            f"{error}; give kwargs that it has, or null"
        ) from None


def _check_numbers(kwargs: dict):
    """`ValueError` for an invalid number of steps, and for values that are negative or not finite."""
    for name, value in kwargs.items():
        if name.endswith("_steps") and value is not None and not _is_count(value):
            raise ValueError(f"{name}={value} is not a number of steps")
        if isinstance(value, int | float) and not 0 <= value < math.inf:
            raise ValueError(f"{name}={value} is not a finite number of at least 0")


def _is_count(value) -> bool:
    return type(value) in (int, float) and value >= 0 and value == value // 1


def _check_rates(schedule: LRScheduler, args: TrainingArguments, steps: int):
    """`ValueError` if the rate is negative at the start, after the warm-up, half-way from there or at the end.

    Invalid options raise here as well. A rate above its peak causes a warning.
    """
    warmup = args.get_warmup_steps(steps)
    if args.lr_scheduler_type in METRIC_SCHEDULES:
        schedule.step(1.0)
        return
    if not isinstance(schedule, LambdaLR):  # of a later release: not a function of the step
        return
    looks = sorted({0, min(warmup, steps), (warmup + steps) // 2, steps})
    shares = {step: schedule.lr_lambdas[0](step) for step in looks}
    for step, share in shares.items():
        if not share >= -1e-9:
            raise ValueError(f"at step {step} the rate is {share:g} times its peak")
    if (highest := max(shares.values())) > 1 + 1e-9:
        warn(
            f"training.lr_scheduler_kwargs={args.lr_scheduler_kwargs} raises the learning rate to {highest:g} times "
            f"training.learning_rate={args.learning_rate}"
        )


def fitting_kwargs(args: TrainingArguments, steps: int) -> dict | None:
    """`lr_scheduler_kwargs` for a run of `steps` steps: a decay at its end takes no more than the warm-up leaves.

    transformers would begin such a decay in its middle. With `num_stable_steps` the decay has its place, and is kept.
    """
    kwargs = args.lr_scheduler_kwargs
    if not kwargs or kwargs.get("num_stable_steps") is not None or not kwargs.get("num_decay_steps"):
        return kwargs
    left = max(steps - args.get_warmup_steps(steps), 0)
    return kwargs | {"num_decay_steps": min(kwargs["num_decay_steps"], left)}


def schedule(args: TrainingArguments, steps: int) -> LRScheduler:
    """The schedule of a run of `steps` steps, on a dummy optimiser."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=args.learning_rate)
    kind, kwargs = args.lr_scheduler_type, fitting_kwargs(args, steps)
    return get_scheduler(kind, optimizer, args.get_warmup_steps(steps), steps, scheduler_specific_kwargs=kwargs)
