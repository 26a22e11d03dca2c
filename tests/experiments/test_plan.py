"""The plan prints the accounting's numbers for any experiment, before there is any data."""

import pytest

from experiments.plan import plan
from settings.checks import ConfigError
from settings.loading import load_experiment

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
    assert numbers["per batch of 3"] == 3 * numbers["per sequence"]
    assert numbers["per sequence"] == numbers["per token"] * 1024
    assert numbers["optimiser state"] == 2 * numbers["weights"]


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        (
            "training.per_device_train_batch_size=-4",
            "training.per_device_train_batch_size=-4 is too small; it must be at",
        ),
        (
            "training.per_device_train_batch_size=0",
            "training.per_device_train_batch_size=0 is too small; it must be at",
        ),
        (
            "data.context_length=1025",
            "data.context_length=1025 is longer than model.max_position_embeddings=1024; lower",
        ),
        ("model.max_position_embeddings=1", "model.max_position_embeddings=1 is too small; it must be at least 2"),
        ("model.vocab_size=4095", "model.vocab_size=4095 is smaller than the tokenizer's 4096; leave it out"),
    ],
)
def test_what_cannot_be_trained_has_no_plan(tmp_path, override, complaint):
    path = tmp_path / "example.yaml"
    path.write_text("model: {type: kindling_gpt}")
    with pytest.raises(ConfigError) as error:
        plan(load_experiment(str(path), [override]))
    assert complaint in str(error.value)
