"""Checks that the sizes of model, windows, masks and vocabulary fit each other; they need no data."""

from settings.checks import ConfigError
from settings.data_sections import MAX_POSITIONS
from settings.experiment import LanguageExperiment
from training.model import build_config, check_model_size, check_vocabulary_size
from training.pretrained import check_files
from training.run import Run


def check_shapes(run: Run):
    """`ConfigError` unless the sizes of model, windows, masks and vocabulary fit each other and the machine."""
    check_sizes(run.experiment, run.start)


def check_sizes(experiment: LanguageExperiment, start: str | None = None):
    """The same, for an experiment and the checkpoint to `start` from, if there is one."""
    section = experiment.model
    has_length = experiment.training.get("max_steps", -1) > 0 or experiment.budget.amounts.keys() - {"epochs"}
    if experiment.data.streaming and not has_length:
        raise ConfigError(
            "data.streaming=true needs training.max_steps or budget.tokens; the length of a stream is not known "
            "beforehand"
        )
    config = build_config(section, {}, start)
    positions = config.max_position_embeddings
    if positions > MAX_POSITIONS:
        raise ConfigError(
            f"model.max_position_embeddings={positions} is too large; it must be at most {MAX_POSITIONS:,}"
        )
    experiment.window(positions, start)
    if (masked := experiment.data.mask_first_n) >= positions - 1:
        raise ConfigError(
            f"model.max_position_embeddings={positions} and data.mask_first_n={masked} leave no target; "
            "raise the first or lower the second"
        )
    check_model_size(config if section.get("vocab_size") or start else build_config(section, {"vocab_size": 1}))
    if start is not None and start == section["path"]:  # a checkpoint of our own was checked before
        check_files(start, experiment.tokenizer.path)
    if experiment.tokenizer.kind == "bpe" and section.get("vocab_size") is not None:
        check_vocabulary_size(config, experiment.tokenizer.vocab_size)
