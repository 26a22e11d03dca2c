"""The model of a run: its configuration from settings and tokenizer, its weights from a seed or a checkpoint."""

import psutil
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, TrainingArguments, set_seed

from modeling.accounting import FLOAT32_BYTES, parameters
from modeling.configuration_kindling import FAMILIES, KindlingConfig
from settings.checks import ConfigError, build
from settings.experiment import Experiment
from settings.schema import DROPOUTS

from .attention import attention_implementation
from .hardware import memory_limit, readable
from .pretrained import refuse_other_tokenizer, start_config, take_weights


def model_config(experiment: Experiment, tokenizer, start: str | None = None, **derived) -> KindlingConfig:
    """The model's configuration: vocabulary and special ids from the tokenizer, and what else is `derived`.

    That of a checkpoint to `start` from has a row for each token of the tokenizer, and no fewer than it had.
    """
    derived = {"vocab_size": len(tokenizer)} | derived
    if start is not None:
        refuse_other_tokenizer(start, tokenizer)
        derived["vocab_size"] = max(len(tokenizer), build_config(experiment.model, {}, start).vocab_size)
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    config = build_config(experiment.model, ids | derived, start)
    refuse_small_vocabulary(config, len(tokenizer))
    refuse_huge(config)
    return config


def refuse_huge(config: KindlingConfig):
    """`ConfigError` if the weights alone are more than the machine has memory, swap included, or than it may use."""
    count = sum(parameters(config).values())
    machine = min(psutil.virtual_memory().total + psutil.swap_memory().total, memory_limit())
    if FLOAT32_BYTES * count > machine:
        raise ConfigError(
            f"the model has {count:,} parameters, which take {readable(FLOAT32_BYTES * count)}, and the machine has "
            f"{readable(machine)} of memory; lower model.hidden_size, model.num_hidden_layers or what else is too large"
        )


def build_config(section: dict, derived: dict, start: str | None = None) -> KindlingConfig:
    """A configuration from a `model` section, or from a checkpoint and its dropouts, over values from elsewhere."""
    if start is not None:
        return start_config(start, derived | {key: section[key] for key in DROPOUTS if key in section})
    given = {key: value for key, value in section.items() if key != "type" and (key, value) != ("vocab_size", None)}
    return build(FAMILIES[section["type"]], "model", derived | given)


def build_model(config: KindlingConfig, args: TrainingArguments, start: str | None = None) -> PreTrainedModel:
    """The model to train, in the attention that trains fastest, its weights a checkpoint's or drawn by the seed."""
    set_seed(args.seed)
    attention = attention_implementation(args, config)
    # In float32, whatever a checkpoint was saved in: lower precision is autocast's.
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=attention)
    if start is not None:
        take_weights(model, start)
    return model


def refuse_small_vocabulary(config: KindlingConfig, vocabulary: int):
    """`ConfigError` if a tokenizer has more tokens than the model has rows."""
    if config.vocab_size < vocabulary:
        raise ConfigError(
            f"model.vocab_size={config.vocab_size} is smaller than the tokenizer's {vocabulary}; "
            "leave model.vocab_size out, or raise it"
        )
