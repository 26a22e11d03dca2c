"""The tokenizer of a run as far as it is known before any data are read."""

from contextlib import suppress

from data_prep.collator import build_collator
from settings.checks import ConfigError
from settings.data_sections import DataSection, TokenizerSection
from settings.sections import SampleSection

from .build import TRAINERS, load_tokenizer, wrap


def preview_tokenizer(data: DataSection, section: TokenizerSection, sample: SampleSection):
    """A tokenizer that encodes the sample's prompt as the run's will, or None if it must first be trained.

    An existing tokenizer is loaded; for characters and numbers, one is built that knows those of the prompt.
    `ConfigError` if `data.mask_up_to` is not a single token of it.
    """
    tokenizer = None
    if section.kind == "pretrained":
        with suppress(ConfigError):  # an earlier preparation may have a copy; if not, preparing reports the error
            tokenizer = load_tokenizer(section.path)
    elif section.kind != "bpe":
        tokenizer = wrap(TRAINERS[section.kind]([sample.prompt, data.mask_up_to or ""], section.vocab_size))
    if tokenizer is not None:
        build_collator(data, tokenizer)
    return tokenizer
