"""The checks that need the data and the model's configuration, before any weights are made."""

import torch
from transformers import AutoModelForCausalLM

from modeling.configuration_kindling import KindlingConfig
from training.checkpoints.resume import exit_if_finished
from training.run import Run
from training.run_data import RunData

from .compatibility import check_masks, check_metric
from .resources import check_disk
from .schedule import check_lengths


def check_language_run(run: Run, data: RunData, config: KindlingConfig):
    """`ConfigError` if data and model do not fit; exits if the run is finished."""
    run.fingerprint.complete(config, data.tokenizer, data.prepared.identity(run.experiment.data))
    check_lengths(run.args, run.experiment)
    check_masks(run, data)
    check_metric(run, data)
    exit_if_finished(run)
    with torch.device("meta"):  # shapes without values
        model = AutoModelForCausalLM.from_config(config)
    check_disk(run, [(model, run.args, run.experiment.optimizer)], len(data.train_set.examples))


def check_algorithmic_run(run: Run, members: list):
    """The same, for a run on equations; `members` are its models, each with its equations."""
    equations, config = members[0].equations, members[0].model.config
    run.fingerprint.complete(config, equations.tokenizer, equations.identity(run.experiment.data.operation))
    exit_if_finished(run)
    trained = [(member.model, member.args, member.experiment.optimizer) for member in members]
    check_disk(run, trained, len(equations.splits["train"]))
