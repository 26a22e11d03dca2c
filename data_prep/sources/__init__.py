"""Documents: named sources, files on disk and on the Hub, records, splits and mixtures. `python -m data_prep.sources`.

Knows nothing of tokens.
"""
