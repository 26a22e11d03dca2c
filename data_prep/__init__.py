"""Text or rules in, batches out: sources of documents, tokenizers, prepared tokens, and the collator.

Knows nothing of models or training.
"""
