"""Mapping between our configuration and transformers' Llama and GPT-2: equal fields, and axes that they lack."""

from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields

import torch
from transformers import GPT2Config, LlamaConfig, PreTrainedConfig

from .configuration_kindling import KindlingConfig, KindlingGPTConfig, KindlingLlamaConfig
from .gpt2 import weights_from_gpt2, weights_to_gpt2
from .layers import ATTENTION_OPTIONS, attention_multiplier

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


# Our fields that do not affect the outputs of a trained model, so that a native configuration can leave them out.
TRAINING_ONLY = ("embedding_init_std", "linear_init", "residual_init", "use_cache")
# Our fields whose effect `fold_scales` moves into the weights.
FOLDED = ("parametrization", "mup_base_width", "mup_base_head_dim")
# GPT-2's fields of a classification head, which a language model does not have.
SUMMARY = (
    "summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels", "summary_first_dropout",
)  # fmt: skip


@dataclass(frozen=True)
class Native:
    """One of transformers' own architectures, and the family of ours that can express it.

    Each field of both configurations is in one of these tables. One that is in none, because a later version added
    it, must have its default: any other value is refused by name.
    """

    name: str
    config: type[PreTrainedConfig]
    family: type[KindlingConfig]
    fields: dict[str, str]
    our_axes: Callable[[KindlingConfig], dict]
    """Our axes that it fixes, each with its value or a tuple of allowed values."""
    our_ignored: tuple[str, ...]
    """Our fields without effect in inference, or none once `fold_scales` was applied."""
    their_axes: dict
    """Their fields that we fix, likewise."""
    their_ignored: tuple[str, ...]
    to_theirs: Callable[[dict, int], dict]
    to_ours: Callable[[dict, int], dict]

    def required_of_ours(self, config: KindlingConfig) -> dict:
        """The values that our configuration must have to be expressible as this architecture."""
        axes = self.our_axes(config)
        return _defaults(type(config), {*self.fields.values(), *self.our_ignored, *axes}) | axes

    def dropped_dropouts(self, config: KindlingConfig) -> dict:
        """Our dropouts that it lacks, so that further training would omit them."""
        return {
            name: vars(config)[name] for name in self.our_ignored if name.endswith("dropout") and vars(config)[name]
        }

    def required_of_theirs(self) -> dict:
        """The values that their configuration must have to be expressible as our family."""
        named = {self.config.attribute_map.get(name, name) for name in self.fields}
        return _defaults(self.config, {*named, *self.their_ignored, *self.their_axes}) | self.their_axes


def _defaults(config: type[PreTrainedConfig], known: set[str]) -> dict:
    """Unknown fields with the defaults of the class that introduced them; a family may have other defaults."""
    unknown = {field.name for field in fields(config)} - {field.name for field in fields(PreTrainedConfig)} - known
    return {name: (_original_default(config, name),) for name in unknown}


def _original_default(config, name):
    first = next(one for one in reversed(config.__mro__) if name in getattr(one, "__dataclass_fields__", {}))
    field = first.__dataclass_fields__[name]
    return field.default if field.default_factory is MISSING else field.default_factory()


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
        "final_logit_softcapping": None,
        **dict.fromkeys(ATTENTION_OPTIONS),
    },
    our_ignored=(*TRAINING_ONLY, *FOLDED, "hidden_dropout", "embedding_dropout"),
    their_axes={"hidden_act": ("silu", "swish"), "rope_type": "default"},
    their_ignored=("rope_parameters", "pretraining_tp", "use_cache"),  # the first is read as rope_type and rope_theta
    to_theirs=lambda weights, _layers: weights,  # Llama's parameters have our names
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
        "final_logit_softcapping": None,
        **dict.fromkeys(ATTENTION_OPTIONS),
    },
    our_ignored=(*TRAINING_ONLY, *FOLDED, "rope_theta"),
    their_axes={
        "activation_function": tuple(ACTIVATIONS),
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "reorder_and_upcast_attn": False,
        "add_cross_attention": False,
    },
    their_ignored=(*SUMMARY, "use_cache"),
    to_theirs=weights_to_gpt2,
    to_ours=weights_from_gpt2,
)
NATIVES = {"LlamaForCausalLM": LLAMA, "GPT2LMHeadModel": GPT2}


def native_of(config: KindlingConfig) -> Native:
    """The native architecture that our configuration is one of.

    A `ValueError` names every axis that keeps it from being one, measured against the nearer of the two.
    """
    given = vars(config)
    nearer = min(NATIVES.values(), key=lambda one: len(_differences(given, one.required_of_ours(config))))
    require(given, nearer.required_of_ours(config), f"a stock {nearer.name}")
    return nearer


def fold_scales(weights: dict[str, torch.Tensor], config: KindlingConfig) -> dict[str, torch.Tensor]:
    """Our weights with muP's scales multiplied in, for an architecture that has 1/sqrt(head_dim) and plain logits.

    The scale of attention goes into the queries, whose rotation commutes with it; that of the logits into the last
    norm, so that a tied head stays tied.
    """
    scales = {".self_attn.q_proj.": attention_multiplier(config), "model.norm.": config.logit_scale}
    folded = {}
    for name, weight in weights.items():
        factor = next((scale for part, scale in scales.items() if part in name), 1.0)
        folded[name] = weight if factor == 1 else weight * factor
    return folded


def require(given, axes, place):
    """`ValueError` that names every value that differs from `axes`."""
    if wrong := _differences(given, axes):
        allowed = {name: axes[name] for name in wrong}
        raise ValueError(
            f"{listed(wrong)} has no place in {place}, which has {listed(allowed)}; use the checkpoint as it is"
        )


def _differences(given, axes):
    return {name: given[name] for name, value in axes.items() if given[name] not in _as_tuple(value)}


def _as_tuple(value):
    return value if isinstance(value, tuple) else (value,)


def listed(values):
    return ", ".join(f"{name}={' or '.join(map(str, _as_tuple(value)))}" for name, value in values.items())
