"""A run whose validation has groups tells them apart in its files and last words, not in what it shows on the way."""

import json
import math

import pytest

import train_lm
from training.reporting import report

CONFIG = """
model: {hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, max_position_embeddings: 32}
tokenizer: {kind: characters}
data: {source: %s, group_field: meta.kind, validation_documents: 12, layout: packed, cache_dir: %s}
training: {output_dir: %s, max_steps: 4, logging_steps: 2, eval_steps: 2, use_cpu: true, bf16: false}
sample: {max_new_tokens: 5}
"""
TEXTS = {"plain": "a cat sat on a mat", "a|b": "žluťoučký kůň"}


@pytest.fixture
def train(tmp_path, capsys):
    def train(*overrides: str) -> tuple[str, dict]:
        kinds = [list(TEXTS)[i % 3 == 0] for i in range(60)]
        records = [{"text": TEXTS[kind] * (1 + i % 5), "meta": {"kind": kind}} for i, kind in enumerate(kinds)]
        (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        path = tmp_path / "config.yaml"
        path.write_text(CONFIG % (tmp_path / "corpus.jsonl", tmp_path / "prepared", tmp_path / "run"))
        train_lm.main(str(path), list(overrides))
        return capsys.readouterr().out, json.loads((tmp_path / "run" / "metrics.json").read_text())

    return train


def test_a_run_tells_its_groups_apart(train, tmp_path):
    told, metrics = train("training.disable_tqdm=true")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if {f"eval_loss/{kind}" for kind in TEXTS} <= row.keys()] == [2, 4]
    assert (metrics["validation_documents/a|b"], metrics["validation_documents/plain"]) == (4, 8)
    targets = [metrics[f"eval_targets/{kind}"] for kind in TEXTS]
    mean = sum(metrics[f"eval_loss/{kind}"] * count for kind, count in zip(TEXTS, targets, strict=True)) / sum(targets)
    assert metrics["eval_loss"] == pytest.approx(mean, rel=1e-6)
    size = sum(len(TEXTS["a|b"].encode()) * (1 + i % 5) for i in range(0, 12, 3))
    bits = metrics["eval_loss/a|b"] * metrics["eval_targets/a|b"] / math.log(2) / size
    assert metrics["eval_bits_per_byte/a|b"] == pytest.approx(bits, rel=1e-6)
    logs, last_words = told.split("\nvalidation  ")[-2:]
    assert logs.count("'eval_loss': ") == 2
    assert "eval_loss/" not in logs
    _, table, after, *_ = last_words.split("\n\n")
    head, plain, other = table.splitlines()
    assert head == "group  documents  targets  loss (nats per token)  bits per byte"
    assert plain.startswith("plain          8  ")
    assert other.startswith("a|b            4  ")
    assert other.endswith(f"  {metrics['eval_bits_per_byte/a|b']:.4f}")
    assert after.startswith("time  ")
    card = (tmp_path / "run" / "README.md").read_text()
    assert (
        "\n\n### By group\n\n| group | documents | targets | loss (nats per token) | bits per byte |\n|---|---:|"
        in card
    )
    assert f"\n| a\\|b | 4 | {metrics['eval_targets/a|b'] / sum(targets):.1%} | " in card
    assert "|\n\n![curves](curves.png)" in card


def test_a_run_of_one_group_does_not(train, tmp_path):
    told, metrics = train("data.group_field=null")
    assert "group  documents" not in told
    assert not any("/" in name for name in metrics)
    card = (tmp_path / "run" / "README.md").read_text()
    assert "By group" not in card
    assert "|\n\n![curves](curves.png)" in card


def test_masked_text_has_losses_by_group_alone(train):
    told, metrics = train("data.mask_first_n=3")
    assert "group  documents  targets  loss (nats per token)\nplain  " in told
    assert not any("bits_per_byte/" in name for name in metrics)


def test_a_groups_name_may_end_like_a_speed():
    names = {"eval_runtime", "eval_loss/eval_runtime", "eval_samples_per_second", "eval_loss/words per_second"}
    assert names - report.SPEEDS == {"eval_loss/eval_runtime", "eval_loss/words per_second"}
