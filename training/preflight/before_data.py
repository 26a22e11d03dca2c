"""The checks of a run before any data are read, each a function that raises `ConfigError`."""

from data_prep.sources.table import check_source_overrides
from settings.experiment import AlgorithmicExperiment, Experiment, LanguageExperiment
from training.run import Run

from .algorithmic import check_supported
from .compatibility import check_rates, check_tokenizer
from .shapes import check_shapes

EXPERIMENT_CHECKS = {
    LanguageExperiment: (check_source_overrides,),
    AlgorithmicExperiment: (check_supported,),
}
"""Checks of the settings alone, before the processes of a run connect."""

RUN_CHECKS = {
    LanguageExperiment: (check_shapes, check_rates, check_tokenizer),
    AlgorithmicExperiment: (),
}
"""Checks that need the checkpoint, too; `training_arguments` has checked the section `training` by then."""


def check_experiment(experiment: Experiment):
    """Check the settings alone."""
    for check in EXPERIMENT_CHECKS[type(experiment)]:
        check(experiment)


def check_run(run: Run):
    """Check everything that needs no data."""
    for check in RUN_CHECKS[type(run.experiment)]:
        check(run)
