"""Validation by group is what scoring each token by hand and adding up by document gives, in both layouts."""

import json
import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, TrainingArguments, set_seed

import modeling  # noqa: F401
from data_prep.collator import CausalLMCollator
from data_prep.tokenizer.bpe import train_bpe
from data_prep.tokenizer.build import start_token
from data_prep.tokens.prepare import prepare
from modeling.configuration_kindling import KindlingGPTConfig
from settings.data_sections import DataSection, TokenizerSection
from training.run_data import validation_baselines
from training.trainer import KindlingTrainer

WORDS = {"prose": "the cat sat on a mat ", "Wikipedia (cs)/old": "žluťoučký kůň 🐎 ", "code": "if x: y = [0] # "}
LONGEST = 64


def documents_of(count: int, prompts: bool = False) -> list[dict]:
    """Texts of three interleaved groups, one of them in letters of several bytes."""
    generator = np.random.default_rng(0)
    documents = []
    for _ in range(count):
        group = str(generator.choice(list(WORDS)))
        text = "".join(generator.choice(list(WORDS[group]), size=generator.integers(1, 30)))
        parts = {"prompt": text[:3], "completion": text[3:] + "."} if prompts else {"text": text}
        documents.append(parts | {"group": group})
    return documents


@pytest.fixture
def prepare_documents(tmp_path):
    def make(documents: list[dict], separate: bool):
        section = TokenizerSection(kind="characters")
        if separate:
            PreTrainedTokenizerFast(
                tokenizer_object=train_bpe(list(WORDS.values()), 280),
                bos_token="<s>", eos_token="</s>", pad_token="<pad>",
            ).save_pretrained(tmp_path / "tokenizer")  # fmt: skip
            section = TokenizerSection(kind="pretrained", path=str(tmp_path / "tokenizer"))
        for name, part in (("train", documents[::-1]), ("validation", documents)):
            path = tmp_path / "corpus" / f"{name}.jsonl"
            path.parent.mkdir(exist_ok=True)
            path.write_text("".join(json.dumps(document) + "\n" for document in part))
        return prepare(
            DataSection(
                source=str(path.parent), group_field="group", cache_dir=str(tmp_path / "prepared"), layout="documents"
            ),
            section,
        )

    return make


def trainer_of(prepared, layout: str, length: int, folder, group_bytes: dict, **arguments) -> KindlingTrainer:
    set_seed(0)
    tokenizer = prepared.tokenizer
    config = KindlingGPTConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=LONGEST, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    settings = {"output_dir": str(folder), "use_cpu": True, "save_strategy": "no", "disable_tqdm": True, "max_steps": 1}
    settings |= {"report_to": "none", "remove_unused_columns": False}
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():  # a model that is unsure of everything would give each token the same
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight))
    return KindlingTrainer(
        model=model,
        args=TrainingArguments(**settings | arguments),
        train_dataset=prepared.examples("train", layout, length),
        eval_dataset=prepared.examples("validation", layout, length),
        data_collator=CausalLMCollator(tokenizer.pad_token_id),
        text_bytes=None if None in group_bytes.values() else sum(group_bytes.values()),
        group_bytes=group_bytes,
        peak_flops=1e9,
    )


def rows_by_hand(tokenizer, documents: list[dict], layout: str, length: int) -> list[list[tuple[int, str | None]]]:
    """Rows of (token, group it counts for), written out document by document."""
    start, end = start_token(tokenizer), tokenizer.eos_token_id
    rows = []
    for document in documents:
        ids = tokenizer(document["text"], add_special_tokens=False)["input_ids"]
        rows.append([(token, document["group"]) for token in (start, *ids, end)])
    if layout == "documents":
        return rows
    first = [(start, None)] if start == end else []
    flat = first + [pair for row in rows for pair in (row[1:] if start == end else row)]
    return [flat[place : place + length] for place in range(0, len(flat) - 1, length - 1)]


def score_by_hand(model, rows) -> list[dict[str, tuple[float, int]]]:
    """For each row the nats and the number of targets of each group, in float64."""
    scores = []
    for row in rows:
        with torch.no_grad():
            log_p = model(torch.tensor([[token for token, _ in row]])).logits[0].double().log_softmax(-1)
        sums = {}
        for place, (_, (token, group)) in enumerate(pairwise(row)):
            nats, targets = sums.get(group, (0.0, 0))
            sums[group] = (nats - log_p[place, token].item(), targets + 1)
        scores.append(sums)
    return scores


@pytest.mark.parametrize("batch", [1, 7, 64])
@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("layout", ["packed", "documents"])
def test_groups_are_scored_as_by_hand(prepare_documents, tmp_path, layout, separate, batch):
    documents = documents_of(40)
    prepared = prepare_documents(documents, separate)
    length = 13 if layout == "packed" else LONGEST
    sizes = dict.fromkeys((document["group"] for document in documents), 0)
    for document in documents:
        sizes[document["group"]] += len(document["text"].encode())
    assert {name: about["text_bytes"] for name, about in prepared.compared_groups.items()} == sizes
    trainer = trainer_of(prepared, layout, length, tmp_path, sizes, per_device_eval_batch_size=batch)
    metrics = trainer.evaluate()

    rows = rows_by_hand(prepared.tokenizer, documents, layout, length)
    assert [[token for token, _ in row] for row in rows] == [row["input_ids"].tolist() for row in trainer.eval_dataset]
    scores = score_by_hand(trainer.model, rows)
    losses = []
    for group in WORDS:
        nats, targets = np.array([sums.get(group, (0.0, 0)) for sums in scores]).T
        loss = nats.sum() / targets.sum()
        losses.append(loss)
        error = math.sqrt(((nats - loss * targets) ** 2).sum()) / targets.sum()
        assert metrics[f"eval_targets/{group}"] == targets.sum()
        assert metrics[f"eval_loss/{group}"] == pytest.approx(loss, rel=1e-6)
        assert metrics[f"eval_loss_standard_error/{group}"] == pytest.approx(error, rel=1e-4)
        assert metrics[f"eval_bits_per_byte/{group}"] == pytest.approx(nats.sum() / math.log(2) / sizes[group], 1e-6)
    assert max(losses) > 1.01 * min(losses)  # or nothing would be told apart

    targets = np.array([metrics[f"eval_targets/{group}"] for group in WORDS])
    total = np.dot([metrics[f"eval_loss/{group}"] for group in WORDS], targets)
    assert targets.sum() == sum(len(row) - 1 for row in rows) == trainer.eval_dataset.targets
    assert metrics["eval_loss"] == pytest.approx(total / targets.sum(), rel=1e-6)
    bits = np.dot([metrics[f"eval_bits_per_byte/{group}"] for group in WORDS], [sizes[group] for group in WORDS])
    assert metrics["eval_bits_per_byte"] == pytest.approx(bits / sum(sizes.values()), rel=1e-6)


def test_totals_are_those_without_groups(prepare_documents, tmp_path):
    prepared = prepare_documents(documents_of(40), separate=False)
    sizes = {name: about["text_bytes"] for name, about in prepared.compared_groups.items()}
    trainer = trainer_of(prepared, "packed", 13, tmp_path, sizes)
    told, trainer.group_bytes, trainer.eval_dataset.groups = trainer.evaluate(), {}, None
    untold = trainer.evaluate()
    for name in ("loss", "loss_standard_error", "perplexity", "bits_per_byte"):
        assert told[f"eval_{name}"] == pytest.approx(untold[f"eval_{name}"], rel=1e-6)
    assert not any("/" in name for name in untold)


def test_the_model_never_sees_groups(prepare_documents, tmp_path):
    prepared = prepare_documents(documents_of(20), separate=False)
    trainer = trainer_of(prepared, "packed", 13, tmp_path, dict.fromkeys(prepared.compared_groups, 1))
    seen = []
    trainer.model.register_forward_pre_hook(lambda *call: seen.append(set(call[-1])), with_kwargs=True)
    trainer.train()
    trainer.evaluate()
    assert len(seen) > 1
    assert not any("groups" in names for names in seen)


def test_prompts_do_not_count_and_leave_bits_out(prepare_documents, tmp_path):
    documents = documents_of(20, prompts=True)
    prepared = prepare_documents(documents, separate=False)
    section = DataSection(layout="documents")
    text_bytes, group_bytes, floor = validation_baselines(section, prepared, None)
    assert (text_bytes, group_bytes, floor) == (None, dict.fromkeys(prepared.compared_groups), None)
    metrics = trainer_of(prepared, "documents", LONGEST, tmp_path, group_bytes).evaluate()
    for group in WORDS:
        texts = [each["completion"] for each in documents if each["group"] == group]
        targets = sum(len(prepared.tokenizer(text, add_special_tokens=False)["input_ids"]) + 1 for text in texts)
        assert metrics[f"eval_targets/{group}"] == targets
        assert metrics[f"eval_loss/{group}"] > 0
    assert not any("bits_per_byte" in name for name in metrics)


def test_a_group_without_targets_is_left_out(prepare_documents, tmp_path):
    documents = [*documents_of(20), {"text": "a", "group": "too short"}]
    prepared = prepare_documents(documents, separate=False)
    trainer = trainer_of(prepared, "documents", LONGEST, tmp_path, dict.fromkeys(prepared.compared_groups))
    told = trainer.evaluate()
    trainer.data_collator = replace(trainer.data_collator, mask_first_n=3)
    masked = trainer.evaluate()
    assert told["eval_targets/too short"] == 2
    assert told.keys() - masked.keys() == {
        f"eval_{name}/too short" for name in ("loss", "loss_standard_error", "targets")
    }
    assert masked["eval_targets/code"] == told["eval_targets/code"] - 2 * sum(d["group"] == "code" for d in documents)
