"""Time a training step with dropout on a CPU: by row (`training/dropout.py`) and PyTorch's, interleaved in one run.

usage: python -m benchmarks.dropout          prints a table and writes experiments/results/dropout.json
"""

import argparse
import json
import statistics
import time

if __name__ == "__main__":  # before the imports that take seconds
    argparse.ArgumentParser(prog="python -m benchmarks.dropout", description=__doc__.splitlines()[0]).parse_args()

import torch
from transformers import AutoModelForCausalLM

import modeling  # noqa: F401
from modeling.configuration_kindling import KindlingLlamaConfig
from settings.paths import ROOT
from training.attention import dropout_by_row
from training.dropout import use_row_dropout

ROUNDS = 9
HIDDEN = {"hidden_dropout": 0.1, "embedding_dropout": 0.1}
CASES = {"hidden": HIDDEN, "attention": {"attention_dropout": 0.1}, "all": HIDDEN | {"attention_dropout": 0.1}}


def build(dropouts: dict, attention: str):
    """The demo's model with dropouts."""
    config = KindlingLlamaConfig(
        vocab_size=2048, hidden_size=192, num_hidden_layers=4, num_attention_heads=6, **dropouts
    )
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention).train()


def step(model, place) -> float:
    """Seconds of a forward and a backward pass over 16 x 160 tokens."""
    ids = torch.zeros(16, 160, dtype=torch.int64)
    started = time.perf_counter()
    if place is not None:
        place.set(ids, 0, 0, 0)
    model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids, use_cache=False).loss.backward()
    model.zero_grad()
    return time.perf_counter() - started


def main():
    models = {"none": (build({}, "sdpa"), None)}
    for name, dropouts in CASES.items():
        models[name, "pytorch"] = build(dropouts, "sdpa"), None
        ours = build(dropouts, dropout_by_row.__name__ if "attention_dropout" in dropouts else "sdpa")
        models[name, "by row"] = ours, use_row_dropout(ours)
    seconds = {key: [] for key in models}
    for _ in range(ROUNDS + 1):  # interleaved, so that a busy machine slows all equally; the first round warms up
        for key, (model, place) in models.items():
            seconds[key].append(step(model, place))
    rows = []
    for name in CASES:
        ratios = [ours / theirs for ours, theirs in zip(seconds[name, "by row"], seconds[name, "pytorch"], strict=True)]
        without = [ours / none for ours, none in zip(seconds[name, "by row"], seconds["none"], strict=True)]
        medians = {
            "of_pytorchs": round(statistics.median(ratios[1:]), 3), "of_none": round(statistics.median(without[1:]), 3),
        }  # fmt: skip
        rows.append({"dropout": name, "threads": torch.get_num_threads(), **medians})
        print(f"{name:10} {medians['of_pytorchs']:.2f} of the time with PyTorch's, {medians['of_none']:.2f} of none")
    path = ROOT / "experiments" / "results" / "dropout.json"
    path.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
