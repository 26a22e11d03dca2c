"""What a run chooses by the hardware changes its speed, not its result."""

import json
import math

import pytest
import torch
from transformers import AutoModelForCausalLM, TrainingArguments

import modeling  # noqa: F401
from modeling.configuration_kindling import KindlingLlamaConfig
from training import hardware
from training.attention import attention_implementation
from training.hardware import describe_hardware, measure_flops

CONFIG = KindlingLlamaConfig(
    vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2
)


def models() -> list:
    made = []
    for implementation in ("sdpa", "sdpa_float32"):
        torch.manual_seed(0)
        made.append(AutoModelForCausalLM.from_config(CONFIG, attn_implementation=implementation).eval())
    return made


def test_attention_in_float32_is_sdpa():
    ids = torch.randint(64, (3, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    plain, float32 = (model(ids, attention_mask=mask).logits[1:] for model in models())
    assert torch.equal(plain, float32)


def test_autocast_does_not_reach_it():
    seen = []
    _, model = models()
    model.model.layers[0].self_attn.o_proj.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].dtype))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(torch.arange(8)[None]).logits
    assert seen == [torch.float32]
    assert logits.dtype == torch.bfloat16


def test_a_checkpoint_does_not_remember_it(tmp_path):
    models()[1].save_pretrained(tmp_path)
    assert "sdpa_float32" not in (tmp_path / "config.json").read_text()
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config._attn_implementation == "sdpa"


def test_it_is_chosen_where_a_cpu_computes_in_bf16(tmp_path):
    for bf16, expected in ((True, "sdpa_float32"), (False, "sdpa")):
        args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, bf16=bf16, report_to="none")
        assert attention_implementation(args) == expected
        assert describe_hardware(args)["precision"] == ("bf16" if bf16 else "fp32")


def test_hardware_is_described_as_json(tmp_path):
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    assert json.loads(json.dumps(describe_hardware(args)))["processes"] == 1
    assert measure_flops(torch.device("cpu"), torch.float32, size=64, tries=2) > 0


@pytest.mark.parametrize(
    ("own", "limits", "expected"),
    [
        ("0::/", {}, math.inf),
        ("0::/job/step", {"job/step/memory.max": "max\n", "job/memory.max": "7000\n"}, 7000),
        ("0::/job/step", {"job/step/memory.max": "5000\n", "memory.max": "7000\n"}, 5000),
        ("0::/of/the/host", {"memory.max": "7000\n"}, 7000),  # as a container sees it
        ("9:cpu:/\n4:memory:/job\n0::/", {"memory/job/memory.limit_in_bytes": "6000\n", "job/memory.max": "1"}, 6000),
        ("4:memory:/of/the/host", {"memory/memory.limit_in_bytes": "6000\n", "cpu/memory.limit_in_bytes": "1"}, 6000),
    ],
)
def test_memory_limits_of_control_groups(tmp_path, monkeypatch, own, limits, expected):
    (tmp_path / "own").write_text(own)
    for name, value in limits.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(value)
    monkeypatch.setattr(hardware, "OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(hardware, "CONTROL_GROUPS", tmp_path / "groups")
    assert hardware.memory_limit() == expected
