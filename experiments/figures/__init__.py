"""Figures of a sweep's report: the kinds there are, their options, their panels.

Numbers and tables belong to the files above.
"""
