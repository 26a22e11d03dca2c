"""The settings of each section: type, default and meaning, read from the source that defines them."""

import dataclasses
import importlib.util
import inspect
import typing
from functools import cache
from pathlib import Path

from .derivation.presets import PRESETS
from .experiment import NON_SECTION_FIELDS, REPLICABLE, AlgorithmicExperiment, Experiment, LanguageExperiment
from .fields import Field, read_fields
from .paths import ROOT

MODEL_TYPES = ("kindling_llama", "kindling_gpt")


FROM_TOKENIZER = ("pad_token_id", "bos_token_id", "eos_token_id")


DROPOUTS = ("attention_dropout", "hidden_dropout", "embedding_dropout")


KINDS = {kind.script: kind for kind in (LanguageExperiment, AlgorithmicExperiment)}


# Our scripts also take a switch; transformers declares only a path, and leaves its use to the script.
RESUME_FIELD = Field(
    ["bool", "str"], False, "Resume from the newest checkpoint of output_dir, if any, or from this folder."
)


MODEL_PATH_FIELD = Field(
    ["str", "None"],
    None,
    "Checkpoint to start from, a folder or Hub id of a GPT-2, Llama or Kindling model. It brings its tokenizer and all "
    "settings of this section but the dropouts. null means training from scratch.",
)


MODEL_SOURCES = {
    "path": MODEL_PATH_FIELD,
    "preset": Field(
        [tuple(PRESETS), "None"], None, "A known shape by name; what is given beside it replaces its values."
    ),
    "depth": Field(
        ["int", "None"],
        None,
        "One number that sets the shape (so many layers, 64 times as wide) and, where not given, length, batch, "
        "learning rate and weight decay; the rules are printed.",
    ),
}
"""What the section `model` can be given in the place of its settings."""


@cache
def sections_of(kind: type[Experiment]) -> dict[str, type]:
    """The section names of a kind of experiment, with their classes."""
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind) if field.name not in NON_SECTION_FIELDS}


def section_fields(section: str, kind: type[Experiment] = LanguageExperiment) -> dict[str, Field]:
    """The settings of a section by name, with the defaults of a kind of experiment."""
    if section == "model":
        start = MODEL_SOURCES if kind is LanguageExperiment else {}
        return start | _with_defaults(_model_fields(), kind.model_defaults)
    if section == "training":
        package = Path(importlib.util.find_spec("transformers").submodule_search_locations[0])
        fields = read_fields(package / "training_args.py", "TrainingArguments", package / "trainer_utils.py")
        # transformers annotates it as text only, but documents a switch too.
        fsdp = dataclasses.replace(fields["fsdp"], accepts=["bool", *fields["fsdp"].accepts])
        return _with_defaults(fields, kind.training_defaults) | {"resume_from_checkpoint": RESUME_FIELD, "fsdp": fsdp}
    if section == "replicas":
        return {
            f"{other}.{key}": Field(["list"], None, "Values to train side by side.")
            for other, keys in REPLICABLE.items()
            for key in keys
        }
    cls = sections_of(kind)[section]
    return read_fields(Path(inspect.getfile(cls)), cls.__name__)


def _model_fields() -> dict[str, Field]:
    source, parts = (ROOT / "modeling" / name for name in ("configuration_kindling.py", "layers.py"))
    fields = dict(read_fields(source, "KindlingConfig", parts))  # which are cached
    for name, gpt in read_fields(source, "KindlingGPTConfig", parts).items():
        fields[name] = dataclasses.replace(fields[name], meaning=f"{fields[name].meaning} kindling_gpt: {gpt.default}.")
    family = Field([MODEL_TYPES], MODEL_TYPES[0], "Model family, which determines the defaults.")
    vocab = Field(["int", "None"], None, "Rows of the embedding; null means the tokenizer's size.")
    kept = {name: field for name, field in fields.items() if name not in FROM_TOKENIZER}
    return {"type": family} | kept | {"vocab_size": vocab}


def _with_defaults(fields: dict[str, Field], defaults: dict) -> dict[str, Field]:
    return fields | {
        key: dataclasses.replace(fields[key], default=own)
        for key, own in drop_unknown_to_transformers(defaults, fields).items()
    }


def drop_unknown_to_transformers(values: dict, fields: dict[str, Field]) -> dict:
    """The values without those that the installed transformers has no field for."""
    return {key: value for key, value in values.items() if key in fields}
