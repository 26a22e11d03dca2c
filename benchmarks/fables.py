"""Estimate the entropy of the fables from the exact probabilities of stories that no run has seen.

usage: python -m benchmarks.fables          prints it and writes experiments/results/fables.json
"""

import argparse
import json
from itertools import islice

if __name__ == "__main__":  # before the imports that take seconds
    argparse.ArgumentParser(prog="python -m benchmarks.fables", description=__doc__.splitlines()[0]).parse_args()

from data_prep.fables import fables, nats
from settings.paths import ROOT
from training.reporting.metrics import LanguageModeling

SEED = "entropy"
STORIES = 20_000


def estimate(stories: int) -> dict:
    """Bits per byte with its standard error over stories: all nats / (ln 2 x all bytes), as a run reports them."""
    texts = list(islice(fables(SEED), stories))
    sizes = [len(text.encode()) for text in texts]
    measured = LanguageModeling().compute(nats=[nats(text) for text in texts], targets=sizes, text_bytes=sum(sizes))
    error = measured["loss_standard_error"] * measured["bits_per_byte"] / measured["loss"]
    found = {"bits_per_byte": round(measured["bits_per_byte"], 5), "standard_error": round(error, 5)}
    return found | {"stories": stories, "seed": SEED, "bytes": sum(sizes)}


def main():
    found = estimate(STORIES)
    print(found)
    path = ROOT / "experiments" / "results" / "fables.json"
    path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
