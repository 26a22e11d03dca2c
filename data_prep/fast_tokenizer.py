"""The class of the tokenizers that are made here."""

from transformers import PreTrainedTokenizerFast as TokenizersBackend


class PreTrainedTokenizerFast(TokenizersBackend):
    """transformers' own, saved under the name that transformers 4, and converters built on it, can load as well.

    In transformers 5 it is an alias of `TokenizersBackend`, a name that nothing older knows.
    """
