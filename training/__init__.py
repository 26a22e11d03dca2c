"""What the training scripts share; no model mathematics."""
