"""Checks that model, windows, masks, vocabulary, prompt and learning rates fit each other; they need no data."""

from data_prep.tokenizer.preview import preview_tokenizer
from settings.checks import ConfigError
from settings.data_sections import MAX_POSITIONS
from settings.experiment import LanguageExperiment
from training.model import build_config, check_model_size, check_vocabulary_size
from training.optimization.width import SIGN_LIKE
from training.pretrained import check_files
from training.reporting.callbacks import Samples


def check_sizes(experiment: LanguageExperiment, start: str | None = None):
    """`ConfigError` unless the sizes of model, windows, masks and vocabulary fit each other and the machine.

    `start` is the checkpoint that the model starts from, if there is one.
    """
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


def check_rates(experiment: LanguageExperiment, start: str | None = None):
    """`ConfigError` if the optimiser is none that muP has learning rates for, and the model is muP's."""
    config, optim = build_config(experiment.model, {}, start), experiment.training.get("optim")
    if optim and experiment.optimizer.is_stock and config.width_multiplier != 1 and not SIGN_LIKE.match(optim):
        raise ConfigError(
            f"training.optim={optim} has no learning rates with model.parametrization={config.parametrization}, which "
            "has those of AdamW, Lion and others like them; leave one of them out"
        )


def check_tokenizer(experiment: LanguageExperiment, start: str | None = None):
    """`ConfigError` if the model is too small for tokenizer or prompt, if the tokenizer is known before the data."""
    tokenizer = preview_tokenizer(experiment.data, experiment.tokenizer, experiment.sample)
    if tokenizer is None:
        return
    config = build_config(experiment.model, {}, start)
    if experiment.tokenizer.kind == "pretrained" and experiment.model.get("vocab_size") is not None:
        check_vocabulary_size(config, len(tokenizer))
    # Checks that the prompt fits; the run makes its own.
    Samples(experiment.folder, tokenizer, experiment.sample, config.max_position_embeddings)
