"""The plan prints the accounting's numbers for any experiment, before there is any data."""

import pytest

from config import load_experiment
from experiments.plan import plan

SHAPES = [
    ("12 layers", 12, 768, 12, "350,690,476,032"),
    ("24 layers", 24, 1024, 16, "1,035,932,270,592"),
    ("36 layers", 36, 1280, 20, "2,263,044,587,520"),
    ("48 layers", 48, 1600, 25, "4,522,151,116,800"),
]


@pytest.mark.parametrize(("about", "layers", "width", "heads", "total"), SHAPES)
def test_published_totals(tmp_path, about, layers, width, heads, total):
    path = tmp_path / "shape.yaml"
    path.write_text(
        f"model: {{hidden_size: {width}, num_hidden_layers: {layers}, num_attention_heads: {heads}, "
        f"intermediate_size: {4 * width}, vocab_size: 50257}}"
    )
    lines = plan(load_experiment(str(path), []))
    assert about in lines[0]
    assert any(line.split() == ["forward,", "both", total] for line in lines)


def test_parts_add_up_and_batches_multiply(tmp_path):
    path = tmp_path / "example.yaml"
    path.write_text("training: {per_device_train_batch_size: 3}")
    numbers = {
        line[2:26].strip(): int(line[26:52].replace(",", ""))
        for line in plan(load_experiment(str(path), ["model.type=kindling_gpt"]))
        if line.startswith("  ")
    }
    assert numbers["a batch of 3"] == 3 * numbers["a sequence"]
    assert numbers["a sequence"] == numbers["a token"] * 1024
    assert numbers["AdamW state"] == 2 * numbers["parameters"] == 2 * numbers["gradients"]
