"""Print and draw example batches for inspection: text, ids, labels and masks.

usage: python -m data_prep.show CONFIG [section.key=value ...]

Training examples are the first of the run, in the order of its seed. The picture is batch.png, in the run folder if it
exists, or else here: one row per example, one cell per token, one colour per document, pale for tokens without loss,
and a line where attention restarts. No other file is overwritten.
"""

from itertools import count
from pathlib import Path

import numpy as np

from command_line.run import run_script
from settings.checks import ConfigError
from settings.experiment import LanguageExperiment
from settings.loading import load_experiment
from settings.schema import section_fields
from settings.wording import format_count

SHOWN_EXAMPLES, SHOWN_TOKENS, SHOWN_CHARACTERS = 2, 10, 150
"""Examples per split, tokens of the first one and characters of each, so that all fit on a screen."""
DRAWN_EXAMPLES = 16
COLOURS = np.array([[0.00, 0.45, 0.70], [0.90, 0.62, 0.00], [0.00, 0.62, 0.45], [0.80, 0.47, 0.65], [0.34, 0.34, 0.34]])
"""Colours of documents, used in turn, so that neighbours differ."""
MASKED_COLOURS = 0.75 + 0.25 * COLOURS
PNG_METADATA = {"Software": "python -m data_prep.show"}
DEFAULT_POSITIONS = section_fields("model")["max_position_embeddings"].default
DEFAULT_SEED = section_fields("training")["seed"].default


def show(path: str, overrides: list[str]):
    """Print the first examples of both splits as the model receives them, and draw those of training."""
    experiment = load_experiment(path, overrides)  # before the heavy imports

    from data_prep.sources.table import check_source_overrides
    from data_prep.tokens.prepare import prepare

    from .collator import build_collator

    check_source_overrides(experiment)
    data = experiment.data
    if "path" in experiment.model and data.context_length is None:
        raise ConfigError(
            f"the maximum length of model.path={experiment.model['path']} is not known, because this command does not "
            "load the model; give data.context_length"
        )
    known = data.context_length if "path" in experiment.model else DEFAULT_POSITIONS
    length = experiment.window(experiment.model.get("max_position_embeddings", known))
    prepared = prepare(data, experiment.tokenizer)
    collate = build_collator(data, prepared.tokenizer)
    run = run_order(experiment, prepared, length)
    splits = {"train": run, "validation": prepared.numbered("validation", data.layout, length)}
    for split, examples in splits.items():
        info = prepared.info[split]
        so_many = (
            format_count(info.documents, "document"),
            format_count(info.tokens, "token"),
            format_count(len(examples), "example"),
        )
        print(f"\n{split}: {', '.join(so_many)}")
        rows = range(min(SHOWN_EXAMPLES, len(examples)))
        batch = collate([examples[row] for row in rows])
        for row in rows:
            print_row(row, {name: tensor[row].tolist() for name, tensor in batch.items()}, prepared.tokenizer)
    batch = collate([run[row] for row in range(min(DRAWN_EXAMPLES, len(run)))])
    print(f"\npicture: {draw_batch(batch, free_picture_path(Path(experiment.training['output_dir'])))}")


def run_order(experiment: LanguageExperiment, prepared, length: int):
    """The training examples in the order of the run; the `groups` of their tokens are document numbers.

    For a stream whose first block is not written yet, they are in the order of the corpus.
    """
    from data_prep.tokens.stream import in_order

    data, seed = experiment.data, experiment.training.get("data_seed")
    seed = experiment.training.get("seed", DEFAULT_SEED) if seed is None else seed
    numbered = prepared.numbered("train", data.layout, length)
    run = in_order(prepared.training_examples(data, length), seed=seed, stop=len(numbered))
    if not (run.is_known or run.tokens.has(run.end_of_block(0))):
        return numbered
    run.examples = numbered
    return run


def free_picture_path(folder: Path) -> Path:
    """A path for the picture, in the folder if it exists, or else here, that overwrites only an earlier picture."""
    import PIL.Image

    def is_ours(path: Path) -> bool:
        try:
            with PIL.Image.open(path) as image:
                return image.info.get("Software") == PNG_METADATA["Software"]
        except OSError:
            return False

    folder = folder if folder.is_dir() else Path()
    names = (folder / f"batch{'' if number == 1 else f'-{number}'}.png" for number in count(1))
    return next(path for path in names if not path.exists() or is_ours(path))


def print_row(row: int, batch: dict[str, list[int]], tokenizer):
    """Print a row's length and the beginning of its text, with `|` between tokens; for row 0, also some tokens."""
    ids, targets = batch["input_ids"], sum(label != -100 for label in batch["labels"][1:])
    text = "|".join(repr(tokenizer.decode([token]))[1:-1] for token in ids)
    print(f"example {row}: {format_count(len(ids), 'token')}, {format_count(targets, 'target')}")
    print(text if len(text) <= SHOWN_CHARACTERS else text[: SHOWN_CHARACTERS - 4] + " ...")
    if row == 0:
        _print_tokens(batch, tokenizer)


def _print_tokens(batch: dict[str, list[int]], tokenizer):
    """Print one line per token for the tokens around the first target."""
    ids, labels = batch["input_ids"], batch["labels"]
    title, name = ("mask", "attention_mask") if "attention_mask" in batch else ("place", "position_ids")
    first = next((i for i, label in enumerate(labels) if i and label != -100), 0)
    start = max(0, min(first - SHOWN_TOKENS // 2, len(ids) - SHOWN_TOKENS))
    print(f"{'position':>8} {'id':>7} {'label':>7} {title:>5}  token")
    for i in range(start, min(start + SHOWN_TOKENS, len(ids))):
        print(f"{i:8} {ids[i]:7} {labels[i]:7} {batch[name][i]:5}  {tokenizer.decode([ids[i]])!r}")


def draw_batch(batch: dict, path: Path) -> Path:
    """Draw a batch whose `groups` are document numbers: documents, masked labels and padding."""
    import matplotlib.pyplot as plt

    documents, padding = batch["groups"].numpy(), batch["groups"].numpy() < 0
    is_target = (batch["labels"] != -100).numpy()
    is_target[:, 0] = False  # the first token is never predicted
    colours = np.where(
        is_target[..., None], COLOURS[documents % len(COLOURS)], MASKED_COLOURS[documents % len(COLOURS)]
    )
    colours[padding] = 1.0
    rows, width = documents.shape
    figure, axes = plt.subplots(figsize=(10, 1.4 + 0.25 * rows), layout="constrained")
    axes.imshow(colours, aspect="auto", interpolation="nearest")
    begins = (batch["position_ids"].numpy() == 0) & ~padding if "position_ids" in batch else np.zeros_like(padding)
    row, place = begins.nonzero()
    axes.vlines(place - 0.5, row - 0.5, row + 0.5, color="black", lw=1)
    axes.set(xlabel="position", ylabel="example of the run", xlim=(-0.5, width - 0.5))
    axes.set_title(
        f"{format_count(rows, 'example')}, {format_count(int(is_target.sum()), 'target')}, "
        f"{format_count(len(np.unique(documents[~padding])), 'document')}"
    )
    axes.yaxis.get_major_locator().set_params(integer=True)
    _add_legend(
        figure, np.unique(documents[~padding] % len(COLOURS)), (~is_target & ~padding).any(), padding.any(), len(row)
    )
    figure.savefig(path, dpi=110, metadata=PNG_METADATA)
    plt.close(figure)
    return path


def _add_legend(figure, used: np.ndarray, has_masked: bool, has_padding: bool, begins: int):
    """Add a legend of what occurs in the picture."""
    from matplotlib.legend_handler import HandlerTuple
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    entries = {"documents": tuple(Patch(facecolor=COLOURS[one]) for one in used)}
    if has_masked:
        entries["no loss"] = tuple(Patch(facecolor=MASKED_COLOURS[one]) for one in used)
    if has_padding:
        entries["padding"] = Patch(facecolor="white", edgecolor="grey")
    if begins:
        entries["attention restarts"] = Line2D([], [], color="black", marker="|", ls="", ms=12)
    figure.legend(
        entries.values(),
        entries.keys(),
        handler_map={tuple: HandlerTuple(ndivide=None, pad=0)},
        handlelength=4,
        ncols=len(entries),
        loc="outside lower center",
        frameon=False,
    )


if __name__ == "__main__":
    run_script(__doc__, show, only_prints=True)
