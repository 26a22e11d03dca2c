"""The metric against exact formulas."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.reporting.metrics import LanguageModeling

METRIC = LanguageModeling()


def test_exact_values():
    values = METRIC.compute(nats=[2.0, 6.0], targets=[1, 3], text_bytes=10)
    assert values["loss"] == 2.0
    assert values["perplexity"] == pytest.approx(math.e**2)
    assert values["bits_per_byte"] == pytest.approx(8 / (10 * math.log(2)))
    assert values["loss_standard_error"] == 0.0


rows = st.lists(st.tuples(st.floats(0, 100), st.integers(1, 50)), min_size=1, max_size=20)


@given(rows)
def test_every_target_weighs_the_same_however_it_is_batched(pairs):
    nats, targets = map(list, zip(*pairs, strict=True))
    values = METRIC.compute(nats=nats, targets=targets)
    assert values["loss"] == pytest.approx(math.fsum(nats) / sum(targets))
    assert "bits_per_byte" not in values


def test_the_standard_error_is_that_of_repeated_samples():
    generator = np.random.default_rng(0)
    losses, errors = [], []
    for _ in range(300):
        targets = generator.integers(5, 50, size=100)
        nats = targets * generator.normal(2.0, 0.5, size=100)
        values = METRIC.compute(nats=nats, targets=targets)
        losses.append(values["loss"])
        errors.append(values["loss_standard_error"])
    assert np.mean(errors) == pytest.approx(np.std(losses), rel=0.15)
