"""What an experiment file may hold, and every check of it that needs neither torch nor data.

Imports no other room. Checks that need a model, data or hardware belong in `training/preflight`.
"""
