"""What a run on equations cannot do, though a run on text can."""

import os

from settings.checks import ConfigError
from settings.experiment import AlgorithmicExperiment

from .best_model import WAITING


def check_supported(experiment: AlgorithmicExperiment):
    """`ConfigError` for what a run on equations cannot do."""
    training = experiment.training
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ConfigError(
            "equations are too few to share: one process trains all replicas side by side; start this by `python "
            "train_algorithmic.py`, and many runs at once by `python -m experiments.sweep`"
        )
    if experiment.replicas and experiment.guard.loss_spike is not None:
        raise ConfigError(
            f"guard.loss_spike={experiment.guard.loss_spike} is not for replicas, whose losses are summed; leave it out"
        )
    if training["lr_scheduler_type"] in WAITING:
        raise ConfigError(
            f"training.lr_scheduler_type={training['lr_scheduler_type']} waits for one loss, and each split of each "
            "replica has its own; give another"
        )
    if training["save_strategy"] == "best":
        raise ConfigError("training.save_strategy=best is not for equations: the last model is kept; give steps or no")
    if training["max_steps"] < 1:
        raise ConfigError(f"training.max_steps={training['max_steps']} is too small; give the number of steps")
