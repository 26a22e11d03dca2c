"""The block, the backbone and the causal language model, and the names the two families have on the Hub.

Every variant is chosen in a constructor from the tables of `layers.py`. Module names are LLaMA's in both families
(`model.layers.N.self_attn.q_proj`, ...), so that sharding plans, adapters and native export work unchanged.
Shapes: B batch, T positions, D width of the residual stream, V vocabulary.
"""

import math
import shutil
from pathlib import Path
from typing import Unpack

import torch
from torch import nn
from transformers import GenerationMixin, PreTrainedModel, initialization
from transformers.cache_utils import DynamicCache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .accounting import training_flops
from .attention import KindlingAttention, causal_mask, count_positions
from .configuration_kindling import KindlingConfig, KindlingGPTConfig, KindlingLlamaConfig
from .generation import KindlingGenerationMixin
from .layers import MLPS, RESIDUALS, RotaryPositions, Scale, SoftCap, build_norm, width_multiplier
from .loading import KindlingLoadingMixin
from .releases import CACHE, KindlingKwargs, check_keywords, select_cache

CODE_FILES = (
    "configuration_kindling.py", "layers.py", "attention.py", "generation.py", "loading.py", "modeling_kindling.py",
    "accounting.py", "releases.py",
)  # fmt: skip


class KindlingBlock(GradientCheckpointingLayer):
    """Attention, then MLP, each inside a normalised residual."""

    def __init__(self, config: KindlingConfig, layer_idx: int):
        super().__init__()
        self.input_layernorm = build_norm(config, config.hidden_size)
        self.self_attn = KindlingAttention(config, layer_idx)
        self.post_attention_layernorm = build_norm(config, config.hidden_size)
        self.mlp = MLPS[config.mlp].build(config)
        self.residual = RESIDUALS[config.norm_placement]

    def forward(self, hidden_states, **attention_inputs):
        x_BTD = self.residual(
            hidden_states, self.input_layernorm, lambda h_BTD: self.self_attn(h_BTD, **attention_inputs)[0]
        )
        return self.residual(x_BTD, self.post_attention_layernorm, self.mlp)


class KindlingPreTrainedModel(KindlingLoadingMixin, PreTrainedModel):
    """Capabilities, weight initialisation and saving, as transformers expects them."""

    config: KindlingConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["KindlingBlock"]
    _skip_keys_device_placement = ["past_key_values", "cache"]
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": KindlingBlock, "attentions": KindlingAttention}

    @property
    def _supports_sdpa(self) -> bool:
        """Without it transformers chooses the eager implementation."""
        return self.config.supports_sdpa

    @torch.no_grad()
    def _init_weights(self, module):
        """Start weights by `initializer_range`, `embedding_init_std`, `linear_init` and `residual_init`; biases at 0.

        With mup the head starts as the base model's, and the other matrices with 1/sqrt(`width_multiplier`) of it.
        Uses `transformers.initialization`, which skips weights that were loaded from a checkpoint.
        """
        config = self.config
        if isinstance(module, nn.Embedding):
            initialization.normal_(module.weight, std=config.embedding_init_std or config.initializer_range)
        elif isinstance(module, nn.Linear):
            scaled = config.residual_init == "scaled" and getattr(module, "writes_residual", False)
            scale = 1 / math.sqrt(2 * config.num_hidden_layers) if scaled else 1.0
            wider = 1.0 if module is self.get_output_embeddings() else width_multiplier(config)
            if config.linear_init == "uniform_fan_in":
                # The base model's bound, divided as its standard deviation: fan_in has grown by the multiplier.
                bound = scale / math.sqrt(module.in_features / width_multiplier(config) * wider)
                initialization.uniform_(module.weight, -bound, bound)
            else:
                initialization.normal_(module.weight, std=scale * config.initializer_range / math.sqrt(wider))
            if module.bias is not None:
                initialization.zeros_(module.bias)
        else:
            super()._init_weights(module)

    def floating_point_ops(self, inputs, exclude_embeddings: bool = True) -> int:  # noqa: ARG002
        """FLOPs of training on `inputs` (`input_ids`, B x T): 3 x the forward matrix products of each row's own tokens.

        Without an `attention_mask` (B, T), or with one of another shape, every position counts as a token.
        """
        batch, length = inputs["input_ids"].shape
        mask = inputs.get("attention_mask")
        if mask is None or mask.shape != (batch, length):
            return training_flops(self.config, length, batch)
        return int(training_flops(self.config, mask.sum(-1)).sum())

    def save_pretrained(self, save_directory, *args, **kwargs):
        """As transformers', and the code files go with the weights, so that any machine can load them.

        Copied by us, not by transformers' `register_for_auto_class`: that one writes a single auto class, and the
        wrong file names under FSDP.
        """
        super().save_pretrained(save_directory, *args, **kwargs)
        here, there = Path(__file__).resolve().parent, Path(save_directory).resolve()
        if kwargs.get("is_main_process", True) and here != there:
            for name in CODE_FILES:
                shutil.copyfile(here / name, there / name)


class KindlingModel(KindlingPreTrainedModel):
    """The backbone: ids in, hidden states (B, T, D) out."""

    _keys_to_ignore_on_load_unexpected = [r"^lm_head\."]  # of a whole language model's checkpoint

    def __init__(self, config: KindlingConfig):
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.embed_positions = None
        if config.position == "learned":
            self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.rotary = RotaryPositions(config) if config.position == "rope" else None
        self.dropout = nn.Dropout(config.embedding_dropout)
        self.layers = nn.ModuleList([KindlingBlock(config, i) for i in range(config.num_hidden_layers)])
        # With post-norm the last block already ends in a norm.
        self.norm = build_norm(config, config.hidden_size) if config.norm_placement == "pre" else nn.Identity()
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values=None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        cache=None,
        **kwargs: Unpack[KindlingKwargs],
    ) -> BaseModelOutputWithPast:
        """As `LlamaModel.forward`, except that positions left out are counted from the attention mask.

        So a left-padded batch gives the same result as an unpadded one, for learned positions too. The cache is passed
        under either of its names; a keyword that nothing reads is a `TypeError`.
        """
        cache = select_cache(past_key_values, cache, kwargs)
        check_keywords(self, kwargs)
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        x_BTD = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if use_cache and cache is None:
            cache = DynamicCache(config=self.config)
        mask = causal_mask(
            config=self.config,
            inputs_embeds=x_BTD,
            attention_mask=attention_mask,
            cache=cache,
            position_ids=position_ids,
        )
        if position_ids is None:
            position_ids = count_positions(x_BTD, attention_mask, cache)

        if self.embed_positions is not None:
            x_BTD = x_BTD + self.embed_positions(position_ids)
        rotary = self.rotary(position_ids) if self.rotary is not None else None

        x_BTD = self.dropout(x_BTD)
        if cache is not None:
            kwargs[CACHE] = cache  # gradient checkpointing removes it by this name
        for block in self.layers:
            x_BTD = block(
                x_BTD,
                rotary=rotary,
                attention_mask=mask,
                position_ids=position_ids,
                **kwargs,
            )
        return BaseModelOutputWithPast(last_hidden_state=self.norm(x_BTD), **{CACHE: cache})


class KindlingForCausalLM(KindlingPreTrainedModel, KindlingGenerationMixin):
    """The backbone and a linear head over the vocabulary."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}
    _pp_plan = {"lm_head": (["hidden_states"], ["logits"])}

    def __init__(self, config: KindlingConfig):
        super().__init__(config)
        self.model = KindlingModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        # Of the states rather than of the logits, which are many times larger.
        self.logit_scale = nn.Identity() if config.logit_scale == 1 else Scale(config.logit_scale)
        cap = config.final_logit_softcapping
        self.softcap = nn.Identity() if cap is None else SoftCap(cap)
        self.post_init()
        # Without it the text-generation pipeline asks for 256 new tokens, even if the model has fewer positions.
        self.generation_config.max_length = config.max_position_embeddings

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values=None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        cache=None,
        **kwargs: Unpack[KindlingKwargs],
    ) -> CausalLMOutputWithPast:
        """As `LlamaForCausalLM.forward`: `labels` (B, T) are shifted inside, -100 is no target.

        `num_items_in_batch`, which the Trainer passes on through `kwargs`, turns the loss into a sum over targets
        divided by it, so that gradient accumulation weights every token once. A keyword that nothing reads is a
        `TypeError`.
        """
        check_keywords(self, kwargs)
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            cache=cache,
            **kwargs,
        )
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits_BTV = self.softcap(self.lm_head(self.logit_scale(outputs.last_hidden_state[:, kept].contiguous())))
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits_BTV, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits_BTV,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            **{CACHE: getattr(outputs, CACHE)},
        )


class KindlingGPTModel(KindlingModel):
    config: KindlingGPTConfig


class KindlingGPTForCausalLM(KindlingForCausalLM, GenerationMixin):
    config: KindlingGPTConfig


class KindlingLlamaModel(KindlingModel):
    config: KindlingLlamaConfig


class KindlingLlamaForCausalLM(KindlingForCausalLM, GenerationMixin):
    config: KindlingLlamaConfig
