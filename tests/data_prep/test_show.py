"""Example batches are printed as the model gets them."""

import json
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from matplotlib.figure import Figure

from data_prep.collator import CausalLMCollator
from data_prep.show import COLOURS, MASKED_COLOURS, draw_batch, free_picture_path, run_order, show
from data_prep.tokens.prepare import prepare
from data_prep.tokens.stream import in_order
from data_prep.tokens.windows import TokenArray, Windows
from data_prep.tokens.writer import DOCUMENT
from settings.checks import ConfigError
from settings.loading import load_experiment

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
    with pytest.raises(ConfigError, match=r"model\.path=somebody/llama is not known, .*; give data\.context_length"):
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


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """A function: a batch to the colours of its cells, the title, the legend and the places of lines."""

    kept, save = [], Figure.savefig

    def keep(figure, *args, **kwargs):
        save(figure, *args, **kwargs)
        kept.append(figure)

    monkeypatch.setattr(Figure, "savefig", keep)

    def draw(batch):
        draw_batch(batch, tmp_path / "batch.png")
        axes, lines = kept[-1].axes[0], kept[-1].axes[0].collections[0].get_segments()
        return {
            "colours": axes.images[0].get_array().data,
            "title": axes.get_title(),
            "legend": [text.get_text() for text in kept[-1].legends[0].texts],
            "lines": [float(line[0][0]) for line in lines],
        }

    return draw


def kinds(colours):
    """Each cell as the document's colour, as its pale one plus 10, or as 99 for white."""
    known = np.concatenate([COLOURS, MASKED_COLOURS, np.ones((1, 3))])
    nearest = np.abs(colours[..., None, :] - known).sum(-1).argmin(-1)
    return np.select([nearest < 5, nearest < 10], [nearest, nearest + 5], 99).tolist()


def test_a_picture_of_windows_gives_each_document_its_colour_in_all_rows(drawn):
    """Documents share the token between them, which ends the one before; a document goes on in the next row."""
    ids = np.array([9, 1, 2, 9, 3, 9, 4, 5, 6, 9])
    about = np.array([(0, 0, 0), (3, 0, 1), (5, 0, 2)], dtype=DOCUMENT)
    windows = Windows(TokenArray([ids], [10]), 5, about)
    seen = drawn(CausalLMCollator(1, document_start_id=9)([windows[i] for i in range(3)]))
    assert kinds(seen["colours"]) == [[10, 0, 0, 0, 1], [11, 1, 2, 2, 2], [12, 2, 99, 99, 99]]
    assert seen["title"] == "3 examples, 9 targets, 3 documents"
    assert seen["legend"] == ["documents", "no loss", "padding", "attention restarts"]
    assert seen["lines"] == [-0.5, 2.5, -0.5, 0.5, -0.5, 0.5]


def test_a_picture_of_prompts_is_pale_up_to_what_is_learnt(drawn):
    examples = [
        {"input_ids": [0, 5, 6, 7, 0], "prompt_length": 3, "groups": np.zeros(5, int)},
        {"input_ids": [0, 5, 0], "prompt_length": 2, "groups": np.full(3, 6)},
    ]
    seen = drawn(CausalLMCollator(1)(examples))
    assert kinds(seen["colours"]) == [[10, 10, 10, 0, 0], [11, 11, 1, 99, 99]]
    assert seen["legend"] == ["documents", "no loss", "padding"]


CORPUS = "\n".join(json.dumps({"text": f"{number:03}" + "x" * (number % 7)}) for number in range(40))


@pytest.mark.parametrize("layout", ["documents", "packed"])
@pytest.mark.parametrize("given", ["training.seed=5", "training.data_seed=5"])
def test_what_is_shown_comes_first_in_the_run(tmp_path, capsys, monkeypatch, layout, given):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpus.jsonl").write_text(CORPUS)
    (tmp_path / "show.yaml").write_text(CONFIG % ("corpus.jsonl", "corpus.jsonl", "prepared"))
    experiment = load_experiment("show.yaml", [f"data.layout={layout}", given])
    prepared = prepare(experiment.data, experiment.tokenizer)
    run = in_order(examples := prepared.training_examples(experiment.data, 32), seed=5, stop=len(examples))
    ours = run_order(experiment, prepared, 32)
    assert [ours[i]["input_ids"].tolist() for i in range(len(run))] == [
        run[i]["input_ids"].tolist() for i in range(len(run))
    ]
    show("show.yaml", [f"data.layout={layout}", given])
    first = "|".join(prepared.tokenizer.decode([token]) for token in run[0]["input_ids"])
    printed = capsys.readouterr().out
    assert f"targets\n{first[:140]}" in printed
    assert len(printed.splitlines()) <= 42
    assert max(map(len, printed.splitlines())) <= 150


def test_tokens_around_the_first_target_are_shown(tmp_path, capsys, monkeypatch):
    """Of a long prompt its end, and of many examples and lines of text a screenful."""
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"{number:03}" + "p\n" * 200 + "=", "completion": f"c{number:03}"} for number in range(30)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "show.yaml").write_text(CONFIG % ("pairs.jsonl", "pairs.jsonl", "prepared"))
    show("show.yaml", ["model.max_position_embeddings=512"])
    printed = capsys.readouterr().out
    lines = [line.split() for line in printed.splitlines()]
    assert len(lines) <= 42
    assert max(map(len, printed.splitlines())) <= 150
    place = next(i for i, line in enumerate(lines) if line[-1:] == ["'c'"])
    assert lines[place - 1][2] == "-100"
    assert lines[place - 1][-1] == "'='"
    assert lines[place][1] == lines[place][2]
    assert printed.count("targets\n<|endoftext|>|") == 4
    assert printed.count("position      id") == 2


def test_a_picture_goes_to_the_run_and_over_no_other_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    assert free_picture_path(run) == Path("batch.png")
    run.mkdir()
    (run / "batch.png").write_bytes(b"somebody's own")
    matplotlib.image.imsave(run / "batch-2.png", np.zeros((2, 2, 3)))
    assert free_picture_path(run) == run / "batch-3.png"
    batch = CausalLMCollator(1)([{"input_ids": [0, 5, 0], "groups": np.zeros(3, int)}])
    assert draw_batch(batch, free_picture_path(run)) == free_picture_path(run) == run / "batch-3.png"
    assert (run / "batch.png").read_bytes() == b"somebody's own"
