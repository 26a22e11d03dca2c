"""One exact batch a mode."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data_prep.collator import CausalLMCollator, build_collator
from data_prep.tokenizer.build import train_characters, wrap
from modeling.configuration_kindling import KindlingLlamaConfig
from settings.checks import ConfigError
from settings.data_sections import DataSection

PAD = 9


def check(batch: dict, input_ids, attention_mask, labels):
    for name, expected in {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}.items():
        assert torch.equal(batch[name], torch.tensor(expected)), name
        assert batch[name].dtype == torch.int64


def test_plain():
    batch = CausalLMCollator(PAD)([{"input_ids": [1, 2, 3]}, {"input_ids": [4]}])
    check(batch, [[1, 2, 3], [4, 9, 9]], [[1, 1, 1], [1, 0, 0]], [[1, 2, 3], [4, -100, -100]])


def test_prompt_length():
    batch = CausalLMCollator(PAD)(
        [{"input_ids": [1, 2, 3, 4], "prompt_length": 2}, {"input_ids": [5, 6], "prompt_length": 0}]
    )
    check(batch, [[1, 2, 3, 4], [5, 6, 9, 9]], [[1, 1, 1, 1], [1, 1, 0, 0]], [[-100, -100, 3, 4], [5, 6, -100, -100]])


def test_mask_first_n():
    batch = CausalLMCollator(PAD, mask_first_n=2)([{"input_ids": [1, 2, 3]}, {"input_ids": [4]}])
    check(batch, [[1, 2, 3], [4, 9, 9]], [[1, 1, 1], [1, 0, 0]], [[-100, -100, 3], [-100, -100, -100]])


def test_up_to_the_first_separator():
    batch = CausalLMCollator(PAD, separator_id=7)([{"input_ids": [1, 7, 3, 7, 5]}, {"input_ids": [7, 2]}])
    check(
        batch,
        [[1, 7, 3, 7, 5], [7, 2, 9, 9, 9]],
        [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]],
        [[-100, -100, 3, 7, 5], [-100, 2, -100, -100, -100]],
    )


@pytest.mark.parametrize("start", [None, 1])
def test_groups_are_padded_with_none(start):
    examples = [{"input_ids": [1, 2, 3], "groups": np.array([0, 0, 4], dtype=np.int32)}]
    collate = CausalLMCollator(PAD, document_start_id=start)
    batch = collate([*examples, {"input_ids": [4], "groups": np.array([1])}])
    assert batch["groups"].tolist() == [[0, 0, 4], [1, -1, -1]]
    assert batch["groups"].dtype == torch.int64
    assert "groups" not in collate([{"input_ids": [1, 2]}])


def test_the_farthest_mask_counts():
    collate = CausalLMCollator(PAD, mask_first_n=1, separator_id=7)
    batch = collate([{"input_ids": [1, 7, 3, 4], "prompt_length": 3}])
    check(batch, [[1, 7, 3, 4]], [[1, 1, 1, 1]], [[-100, -100, -100, 4]])


def test_an_end_that_shares_the_pads_id_stays_a_label():
    batch = CausalLMCollator(pad_token_id=0)([{"input_ids": [0, 5, 0]}, {"input_ids": [0]}])
    check(batch, [[0, 5, 0], [0, 0, 0]], [[1, 1, 1], [1, 0, 0]], [[0, 5, 0], [0, -100, -100]])


@given(st.lists(st.lists(st.sampled_from([0, 0, 5, 6]), max_size=9), min_size=1, max_size=5))
def test_every_end_is_a_label_whatever_token_pads(documents):
    """Each example ends with token 0, which pads as well, and has others inside; what is ignored is its length's."""
    rows = [[*document, 0] for document in documents]
    labels = CausalLMCollator(pad_token_id=0)([{"input_ids": row} for row in rows])["labels"]
    assert labels.eq(0).sum() == sum(row.count(0) for row in rows)
    assert all(labels[i, len(row) - 1] == 0 for i, row in enumerate(rows))
    assert labels.eq(-100).sum() == sum(labels.shape[1] - len(row) for row in rows)


# ---- what is no example of the model's


LIMITED = CausalLMCollator(PAD, vocab_size=10, max_position_embeddings=4)
TOKEN = (
    "token id {} (row {}, position {} of its batch) is outside the model's vocabulary of 10 tokens; "
    "prepare the data with the model's own tokenizer"
)
LONG = (
    "an example of {} tokens (row {} of its batch) is too long for the model's 4 positions (max_position_embeddings); "
    "shorten it, or train a model with more"
)
REFUSED = {
    "first id above": (LIMITED, [[10]], TOKEN.format(10, 0, 0)),
    "far above": (LIMITED, [[1, 2], [3, 65535]], TOKEN.format(65535, 1, 1)),
    "numpy's": (LIMITED, [np.array([1, 2, 300], dtype=np.uint16)], TOKEN.format(300, 0, 2)),
    "negative": (LIMITED, [[1], [2, -1, 3]], TOKEN.format(-1, 1, 1)),
    "a label's mark": (LIMITED, [[-100, 1]], TOKEN.format(-100, 0, 0)),
    "first of several": (LIMITED, [[1, 2], [1, 11], [12, 1]], TOKEN.format(11, 1, 1)),
    "in a prompt": (replace(LIMITED, mask_first_n=2), [[1, 10, 2]], TOKEN.format(10, 0, 1)),
    "the padding": (replace(LIMITED, pad_token_id=10), [[1], [2, 3]], TOKEN.format(10, 0, 1)),
    "among documents": (replace(LIMITED, document_start_id=0), [[0, 1, 0, 99]], TOKEN.format(99, 0, 3)),
    "one too long": (LIMITED, [[1] * 5], LONG.format(5, 0)),
    "the second too long": (LIMITED, [[1] * 4, [2] * 9], LONG.format(9, 1)),
    "too long by its prompt": (replace(LIMITED, mask_first_n=3), [[1] * 6], LONG.format(6, 0)),
    "without a separator": (
        replace(LIMITED, separator_id=7),
        [[1, 7, 2], [1, 2]],
        "an example has no separator (token 7) and begins with the tokens [1, 2]; end each prompt with "
        "data.mask_up_to, or leave that out",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_model_has_no_place_for_is_one_sentence(name):
    collate, rows, sentence = REFUSED[name]
    with pytest.raises(ConfigError) as error:
        collate([{"input_ids": row} for row in rows])
    assert str(error.value) == sentence


@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=4), min_size=1, max_size=5))
def test_the_last_id_and_the_last_position_are_allowed(rows):
    """Limits change nothing of what is within them."""
    examples = [{"input_ids": row} for row in [*rows, [9, 0, 9, 9]]]
    limited, free = LIMITED(examples), CausalLMCollator(PAD)(examples)
    assert all(torch.equal(limited[name], free[name]) for name in free)


def test_limits_are_the_configurations():
    tokenizer = wrap(train_characters(["abc"], 0))
    config = KindlingLlamaConfig(vocab_size=99, max_position_embeddings=12)
    collate = build_collator(DataSection(mask_first_n=1), tokenizer, config)
    assert (collate.vocab_size, collate.max_position_embeddings, collate.mask_first_n) == (99, 12, 1)
    assert collate.pad_token_id == tokenizer.pad_token_id


@given(st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=12), min_size=1, max_size=5), st.integers(0, 14))
def test_labels_are_the_inputs_or_ignored(rows, masked):
    examples = [{"input_ids": np.array(row), "prompt_length": masked} for row in rows]
    batch = CausalLMCollator(pad_token_id=3)(examples)
    for i, row in enumerate(rows):
        assert batch["input_ids"][i, : len(row)].tolist() == row
        assert batch["attention_mask"][i].sum() == len(row)
        assert batch["labels"][i].tolist() == [
            row[t] if masked <= t < len(row) else -100 for t in range(batch["labels"].shape[1])
        ]


def test_the_separator_of_a_section_must_be_one_token():
    tokenizer = wrap(train_characters(["1+2=3"], 0))
    assert (
        build_collator(DataSection(mask_up_to="=", layout="documents"), tokenizer).separator_id
        == tokenizer("=").input_ids[-1]
    )
    for wrong in ("+2", "x"):
        with pytest.raises(ConfigError, match="give text that is a single token"):
            build_collator(DataSection(mask_up_to=wrong, layout="documents"), tokenizer)


@given(st.lists(st.lists(st.sampled_from([0, 0, 5, 6, 7]), min_size=2, max_size=12), min_size=1, max_size=4))
def test_positions_begin_anew_at_each_document_and_at_the_padding(rows):
    batch = CausalLMCollator(pad_token_id=1, document_start_id=0)([{"input_ids": row} for row in rows])
    assert batch.keys() == {"input_ids", "position_ids", "labels"}
    for row, positions in zip(rows, batch["position_ids"].tolist(), strict=True):
        expected = []
        for place in range(len(positions)):
            begins = place in (0, len(row)) or (place < len(row) and row[place] == 0)
            expected.append(0 if begins else expected[-1] + 1)
        assert positions == expected


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("position", ["rope", "learned"])
def test_no_document_of_a_window_sees_another(attention, position):
    """With another first document the second one's logits are the same to the last bit."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    config = KindlingLlamaConfig(vocab_size=50, hidden_size=16, num_attention_heads=2, position=position)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
    first, other, second = [0, 5, 6, 7, 8], [0, 9, 10, 11, 12], [0, 20, 21, 22, 23, 24]
    logits = []
    for collate in (CausalLMCollator(1, document_start_id=0), CausalLMCollator(1)):
        for before in (first, other):
            batch = collate([{"input_ids": before + second}, {"input_ids": second}])
            with torch.no_grad():
                logits.append(model(**batch, use_cache=False).logits)
    assert torch.equal(logits[0][0, 5:], logits[1][0, 5:])
    assert not torch.equal(logits[2][0, 5:], logits[3][0, 5:])
    torch.testing.assert_close(logits[0][0, 5:], logits[0][1, :6], atol=1e-5, rtol=1e-5)
