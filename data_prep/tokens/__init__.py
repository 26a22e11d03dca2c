"""Prepared folders of tokens: writing, opening, publishing, streaming, windows and their order.
`python -m data_prep.tokens`.

Batches and masks belong in `data_prep/collator.py`.
"""
