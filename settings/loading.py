"""Loads an experiment from its YAML file and command-line overrides, and checks every key and type."""

import difflib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from .checks import ConfigError
from .data_sections import TokenizerSection
from .derivation.depth import fill_in, without_replaced
from .experiment import REPLICABLE, AlgorithmicExperiment, Experiment, LanguageExperiment
from .fields import Field
from .horizon import only_given_horizon
from .ineffective import reject_ineffective_overrides
from .overrides import ALIASES, parse_override, read_experiment_file
from .paths import expand_folder
from .schema import DROPOUTS, FROM_TOKENIZER, MODEL_TYPES, drop_unknown_to_transformers, section_fields, sections_of


def load_experiment(
    path: str, overrides: list[str], kind: type[Experiment] = LanguageExperiment
) -> LanguageExperiment | AlgorithmicExperiment:
    """Read a YAML file, apply `section.key=value` overrides, check keys and types; `ConfigError` if one is wrong."""
    sections, given = read_experiment_file(path, overrides, partial(_takes_only_text, kind=kind))
    if kind is LanguageExperiment:  # on equations, only training.max_steps does
        sections = without_replaced(only_given_horizon(sections, given), given)
    classes = sections_of(kind)
    for section in sections:
        _check_known(section, classes, section, f"a section of {kind.script}")
    checked = {section: check_section(section, sections.get(section) or {}, kind) for section in classes}
    derived = fill_in(checked) if kind is LanguageExperiment and checked["model"].get("path") is None else []
    checked["training"] = (
        drop_unknown_to_transformers(kind.training_defaults, section_fields("training", kind)) | checked["training"]
    )
    if checked["training"].get("output_dir") is None:
        checked["training"]["output_dir"] = f"runs/{Path(path).stem}"
    run = checked["training"]["output_dir"] = expand_folder("training.output_dir", checked["training"]["output_dir"])
    if checked["model"].get("path") is None:
        checked["model"] = {"type": MODEL_TYPES[0]} | kind.model_defaults | checked["model"]
        checked["model"].pop("path", None)
    else:
        checked["tokenizer"] = _tokenizer_of_checkpoint(checked["model"], checked["tokenizer"])
    built = {key: classes[key](**own) for key, own in checked.items()}
    experiment = kind(name=Path(run).absolute().name, overrides=given, derived=tuple(derived), **built)
    reject_ineffective_overrides(experiment)
    return experiment


def read_settings(overrides: Sequence[str], sections: Sequence[str]) -> dict[str, dict]:
    """The sections that `section.key=value` overrides describe, for commands without an experiment file."""
    given = {section: {} for section in sections}
    for name, value in (parse_override(text, partial(_takes_only_text, kind=LanguageExperiment)) for text in overrides):
        section, _, key = name.partition(".")
        _check_known(section, given, section, "a section of this command")
        given[section][key] = value
    return {section: check_section(section, values) for section, values in given.items()}


def _takes_only_text(name: str, kind: type[Experiment]) -> bool:
    """Whether a setting takes only text."""
    section, _, key = name.partition(".")
    field = section_fields(section, kind).get(key) if section in sections_of(kind) else None
    return field is not None and set(field.accepts) <= {"str", "None"}


def _tokenizer_of_checkpoint(model: dict, tokenizer: dict) -> dict:
    """The tokenizer section of a run that starts from `model.path`: by default, the checkpoint's own."""
    path = model["path"]
    if path == "":
        raise ConfigError("model.path= is empty; give the folder or Hub id of a checkpoint, or leave it out")
    if given := [f"model.{key}={value}" for key, value in model.items() if key not in ("path", *DROPOUTS)]:
        raise ConfigError(
            f"model.path={path} brings its own settings, which {', '.join(given)} would contradict; leave out all "
            f"of this section but path, {', '.join(DROPOUTS)}"
        )
    own = {"kind": "pretrained", "path": path}
    for key, value in tokenizer.items():
        if key != "path" and value != own.get(key, getattr(TokenizerSection, key)):
            raise ConfigError(
                f"tokenizer.{key}={value} changes the vocabulary that model.path={path} was trained with; leave out "
                "the section tokenizer"
            )
    return own | tokenizer


def check_section(section: str, values: dict, kind: type[Experiment] = LanguageExperiment) -> dict:
    """The section's values, checked and converted to the types of its fields."""
    if section == "replicas":
        return {key: _check_replicas(key, lists, kind) for key, lists in values.items() if lists is not None}
    fields = section_fields(section, kind)
    for key in values:
        if section == "model" and key in FROM_TOKENIZER:
            raise ConfigError(f"model.{key} is set from the tokenizer; leave it out")
        _check_known(key, fields, f"{section}.{key}", "a setting")
    return {key: _check_value(fields[key], f"{section}.{key}", value) for key, value in values.items()}


def _check_replicas(section: str, lists: dict, kind: type[Experiment]) -> dict[str, list]:
    """The lists of values that replicas differ in, each value checked as in its own section."""
    known = section_fields("replicas")
    _check_known(section, REPLICABLE, f"replicas.{section}", "a section that replicas can differ in")
    if not isinstance(lists, dict):
        raise ConfigError(
            f"replicas.{section}={lists!r} is not a mapping of lists; write replicas.training.seed=[0,1,2]"
        )
    for key, values in lists.items():
        _check_known(f"{section}.{key}", known, f"replicas.{section}.{key}", "a setting that replicas can differ in")
        if not isinstance(values, list):
            raise ConfigError(f"replicas.{section}.{key}={values!r} is not a list of distinct values; write [0,1,2]")
    fields = section_fields(section, kind)
    checked = {
        key: [_check_value(fields[key], f"replicas.{section}.{key}", value) for value in values]
        for key, values in lists.items()
    }
    for key, values in checked.items():
        if not values or len(set(values)) < len(values):
            raise ConfigError(f"replicas.{section}.{key}={values!r} is not a list of distinct values; write [0,1,2]")
    return checked


def _check_value(field: Field, where: str, value):
    try:
        return field.check(value)
    except ValueError as error:
        raise ConfigError(f"{where}={value!r} is not allowed; {error}") from None


def _check_known(key: str, known, where: str, what: str):
    if key not in known:
        nearest = [ALIASES[key]] if ALIASES.get(key) in known else difflib.get_close_matches(str(key), known, n=1)
        names = ", ".join(list(known)[:12]) + (", ..." if len(known) > 12 else "")
        hint = f"did you mean {nearest[0]}?" if nearest else f"give one of {names}"
        raise ConfigError(f"{where} is not {what}; {hint}")
