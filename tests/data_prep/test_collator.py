"""One exact batch a mode."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from data_prep.collator import CausalLMCollator, build_collator
from data_prep.tokenizer import train_characters, wrap
from sections import ConfigError, DataSection

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


def test_a_missing_separator_is_an_error():
    with pytest.raises(ValueError, match="no separator"):
        CausalLMCollator(PAD, separator_id=7)([{"input_ids": [1, 2]}])


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
        with pytest.raises(ConfigError, match="give text that is one token"):
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

    from modeling.configuration_kindling import KindlingLlamaConfig

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
