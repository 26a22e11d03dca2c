"""What a run may spend, resolved: its length in steps, the split of a batch, and steps timed by training a few aside.

Not here: what it has spent, in words (`reporting/budget.py`), and the section itself (`settings/sections.py`).
"""
