"""What a run prints, plots and records: announcement, metrics, curves, samples, provenance.

The model card's text is in `publishing/card.py`.
"""
