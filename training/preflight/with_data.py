"""The checks that need the data and the model's configuration, before any weights are made."""

from modeling.configuration_kindling import KindlingConfig
from settings.checks import warn
from training.checkpoints.resume import exit_if_finished
from training.model import model_shapes
from training.processes import batch_size
from training.run import Run
from training.run_data import RunData

from .best_model import check_measured
from .compatibility import check_masks
from .recipe import check_recipe
from .resources import check_disk_space, token_saves
from .schedule import check_lengths


def check_language_run(run: Run, data: RunData, config: KindlingConfig):
    """`ConfigError` if data and model do not fit; exits if the run is finished."""
    run.fingerprint.complete(config, data.tokenizer, data.prepared.identity(run.experiment.data))
    check_lengths(run.args, run.experiment.training_defaults["warmup_steps"])
    if run.checkpoint is None:  # a resumed run was checked when it began
        check_masks(run.experiment.data, data)
        check_measured(run.args, data.text_bytes, data.group_bytes)
    check_recipe(run.args, run.experiment)
    exit_if_finished(run.checkpoint, run.args)
    trained = [(model_shapes(config), run.args, run.experiment.optimizer)]
    kept = check_token_checkpoints(run, tokens_a_step=batch_size(run.args) * (data.length - 1))
    averages, done = run.experiment.averaging.count, run.fingerprint.done
    check_disk_space(run.args, trained, len(data.train_set.examples), done, averages, kept)


def check_token_checkpoints(run: Run, tokens_a_step: int) -> int:
    """How many checkpoints by tokens are still to come, at most; a warning names those that are out of reach."""
    counts, steps = run.experiment.checkpoints.counts, run.args.max_steps
    beyond = [name for name, count in counts.items() if count > steps * tokens_a_step]
    if beyond and run.experiment.checkpoints.save_tokens is not None:
        warn(
            f"checkpoints.save_tokens: {', '.join(beyond)} will not be saved, because {steps:,} steps train on at most "
            f"{steps * tokens_a_step:,} tokens"
        )
    return token_saves(counts.values(), tokens_a_step, steps, run.fingerprint.done)


def check_algorithmic_run(run: Run, members: list):
    """The same, for a run on equations; `members` are its models, each with its equations."""
    equations, config = members[0].equations, members[0].model.config
    run.fingerprint.complete(config, equations.tokenizer, equations.identity(run.experiment.data.operation))
    exit_if_finished(run.checkpoint, run.args)
    trained = [(member.model, member.args, member.experiment.optimizer) for member in members]
    averages = run.experiment.averaging.count
    check_disk_space(run.args, trained, len(equations.splits["train"]), run.fingerprint.done, averages)
