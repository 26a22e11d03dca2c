"""Checks of the parts of a recipe against the length of the run and what it saves."""

from transformers import TrainingArguments

from settings.checks import ConfigError
from settings.experiment import Experiment


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
