"""An experiment file: YAML sections, dotted overrides, one strict check for every key and type.

Nothing heavy is imported here, so that `--help` and a misspelt key are answered in under a second. What a section may
hold is read from the source that defines it, be it a dataclass of `sections.py`, the model's configuration, or
`transformers.TrainingArguments` as installed; so no list of settings is kept twice.
"""

import dataclasses
import difflib
import importlib.util
import re
import sys
import textwrap
import typing
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError

from checks import as_folder
from effects import refuse_vain
from experiment import IN_ANY_CASE, REPLICABLE, AlgorithmicExperiment, Experiment, LanguageExperiment
from fields import Field, read_fields
from files import told_by_the_system
from sections import ConfigError, TokenizerSection
from surroundings import made_fit, tell_launcher
from written import ALIASES, parse_override, read_written

ROOT = Path(__file__).resolve().parent

MODEL_TYPES = ("kindling_llama", "kindling_gpt")
HELP_WIDTH = 100
FROM_TOKENIZER = ("pad_token_id", "bos_token_id", "eos_token_id")
DROPOUTS = ("attention_dropout", "hidden_dropout", "embedding_dropout")
KINDS = {kind.script: kind for kind in (LanguageExperiment, AlgorithmicExperiment)}

# A switch for our scripts; transformers declares a path and leaves its use to the script.
RESUME = Field(["bool", "str"], False, "Go on from the newest checkpoint of output_dir, if any, or from this folder.")
START = Field(
    ["str", "None"],
    None,
    "Checkpoint to start from, a folder or a Hub id: a GPT-2, a Llama or one of Kindling's, which brings its tokenizer "
    "and every setting of this section but the dropouts; null means from scratch.",
)


@cache
def sections_of(kind: type[Experiment]) -> dict[str, type]:
    """Section names of a kind of experiment, and the class of each."""
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind) if field.name != "name"}


def section_fields(section: str, kind: type[Experiment] = LanguageExperiment) -> dict[str, Field]:
    """Every key that a section may hold, with the defaults of a kind of experiment."""
    if section == "model":
        start = {"path": START} if kind is LanguageExperiment else {}
        return start | _with_defaults(_model_fields(), kind.model_defaults)
    if section == "training":
        package = Path(importlib.util.find_spec("transformers").submodule_search_locations[0])
        fields = read_fields(package / "training_args.py", "TrainingArguments", package / "trainer_utils.py")
        # transformers' annotation knows texts alone, its documentation a switch.
        fsdp = dataclasses.replace(fields["fsdp"], accepts=["bool", *fields["fsdp"].accepts])
        return _with_defaults(fields, kind.training_defaults) | {"resume_from_checkpoint": RESUME, "fsdp": fsdp}
    if section == "replicas":
        return {
            f"{other}.{key}": Field(["list"], None, "Values to train side by side.")
            for other, keys in REPLICABLE.items()
            for key in keys
        }
    return read_fields(ROOT / "sections.py", sections_of(kind)[section].__name__)


def _model_fields() -> dict[str, Field]:
    source = ROOT / "modeling" / "configuration_kindling.py"
    fields = read_fields(source, "KindlingConfig")
    for name, gpt in read_fields(source, "KindlingGPTConfig").items():
        fields[name] = dataclasses.replace(fields[name], meaning=f"{fields[name].meaning} kindling_gpt: {gpt.default}.")
    family = Field([MODEL_TYPES], MODEL_TYPES[0], "Family: which row of defaults to start from.")
    vocab = Field(["int", "None"], None, "Rows of the embedding; null means the tokenizer's size.")
    kept = {name: field for name, field in fields.items() if name not in FROM_TOKENIZER}
    return {"type": family} | kept | {"vocab_size": vocab}


def _with_defaults(fields: dict[str, Field], defaults: dict) -> dict[str, Field]:
    return fields | {
        key: dataclasses.replace(fields[key], default=own) for key, own in _known(defaults, fields).items()
    }


def _known(values: dict, fields: dict[str, Field]) -> dict:
    """The values but for those that the installed transformers has no field for."""
    return {key: value for key, value in values.items() if key in fields}


def load_experiment(
    path: str, overrides: list[str], kind: type[Experiment] = LanguageExperiment
) -> LanguageExperiment | AlgorithmicExperiment:
    """Read a YAML file, apply `section.key=value` overrides, check every key and type; `ConfigError` if any is off."""
    sections, given = read_written(path, overrides, partial(_is_text, kind=kind))
    classes = sections_of(kind)
    for section in sections:
        _refuse_unknown(section, classes, section, f"a section of {kind.script}")
    checked = {section: check_section(section, sections.get(section) or {}, kind) for section in classes}
    checked["training"] = _known(kind.training_defaults, section_fields("training", kind)) | checked["training"]
    if checked["training"].get("output_dir") is None:
        checked["training"]["output_dir"] = f"runs/{Path(path).stem}"
    run = checked["training"]["output_dir"] = as_folder("training.output_dir", checked["training"]["output_dir"])
    if checked["model"].get("path") is None:
        checked["model"] = {"type": MODEL_TYPES[0]} | kind.model_defaults | checked["model"]
        checked["model"].pop("path", None)
    else:
        checked["tokenizer"] = _tokenizer_of_start(checked["model"], checked["tokenizer"])
    experiment = kind(name=Path(run).absolute().name, **{key: classes[key](**own) for key, own in checked.items()})
    refuse_vain(experiment, given)
    return experiment


def read_settings(overrides: Sequence[str], sections: Sequence[str]) -> dict[str, dict]:
    """What `section.key=value` texts give each of these sections, for commands that have no experiment file."""
    given = {section: {} for section in sections}
    for name, value in (parse_override(text, partial(_is_text, kind=LanguageExperiment)) for text in overrides):
        section, _, key = name.partition(".")
        _refuse_unknown(section, given, section, "a section of this command")
        given[section][key] = value
    return {section: check_section(section, values) for section, values in given.items()}


def _is_text(name: str, kind: type[Experiment]) -> bool:
    """Whether text is all that a setting takes."""
    section, _, key = name.partition(".")
    field = section_fields(section, kind).get(key) if section in sections_of(kind) else None
    return field is not None and set(field.accepts) <= {"str", "None"}


def _tokenizer_of_start(model: dict, tokenizer: dict) -> dict:
    """The tokenizer section of a run that starts from `model.path`: by default, the checkpoint's own."""
    path = model["path"]
    if path == "":
        raise ConfigError("model.path= is empty; give the folder or Hub id of a checkpoint, or leave it out")
    if given := [f"model.{key}={value}" for key, value in model.items() if key not in ("path", *DROPOUTS)]:
        raise ConfigError(
            f"model.path={path} brings its own settings, and {', '.join(given)} would be others; leave out all of "
            f"this section but path, {', '.join(DROPOUTS)}"
        )
    own = {"kind": "pretrained", "path": path}
    for key, value in tokenizer.items():
        if key != "path" and value != own.get(key, getattr(TokenizerSection, key)):
            raise ConfigError(
                f"tokenizer.{key}={value} makes a vocabulary that model.path={path} has not learnt; leave out the "
                "section tokenizer"
            )
    return own | tokenizer


def check_section(section: str, values: dict, kind: type[Experiment] = LanguageExperiment) -> dict:
    """The section's values, each as its field's type wants it."""
    if section == "replicas":
        return {key: _check_replicas(key, lists, kind) for key, lists in values.items() if lists is not None}
    fields = section_fields(section, kind)
    for key in values:
        if section == "model" and key in FROM_TOKENIZER:
            raise ConfigError(f"model.{key} is set from the tokenizer; leave it out")
        _refuse_unknown(key, fields, f"{section}.{key}", "a setting")
    return {key: _check_value(fields[key], f"{section}.{key}", value) for key, value in values.items()}


def _check_replicas(section: str, lists: dict, kind: type[Experiment]) -> dict[str, list]:
    """Lists of values that replicas differ in, each value as its own section would have it."""
    known = section_fields("replicas")
    _refuse_unknown(section, REPLICABLE, f"replicas.{section}", "a section that replicas can differ in")
    if not isinstance(lists, dict):
        raise ConfigError(f"replicas.{section}={lists!r} holds no lists; write replicas.training.seed=[0,1,2]")
    for key, values in lists.items():
        _refuse_unknown(f"{section}.{key}", known, f"replicas.{section}.{key}", "something that replicas can differ in")
        if not isinstance(values, list):
            raise ConfigError(f"replicas.{section}.{key}={values!r} is no list of different values; write [0,1,2]")
    fields = section_fields(section, kind)
    checked = {
        key: [_check_value(fields[key], f"replicas.{section}.{key}", value) for value in values]
        for key, values in lists.items()
    }
    for key, values in checked.items():
        if not values or len(set(values)) < len(values):
            raise ConfigError(f"replicas.{section}.{key}={values!r} is no list of different values; write [0,1,2]")
    return checked


def _check_value(field: Field, where: str, value):
    try:
        return field.check(value)
    except ValueError as error:
        raise ConfigError(f"{where}={value!r} is not allowed; {error}") from None


def _refuse_unknown(key: str, known, where: str, what: str):
    if key not in known:
        nearest = [ALIASES[key]] if ALIASES.get(key) in known else difflib.get_close_matches(str(key), known, n=1)
        names = ", ".join(list(known)[:12]) + (", ..." if len(known) > 12 else "")
        hint = f"did you mean {nearest[0]}?" if nearest else f"there are {names}"
        raise ConfigError(f"{where} is not {what}; {hint}")


def build(cls: type, section: str, values: dict):
    """Construct what a section describes; the constructor's own complaint becomes a `ConfigError`."""
    try:
        return cls(**values)
    except (ValueError, TypeError, StrictDataclassError) as error:
        complaint = str(error).strip().splitlines()[-1].strip()
        raise ConfigError(f"{section}: {complaint.removeprefix('ValueError: ').removeprefix('TypeError: ')}") from None


def describe_sections(kind: type[Experiment] = LanguageExperiment) -> str:
    """The help text: each section's fields with type, default and meaning, and why some cannot be set."""
    lines = []
    for section in sections_of(kind):
        fields = section_fields(section, kind)
        lines += [f"\n{section}:", *(_describe(section, name, field, kind) for name, field in fields.items())]
    return "\n".join(lines)


def _describe(section: str, name: str, field: Field, kind: type[Experiment]) -> str:
    default = kind.chosen.get(f"{section}.{name}", "null" if field.default is None else field.default)
    mark, meanings = "", [field.meaning] if field.meaning else []
    if section == "training" and name in kind.unsupported:
        mark, meanings = ", not supported", [f"Not supported: {kind.unsupported[name]}.", *meanings]
    elif section == "training" and name in IN_ANY_CASE:
        meanings = [f"Not needed: in any case {IN_ANY_CASE[name][1]}.", *meanings]
    default = '""' if default == "" else default
    head = f"{name}  ({field.type_name}, default {default}{mark})"
    head = head if len(head) < HELP_WIDTH else head.replace("|", " | ")  # which can be wrapped
    return "\n".join([_wrapped(head, "  "), *(_wrapped(meaning, "      ") for meaning in meanings)])


def _wrapped(text: str, indent: str) -> str:
    """A text in lines that a terminal can show, all but the first below each other."""
    about = {"initial_indent": indent, "subsequent_indent": "      ", "break_long_words": False}
    return textwrap.fill(text, HELP_WIDTH, break_on_hyphens=False, **about)


@contextmanager
def one_sentence(program: str, words_are_all: bool = False):
    """Around a command, with `made_fit`: a user's mistake, a `ConfigError`, ends `program` with its sentence and exit
    code 2; Ctrl-C with 130; a full disk with a sentence and 1."""
    with made_fit(words_are_all):
        from hub import refuse_broken_token  # here, for --help does without it

        try:
            refuse_broken_token()
            with told_by_the_system():
                yield
        except KeyboardInterrupt:
            print(f"\n{program}: interrupted", file=sys.stderr)
            sys.exit(130)
        except ConfigError as error:
            *_, sentence = str(error).splitlines()  # from a loader's worker it comes with its traceback before it
            sentence = f"{program}: {sentence.removeprefix(f'{ConfigError.__module__}.ConfigError: ')}"
            tell_launcher(sentence)
            print(sentence, file=sys.stderr)
            sys.exit(2)


def run_script(
    usage: str,
    main: Callable[[str, list[str]], None],
    kind: type[Experiment] = LanguageExperiment,
    words_are_all: bool = False,
) -> None:
    """Run `main(config_path, overrides)` on the command line, as `one_sentence` does, under the name in its usage."""
    arguments = sys.argv[1:]
    if not arguments or {"-h", "--help"} & set(arguments):
        with made_fit(words_are_all=True):
            print(usage.strip() + "\n" + (describe_sections(kind) if arguments else "\n--help lists every setting."))
        sys.exit(0 if arguments else 2)
    own = re.search(r"usage: python (?:-m )?(\S+)", usage)
    with one_sentence(own[1] if own else Path(sys.argv[0]).name, words_are_all):
        main(arguments[0], arguments[1:])
