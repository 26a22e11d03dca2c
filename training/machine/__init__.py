"""The machine of a run: its device, peak and memory, measured or from data sheets.

No decisions about a run, which are in `preflight`.
"""
