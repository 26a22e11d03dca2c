"""Checks, before any data are read, that the sizes of model, windows and vocabulary fit each other."""

from settings.checks import ConfigError
from settings.experiment import LanguageExperiment
from settings.sections import MAX_POSITIONS
from training.model import build_config, refuse_huge, refuse_small_vocabulary
from training.pretrained import check_files
from training.run import Run


def check_shapes(run: Run):
    """`ConfigError` unless the sizes of model, windows, masks and vocabulary fit each other and the machine."""
    check_sizes(run.experiment, run.start)


def check_sizes(experiment: LanguageExperiment, start: str | None = None):
    """The same, of an experiment and the checkpoint to `start` from, if there is one."""
    section = experiment.model
    if experiment.data.streaming and experiment.training.get("max_steps", -1) <= 0:
        raise ConfigError("data.streaming=true needs training.max_steps; how long a stream is is not known beforehand")
    config = build_config(section, {}, start)
    positions = config.max_position_embeddings
    if positions > MAX_POSITIONS:
        raise ConfigError(
            f"model.max_position_embeddings={positions} is too large; it must be at most {MAX_POSITIONS:,}"
        )
    experiment.window(positions, start)
    if (masked := experiment.data.mask_first_n) >= positions - 1:
        raise ConfigError(
            f"model.max_position_embeddings={positions} and data.mask_first_n={masked} leave nothing to learn; "
            "raise the one or lower the other"
        )
    refuse_huge(config if section.get("vocab_size") or start else build_config(section, {"vocab_size": 1}))
    if start is not None and start == section["path"]:  # what a run has written itself is right
        check_files(start, experiment.tokenizer.path)
    if experiment.tokenizer.kind == "bpe" and section.get("vocab_size") is not None:
        refuse_small_vocabulary(config, experiment.tokenizer.vocab_size)
