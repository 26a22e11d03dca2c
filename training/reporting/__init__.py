"""What a run prints, draws and writes down: announcement, metrics, curves, samples, provenance.

The model card's text is in `publishing/card.py`.
"""
