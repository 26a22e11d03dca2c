"""transformers' own Llama and GPT-2 beside our families: which field is which, and which of our axes they lack."""

from collections.abc import Callable
from dataclasses import dataclass

from transformers import GPT2Config, LlamaConfig, PreTrainedConfig

from .configuration_kindling import KindlingConfig, KindlingGPTConfig, KindlingLlamaConfig
from .gpt2 import gpt2_weights, weights_of_gpt2

# Their names of a configuration's fields to ours.
SHARED_FIELDS = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings",
    "initializer_range", "tie_word_embeddings", "pad_token_id", "bos_token_id", "eos_token_id",
)  # fmt: skip
# GPT-2's activation functions that our MLPs have, to ours; where several are the same function, the first is written.
ACTIVATIONS = {
    "gelu": "gelu", "gelu_new": "gelu_new", "relu": "relu", "silu": "silu",
    "gelu_pytorch_tanh": "gelu_new", "gelu_fast": "gelu_new", "swish": "silu",
}  # fmt: skip
LLAMA_FIELDS = {name: name for name in SHARED_FIELDS} | {
    "num_key_value_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "intermediate_size": "intermediate_size",
    "rms_norm_eps": "norm_eps",
    "rope_theta": "rope_theta",
    "attention_bias": "bias",
    "mlp_bias": "bias",
    "attention_dropout": "attention_dropout",
}
GPT2_FIELDS = {name: name for name in SHARED_FIELDS} | {
    "n_inner": "intermediate_size",
    "activation_function": "mlp",
    "layer_norm_epsilon": "norm_eps",
    "attn_pdrop": "attention_dropout",
    "resid_pdrop": "hidden_dropout",
    "embd_pdrop": "embedding_dropout",
}


@dataclass(frozen=True)
class Native:
    """One of transformers' own architectures, next to the family of ours that can express it."""

    name: str
    config: type[PreTrainedConfig]
    family: type[KindlingConfig]
    fields: dict[str, str]
    our_axes: Callable[[KindlingConfig], dict]
    """The axes of ours that it fixes, to the one value that it has, or a tuple of several."""
    their_axes: dict
    """The fields of theirs that we fix, likewise."""
    to_theirs: Callable[[dict, int], dict]
    to_ours: Callable[[dict, int], dict]


LLAMA = Native(
    name="Llama",
    config=LlamaConfig,
    family=KindlingLlamaConfig,
    fields=LLAMA_FIELDS,
    our_axes=lambda _config: {
        "norm": "rmsnorm",
        "norm_placement": "pre",
        "position": "rope",
        "mlp": "swiglu",
        "qk_norm": False,
        "hidden_dropout": 0.0,
        "embedding_dropout": 0.0,
    },
    their_axes={"hidden_act": "silu", "rope_type": "default"},
    to_theirs=lambda weights, _layers: weights,  # Llama's parameters are called as ours are
    to_ours=lambda weights, _layers: weights,
)
GPT2 = Native(
    name="GPT-2",
    config=GPT2Config,
    family=KindlingGPTConfig,
    fields=GPT2_FIELDS,
    our_axes=lambda config: {
        "norm": "layernorm",
        "norm_placement": "pre",
        "position": "learned",
        "mlp": tuple(dict.fromkeys(ACTIVATIONS.values())),
        "qk_norm": False,
        "bias": True,
        "num_key_value_heads": config.num_attention_heads,
        "head_dim": config.hidden_size // config.num_attention_heads,
    },
    their_axes={
        "activation_function": tuple(ACTIVATIONS),
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "reorder_and_upcast_attn": False,
        "add_cross_attention": False,
    },
    to_theirs=gpt2_weights,
    to_ours=weights_of_gpt2,
)
NATIVES = {"LlamaForCausalLM": LLAMA, "GPT2LMHeadModel": GPT2}


def require(given, axes, place):
    """Refuse what differs from `axes`, by name."""
    if wrong := differences(given, axes):
        allowed = {name: axes[name] for name in wrong}
        raise ValueError(
            f"{_listed(wrong)} has no place in {place}, which has {_listed(allowed)}; use the checkpoint as it is"
        )


def differences(given, axes):
    return {name: given[name] for name, value in axes.items() if given[name] not in _choices(value)}


def _choices(value):
    return value if isinstance(value, tuple) else (value,)


def _listed(values):
    return ", ".join(f"{name}={' or '.join(map(str, _choices(value)))}" for name, value in values.items())
