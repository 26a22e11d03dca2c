"""Text or rules in, batches out; knows nothing of models."""
