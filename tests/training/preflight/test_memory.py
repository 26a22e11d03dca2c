"""What a run's arguments mean for the memory of its steps."""

import pytest
import torch
from transformers import AutoModelForCausalLM, TrainingArguments

import modeling  # noqa: F401
from modeling.configuration_kindling import KindlingLlamaConfig
from modeling.memory import Step
from settings.sections import OptimizerSection
from training.preflight.memory import step_of, step_working_bytes

CONFIG = KindlingLlamaConfig(
    vocab_size=64, hidden_size=16, intermediate_size=48, num_hidden_layers=5, num_attention_heads=2,
    max_position_embeddings=32,
)  # fmt: skip
BATCH = {"per_device_train_batch_size": 3, "per_device_eval_batch_size": 7, "gradient_accumulation_steps": 2}
HALF = {"half": True, "half_attention": False}  # on a CPU


def meta_model():
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(CONFIG)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"bf16": False}, {}),
        ({"bf16": True}, HALF),
        ({"activation_checkpointing": True}, {"checkpointed": 5}),
        ({"gradient_checkpointing": True}, {"checkpointed": 5}),
        (
            {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"every_n_layers": 2}},
            {"checkpointed": 3},
        ),
        ({"activation_checkpointing": False}, {}),
    ],
)
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated")
def test_arguments_become_a_step(tmp_path, settings, expected):
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none", **BATCH | settings)
    trained = [(meta_model(), args, OptimizerSection())]
    config, step, optimizer = step_of(args, 2 * trained, 32)
    half_attention = {"half_attention": False}
    assert step == Step(32, 3, 2, evaluation_batch=7, models=2, **half_attention | expected)
    assert config is trained[0][0].config
    assert (optimizer.state, optimizer.working) == (2 * 8 * trained[0][0].num_parameters(), 0)


def test_a_step_of_muon_takes_memory_by_shape(tmp_path):
    """By hand, five layers: q, k, v and o are 16 x 16; gate and up 48 x 16, then down 16 x 48."""
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    trained = [(meta_model(), args, OptimizerSection(kind="muon"))]
    squares, pairs, last = 5 * 4 * 16 * 16, 5 * 2 * 48 * 16, 5 * 48 * 16
    in_float32 = [
        4 * squares + 4 * 2 * (squares + squares),
        4 * squares + 4 * pairs + 4 * 2 * (pairs + 5 * 2 * 16 * 16),
        4 * pairs + 4 * last + 4 * 2 * (last + 5 * 16 * 16),
    ]
    assert step_working_bytes(trained, half=False) == max(in_float32)
    assert step_working_bytes(2 * trained, half=False) == 2 * max(in_float32)
    assert step_working_bytes(trained, half=True) == 4 * squares + 4 * pairs + max(6 * pairs, 2 * 2 * (pairs + 2560))
