"""Files that survive a crash, checkpoint folders with hashes, and requests to the Hugging Face Hub.

Knows nothing of models or training.
"""
