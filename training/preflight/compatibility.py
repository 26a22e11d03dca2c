"""Checks that loss masks leave targets in the data."""

import numpy as np

from data_prep.tokens.counts import masked_tokens, prompt_ends
from settings.checks import ConfigError
from settings.data_sections import DataSection
from training.run_data import RunData


def check_masks(section: DataSection, data: RunData):
    """`ConfigError` if the loss masks leave no targets, or a document has no separator.

    Not for a stream, whose documents are not there yet.
    """
    masks = {"data.mask_first_n": section.mask_first_n, "data.mask_up_to": section.mask_up_to}
    given = " and ".join(f"{name}={value}" for name, value in masks.items() if value)
    separator = data.collate.separator_id
    splits = {"training": data.train_set.examples, "validation": data.validation_set}
    for split, examples in splits.items() if given and not section.streaming else ():
        if section.layout == "packed":
            lengths, what = np.array([min(examples.length, len(examples.ids))]), "windows"
            masked = section.mask_first_n
        else:
            lengths, what = examples.stops - examples.starts, "documents"
            if separator is not None:
                _check_separator(section.mask_up_to, separator, data.tokenizer, split, examples)
            masked = masked_tokens(examples, section.mask_first_n, separator)
        if (lengths <= masked).all():
            raise ConfigError(
                f"{given} leaves no target in {len(examples):,} {split} {what}, the longest of which has "
                f"{lengths.max()} tokens; lower it, or leave it out"
            )


def _check_separator(text: str, separator: int, tokenizer, split: str, documents):
    """`ConfigError` if a document has no separator."""
    missing = prompt_ends(documents, separator) > documents.stops - documents.starts
    if len(without := np.flatnonzero(missing)):
        begins = tokenizer.decode(documents[int(without[0])]["input_ids"][:20])
        raise ConfigError(
            f"data.mask_up_to={text!r} is missing from {len(without):,} of {len(documents):,} {split} "
            f"documents, one of which begins {begins!r}; end each prompt with it, or leave it out"
        )
