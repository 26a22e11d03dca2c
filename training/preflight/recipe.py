"""Checks of the parts of a recipe against the length of the run and what it saves."""

from transformers import TrainingArguments

from settings.checks import ConfigError
from settings.experiment import Experiment
from settings.schema import DROPOUTS


def check_recipe(args: TrainingArguments, experiment: Experiment):
    """`ConfigError` for parts that would have no effect, or of which the run would not keep what it needs.

    The length of a run that is given in epochs is known once the data are.
    """
    section = experiment.averaging
    for name, fraction in section.fractions.items():
        if 0 < args.max_steps * fraction < 2:
            raise ConfigError(
                f"averaging.{name}={fraction} of {args.max_steps:,} steps is less than two: it would be the last "
                "weights; raise it, or leave it out"
            )
    if section.save != "raw" and args.load_best_model_at_end and args.save_only_model:
        raise ConfigError(
            f"averaging.save={section.save} and training.load_best_model_at_end=True need the averages of the best "
            "checkpoint, which training.save_only_model=True leaves out; leave out one of them"
        )
    _check_schedules(args, experiment)


def _check_schedules(args: TrainingArguments, experiment: Experiment):
    """`ConfigError` for a schedule of what is 0, and for dropout that would be compiled anew at each step."""
    points, model = experiment.schedules.points, experiment.model
    decays = [args.weight_decay, experiment.optimizer.matrix_settings.get("weight_decay", 0)]
    decays += getattr(experiment, "replicas", {}).get("training", {}).get("weight_decay", [])
    given = {"weight_decay": decays, "dropout": [model.get(name, 0) for name in DROPOUTS]}
    for name in points:
        if not any(given[name]) and (name == "weight_decay" or "path" not in model):
            setting = {"weight_decay": "training.weight_decay", "dropout": "model.hidden_dropout"}[name]
            raise ConfigError(f"schedules.{name} has no effect with {setting}=0; give that, or leave the schedule out")
    if "dropout" in points and args.torch_compile:
        raise ConfigError(
            "schedules.dropout with training.torch_compile=True would compile the model anew at each step; leave out "
            "one of them"
        )
