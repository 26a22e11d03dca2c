"""A run is refused before any work, or leaves everything behind that explains it."""

import json

import pytest
import torch

from settings.checks import ConfigError
from settings.loading import load_experiment
from training import model
from training.machine.hardware import describe_hardware, peak_flops
from training.preflight import arguments, shapes
from training.reporting import provenance


@pytest.fixture
def load(tmp_path):
    path = tmp_path / "example.yaml"
    path.write_text("training: {use_cpu: true}\n")

    def load(*overrides):
        return load_experiment(str(path), [f"training.output_dir={tmp_path / 'run'}", *overrides])

    return load


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (
            ["model.hidden_size=64", "model.num_attention_heads=5"],
            "num_attention_heads=5 does not divide hidden_size=64",
        ),
        (["model.num_key_value_heads=5"], "num_key_value_heads=5 does not divide num_attention_heads=12"),
        (["model.hidden_size=0"], "hidden_size=0 must be at least 1"),
        (["data.context_length=2048"], "longer than model.max_position_embeddings=1024"),
        (["model.vocab_size=300"], "smaller than the tokenizer's 4096"),
        (["model.hidden_dropout=1"], "must be at least 0 and below 1"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(load, overrides, complaint):
    with pytest.raises(ConfigError) as error:
        shapes.check_sizes(load(*overrides))
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)


def test_transformers_own_complaints_are_one_sentence(load):
    with pytest.raises(ConfigError, match=r"^training: .*"):
        arguments.training_arguments(load("training.tf32=true"))


def test_provenance_tells_how_to_run_it_again(load, tmp_path):
    experiment = load("model.norm=layernorm")
    args = arguments.training_arguments(experiment)
    config = model.build_config(experiment.model, {"vocab_size": 400})
    settings = provenance.resolve(experiment, args, config)
    provenance.write_provenance(settings, tmp_path / "run", describe_hardware(args), None)
    about = json.loads((tmp_path / "run" / "provenance.json").read_text())
    assert about["packages"]["torch"].split("+")[0] == torch.__version__.split("+")[0]  # +cpu, +cu128
    assert about["hardware"]["device"] == "cpu"
    assert about["hardware"]["peak_flops"] > 0
    again = load_experiment(str(tmp_path / "run" / "experiment.yaml"), [])
    assert again.model == settings["model"]
    assert again.training["bf16"] == args.bf16
    provenance.write_provenance(settings, tmp_path / "run", {}, "checkpoint-1")
    assert len(json.loads((tmp_path / "run" / "provenance.json").read_text())["resumed_by"]) == 1


def test_precision_follows_the_processor_unless_given(load):
    automatic = arguments.training_arguments(load())
    assert automatic.bf16 == (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    assert not arguments.training_arguments(load("training.bf16=false")).bf16
    assert peak_flops(automatic)[1].startswith("measured: the fastest ")
