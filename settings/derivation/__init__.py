"""Settings that follow from others: a model from its depth or its name, and from that a run.

What a section may hold, and the checks of single settings, belong in the room above.
"""
