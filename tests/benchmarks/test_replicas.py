"""The benchmark of replicas: its prototype is exact, and what it writes is complete."""

import copy
import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from benchmarks.replicas import VARIANTS, keep_last_position, main
from modeling.configuration_kindling import FAMILIES
from training.grokking.replicas import Replicas
from training.machine.hardware import has_bf16

AXES = [
    {"type": "kindling_gpt", "mlp": "relu", "bias": False, "tie_word_embeddings": False},
    {"type": "kindling_llama", "num_key_value_heads": 1, "qk_norm": True},
]


def build(axes):
    axes = dict(axes)
    config = FAMILIES[axes.pop("type")](
        vocab_size=19, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, max_position_embeddings=8, **axes
    )
    models = []
    for seed in range(3):
        torch.manual_seed(seed)
        models.append(AutoModelForCausalLM.from_config(config, attn_implementation="eager"))
    return models


def logits_and_gradients(models, logits):
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(1))
    (logits * weights).sum().backward()
    return logits, [{name: p.grad for name, p in model.named_parameters()} for model in models]


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("axes", AXES, ids=str)
def test_the_prototype_computes_what_the_models_compute(axes, shared):
    models = build(axes)
    prototypes = copy.deepcopy(models)
    for prototype in prototypes:
        keep_last_position(prototype)
    beginnings = torch.tensor([[1, 9], [2, 9], [3, 9], [4, 9]])
    generator = torch.Generator().manual_seed(0)
    which = torch.randint(0, 4, (3, 6), generator=generator)
    ids = torch.cat([beginnings[which], torch.randint(0, 19, (3, 6, 2), generator=generator)], dim=-1)
    plain = torch.stack([model(rows).logits[:, -1:] for model, rows in zip(models, ids, strict=True)])
    fewer = Replicas(prototypes, beginnings if shared else None)(ids, which, logits_to_keep=1)
    expected, found = logits_and_gradients(models, plain), logits_and_gradients(prototypes, fewer)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_the_benchmark_writes_every_number(tmp_path, capsys):
    out = tmp_path / "replicas.json"
    main(["--rounds", "1", "--replicas", "2", "--batch", "4", "--modulus", "7", "--no-keep", "--out", str(out)])
    report, printed = json.loads(out.read_text()), capsys.readouterr().out
    bf16 = has_bf16(use_cpu=True)
    names = [name for name, variant in VARIANTS.items() if bf16 or not variant.bf16]
    assert report["replicas"] == 2
    assert report["equations"] == 7 * 6
    assert report["threads"] == torch.get_num_threads()
    assert report["hardware"]["precision"] == ("bf16" if bf16 else "fp32")
    for kind in ("adamw", "muon"):
        assert [row["variant"] for row in report[kind]] == names
        assert report[kind][0]["ratio"] == 1
        for row in report[kind]:
            assert 0 < row["seed_steps_per_second"] <= row["best_seed_steps_per_second"]
            assert row["seed_steps_per_second"] == pytest.approx(2000 / row["milliseconds"], rel=0.02)
    assert [row["variant"] for row in report.get("evaluation", [])] == [name for name in names if VARIANTS[name].bf16]
    assert all(name in printed for name in names)
