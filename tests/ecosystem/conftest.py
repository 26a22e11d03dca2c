"""One run of train_lm.py and its native export, which the tools of others are given."""

import os
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import train_lm
from modeling.native import convert

torch.set_num_threads(1)

# Wide initial weights: what a model says after four steps is then not the same character over and over.
EXPERIMENT = """
model: {hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2,
        max_position_embeddings: 64, initializer_range: 0.3}
tokenizer: {vocab_size: 400, train_documents: 100}
data: {source: fables, train_documents: 100, validation_documents: 10, cache_dir: %s}
training: {output_dir: %s, max_steps: 4, save_steps: 2, eval_steps: 4, use_cpu: true, bf16: false}
sample: {max_new_tokens: 8}
"""


@pytest.fixture(scope="session")
def run(tmp_path_factory) -> Path:
    """The folder of a finished run."""
    here = tmp_path_factory.mktemp("ecosystem")
    (here / "tiny.yaml").write_text(EXPERIMENT % (here / "prepared", here / "tiny"))
    train_lm.main(str(here / "tiny.yaml"), [])
    return here / "tiny"


@pytest.fixture(scope="session")
def export(run) -> Path:
    """The run as a stock Llama."""
    convert(str(run), run.parent / "llama")
    return run.parent / "llama"


@pytest.fixture(scope="session")
def tokenizer(run):
    return AutoTokenizer.from_pretrained(run)


@pytest.fixture
def model(run):
    """The run's model, anew for each test."""
    return AutoModelForCausalLM.from_pretrained(run)


@pytest.fixture(scope="session")
def elsewhere(tmp_path_factory) -> dict:
    """How a stranger's process is started: in a folder of its own, with an empty cache, without a network."""
    folder = tmp_path_factory.mktemp("elsewhere")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HOME": str(folder / "cache"), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    return {"cwd": folder, "env": environment | {"CUDA_VISIBLE_DEVICES": ""}, "text": True}


@pytest.fixture(scope="session")
def greedy(run, tokenizer):
    """A function: a prompt to what the run's model says after it, greedily, in 12 tokens."""

    def say(prompt: str) -> str:
        model = AutoModelForCausalLM.from_pretrained(run).eval()
        ids = tokenizer(prompt, return_tensors="pt")
        said = model.generate(**ids, max_new_tokens=12, do_sample=False)[0, ids["input_ids"].shape[1] :]
        return tokenizer.decode(said, skip_special_tokens=True)

    return say
