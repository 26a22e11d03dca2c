"""What a run's data are told by when it goes on, wherever they lie by then: their tokens, never a path."""

from settings.checks import ConfigError

PLACES = (
    "data.source", "data.validation_source", "data.mixture", "data.subset", "data.revision", "data.operation",
    "tokenizer.path", "model.path",
)  # fmt: skip
"""Where something is, which may be elsewhere now: that is told, and what it holds is compared."""
CONTENTS = (
    *("data.train_documents", "data.validation_documents", "data.text_field", "data.group_field", "data.sample_by"),
    *("data.seed", "tokenizer.kind", "tokenizer.vocab_size", "tokenizer.train_documents", "tokenizer.train_bytes"),
)
"""What a prepared folder brings itself, as data.source."""
TOLD = ("origin", "tokens", "folder", "files")
"""What a checkpoint says of its data that is compared before anything is prepared."""


def brought(before: dict, data: dict) -> tuple[str, ...]:
    """The settings that a prepared folder may bring itself: where a section `data` has another source than the terms of
    a checkpoint say, which may be such a folder.
    """
    is_elsewhere = any(before.get(f"data.{key}", data.get(key)) != data.get(key) for key in ("source", "mixture"))
    return CONTENTS if is_elsewhere else ()


def data_before(contract: dict, position: dict) -> dict | None:
    """What a checkpoint says of its data; one of the former version has the prepared folder's name as its tokens."""
    known = {"tokens": position["data"], "settings": {}} if "data" in position else None
    return contract.get("data") or known


def refuse_other_data(checkpoint: str | None, was: dict, data: dict):
    """`ConfigError` if a checkpoint was trained on other `tokens`, naming one of the `settings` that made them others.

    `data` may have the name of the `folder` that they are in.
    """
    if was["tokens"] in (data["tokens"], data.get("folder")):
        return
    before, now = was["settings"], data["settings"]
    other = [name for name in (*CONTENTS, *PLACES) if name in before and before[name] != now.get(name)]
    if not other:
        raise ConfigError(
            f"{checkpoint} was trained on other data than {data['origin']} holds now ({was['tokens']}, not "
            f"{data['tokens']}); put back what it held, or choose another training.output_dir"
        )
    raise ConfigError(
        f"{checkpoint} was trained with {other[0]}={before[other[0]]} and is resumed with {now[other[0]]}; resume it "
        "as it was, or choose another training.output_dir"
    )
