"""Training runs: the Trainer, its optimisers, checks, checkpoints and reports.

No model mathematics, which is in `modeling`; no text, which is in `data_prep`.
"""
