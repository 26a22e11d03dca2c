"""Example batches are printed as the model gets them."""

import json

from data_prep.show import show

CONFIG = """
model: {max_position_embeddings: 32}
tokenizer: {kind: characters}
data: {source: %s, validation_source: %s, layout: documents, cache_dir: %s}
"""


def test_rows_show_text_ids_labels_and_masks(tmp_path, capsys):
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
