"""How a step changes the weights: optimisers, averages of the weights, schedules of decay and dropout.

The learning rate's schedules are transformers', checked in `training/preflight`; the loss is the Trainer's.
"""
