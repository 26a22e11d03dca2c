"""Loss, perplexity and bits per byte of a language model on a text, as an `evaluate` metric."""

import math
import tempfile

import datasets
import evaluate
import numpy as np


class LanguageModeling(evaluate.Metric):
    """Loss, perplexity and bits per byte from the nats and the targets of each example.

    `compute(nats=..., targets=..., text_bytes=...)` returns
    - `loss`: nats per target, all targets weighted equally (the stock Trainer averages over batches),
    - `loss_standard_error`: its standard error, from the spread over examples,
    - `perplexity`: exp(loss),
    - `bits_per_byte`: all nats, ends of text included, / (ln 2 x UTF-8 bytes of text), which unlike the others is
      comparable between tokenizers; left out where `text_bytes` is None.
    """

    def __init__(self):
        with tempfile.TemporaryDirectory(
            prefix="kindling-"
        ) as folder:  # made by evaluate, in memory or not: not at home
            super().__init__(keep_in_memory=True, cache_dir=folder)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.__doc__,
            citation="",
            features=datasets.Features({"nats": datasets.Value("float64"), "targets": datasets.Value("int64")}),
        )

    def _compute(self, nats, targets, text_bytes=None) -> dict[str, float]:
        nats, targets = np.asarray(nats, dtype=np.float64), np.asarray(targets)
        loss = nats.sum() / targets.sum()
        # The delta method for a ratio of sums.
        error = math.sqrt(((nats - loss * targets) ** 2).sum()) / targets.sum()
        values = {"loss": loss, "loss_standard_error": error, "perplexity": np.exp(loss)}
        if text_bytes is not None:
            values["bits_per_byte"] = nats.sum() / (math.log(2) * text_bytes)
        return {name: float(value) for name, value in values.items()}
