"""What a run will cost, for `python -m experiments.plan`: its data, its totals, its memory, and the tables of them.

Nothing is prepared, trained or written here; what a run really does is in `training`.
"""
