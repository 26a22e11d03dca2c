"""What is known of a run's tokens before any data are read."""

from contextlib import suppress

from data_prep.collator import build_collator
from settings.checks import ConfigError
from settings.sections import DataSection, SampleSection, TokenizerSection

from .build import TRAINERS, load_tokenizer, wrap


def preview_tokenizer(data: DataSection, section: TokenizerSection, sample: SampleSection):
    """A tokenizer that cuts the sample's prompt as the run's will, or None where that is still to be learnt.

    An existing one is itself; of characters and numbers each is a token, whichever there are in the data. `ConfigError`
    if `data.mask_up_to` is not one token of it.
    """
    tokenizer = None
    if section.kind == "pretrained":
        with suppress(ConfigError):  # an earlier preparation may have kept a copy; if not, it will say so
            tokenizer = load_tokenizer(section.path)
    elif section.kind != "bpe":
        tokenizer = wrap(TRAINERS[section.kind]([sample.prompt, data.mask_up_to or ""], section.vocab_size))
    if tokenizer is not None:
        build_collator(data, tokenizer)
    return tokenizer
