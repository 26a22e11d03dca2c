"""Opens a run: finds its checkpoint, builds its arguments, and makes every check that needs no data."""

from transformers.utils.logging import disable_progress_bar

from settings.experiment import Experiment, LanguageExperiment

from .budgets.batch import split_batch
from .checkpoints.fingerprint import RunFingerprint
from .checkpoints.resume import checkpoint_to_resume
from .machine.hardware import keep_freed_memory
from .preflight.arguments import keep_precision, training_arguments
from .preflight.before_data import check_experiment, check_run
from .run import Run


def open_run(experiment: Experiment) -> Run:
    """The run of an experiment, new or resumed. `ConfigError` for everything that can be checked without data.

    Exits with code 0 if it is resumed and finished already.
    """
    keep_freed_memory()
    disable_progress_bar()  # bars for each file read or written; the training's own stays
    check_experiment(experiment)
    checkpoint = checkpoint_to_resume(experiment)
    keep_precision(experiment, checkpoint)
    args = training_arguments(experiment)
    if isinstance(experiment, LanguageExperiment):
        split_batch(args, experiment, checkpoint)
    run = Run(experiment, args, checkpoint, RunFingerprint(experiment, args, checkpoint))
    check_run(run)
    args.distributed_state.wait_for_everyone()  # all have read the folder before one of them writes
    return run
