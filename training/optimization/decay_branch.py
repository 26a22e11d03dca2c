"""A run that lets the learning rate of another, its trunk, decay from one of the trunk's checkpoints to its own end.

One trunk at a constant rate so gives runs of several lengths, each as if it had been planned (warmup-stable-decay,
Hu et al., 2024; Hägele et al., 2024).
"""

import math
from pathlib import Path

import torch
from transformers import TrainerState, TrainingArguments, get_scheduler

from settings.checks import ConfigError, warn
from settings.experiment import Experiment, LanguageExperiment
from storage.checkpoint_manifest import CHECKPOINT_NAME, checkpoint_step

SCHEDULE = "warmup_stable_decay"
BRANCHED = ("training.lr_scheduler_type", "training.lr_scheduler_kwargs", "training.warmup_steps")
"""The settings in which a branch differs from its trunk."""
UNKNOWN = 1
"""Steps of the decay until the length of the run is known."""


def branch_step(decay_from: str) -> int:
    """The step of the trunk's checkpoint that `resume.decay_from` names."""
    name = Path(decay_from).name
    if not CHECKPOINT_NAME.fullmatch(name):
        raise ConfigError(
            f"resume.decay_from={decay_from} is not the folder of a checkpoint; give one such as "
            "runs/trunk/checkpoint-1000"
        )
    return checkpoint_step(Path(decay_from))


def begins_branch(experiment: Experiment, step: int) -> bool:
    """Whether a run resumes its trunk at this step; a branch has no checkpoint of its own before it has made a step."""
    trunk = experiment.resume.decay_from
    return trunk is not None and step == branch_step(trunk)


def plan_decay(experiment: Experiment, state: TrainerState, terms: dict):
    """Replace the schedule in the section `training` by the trunk's up to `decay_from`, then decay to the run's end.

    `state` and the settings `terms` are those of the checkpoint that the run resumes: the trunk's, or later one of its
    own. `ConfigError` if the trunk's rate is not at its peak there, or for a schedule that the trunk does not have.
    """
    training, decay_from = experiment.training, experiment.resume.decay_from
    step, warmup = branch_step(decay_from), terms["training.warmup_steps"]
    warmup = int(warmup) if warmup >= 1 else math.ceil(warmup * state.max_steps)
    if begins_branch(experiment, state.global_step):
        _check_trunk(experiment, decay_from, terms)
        share = _rate_share(terms, warmup, state.max_steps, step)
        if not math.isclose(share, 1, rel_tol=1e-9):
            raise ConfigError(
                f"resume.decay_from={decay_from} has {share:.3g} of its peak learning rate left, by its "
                f"{terms['training.lr_scheduler_type']} schedule; give a checkpoint after the warm-up and before the "
                "decay, such as one of a run with training.lr_scheduler_type=constant_with_warmup"
            )
    steps, kwargs = training.get("max_steps") or -1, training.get("lr_scheduler_kwargs") or {}
    if steps > 0:
        _check_length(steps, step, decay_from)
    if "num_stable_steps" in kwargs:
        raise ConfigError(
            f"training.lr_scheduler_kwargs={kwargs} has num_stable_steps, which follows from "
            "resume.decay_from; leave it out"
        )
    training["lr_scheduler_type"], training["warmup_steps"] = SCHEDULE, warmup
    training["lr_scheduler_kwargs"] = kwargs | {"num_decay_steps": max(steps - step, UNKNOWN)}


def _check_trunk(experiment: Experiment, decay_from: str, terms: dict):
    """`ConfigError` for a trunk that decays itself, and for an override of the schedule that would have no effect."""
    kind, kwargs = terms["training.lr_scheduler_type"], terms["training.lr_scheduler_kwargs"] or {}
    if kind == SCHEDULE and "num_decay_steps" not in kwargs:
        raise ConfigError(
            f"resume.decay_from={decay_from} is of a run that decays itself from another's; give a checkpoint of that "
            "other one"
        )
    for name, others in (("training.lr_scheduler_type", (SCHEDULE,)), ("training.warmup_steps", ())):
        given = experiment.overrides.get(name)
        if given is not None and given not in (terms[name], *others):
            raise ConfigError(
                f"{name}={given} has no effect with resume.decay_from, which keeps the trunk's {terms[name]} up to "
                "there and then decays; leave it out"
            )


def _check_length(steps: int, branch: int, decay_from: str):
    if steps <= branch:
        raise ConfigError(
            f"resume.decay_from={decay_from} leaves no step to decay in, since the run has {steps:,}; raise "
            "training.max_steps or the budget, which count the trunk's steps, too"
        )


def set_decay_steps(args: TrainingArguments, experiment: LanguageExperiment, decay_from: str, steps_before: int):
    """Let the decay last from the trunk's checkpoint to the end of the run, now that `args.max_steps` is known.

    `steps_before` is the length of the run whose checkpoint it resumes.
    """
    step = branch_step(decay_from)
    _check_length(args.max_steps, step, decay_from)
    by_length = [*experiment.averaging.fractions, *experiment.schedules.points]
    if by_length and args.max_steps != steps_before:
        warn(
            f"{' and '.join(by_length)} are given in fractions of a run, and the trunk has {steps_before:,} steps and "
            f"this one {args.max_steps:,}; up to the branch they are the trunk's, so the result is not that of a run "
            "that was planned so"
        )
    args.lr_scheduler_kwargs = args.lr_scheduler_kwargs | {"num_decay_steps": args.max_steps - step}
    experiment.training["lr_scheduler_kwargs"] = args.lr_scheduler_kwargs


def _rate_share(terms: dict, warmup: int, steps: int, at: int) -> float:
    """The share of its peak that the rate of a run with these settings has at a step."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    kind, kwargs = terms["training.lr_scheduler_type"], terms["training.lr_scheduler_kwargs"]
    schedule = get_scheduler(kind, optimizer, warmup, steps, scheduler_specific_kwargs=kwargs)
    return schedule.lr_lambdas[0](at) if hasattr(schedule, "lr_lambdas") else math.nan
