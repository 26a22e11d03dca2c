"""The identity of a run's data when it is resumed: a hash of the tokens, never a path."""

from settings.checks import ConfigError

LOCATIONS = (
    "data.source", "data.validation_source", "data.mixture", "data.subset", "data.revision", "data.operation",
    "tokenizer.path", "model.path",
)  # fmt: skip
"""Where the data are. They may have moved: a change is reported, the tokens are compared."""
CONTENT_SETTINGS = (
    *("data.train_documents", "data.validation_documents", "data.text_field", "data.group_field", "data.sample_by"),
    *("data.seed", "tokenizer.kind", "tokenizer.vocab_size", "tokenizer.train_documents", "tokenizer.train_bytes"),
)
"""Settings that a prepared folder determines if it is given as data.source."""
COMPARED_EARLY = ("origin", "tokens", "folder", "files")
"""Keys of a checkpoint's data record that are compared before any data are prepared."""


def settings_of_prepared_data(before: dict, data: dict) -> tuple[str, ...]:
    """The settings that may change because a prepared folder determines them: all `CONTENT_SETTINGS` where the source
    in the section `data` differs from the checkpoint's, none otherwise.
    """
    is_elsewhere = any(before.get(f"data.{key}", data.get(key)) != data.get(key) for key in ("source", "mixture"))
    return CONTENT_SETTINGS if is_elsewhere else ()


def data_before(contract: dict, position: dict) -> dict | None:
    """A checkpoint's record of its data; earlier versions recorded the prepared folder's name instead of the tokens."""
    known = {"tokens": position["data"], "settings": {}} if "data" in position else None
    return contract.get("data") or known


def check_same_data(checkpoint: str | None, was: dict, data: dict):
    """`ConfigError` if a checkpoint was trained on different `tokens`, naming a setting that caused the difference.

    `data` may also have the name of the prepared `folder`, which earlier versions recorded.
    """
    if was["tokens"] in (data["tokens"], data.get("folder")):
        return
    before, now = was["settings"], data["settings"]
    other = [name for name in (*CONTENT_SETTINGS, *LOCATIONS) if name in before and before[name] != now.get(name)]
    if not other:
        raise ConfigError(
            f"{checkpoint} was trained on different data than {data['origin']} holds now ({was['tokens']}, not "
            f"{data['tokens']}); restore it, or choose another training.output_dir"
        )
    raise ConfigError(
        f"{checkpoint} was trained with {other[0]}={before[other[0]]} and is resumed with {now[other[0]]}; resume it "
        "unchanged, or choose another training.output_dir"
    )
