"""The models of a run on equations, one per replica, each with its settings and its equations."""

from dataclasses import dataclass
from pathlib import Path

from torch import nn
from transformers import AutoModelForCausalLM, TrainingArguments, set_seed

from data_prep.algorithmic.equations import Equations, prepare_equations
from settings.checks import ConfigError
from settings.experiment import AlgorithmicExperiment
from training.model import model_config
from training.preflight.arguments import training_arguments
from training.run import Run


@dataclass(frozen=True)
class Member:
    """One model to train, alone or together with others: its complete settings, arguments and equations."""

    experiment: AlgorithmicExperiment
    args: TrainingArguments
    equations: Equations
    model: nn.Module

    @classmethod
    def build(cls, experiment: AlgorithmicExperiment) -> "Member":
        """Make the equations and a model from its seed, with positions for the longest equation."""
        args = training_arguments(experiment)
        equations = prepare_equations(experiment.data, args.seed)
        config = model_config(experiment.model, equations.tokenizer, max_position_embeddings=equations.length)
        if config.max_position_embeddings < equations.length:
            raise ConfigError(
                f"model.max_position_embeddings={config.max_position_embeddings} is too small for equations of "
                f"{equations.length} tokens; leave it out"
            )
        set_seed(args.seed)
        return cls(experiment, args, equations, AutoModelForCausalLM.from_config(config, attn_implementation="eager"))

    @property
    def name(self) -> str:
        """The replica's settings as text; without replicas the experiment's name."""
        return self.experiment.name

    @property
    def folder(self) -> Path:
        """The folder of the model and its results."""
        return self.experiment.folder


def build_members(run: Run) -> list[Member]:
    """The models of a run, one per replica, each with its equations."""
    return [Member.build(one) for one in run.experiment.replicated()]
