"""An experiment file: YAML sections, dotted overrides, one strict check for every key and type.

Nothing heavy is imported here, so that `--help` and a misspelt key are answered in under a second. What a section may
hold is read from the source that defines it, be it a dataclass below, the model's configuration, or
`transformers.TrainingArguments` as installed; so no list of settings is kept twice.
"""

import difflib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from huggingface_hub.errors import StrictDataclassError
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from fields import Field, read_fields

ROOT = Path(__file__).resolve().parent


class ConfigError(Exception):
    """What is wrong with what the user gave, in one sentence: what was given, what is allowed, what to do."""


@dataclass(kw_only=True)
class TokenizerSection:
    kind: Literal["bpe", "characters", "numbers", "pretrained"] = "bpe"
    """bpe (byte-level), characters, numbers (each integer or symbol a token), or pretrained (load `path`)."""
    vocab_size: int = 4096
    """Tokens of a bpe vocabulary, the 256 bytes and the special tokens included."""
    path: str | None = None
    """Folder or Hub id of an existing tokenizer, for kind=pretrained."""
    train_documents: int | None = 50_000
    """At most so many documents are read to learn the vocabulary; null means all of them."""

    def __post_init__(self):
        # 256 bytes and 2 special tokens
        _at_least("tokenizer", self, vocab_size=258 if self.kind == "bpe" else 1, train_documents=1)
        if (self.kind == "pretrained") != (self.path is not None):
            raise ConfigError(
                f"tokenizer.kind={self.kind} with tokenizer.path={self.path}; "
                "give a path with kind=pretrained, and only then"
            )


@dataclass(kw_only=True)
class DataSection:
    source: str = "fables"
    """A name that `python -m data_prep.sources` lists, a Hub id, or local files: a folder, a file or a glob pattern."""
    validation_source: str | None = None
    """Where validation comes from; null means the source's own split, or else its first documents, held out."""
    train_documents: int | None = None
    """At most so many training documents; null means all (of an endless source, as many as its row says)."""
    validation_documents: int | None = 1000
    """At most so many validation documents; null means all of the validation split."""
    text_field: str = "text"
    """Column that holds the text; rows with `prompt` and `completion` instead are trained on the completion only."""
    sample_by: Literal["paragraph", "line", "document"] = "paragraph"
    """What one document is in a plain text file (blank lines end a paragraph)."""
    layout: Literal["packed", "documents"] = "packed"
    """packed: documents joined and cut into full windows; documents: one padded example each."""
    context_length: int | None = None
    """Tokens a window; null means model.max_position_embeddings."""
    mask_first_n: int = 0
    """The first n tokens of each example, its start token included, carry no loss."""
    mask_up_to: str | None = None
    """Tokens of each example up to and including the first such token carry no loss."""
    seed: int = 0
    """Seed of a generated source."""
    cache_dir: str = "prepared"
    """Where tokenizers and tokens are kept between runs."""

    def __post_init__(self):
        _at_least("data", self, train_documents=1, validation_documents=1, context_length=2, mask_first_n=0)
        if self.mask_up_to is not None and self.layout != "documents":
            raise ConfigError(
                f"data.mask_up_to={self.mask_up_to!r} needs data.layout=documents; windows hold no whole example"
            )
        if self.context_length is not None and self.mask_first_n >= self.context_length:
            raise ConfigError(
                f"data.mask_first_n={self.mask_first_n} leaves nothing of data.context_length={self.context_length}"
            )


@dataclass(kw_only=True)
class SampleSection:
    prompt: str = ""
    """Continued at each evaluation; the empty prompt is the start of a document."""
    max_new_tokens: int = 200
    """Longest sample, in tokens."""
    temperature: float = 0.8
    """Randomness of the sample; 0 is greedy."""
    seed: int = 0
    """Seed of the sample, the same at each evaluation."""

    def __post_init__(self):
        _at_least("sample", self, max_new_tokens=1, temperature=0)


def _at_least(section: str, values, **minima):
    for key, least in minima.items():
        if (value := getattr(values, key)) is not None and value < least:
            raise ConfigError(f"{section}.{key}={value} is too small; it must be at least {least}")


MODEL_TYPES = ("kindling_llama", "kindling_gpt")
FROM_TOKENIZER = ("pad_token_id", "bos_token_id", "eos_token_id")

# Where pre-training wants something else than transformers' fine-tuning defaults.
TRAINING_DEFAULTS = {
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 32,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.05,
    "weight_decay": 0.1,
    "adam_beta2": 0.95,
    "num_train_epochs": 1.0,
    "logging_steps": 10,
    "logging_first_step": True,
    "logging_nan_inf_filter": False,  # a loss that is not a number must be seen
    "eval_strategy": "steps",
    "eval_steps": 0.1,
    "save_strategy": "steps",
    "save_steps": 0.2,
    "save_total_limit": 2,
    "report_to": "none",
    "remove_unused_columns": False,  # the collator reads `prompt_length`, which no forward takes
    "ddp_find_unused_parameters": False,
}


def section_fields(section: str) -> dict[str, Field]:
    """Every key that a section may hold."""
    if section == "model":
        source = ROOT / "modeling" / "configuration_kindling.py"
        fields = read_fields(source, "KindlingConfig")
        for name, gpt in read_fields(source, "KindlingGPTConfig").items():
            fields[name] = replace(fields[name], meaning=f"{fields[name].meaning} kindling_gpt: {gpt.default}.")
        family = Field([MODEL_TYPES], MODEL_TYPES[0], "Family: which row of defaults to start from.")
        vocab = Field(["int", "None"], None, "Rows of the embedding; null means the tokenizer's size.")
        kept = {name: field for name, field in fields.items() if name not in FROM_TOKENIZER}
        return {"type": family} | kept | {"vocab_size": vocab}
    if section == "training":
        package = importlib.util.find_spec("transformers").submodule_search_locations[0]
        fields = read_fields(Path(package) / "training_args.py", "TrainingArguments")
        ours = {key: replace(fields[key], default=value) for key, value in TRAINING_DEFAULTS.items()}
        return fields | ours | {"resume_from_checkpoint": RESUME}
    return read_fields(Path(__file__), SECTIONS[section].__name__)


# A switch for our scripts; transformers declares a path and leaves its use to the script.
RESUME = Field(["bool", "str"], False, "Go on from the newest checkpoint of output_dir, if any, or from this folder.")

SECTIONS: dict[str, type] = {
    "model": dict,
    "tokenizer": TokenizerSection,
    "data": DataSection,
    "training": dict,
    "sample": SampleSection,
}


@dataclass(frozen=True)
class Experiment:
    """A checked experiment. `model` and `training` stay dictionaries: their classes are too heavy to import here."""

    name: str
    model: dict
    tokenizer: TokenizerSection
    data: DataSection
    training: dict
    sample: SampleSection

    def as_dict(self) -> dict:
        """Every setting, defaults included, as plain values."""
        return {key: value for key, value in asdict(self).items() if key != "name"}


def load_experiment(path: str, overrides: list[str]) -> Experiment:
    """Read a YAML file, apply `section.key=value` overrides, check every key and type; `ConfigError` if any is off."""
    if not Path(path).is_file():
        raise ConfigError(f"there is no experiment file {path}; `ls configs/lm` shows the ones that come with Kindling")
    try:
        written = OmegaConf.load(path)
        sections = OmegaConf.to_container(OmegaConf.merge(written, *map(_parse_override, overrides)), resolve=True)
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(sections, dict):
        raise ConfigError(f"{path} holds no sections; write `model:`, `data:`, `training:` and their keys")
    for section in sections:
        _refuse_unknown(section, SECTIONS, section, "a section")
    checked = {section: check_section(section, sections.get(section) or {}) for section in SECTIONS}
    checked["training"] = TRAINING_DEFAULTS | {"output_dir": f"runs/{Path(path).stem}"} | checked["training"]
    checked["model"] = {"type": MODEL_TYPES[0]} | checked["model"]
    return Experiment(Path(path).stem, **{key: SECTIONS[key](**values) for key, values in checked.items()})


def _parse_override(text: str):
    if "=" not in text or "." not in text.split("=")[0]:
        raise ConfigError(f"{text!r} is no override; write section.key=value, as in training.learning_rate=1e-3")
    key, value = text.split("=", 1)
    section, name = key.split(".", 1)
    field = section_fields(section).get(name) if section in SECTIONS else None
    if field is not None and set(field.accepts) <= {"str", "None"} and value != "null":
        return OmegaConf.create({section: {name: value}})  # text as it stands, whatever YAML would make of it
    try:
        return OmegaConf.from_dotlist([text])
    except YAMLError as error:
        raise ConfigError(f"{text!r} is not valid YAML after the =: {' '.join(str(error).split())}") from None


def check_section(section: str, values: dict) -> dict:
    """The section's values, each as its field's type wants it."""
    if not isinstance(values, dict):
        raise ConfigError(f"section {section} holds {values!r}; write keys and values beneath it")
    fields = section_fields(section)
    for key in values:
        if section == "model" and key in FROM_TOKENIZER:
            raise ConfigError(f"model.{key} is set from the tokenizer; leave it out")
        _refuse_unknown(key, fields, f"{section}.{key}", "a setting")
    return {key: _check_value(fields[key], f"{section}.{key}", value) for key, value in values.items()}


def _check_value(field: Field, where: str, value):
    try:
        return field.check(value)
    except ValueError as error:
        raise ConfigError(f"{where}={value!r} is not allowed; {error}") from None


def _refuse_unknown(key: str, known, where: str, what: str):
    if key not in known:
        nearest = difflib.get_close_matches(str(key), known, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"there are {', '.join(list(known)[:12])}, ..."
        raise ConfigError(f"{where} is not {what}; {hint}")


def build(cls: type, section: str, values: dict):
    """Construct what a section describes; the constructor's own complaint becomes a `ConfigError`."""
    try:
        return cls(**values)
    except (ValueError, TypeError, StrictDataclassError) as error:
        complaint = str(error).strip().splitlines()[-1].strip()
        raise ConfigError(f"{section}: {complaint.removeprefix('ValueError: ').removeprefix('TypeError: ')}") from None


def describe_sections() -> str:
    """The help text: each section's fields with type, default and meaning."""
    lines = []
    for section in SECTIONS:
        lines.append(f"\n{section}:")
        for name, field in section_fields(section).items():
            default = "null" if field.default is None else field.default
            lines.append(f"  {name}  ({field.type_name}, default {default})")
            if field.meaning:
                lines.append(f"      {field.meaning}")
    return "\n".join(lines)


def run_script(usage: str, main: Callable[[str, list[str]], None]) -> None:
    """Run `main(config_path, overrides)` on the command line; a user's mistake is one sentence and exit code 2."""
    arguments = sys.argv[1:]
    if not arguments or {"-h", "--help"} & set(arguments):
        print(usage.strip() + "\n" + (describe_sections() if arguments else "\n--help lists every setting."))
        sys.exit(0 if arguments else 2)
    try:
        main(arguments[0], arguments[1:])
    except ConfigError as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        sys.exit(2)
