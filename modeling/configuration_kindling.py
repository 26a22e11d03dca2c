"""The configuration of Kindling models: one dataclass of axes, and one set of defaults per family.

Field names are transformers' own wherever transformers has one. Each axis is a value, never a pair of
booleans, so that illegal states cannot be expressed; combinations that make no sense raise, naming both.
"""

import math
from typing import Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .layers import ATTENTION_OPTIONS, MLPS, NORMS, PARAMETRIZATIONS, RESIDUALS, AttentionOption, width_multiplier

Norm = Literal[tuple(NORMS)]
NormPlacement = Literal[tuple(RESIDUALS)]
Position = Literal["learned", "rope", "none"]
MLPName = Literal[tuple(MLPS)]
ResidualInit = Literal["plain", "scaled"]
LinearInit = Literal["normal", "uniform_fan_in"]
Parametrization = Literal[tuple(PARAMETRIZATIONS)]


@strict
class KindlingConfig(PreTrainedConfig):
    """The axes both families share; `KindlingGPTConfig` and `KindlingLlamaConfig` set their defaults.

    Types are checked at construction and at every assignment, ranges and heads at construction; a violation is a
    `huggingface_hub.errors.StrictDataclassError`. Other keywords are kept, as transformers does, because tools
    store settings of their own. (Misspelt settings of an experiment file are found when it is read.)
    """

    keys_to_ignore_at_inference = ["past_key_values", "cache"]

    vocab_size: int = 50257
    """Rows of the embedding; by default the tokenizer's size."""
    hidden_size: int = 768
    """Width of the residual stream."""
    num_hidden_layers: int = 12
    """Number of blocks."""
    num_attention_heads: int = 12
    """Query heads per layer."""
    num_key_value_heads: int | None = None
    """Key and value heads per layer: fewer than the query heads is grouped-query attention; null means as many."""
    head_dim: int | None = None
    """Size of one head; null means hidden_size / num_attention_heads."""
    intermediate_size: int | None = None
    """Width inside the MLP; null means 8/3 of hidden_size if gated, else 4 times, to the nearest multiple of 64."""
    max_position_embeddings: int = 1024
    """Longest sequence, in tokens."""
    norm: Norm = "rmsnorm"
    """Normalisation: rmsnorm, layernorm or none."""
    norm_placement: NormPlacement = "pre"
    """Position of the norm: pre (input of a sublayer, GPT-2 and LLaMA) or post (the sum, the original Transformer)."""
    norm_eps: float | int = 1e-6
    """Added to the variance inside the norm."""
    position: Position = "rope"
    """Position encoding: rope (rotary), learned (an embedding) or none."""
    rope_theta: float | int = 10000.0
    """Base wavelength of the rotary positions."""
    mlp: MLPName = "swiglu"
    """Feed-forward: gelu (exact), gelu_new (GPT-2's tanh form), relu, silu, or swiglu (gated)."""
    qk_norm: bool = False
    """RMS-normalise queries and keys in each head before the rotation."""
    final_logit_softcapping: float | int | None = None
    """Logits are cap x tanh(logits / cap) with this cap, as in Gemma 2, such as 30; null means no cap."""
    bias: bool = False
    """Biases in the linear layers (never in the head) and in LayerNorm."""
    attention_dropout: float | int = 0.0
    """Dropout on attention weights."""
    hidden_dropout: float | int = 0.0
    """Dropout on each sublayer's output before it joins the residual stream."""
    embedding_dropout: float | int = 0.0
    """Dropout on the sum of the embeddings."""
    initializer_range: float | int = 0.02
    """Standard deviation of the initial weights."""
    embedding_init_std: float | int | None = None
    """Standard deviation of the initial embeddings; null means initializer_range."""
    linear_init: LinearInit = "normal"
    """Initial linear weights: normal (initializer_range) or uniform_fan_in (PyTorch's U(-1/sqrt(n), 1/sqrt(n)))."""
    residual_init: ResidualInit = "plain"
    """scaled divides the initial projections into the residual stream by sqrt(2 num_hidden_layers), as GPT-2 does."""
    parametrization: Parametrization = "standard"
    """standard, or mup: initial weights, rates and scales with which settings tuned at one width fit every other."""
    mup_base_width: int | None = None
    """The hidden_size that the settings were tuned at, where mup is the same as standard; needed with mup."""
    mup_base_head_dim: int | None = None
    """The head_dim that they were tuned at; null means that of a base model with as many heads as this one."""
    tie_word_embeddings: bool = False
    """One matrix for the embedding and the head."""
    use_cache: bool = True
    """Keep keys and values while generating."""
    pad_token_id: int | None = None
    """Set from the tokenizer."""
    bos_token_id: int | None = None
    """Set from the tokenizer."""
    eos_token_id: int | list[int] | None = None
    """Set from the tokenizer."""

    def __post_init__(self, **kwargs):
        if self.head_dim is None:
            self.head_dim = self.hidden_size // max(self.num_attention_heads, 1)
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.intermediate_size is None:
            ratio = 8 / 3 if MLPS[self.mlp].gated else 4
            self.intermediate_size = max(64, 64 * round(ratio * self.hidden_size / 64))
        super().__post_init__(**kwargs)

    @property
    def attention_options(self) -> dict[str, AttentionOption]:
        """The options of attention that are set, by field."""
        return {name: option for name, option in ATTENTION_OPTIONS.items() if getattr(self, name) is not None}

    @property
    def supports_sdpa(self) -> bool:
        """Whether PyTorch's attention applies every option that is set."""
        return all(option.implementations is None for option in self.attention_options.values())

    @property
    def width_multiplier(self) -> float:
        """How many times wider the model is than the one whose settings it has; 1 with standard parametrization."""
        return width_multiplier(self)

    @property
    def logit_scale(self) -> float:
        """Factor of the logits, by the name under which vLLM reads it."""
        return 1 / self.width_multiplier

    @property
    def base_model_tp_plan(self) -> dict[str, str]:
        """How tensor parallelism shards the modules of this configuration, in transformers' terms.

        Releases 5.15 to 5.20 assign it, with the sharding of a tied embedding added: that value is kept.
        """
        if (given := vars(self).get("base_model_tp_plan")) is not None:
            return given
        plan = {
            "layers.*.self_attn.q_proj": "colwise",
            "layers.*.self_attn.k_proj": "colwise",
            "layers.*.self_attn.v_proj": "colwise",
            "layers.*.self_attn.o_proj": "rowwise",
            "layers.*.mlp.up_proj": "colwise",
            "layers.*.mlp.down_proj": "rowwise",
        }
        if MLPS[self.mlp].gated:
            plan["layers.*.mlp.gate_proj"] = "colwise"
        if self.qk_norm:  # each process holds some of the heads, which share one norm
            plan |= dict.fromkeys(
                ("layers.*.self_attn.q_norm", "layers.*.self_attn.k_norm"), "replicated_with_grad_allreduce"
            )
        return plan

    @base_model_tp_plan.setter
    def base_model_tp_plan(self, plan: dict[str, str] | None):
        vars(self)["base_model_tp_plan"] = plan

    @property
    def base_model_pp_plan(self) -> dict[str, tuple] | None:
        """The stages of pipeline parallelism; none with learned positions, which every stage would add again."""
        if self.position == "learned":
            return None
        return {
            "embed_tokens": (["input_ids"], ["inputs_embeds"]),
            "layers": (["hidden_states", "attention_mask"], ["hidden_states"]),
            "norm": (["hidden_states"], ["hidden_states"]),
        }

    def validate_architecture(self):
        """Called by `@strict`: sizes must be in range, heads must divide evenly, mup needs a base."""
        self._check_ranges()
        self._check_heads()
        if self.parametrization == "mup" and self.mup_base_width is None:
            raise ValueError(
                "parametrization=mup needs mup_base_width, the hidden_size that the settings were tuned at; "
                "give it, or leave parametrization out"
            )

    def _check_ranges(self):
        """Every size is at least 1, every rate below 1, every scale positive."""
        sizes = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
                 "head_dim", "intermediate_size", "max_position_embeddings", "mup_base_width",
                 "mup_base_head_dim")  # fmt: skip
        for name in sizes:
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        for name in ("attention_dropout", "hidden_dropout", "embedding_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 0 and below 1")
        scales = ("norm_eps", "rope_theta", "initializer_range", "embedding_init_std", "final_logit_softcapping")
        for name in (*scales, *ATTENTION_OPTIONS):
            if getattr(self, name) is not None and not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)} must be positive and finite")

    def _check_heads(self):
        """Heads share the width evenly, key-value heads share the query heads evenly, rotary heads are even."""
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"num_attention_heads={self.num_attention_heads} does not divide hidden_size={self.hidden_size}; "
                f"choose one of {_divisors(self.hidden_size)}"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_key_value_heads={self.num_key_value_heads} does not divide "
                f"num_attention_heads={self.num_attention_heads}; choose one of {_divisors(self.num_attention_heads)}"
            )
        if self.position == "rope" and self.head_dim % 2:
            raise ValueError(
                f"position=rope rotates pairs and head_dim={self.head_dim} is odd; "
                "choose an even head_dim or position=learned"
            )

    def to_dict(self):
        """As transformers', plus the `auto_map` that lets any tool load the checkpoint with its own code files."""
        family = type(self).__name__.removesuffix("Config")
        auto_map = {
            "AutoConfig": f"configuration_kindling.{family}Config",
            "AutoModel": f"modeling_kindling.{family}Model",
            "AutoModelForCausalLM": f"modeling_kindling.{family}ForCausalLM",
        }
        return super().to_dict() | {"auto_map": auto_map}


@strict
class KindlingGPTConfig(KindlingConfig):
    """GPT-2's choices: LayerNorm, learned positions, GELU, biases, scaled residual projections, tied head."""

    model_type = "kindling_gpt"
    norm: Norm = "layernorm"
    norm_eps: float | int = 1e-5
    position: Position = "learned"
    mlp: MLPName = "gelu_new"
    bias: bool = True
    residual_init: ResidualInit = "scaled"
    tie_word_embeddings: bool = True


@strict
class KindlingLlamaConfig(KindlingConfig):
    """LLaMA's choices, which are the shared defaults: RMSNorm, rotary positions, SwiGLU, no biases, untied head."""

    model_type = "kindling_llama"


def _divisors(n: int) -> str:
    return ", ".join(str(d) for d in range(1, n + 1) if n % d == 0)


FAMILIES = {config.model_type: config for config in (KindlingGPTConfig, KindlingLlamaConfig)}
