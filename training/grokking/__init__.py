"""Training on tables of equations: replicas as one batch of models, their trainer, their report.

The equations themselves are in `data_prep/algorithmic/equations.py`.
"""
