"""Every check of a run before its first step.

Checks that need neither torch nor data belong in `settings`.
"""
