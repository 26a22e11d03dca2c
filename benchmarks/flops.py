"""Compare the FLOPs of a step that the stock Trainer counts with those that Kindling counts.

usage: python -m benchmarks.flops          prints a table and writes experiments/results/flops.json
"""

import argparse
import json
from types import SimpleNamespace

if __name__ == "__main__":  # before the imports that take seconds
    argparse.ArgumentParser(prog="python -m benchmarks.flops", description=__doc__.splitlines()[0]).parse_args()

import torch
from transformers import AutoModelForCausalLM, Trainer, __version__

from experiments.planning.data import model_config
from modeling.configuration_kindling import KindlingGPTConfig, KindlingLlamaConfig
from settings.loading import load_experiment
from settings.paths import ROOT

GPT2 = {"vocab_size": 50_257, "max_position_embeddings": 1024}
LLAMA = {"vocab_size": 32_000, "max_position_embeddings": 2048}
MODELS = {
    **{
        f"configs/lm/{name}.yaml": lambda name=name: model_config(load_experiment(f"configs/lm/{name}.yaml", []))
        for name in ("demo", "tinystories", "c4", "pile")
    },
    "GPT-2, 124M": lambda: KindlingGPTConfig(
        **GPT2, hidden_size=768, num_hidden_layers=12, num_attention_heads=12, tie_word_embeddings=True
    ),
    "GPT-2, 1.5B": lambda: KindlingGPTConfig(
        **GPT2, hidden_size=1600, num_hidden_layers=48, num_attention_heads=25, tie_word_embeddings=True
    ),
    "Llama, 7B": lambda: KindlingLlamaConfig(
        **LLAMA, hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, intermediate_size=11_008
    ),
}


def compare(config) -> dict:
    """Both counts of a training step on one full window, and the stock one's share of ours."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        batch = {"input_ids": torch.zeros(1, config.max_position_embeddings, dtype=torch.int64)}
    count = SimpleNamespace(main_input_name="input_ids", num_parameters=model.num_parameters)  # without our own count
    stock = Trainer.floating_point_ops(SimpleNamespace(model=count), batch)
    ours = model.floating_point_ops(batch)
    return {"tokens": batch["input_ids"].numel(), "stock": stock, "kindling": ours, "share": round(stock / ours, 4)}


def main():
    found = {name: compare(make()) for name, make in MODELS.items()}
    for name, counts in found.items():
        print(f"{name:28}{counts['stock']:>24,}{counts['kindling']:>24,}{counts['share']:>8.2f}")
    path = ROOT / "experiments" / "results" / "flops.json"
    path.write_text(json.dumps({"transformers": __version__, "models": found}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
