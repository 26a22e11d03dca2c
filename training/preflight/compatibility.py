"""Whether a run's data, its masks, its prompt and its model fit each other."""

from collections.abc import Mapping

import numpy as np

from data_prep.tokenizer.preview import preview_tokenizer
from data_prep.tokens.counts import masked_tokens, prompt_ends
from settings.checks import ConfigError
from settings.sections import DataSection
from training.model import build_config, refuse_small_vocabulary
from training.reporting.callbacks import Samples
from training.reporting.report import what_to_compare_with
from training.run import Run
from training.run_data import RunData

from .best_model import refuse_unmeasured


def check_tokenizer(run: Run):
    """Whether the model has room for tokenizer and prompt, as far as the tokenizer is known before any data."""
    experiment = run.experiment
    tokenizer = preview_tokenizer(experiment.data, experiment.tokenizer, experiment.sample)
    if tokenizer is None:
        return
    config = build_config(experiment.model, {}, run.start)
    if experiment.tokenizer.kind == "pretrained" and experiment.model.get("vocab_size") is not None:
        refuse_small_vocabulary(config, len(tokenizer))
    # Made to see whether the prompt fits; the run makes its own.
    Samples(run.folder, tokenizer, experiment.sample, config.max_position_embeddings)


def check_masks(run: Run, data: RunData):
    """`ConfigError` if the masks leave nothing to learn, or a document has no separator.

    A run that is resumed was found right when it began; a stream is not there yet.
    """
    section = run.experiment.data
    if run.checkpoint is None and not section.streaming:
        splits = {"training": data.train_set.examples, "validation": data.validation_set}
        _refuse_masked(section, data.collate.separator_id, data.tokenizer, splits)


def check_metric(run: Run, data: RunData):
    """`ConfigError` if the metric that the best model is known by is not measured."""
    if run.checkpoint is None:
        text_bytes, group_bytes, _ = what_to_compare_with(run.experiment, data.prepared, data.validation_set)
        refuse_unmeasured(run.args, text_bytes, group_bytes)


def _refuse_masked(data: DataSection, separator: int | None, tokenizer, splits: Mapping):
    masks = {"data.mask_first_n": data.mask_first_n, "data.mask_up_to": data.mask_up_to}
    given = " and ".join(f"{name}={value}" for name, value in masks.items() if value)
    for split, examples in splits.items() if given else ():
        if data.layout == "packed":
            lengths, masked, what = np.array([min(examples.length, len(examples.ids))]), data.mask_first_n, "windows"
        else:
            lengths, what = examples.stops - examples.starts, "documents"
            if separator is not None:
                _refuse_without(data, separator, tokenizer, split, examples)
            masked = masked_tokens(examples, data.mask_first_n, separator)
        if (lengths <= masked).all():
            raise ConfigError(
                f"{given} leaves nothing of {len(examples):,} {split} {what}, the longest has {lengths.max()} tokens; "
                "lower it, or leave it out"
            )


def _refuse_without(data: DataSection, separator: int, tokenizer, split: str, documents):
    """`ConfigError` if a document has no separator."""
    missing = prompt_ends(documents, separator) > documents.stops - documents.starts
    if len(without := np.flatnonzero(missing)):
        text = tokenizer.decode(documents[int(without[0])]["input_ids"][:20])
        raise ConfigError(
            f"data.mask_up_to={data.mask_up_to!r} is not in {len(without):,} of {len(documents):,} {split} documents, "
            f"one of which begins {text!r}; end each prompt with it, or leave it out"
        )
