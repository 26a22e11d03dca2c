"""How a run begins: its checkpoint and its arguments are found, and everything is checked that needs no data."""

from transformers.utils.logging import disable_progress_bar

from settings.experiment import Experiment

from .checkpoints.fingerprint import RunFingerprint
from .checkpoints.resume import checkpoint_to_resume
from .hardware import keep_freed_memory
from .preflight.arguments import keep_precision, training_arguments
from .preflight.before_data import check_experiment, check_run
from .run import Run


def open_run(experiment: Experiment) -> Run:
    """The run of an experiment, new or resumed. `ConfigError` for whatever can be known to be wrong before any data.

    Ends the process with exit code 0 if it is to be resumed and is finished already.
    """
    keep_freed_memory()
    disable_progress_bar()  # of each file that is read or written; the training's own stays
    check_experiment(experiment)
    checkpoint = checkpoint_to_resume(experiment)
    keep_precision(experiment, checkpoint)
    args = training_arguments(experiment)
    run = Run(experiment, args, checkpoint, RunFingerprint(experiment, args, checkpoint))
    check_run(run)
    args.distributed_state.wait_for_everyone()  # each has seen the folder as it was, before one of them writes
    return run
