"""The checks of a run before any data are read, each a function that raises `ConfigError`."""

from data_prep.sources.table import check_source_overrides
from settings.experiment import AlgorithmicExperiment, Experiment, LanguageExperiment
from training.run import Run

from .algorithmic import check_supported
from .compatibility import check_tokenizer
from .shapes import check_shapes

OF_AN_EXPERIMENT = {
    LanguageExperiment: (check_source_overrides,),
    AlgorithmicExperiment: (check_supported,),
}
"""What is checked of the settings alone, before the processes of a run find each other."""

OF_A_RUN = {
    LanguageExperiment: (check_shapes, check_tokenizer),
    AlgorithmicExperiment: (),
}
"""What needs the checkpoint, too. What is wrong with `training` itself, `training_arguments` has said by then."""


def check_experiment(experiment: Experiment):
    """Check an experiment by itself."""
    for check in OF_AN_EXPERIMENT[type(experiment)]:
        check(experiment)


def check_run(run: Run):
    """Check a run as far as it is known without its data."""
    for check in OF_A_RUN[type(run.experiment)]:
        check(run)
