"""Print example batches as a person can check them: text, ids, labels and masks; and draw one.

usage: python -m data_prep.show CONFIG [section.key=value ...]

The picture is batch.png: a row an example, a cell a token; neighbouring documents differ in colour, tokens that carry
no loss are pale, padding is white.
"""

from itertools import islice
from pathlib import Path

import numpy as np

from config import load_experiment, run_script, section_fields
from sections import ConfigError

ROWS = 3
SHOWN = 48
DRAWN = 16
PICTURE = Path("batch.png")
COLOURS = np.array([[0.00, 0.45, 0.70], [0.90, 0.62, 0.00]])
PALE = 0.75 + 0.25 * COLOURS
DEFAULT_POSITIONS = section_fields("model")["max_position_embeddings"].default


def show(path: str, overrides: list[str]):
    """Print the first rows of the training and of the validation split, as the collator hands them to the model."""
    from .collator import build_collator
    from .tokenizer import start_token
    from .tokens import prepare

    experiment = load_experiment(path, overrides)
    data = experiment.data
    if "path" in experiment.model and data.context_length is None:
        raise ConfigError(
            f"the positions of model.path={experiment.model['path']} are not known here; give data.context_length"
        )
    known = data.context_length if "path" in experiment.model else DEFAULT_POSITIONS
    length = experiment.window(experiment.model.get("max_position_embeddings", known))
    prepared = prepare(data, experiment.tokenizer)
    collate = build_collator(data, prepared.tokenizer)
    for split, info in prepared.info.items():
        examples = prepared.examples(split, data.layout, length)
        print(f"\n{split}: {info.documents:,} documents, {info.tokens:,} tokens, {len(examples):,} examples")
        rows = range(min(ROWS, len(examples)))
        batch = collate([examples[row] for row in rows])
        for row in rows:
            print_row(row, {name: tensor[row].tolist() for name, tensor in batch.items()}, prepared.tokenizer)
    examples = prepared.examples("train", data.layout, length)
    batch = collate([examples[row] for row in range(min(DRAWN, len(examples)))])
    print(f"\npicture: {draw_batch(batch, start_token(prepared.tokenizer), PICTURE)}")


def print_row(row: int, batch: dict[str, list[int]], tokenizer):
    """Print one row of a batch: its text with `|` between tokens, and a line a token for the first ones."""
    ids, labels = batch["input_ids"], batch["labels"]
    title, name = ("mask", "attention_mask") if "attention_mask" in batch else ("place", "position_ids")
    targets = sum(label != -100 for label in labels[1:])
    pieces = [tokenizer.decode([token]) for token in ids]
    print(f"\nexample {row}: {len(ids)} tokens, {targets} targets\n{'|'.join(pieces)[:400]}")
    print(f"{'position':>8} {'id':>7} {'label':>7} {title:>5}  token")
    for i in islice(range(len(ids)), SHOWN):
        print(f"{i:8} {ids[i]:7} {labels[i]:7} {batch[name][i]:5}  {pieces[i]!r}")


def draw_batch(batch: dict, start: int, path: Path) -> Path:
    """A picture of a batch: documents, which begin with token `start`, labels that are masked, and padding."""
    import matplotlib.pyplot as plt
    from matplotlib.patches import Patch

    ids, labels = batch["input_ids"].numpy(), batch["labels"].numpy()
    lengths = np.array([row.nonzero()[0].max(initial=0) + 1 for row in labels != -100])[:, None]
    padding = np.arange(ids.shape[1]) >= lengths
    document = np.cumsum((ids == start) & ~padding, axis=1) % 2
    colours = np.where((labels == -100)[..., None], PALE[document], COLOURS[document])
    colours[padding] = 1.0
    figure, axes = plt.subplots(figsize=(10, 1.2 + 0.25 * len(ids)), layout="constrained")
    axes.imshow(colours, aspect="auto", interpolation="nearest")
    axes.set(
        xlabel="position",
        ylabel="example",
        title=f"{len(ids)} examples, {int((labels[:, 1:] != -100).sum()):,} targets",
    )
    shades = {"one document": COLOURS[0], "the next": COLOURS[1], "no loss": PALE[0], "padding": "white"}
    patches = [Patch(facecolor=colour, edgecolor="grey", label=label) for label, colour in shades.items()]
    figure.legend(handles=patches, ncols=4, loc="outside lower center", frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


if __name__ == "__main__":
    run_script(__doc__, show, words_are_all=True)
