"""Checkpoints: written atomically, verified, rotated, and resumed as the run they belong to.

The manifest that verifies them is in `storage/checkpoint_manifest.py`.
"""
