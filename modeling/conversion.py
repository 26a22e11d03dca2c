"""Converts models to and from transformers' own Llama and GPT-2, exactly or not at all.

Whatever has no exact counterpart raises, fields and weights that are added later included; nothing is approximated.
What has no effect in inference is dropped: initialisation (`residual_init`, `linear_init`, `embedding_init_std`),
dropouts that Llama does not have, and `use_cache`, which a Trainer turns off and saves so. muP's scales are multiplied
into the weights. Pickled weights are not read.
"""

import copy
import dataclasses
from contextlib import contextmanager

import torch
from huggingface_hub import get_token
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import cached_file

from .configuration_kindling import KindlingConfig
from .loading import load_causal_lm
from .stock import ACTIVATIONS, GPT2, LLAMA, NATIVES, fold_scales, listed, native_of, require


def to_native(model: PreTrainedModel) -> PreTrainedModel:
    """The `LlamaForCausalLM` or `GPT2LMHeadModel` that computes what our `model` computes, with copies of its weights.

    A `ValueError` names every axis, and the first weight, that keeps the model from being one.
    """
    config = model.config
    native = native_of(config)
    theirs = {name: getattr(config, ours) for name, ours in native.fields.items()}
    folded = lambda weights, layers: native.to_theirs(fold_scales(weights, config), layers)  # noqa: E731
    return _rebuild(model, native.config(**theirs), folded)


def from_native(model: PreTrainedModel) -> PreTrainedModel:
    """Our model that computes what a `LlamaForCausalLM` or `GPT2LMHeadModel` computes, with copies of its weights.

    A `ValueError` names whatever our families cannot express.
    """
    native = NATIVES.get(type(model).__name__)
    if native is None:
        raise ValueError(f"{type(model).__name__} has no place in Kindling; give one of {', '.join(NATIVES)}")
    ours = _rebuild(model, our_config(model.config), native.to_ours)
    # The limit that our constructor sets: a native configuration may leave it open.
    ours.generation_config.max_length = ours.generation_config.max_length or ours.config.max_position_embeddings
    return ours


def our_config(config: PreTrainedConfig) -> KindlingConfig:
    """Our configuration of what a `LlamaConfig` or `GPT2Config` describes; a `ValueError` says why there is none.

    Theirs may leave the MLP's width open, and write a rate as an int or null.
    """
    native = next((one for one in NATIVES.values() if type(config) is one.config), None)
    if native is None:
        raise ValueError(f"model_type={config.model_type} has no place in Kindling; give a llama or a gpt2")
    theirs = _flat(config)
    require(theirs, native.required_of_theirs(), f"Kindling's {native.name}")
    if native is LLAMA and theirs["attention_bias"] != theirs["mlp_bias"]:
        raise ValueError(
            f"attention_bias={theirs['attention_bias']}, mlp_bias={theirs['mlp_bias']} has no place in Kindling's "
            "Llama, which has one bias for both; use the checkpoint as it is"
        )
    ours = {our_name: theirs[name] for name, our_name in native.fields.items()}
    ours["intermediate_size"] = ours["intermediate_size"] or 4 * ours["hidden_size"]
    if native is GPT2:
        ours["mlp"] = ACTIVATIONS[ours["mlp"]]
    floats = {field.name for field in dataclasses.fields(KindlingConfig) if field.type == float | int}
    return native.family(**{name: float(value or 0) if name in floats else value for name, value in ours.items()})


def _flat(config):
    """A native configuration as a flat dict, with transformers' common names and the rotary settings added."""
    given = config.to_dict()
    aliases = {common: given[own] for common, own in config.attribute_map.items()}
    return given | aliases | (given.get("rope_parameters") or {})


def _rebuild(model, config, convert):
    """A model of `config` with the converted weights of `model`, and its dtype, device and training mode."""
    with torch.random.fork_rng(
        devices=[]
    ):  # initialising weights that are then overwritten must not advance the random state
        rebuilt = AutoModelForCausalLM.from_config(config, dtype=model.dtype)
    weights = convert(model.state_dict(), model.config.num_hidden_layers)
    if odd := sorted(weights.keys() ^ rebuilt.state_dict().keys()):
        raise ValueError(f"{len(odd)} weights, such as {odd[0]}, have no place in a {type(rebuilt).__name__}")
    rebuilt.load_state_dict(weights)
    rebuilt.generation_config = copy.deepcopy(model.generation_config)
    return rebuilt.to(model.device).train(model.training)


def read_config(source: str, **changes) -> KindlingConfig:
    """Our configuration, with `changes`, of a checkpoint of ours, a Llama or a GPT-2: a folder or a Hub id.

    No weight is read. A `ValueError` says why it does not load, or what our families cannot express.
    """
    with load_errors(source):
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    ours = config if isinstance(config, KindlingConfig) else our_config(config)
    ours.update(changes)
    ours.validate()
    return ours


def read_model(source: str) -> PreTrainedModel:
    """A checkpoint of ours, a Llama or a GPT-2 as a model of ours in float32. `ValueError` as from `read_config`."""
    with load_errors(source):
        model = load_causal_lm(source, dtype=torch.float32)
    return model if isinstance(model.config, KindlingConfig) else from_native(model)


def counterpart(model, gguf):
    """The native model for one of ours and vice versa; for a GGUF file a native model in both cases."""
    if isinstance(model.config, KindlingConfig):
        return to_native(model)
    ours = from_native(model)
    return to_native(ours) if gguf else ours


def dropped_settings(model):
    if not isinstance(model.config, KindlingConfig):
        return ""
    dropouts = native_of(model.config).dropped_dropouts(model.config)
    return f", without {listed(dropouts)}" if dropouts else ""


@contextmanager
def load_errors(source):
    """Turn any error into a `ValueError` of one line that names the source."""
    try:
        yield
    except Exception as error:  # tokenizers raises nothing narrower
        reason = str(error)
        if token := get_token():  # which an HTTP client quotes in some errors
            reason = reason.replace(repr(token.encode())[2:-1], "hf_***")
        raise ValueError(f"{source} does not load: {' '.join(reason.split())}") from error


def read_tokenizer(source: str):
    """The tokenizer, or None; its file is looked up, because AutoTokenizer returns an empty one for a GPT-2 without."""
    with load_errors(source):
        if cached_file(source, "tokenizer_config.json", _raise_exceptions_for_missing_entries=False) is None:
            return None
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False)
