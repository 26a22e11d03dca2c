"""What a run chooses by the hardware changes its speed, not its result."""

import itertools
import json
import math

import pytest
import torch
from transformers import AutoModelForCausalLM, TrainingArguments

import modeling  # noqa: F401
from modeling.configuration_kindling import KindlingLlamaConfig
from training.attention import attention_implementation
from training.machine import hardware
from training.machine.hardware import describe_hardware, measure_flops

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
        assert attention_implementation(args, KindlingLlamaConfig()) == expected
        assert describe_hardware(args)["precision"] == ("bf16" if bf16 else "fp32")


def test_hardware_is_described_as_json(tmp_path):
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    about = json.loads(json.dumps(describe_hardware(args)))
    assert (about["processes"], about["threads"]) == (1, torch.get_num_threads())


CPU_INFO = "processor\t: 0\nmodel name\t: Some  Maker CPU @ 2.00GHz\nprocessor\t: 1\nmodel name\t: Another\n"


@pytest.mark.parametrize(
    ("text", "told", "expected"),
    [
        (CPU_INFO, "", "Some Maker CPU @ 2.00GHz, riscv"),
        ("processor\t: 0\nBogoMIPS\t: 50\n", "", "riscv"),  # of many that are no x86
        (None, "Some Family 6", "Some Family 6, riscv"),
        (None, "riscv", "riscv"),
    ],
)
def test_the_processors_model_is_named(tmp_path, monkeypatch, text, told, expected):
    monkeypatch.setattr(hardware, "CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(hardware.platform, "machine", lambda: "riscv")
    monkeypatch.setattr(hardware.platform, "processor", lambda: told)
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    assert hardware.processor_name() == expected


def test_the_fastest_product_counts(monkeypatch):
    """So many are made at least; a slow one at any place changes nothing."""
    monkeypatch.setattr(hardware, "SECONDS", 0.0)
    monkeypatch.setattr(hardware, "TRIES", 3)
    readings = iter([0.0, 0.0, 0.5, 0.5, 0.7, 0.7, 1.9, 1.9])  # the start; before and after each product; the end
    assert measure_flops(torch.device("cpu"), torch.float32, 8, clock=lambda: next(readings)) == 2 * 8**3 / (0.7 - 0.5)


def test_products_are_made_for_some_time(monkeypatch):
    monkeypatch.setattr(hardware, "SECONDS", 1.0)
    ticks = itertools.count()
    measure_flops(torch.device("cpu"), torch.float32, 8, clock=lambda: next(ticks) / 30)  # three readings a product
    assert next(ticks) == pytest.approx(30, abs=3)


@pytest.fixture
def measured(monkeypatch):
    """What is measured, with how many threads; none of it is kept for other tests."""
    speeds, seen = {256: [3e9, 3e9, 3e9, 3e9], 512: [1e9, 2e9, 7e9, 1e9], 1024: [6e9, 5e9, 4e9, 5e9]}, []

    def measure(device, dtype, size):
        seen.append((device.type, dtype, size, torch.get_num_threads()))
        return speeds[size].pop(0)

    hardware.measured_peak.cache_clear()
    monkeypatch.setattr(hardware, "measure_flops", measure)
    yield seen
    hardware.measured_peak.cache_clear()


@pytest.mark.parametrize(("bf16", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_the_peak_is_the_fastest_size_on_one_thread_times_the_threads(tmp_path, measured, bf16, dtype):
    """Measured in the run's precision, once a process, whatever the threads; and it is said what it was."""
    threads = torch.get_num_threads()
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, bf16=bf16, report_to="none")
    try:
        for count in (3, 1):
            torch.set_num_threads(count)
            peak, origin = hardware.peak_flops(args)
            assert peak == count * 7e9
            assert torch.get_num_threads() == count
            name = str(dtype).removeprefix("torch.")
            told = f"measured: the fastest {name} product of 256, 512 and 1024 wide on one thread, that of 512"
            assert origin == told + (", times 3 threads" if count == 3 else "")
    finally:
        torch.set_num_threads(threads)
    assert measured == [("cpu", dtype, size, 1) for size in (256, 512, 1024)] * 4


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
