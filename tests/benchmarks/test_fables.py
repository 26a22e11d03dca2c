"""The estimate of the fables' entropy, against the stories' integers and a jackknife."""

import json
from itertools import islice
from math import log2

import numpy as np
import pytest

from benchmarks.fables import SEED, estimate
from data_prep.fables import derivations, fables
from settings.paths import ROOT


def test_the_entropy_of_the_source():
    texts = list(islice(fables(SEED), 200))
    bits = np.array([log2(derivations(text)) for text in texts])
    sizes = np.array([len(text.encode()) for text in texts])
    found = estimate(200)
    assert found["bits_per_byte"] == pytest.approx(bits.sum() / sizes.sum(), abs=1e-5)
    without = (bits.sum() - bits) / (sizes.sum() - sizes)
    jackknife = np.sqrt((len(bits) - 1) * ((without - without.mean()) ** 2).mean())
    assert found["standard_error"] == pytest.approx(jackknife, rel=0.05)
    kept = json.loads((ROOT / "experiments" / "results" / "fables.json").read_text())
    error = np.hypot(found["standard_error"], kept["standard_error"])
    assert abs(found["bits_per_byte"] - kept["bits_per_byte"]) < 4 * error
