"""Whether a run's data, its masks, its prompt and its model fit each other."""

from collections.abc import Mapping

import numpy as np
from transformers import TrainingArguments

from data_prep.tokens.counts import masked_tokens, up_to
from settings.checks import ConfigError
from settings.experiment import LanguageExperiment
from settings.sections import DataSection
from training.model import build_config, refuse_small_vocabulary
from training.reporting.callbacks import Samples
from training.reporting.report import what_to_compare_with
from training.run import folder_of

from .best_model import refuse_unmeasured


def check_tokenizer(experiment: LanguageExperiment, start: str | None, tokenizer):
    """Before any data are read: whether the model of `check_shape` has room for tokenizer and prompt.

    The tokenizer is None where nothing is known of it yet.
    """
    if tokenizer is None:
        return
    config = build_config(experiment.model, {}, start)
    if experiment.tokenizer.kind == "pretrained" and experiment.model.get("vocab_size") is not None:
        refuse_small_vocabulary(config, len(tokenizer))
    # Made to see whether the prompt fits; the run makes its own.
    Samples(folder_of(experiment), tokenizer, experiment.sample, config.max_position_embeddings)


def check_data(
    experiment: LanguageExperiment, args: TrainingArguments, prepared, collate, examples: tuple, checkpoint: str | None
):
    """Before the run folder is written: whether there is something to learn, and to tell the best model by.

    `examples` are those of training and validation in what is `prepared`, as `data_prep.tokens.windows` has them.
    `ConfigError` if the masks leave nothing of them, or a document has no separator, or the metric asked for is not
    measured. A run that goes on from a checkpoint was found right when it began.
    """
    if checkpoint is not None:
        return
    splits = dict(zip(("training", "validation"), examples, strict=True))
    if not experiment.data.streaming:
        _refuse_masked(experiment.data, collate.separator_id, prepared.tokenizer, splits)
    text_bytes, group_bytes, _ = what_to_compare_with(experiment, prepared, splits["validation"])
    refuse_unmeasured(args, text_bytes, group_bytes)


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
    missing = up_to(documents, separator) > documents.stops - documents.starts
    if len(without := np.flatnonzero(missing)):
        text = tokenizer.decode(documents[int(without[0])]["input_ids"][:20])
        raise ConfigError(
            f"data.mask_up_to={data.mask_up_to!r} is not in {len(without):,} of {len(documents):,} {split} documents, "
            f"one of which begins {text!r}; end each prompt with it, or leave it out"
        )
