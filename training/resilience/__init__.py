"""What keeps a run alive or ends it saved: non-finite steps, signals, dead workers, stalled processes.

Saving itself belongs in `training/checkpoints`.
"""
