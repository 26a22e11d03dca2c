"""Time a training step in bf16 on a CPU, by attention implementation, interleaved in one run.

usage: python -m benchmarks.attention          prints a table and writes experiments/results/attention.json
"""

import argparse
import json
import statistics
import time

if __name__ == "__main__":  # before the imports that take seconds
    argparse.ArgumentParser(prog="python -m benchmarks.attention", description=__doc__.splitlines()[0]).parse_args()

import torch
from transformers import AutoModelForCausalLM

import modeling  # noqa: F401
import training.attention  # noqa: F401  registers sdpa_float32
from modeling.configuration_kindling import KindlingLlamaConfig
from settings.paths import ROOT

ROUNDS = 9
CASES = [("sdpa", False), ("sdpa", True), ("eager", True), ("sdpa_float32", True)]


def build(heads: int, attention: str):
    """The demo's model with another number of heads."""
    config = KindlingLlamaConfig(vocab_size=2048, hidden_size=192, num_hidden_layers=4, num_attention_heads=heads)
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention)


def step(model, bf16: bool) -> float:
    """Seconds of a forward and a backward pass over 16 x 160 tokens."""
    ids = torch.zeros(16, 160, dtype=torch.int64)
    started = time.perf_counter()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        loss = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids, use_cache=False).loss
    loss.backward()
    model.zero_grad()
    return time.perf_counter() - started


def main():
    models = {(heads, *case): build(heads, case[0]) for heads in (3, 6) for case in CASES}
    seconds = {key: [] for key in models}
    for _ in range(ROUNDS + 1):  # interleaved, so that a busy machine slows all equally; the first round warms up
        for key, model in models.items():
            seconds[key].append(step(model, key[2]))
    rows = []
    for (heads, attention, bf16), taken in seconds.items():
        milliseconds = round(1000 * statistics.median(taken[1:]), 1)
        rows.append({"heads": heads, "attention": attention, "bf16": bf16, "median_milliseconds": milliseconds})
        print(f"{heads} heads  {attention:14}{'bf16' if bf16 else 'fp32':6}{milliseconds:>8} ms")
    path = ROOT / "experiments" / "results" / "attention.json"
    path.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
