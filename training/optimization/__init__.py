"""How a step changes the weights: optimisers, the z-loss, averages of the weights, schedules of decay and dropout.

The learning rate's schedules are transformers', checked in `training/preflight`; the cross-entropy is the model's.
"""
