"""The checks of a run before any data are read, each a function that raises `ConfigError`."""

from data_prep.sources.table import check_source_overrides
from settings.experiment import AlgorithmicExperiment, Experiment, LanguageExperiment

from .algorithmic import check_supported
from .shapes import check_rates, check_sizes, check_tokenizer

EXPERIMENT_CHECKS = {
    LanguageExperiment: (check_source_overrides,),
    AlgorithmicExperiment: (check_supported,),
}
"""Checks of the settings alone, before the processes of a run connect."""

START_CHECKS = {
    LanguageExperiment: (check_sizes, check_rates, check_tokenizer),
    AlgorithmicExperiment: (),
}
"""Checks that also need to know where the model starts; `training_arguments` has checked `training` by then."""


def check_experiment(experiment: Experiment):
    """Check the settings alone."""
    for check in EXPERIMENT_CHECKS[type(experiment)]:
        check(experiment)


def check_start(experiment: Experiment, start: str | None):
    """Check everything else that needs no data; `start` is the checkpoint that the model starts from, or None."""
    for check in START_CHECKS[type(experiment)]:
        check(experiment, start)
