"""Reads an experiment file (YAML) and applies `section.key=value` overrides to it."""

import io
import re
import typing
from collections.abc import Callable, Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from .checks import ConfigError
from .paths import find_packaged_config

EXPECTED_SECTIONS = "write `model:`, `data:`, `training:` and their keys"


ALIASES = {
    "batch_size": "per_device_train_batch_size",
    "train_batch_size": "per_device_train_batch_size",
    "eval_batch_size": "per_device_eval_batch_size",
    "lr": "learning_rate",
    "logit_softcap": "final_logit_softcapping",
    "lr_scheduler": "lr_scheduler_type",
    "scheduler": "lr_scheduler_type",
    "warmup": "warmup_steps",
    "warmup_ratio": "warmup_steps",
    "epochs": "num_train_epochs",
    "num_epochs": "num_train_epochs",
    "steps": "max_steps",
    "iterations": "max_steps",
    "grad_clip": "max_grad_norm",
    "gradient_clipping": "max_grad_norm",
    "beta1": "adam_beta1",
    "beta2": "adam_beta2",
    "grad_accum": "gradient_accumulation_steps",
    "resume": "resume_from_checkpoint",
    "overwrite_output_dir": "output_dir",
    "logging_dir": "output_dir",
    "evaluation_strategy": "eval_strategy",
    "no_cuda": "use_cpu",
    "optimizer": "optim",
    "num_workers": "dataloader_num_workers",
    "n_layer": "num_hidden_layers",
    "n_layers": "num_hidden_layers",
    "layers": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_heads": "num_attention_heads",
    "heads": "num_attention_heads",
    "n_embd": "hidden_size",
    "d_model": "hidden_size",
    "width": "hidden_size",
    "n_positions": "max_position_embeddings",
    "dropout": "hidden_dropout",
    "activation": "mlp",
    "block_size": "context_length",
    "seq_len": "context_length",
    "max_length": "context_length",
    "dataset": "source",
}
"""Names that other programs use for our settings."""


def read_experiment_file(path: str, overrides: Sequence[str], is_text: Callable[[str], bool]) -> tuple[dict, dict]:
    """The sections with the overrides applied, and the overrides by key; `ConfigError` if something cannot be read.

    If `is_text(key)`, the override is taken literally and not parsed as YAML.
    """
    written = _read_file(path)
    given = dict(parse_override(text, is_text) for text in overrides)
    for key, value in given.items():
        # A mapping is replaced like any other value, not merged.
        OmegaConf.update(written, key, escape_interpolation(value) if is_text(key) else value, merge=False)
    try:
        sections = OmegaConf.to_container(written, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    data = sections.get("data")
    for key in ("source", "validation_source"):
        if isinstance(data, dict) and isinstance(data.get(key), str):
            data[key] = find_packaged_config(data[key])
    return sections, given


def escape_interpolation(value):
    """The value with each `${` in its texts escaped, so that OmegaConf takes it literally."""
    if isinstance(value, dict):
        return {key: escape_interpolation(one) for key, one in value.items()}
    if isinstance(value, list):
        return [escape_interpolation(one) for one in value]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value


def _read_file(path: str) -> DictConfig:
    path = find_packaged_config(path)
    try:
        if Path(path).is_dir():
            raise ConfigError(f"{path} is a folder; give the experiment file in it")
        text = Path(path).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(
            f"there is no experiment file {path}; `ls configs/*` lists those that come with Kindling"
        ) from None
    except OSError as error:
        named = path if len(path) < 200 else f"{path[:40]}..."
        raise ConfigError(f"{named} cannot be read: {error.strerror}; give another experiment file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    try:
        written = OmegaConf.load(io.StringIO(text))
        _check_sections(path, OmegaConf.to_container(written))
    except (YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    except (OSError, RecursionError):  # raised by OmegaConf for a number, and by YAML for deeply nested brackets
        raise ConfigError(f"{path} holds no sections; {EXPECTED_SECTIONS}") from None
    return written


def _check_sections(path: str, written):
    if not isinstance(written, dict) or not written:
        raise ConfigError(f"{path} holds no sections; {EXPECTED_SECTIONS}")
    for section, values in written.items():
        if values is not None and not isinstance(values, dict):
            raise ConfigError(f"section {section} holds {values!r}; write keys and values beneath it")


def parse_override(text: str, is_text: Callable[[str], bool]) -> tuple[str, typing.Any]:
    """Key and value of `section.key=value`, the value parsed as YAML, or taken literally if `is_text(key)`."""
    key, equals, value = text.partition("=")
    if not equals or "." not in key:
        raise ConfigError(f"{text!r} is not an override; write section.key=value, as in training.learning_rate=1e-3")
    if is_text(key) and value != "null":
        return key, value
    if "${" in value:
        raise ConfigError(f"{text!r} refers to another setting, which only works in a file; write the value itself")
    try:
        return key, OmegaConf.select(OmegaConf.from_dotlist([text]), key)
    except (YAMLError, OmegaConfBaseException, RecursionError) as error:
        raise ConfigError(f"{text!r} is not valid YAML after the =: {' '.join(str(error).split())}") from None
