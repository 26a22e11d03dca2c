"""Example batches are printed as the model gets them."""

import json

import matplotlib.image
import numpy as np
import pytest

from data_prep.collator import CausalLMCollator
from data_prep.show import draw_batch, show
from sections import ConfigError

CONFIG = """
model: {max_position_embeddings: 32}
tokenizer: {kind: characters}
data: {source: %s, validation_source: %s, layout: documents, cache_dir: %s}
"""


def test_rows_show_text_ids_labels_and_masks(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"prompt": "2+2=", "completion": "4"}) + "\n")
    source = tmp_path / "pairs.jsonl"
    (tmp_path / "show.yaml").write_text(CONFIG % (source, source, tmp_path / "prepared"))
    show(str(tmp_path / "show.yaml"), [])
    printed = capsys.readouterr().out
    assert "example 0: 7 tokens, 2 targets" in printed
    assert "<|endoftext|>|2|+|2|=|4|<|endoftext|>" in printed
    assert [line.split()[2] for line in printed.splitlines() if line.strip().endswith(("  '4'", "  '='"))][:2] == [
        "-100",
        "5",
    ]
    assert "picture: batch.png" in printed


def test_windows_for_a_checkpoint_are_as_long_as_one_says(tmp_path):
    (tmp_path / "show.yaml").write_text("model: {path: somebody/llama}")
    with pytest.raises(ConfigError, match=r"model\.path=somebody/llama are not known here; give data\.context_length"):
        show(str(tmp_path / "show.yaml"), [])


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("model.max_position_embeddings=1", "model.max_position_embeddings=1 is too small; it must be at least 2"),
        ("model.max_position_embeddings=-3", "model.max_position_embeddings=-3 is too small"),
        ("data.context_length=33", "data.context_length=33 is longer than model.max_position_embeddings=32; lower the"),
    ],
)
def test_windows_that_cannot_be_are_refused_before_anything_is_prepared(tmp_path, override, complaint):
    (tmp_path / "show.yaml").write_text(CONFIG % ("fables", "fables", tmp_path / "prepared"))
    with pytest.raises(ConfigError) as error:
        show(str(tmp_path / "show.yaml"), [override])
    assert complaint in str(error.value)
    assert not (tmp_path / "prepared").exists()


def test_the_picture_tells_documents_prompts_and_padding_apart(tmp_path):
    end, pad = 0, 1
    collate = CausalLMCollator(pad, mask_first_n=2)
    batch = collate([{"input_ids": [end, 5, 6, end, 7, 8]}, {"input_ids": [end, 5, 6, 7]}])
    path = draw_batch(batch, end, tmp_path / "batch.png")
    colours = {tuple(colour) for row in matplotlib.image.imread(path)[:, :, :3].round(2) for colour in row}
    for document in np.array([[0.00, 0.45, 0.70], [0.90, 0.62, 0.00]]):
        assert tuple(document.astype(np.float32)) in colours
    assert len(colours) > 4
