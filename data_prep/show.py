"""Print example batches as a person can check them: text, ids, labels and masks.

usage: python -m data_prep.show CONFIG [section.key=value ...]
"""

from itertools import islice

from config import load_experiment, run_script, section_fields

ROWS = 3
SHOWN = 48
DEFAULT_POSITIONS = section_fields("model")["max_position_embeddings"].default


def show(path: str, overrides: list[str]):
    """Print the first rows of the training and of the validation split, as the collator hands them to the model."""
    from .collator import build_collator
    from .tokens import prepare

    experiment = load_experiment(path, overrides)
    data = experiment.data
    prepared = prepare(data, experiment.tokenizer)
    collate = build_collator(data, prepared.tokenizer)
    length = data.context_length or experiment.model.get("max_position_embeddings", DEFAULT_POSITIONS)
    for split, info in prepared.info.items():
        examples = prepared.examples(split, data.layout, length)
        print(f"\n{split}: {info.documents:,} documents, {info.tokens:,} tokens, {len(examples):,} examples")
        rows = range(min(ROWS, len(examples)))
        batch = collate([examples[row] for row in rows])
        for row in rows:
            print_row(row, {name: tensor[row].tolist() for name, tensor in batch.items()}, prepared.tokenizer)


def print_row(row: int, batch: dict[str, list[int]], tokenizer):
    """Print one row of a batch: its text with `|` between tokens, and a line a token for the first ones."""
    ids, labels, mask = batch["input_ids"], batch["labels"], batch["attention_mask"]
    targets = sum(label != -100 for label in labels[1:])
    pieces = [tokenizer.decode([token]) for token in ids]
    print(f"\nexample {row}: {len(ids)} tokens, {targets} targets\n{'|'.join(pieces)[:400]}")
    print(f"{'position':>8} {'id':>7} {'label':>7} {'mask':>5}  token")
    for i in islice(range(len(ids)), SHOWN):
        print(f"{i:8} {ids[i]:7} {labels[i]:7} {mask[i]:5}  {pieces[i]!r}")


if __name__ == "__main__":
    run_script(__doc__, show)
