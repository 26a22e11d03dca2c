"""Checks of what runs on equations do not support, though runs on text do."""

import os

from settings.checks import ConfigError
from settings.experiment import AlgorithmicExperiment

from .best_model import METRIC_SCHEDULES


def check_supported(experiment: AlgorithmicExperiment):
    """`ConfigError` for settings that a run on equations does not support."""
    training = experiment.training
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ConfigError(
            "equations cannot be split over processes: one process trains all replicas together; start it by `python "
            "train_algorithmic.py`, and several runs at once by `python -m experiments.sweep`"
        )
    if experiment.replicas and experiment.guard.loss_spike is not None:
        raise ConfigError(
            f"guard.loss_spike={experiment.guard.loss_spike} is not supported with replicas, whose losses "
            "are summed; leave it out"
        )
    if training["lr_scheduler_type"] in METRIC_SCHEDULES:
        raise ConfigError(
            f"training.lr_scheduler_type={training['lr_scheduler_type']} steps on one loss, and each split of each "
            "replica has its own; give another"
        )
    if training["save_strategy"] == "best":
        raise ConfigError(
            "training.save_strategy=best is not supported for equations: the last model is kept; give steps or no"
        )
    if training["max_steps"] < 1:
        raise ConfigError(f"training.max_steps={training['max_steps']} is too small; give the number of steps")
