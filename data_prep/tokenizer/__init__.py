"""Tokenizers: learning, loading, and encoding text fast. `python -m data_prep.tokenizer`.

Knows nothing about prepared folders.
"""
