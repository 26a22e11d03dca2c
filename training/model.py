"""The model of a run: configuration from settings and tokenizer, weights from a seed or a checkpoint."""

import psutil
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, TrainingArguments, set_seed

from modeling.accounting import FLOAT32_BYTES, parameters
from modeling.configuration_kindling import FAMILIES, KindlingConfig
from settings.checks import ConfigError, build
from settings.schema import DROPOUTS, MODEL_SOURCES, section_fields
from settings.wording import format_memory

from .attention import attention_implementation
from .machine.hardware import memory_limit
from .pretrained import check_same_tokenizer, start_config, take_weights


def model_config(section: dict, tokenizer, start: str | None = None, **derived) -> KindlingConfig:
    """The configuration of a `model` section: vocabulary size and special ids from the tokenizer, `derived` values.

    That of a checkpoint to `start` from has a row for each token of the tokenizer, and at least as many as it had.
    """
    derived = {"vocab_size": len(tokenizer)} | derived
    if start is not None:
        check_same_tokenizer(start, tokenizer)
        derived["vocab_size"] = max(len(tokenizer), start_config(start, {}).vocab_size)
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    config = build_config(section, ids | derived, start)
    check_vocabulary_size(config, len(tokenizer))
    check_model_size(config)
    return config


def model_settings(section: dict, config: KindlingConfig) -> dict:
    """The settings of a `model` section with their final values; of one that starts from a checkpoint, the dropouts."""
    names = DROPOUTS if "path" in section else section_fields("model")
    settings = {name: getattr(config, name) for name in names if name not in ("type", *MODEL_SOURCES)}
    if "use_cache" in settings:  # which the Trainer turns off while it trains
        settings["use_cache"] = section.get("use_cache", True)
    return settings


def check_model_size(config: KindlingConfig):
    """`ConfigError` if the weights alone exceed the memory that the machine has, swap included, or that it may use."""
    count = sum(parameters(config).values())
    machine = min(psutil.virtual_memory().total + psutil.swap_memory().total, memory_limit())
    if FLOAT32_BYTES * count > machine:
        raise ConfigError(
            f"the model has {count:,} parameters, which take {format_memory(FLOAT32_BYTES * count)}, and the machine "
            f"has {format_memory(machine)} of memory; lower model.hidden_size, model.num_hidden_layers or another size"
        )


def build_config(section: dict, derived: dict, start: str | None = None) -> KindlingConfig:
    """A configuration from a `model` section, or from a checkpoint and its dropouts, over `derived` values."""
    if start is not None:
        return start_config(start, derived | {key: section[key] for key in DROPOUTS if key in section})
    given = {key: value for key, value in section.items() if key != "type" and (key, value) != ("vocab_size", None)}
    return build(FAMILIES[section["type"]], "model", derived | given)


def build_model(config: KindlingConfig, args: TrainingArguments, start: str | None = None) -> PreTrainedModel:
    """The model to train, with the fastest attention, and weights from a checkpoint or drawn from the seed."""
    set_seed(args.seed)
    attention = attention_implementation(args, config)
    # Always float32, whatever a checkpoint was saved in: autocast provides lower precision.
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=attention)
    if start is not None:
        take_weights(model, start)
    return model


def model_shapes(config: KindlingConfig) -> PreTrainedModel:
    """The model of a configuration on the meta device: shapes without values."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def check_vocabulary_size(config: KindlingConfig, vocabulary: int):
    """`ConfigError` if a tokenizer has more tokens than the model has embeddings."""
    if config.vocab_size < vocabulary:
        raise ConfigError(
            f"model.vocab_size={config.vocab_size} is smaller than the tokenizer's {vocabulary}; "
            "leave model.vocab_size out, or raise it"
        )
