"""Print example batches as a person can check them: text, ids, labels and masks.

usage: python -m data_prep.show CONFIG [section.key=value ...]
"""

from itertools import islice

from config import load_experiment, run_script

ROWS = 3
SHOWN = 48


def show(path: str, overrides: list[str]):
    """Print the first rows of the training and of the validation split, as the collator hands them to the model."""
    from .collator import build_collator
    from .tokens import prepare

    experiment = load_experiment(path, overrides)
    data = experiment.data
    prepared = prepare(data, experiment.tokenizer)
    collate = build_collator(data, prepared.tokenizer)
    length = data.context_length or experiment.model.get("max_position_embeddings", 1024)
    for split, info in prepared.info.items():
        examples = prepared.examples(split, data.layout, length)
        print(f"\n{split}: {info.documents:,} documents, {info.tokens:,} tokens, {len(examples):,} examples")
        for row in range(min(ROWS, len(examples))):
            print_row(row, collate([examples[row]]), prepared.tokenizer)


def print_row(row: int, batch: dict, tokenizer):
    """Print one row: its text with `|` between tokens, and a line a token for the first ones."""
    ids, labels = batch["input_ids"][0].tolist(), batch["labels"][0].tolist()
    targets = sum(label != -100 for label in labels[1:])
    pieces = [tokenizer.decode([token]) for token in ids]
    print(f"\nexample {row}: {len(ids)} tokens, {targets} targets\n{'|'.join(pieces)[:400]}")
    print(f"{'position':>8} {'id':>7} {'label':>7} {'mask':>5}  token")
    for i in islice(range(len(ids)), SHOWN):
        print(f"{i:8} {ids[i]:7} {labels[i]:7} {int(batch['attention_mask'][0, i]):5}  {pieces[i]!r}")


if __name__ == "__main__":
    run_script(__doc__, show)
