"""Checks that tokenizer, prompt, learning rates, loss masks and metric fit the model and the data."""

from collections.abc import Mapping

import numpy as np

from data_prep.tokenizer.preview import preview_tokenizer
from data_prep.tokens.counts import masked_tokens, prompt_ends
from settings.checks import ConfigError
from settings.data_sections import DataSection
from training.model import build_config, check_vocabulary_size
from training.optimization.width import SIGN_LIKE
from training.reporting.callbacks import Samples
from training.reporting.report import validation_baselines
from training.run import Run
from training.run_data import RunData

from .best_model import check_measured


def check_tokenizer(run: Run):
    """`ConfigError` if the model is too small for tokenizer or prompt, if the tokenizer is known before the data."""
    experiment = run.experiment
    tokenizer = preview_tokenizer(experiment.data, experiment.tokenizer, experiment.sample)
    if tokenizer is None:
        return
    config = build_config(experiment.model, {}, run.start)
    if experiment.tokenizer.kind == "pretrained" and experiment.model.get("vocab_size") is not None:
        check_vocabulary_size(config, len(tokenizer))
    # Checks that the prompt fits; the run makes its own.
    Samples(run.folder, tokenizer, experiment.sample, config.max_position_embeddings)


def check_rates(run: Run):
    """`ConfigError` if the optimiser is none that muP has learning rates for, and the model is muP's."""
    config, optim = build_config(run.experiment.model, {}, run.start), run.args.optim.value
    if run.experiment.optimizer.is_stock and config.width_multiplier != 1 and not SIGN_LIKE.match(optim):
        raise ConfigError(
            f"training.optim={optim} has no learning rates with model.parametrization={config.parametrization}, which "
            "has those of AdamW, Lion and others like them; leave one of them out"
        )


def check_masks(run: Run, data: RunData):
    """`ConfigError` if the loss masks leave no targets, or a document has no separator.

    Not for a resumed run, which was checked when it began, nor for a stream, whose documents are not there yet.
    """
    section = run.experiment.data
    if run.checkpoint is None and not section.streaming:
        splits = {"training": data.train_set.examples, "validation": data.validation_set}
        _check_targets_left(section, data.collate.separator_id, data.tokenizer, splits)


def check_metric(run: Run, data: RunData):
    """`ConfigError` if the metric that the best model is chosen by is not measured."""
    if run.checkpoint is None:
        text_bytes, group_bytes, _ = validation_baselines(run.experiment, data.prepared, data.validation_set)
        check_measured(run.args, text_bytes, group_bytes)


def _check_targets_left(data: DataSection, separator: int | None, tokenizer, splits: Mapping):
    masks = {"data.mask_first_n": data.mask_first_n, "data.mask_up_to": data.mask_up_to}
    given = " and ".join(f"{name}={value}" for name, value in masks.items() if value)
    for split, examples in splits.items() if given else ():
        if data.layout == "packed":
            lengths, masked, what = np.array([min(examples.length, len(examples.ids))]), data.mask_first_n, "windows"
        else:
            lengths, what = examples.stops - examples.starts, "documents"
            if separator is not None:
                _check_separator(data, separator, tokenizer, split, examples)
            masked = masked_tokens(examples, data.mask_first_n, separator)
        if (lengths <= masked).all():
            raise ConfigError(
                f"{given} leaves no target in {len(examples):,} {split} {what}, the longest of which has "
                f"{lengths.max()} tokens; lower it, or leave it out"
            )


def _check_separator(data: DataSection, separator: int, tokenizer, split: str, documents):
    """`ConfigError` if a document has no separator."""
    missing = prompt_ends(documents, separator) > documents.stops - documents.starts
    if len(without := np.flatnonzero(missing)):
        text = tokenizer.decode(documents[int(without[0])]["input_ids"][:20])
        raise ConfigError(
            f"data.mask_up_to={data.mask_up_to!r} is missing from {len(without):,} of {len(documents):,} {split} "
            f"documents, one of which begins {text!r}; end each prompt with it, or leave it out"
        )
