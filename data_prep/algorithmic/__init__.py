"""Equations of an exact operation: the operations, the splits, the files. `python -m data_prep.algorithmic`.

Training on them belongs in `training/grokking`.
"""
