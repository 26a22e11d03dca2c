"""Grouped-query attention over transformers' attention interface (eager, sdpa, flex, flash) and its caches.

Also the mask: a token attends to itself and to earlier tokens of its document, not to padding.
Shapes: B batch, T query positions, S key positions, D width, N query heads, G key-value heads, H size of a head.
"""

import torch
from torch import nn
from transformers import Cache
from transformers.masking_utils import and_masks, create_causal_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import is_tracing

from .configuration_kindling import KindlingConfig
from .layers import AttentionOption, attention_multiplier, rotate
from .releases import select_cache


def eager_attention(module, q_BNTH, k_BGSH, v_BGSH, mask, scaling, dropout=0.0, **_):
    """Attention written out: softmax(q k' * scaling + mask) v. Returns (B, T, N, H) and the weights (B, N, T, S).

    A boolean mask, as sdpa takes, is False where attention is not allowed.
    """
    k_BNSH = k_BGSH.repeat_interleave(module.num_key_value_groups, dim=1)
    v_BNSH = v_BGSH.repeat_interleave(module.num_key_value_groups, dim=1)
    scores_BNTS = q_BNTH @ k_BNSH.transpose(2, 3) * scaling
    if mask is not None and mask.dtype == torch.bool:
        scores_BNTS = scores_BNTS.masked_fill(~mask, torch.finfo(scores_BNTS.dtype).min)
    elif mask is not None:
        scores_BNTS = scores_BNTS + mask
    weights_BNTS = nn.functional.softmax(scores_BNTS, dim=-1, dtype=torch.float32).to(q_BNTH.dtype)
    weights_BNTS = nn.functional.dropout(weights_BNTS, p=dropout, training=module.training)
    return (weights_BNTS @ v_BNSH).transpose(1, 2).contiguous(), weights_BNTS


class KindlingAttention(nn.Module):
    """Causal self-attention; `num_key_value_heads` below `num_attention_heads` shares keys and values in groups."""

    is_causal = True

    def __init__(self, config: KindlingConfig, layer_idx: int):
        super().__init__()
        self.config = config  # the attention interface reads `_attn_implementation` from it
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.scaling = config.head_dim**-0.5 * attention_multiplier(config)
        self.attention_dropout = config.attention_dropout

        query_size = config.num_attention_heads * config.head_dim
        key_value_size = config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, query_size, bias=config.bias)
        self.k_proj = nn.Linear(config.hidden_size, key_value_size, bias=config.bias)
        self.v_proj = nn.Linear(config.hidden_size, key_value_size, bias=config.bias)
        self.o_proj = nn.Linear(query_size, config.hidden_size, bias=config.bias)
        self.o_proj.writes_residual = True
        self.q_norm = nn.RMSNorm(config.head_dim, eps=config.norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(config.head_dim, eps=config.norm_eps) if config.qk_norm else nn.Identity()
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.options = config.attention_options
        self.keywords = {option.keyword: getattr(config, name) for name, option in self.options.items()}

    def forward(self, hidden_states, rotary=None, attention_mask=None, past_key_values=None, cache=None, **kwargs):
        """Return the attended states (B, T, D) and the weights, which only the eager implementation returns.

        `rotary` is the pair of cosines and sines, or None with another position encoding; the cache is passed under
        either of its names.
        """
        cache = select_cache(past_key_values, cache, kwargs)
        # Heads are normalised before the transpose, so that sdpa returns its output in the layout that o_proj reads.
        q_BNTH = self.q_norm(self._split_heads(self.q_proj(hidden_states))).transpose(1, 2)
        k_BGTH = self.k_norm(self._split_heads(self.k_proj(hidden_states))).transpose(1, 2)
        v_BGTH = self._split_heads(self.v_proj(hidden_states)).transpose(1, 2)
        if rotary is not None:
            q_BNTH, k_BGTH = rotate(q_BNTH, *rotary), rotate(k_BGTH, *rotary)
        if isinstance(cache, Cache):
            k_BGTH, v_BGTH = cache.update(k_BGTH, v_BGTH, self.layer_idx)
        elif cache is not None:  # that of continuous batching, which passes its pages to the kernel through `kwargs`
            k_BGTH, v_BGTH = cache.update(k_BGTH, v_BGTH, self.layer_idx, kwargs=kwargs)

        attend = attention_function(self.config._attn_implementation, self.options)
        attended_BTNH, weights = attend(
            self,
            q_BNTH,
            k_BGTH,
            v_BGTH,
            attention_mask,
            scaling=self.scaling,
            dropout=self.attention_dropout if self.training else 0.0,
            **self.keywords,
            **kwargs,
        )
        # vLLM's attention returns (B T, N H), so the shape is taken from the input
        return self.dropout(self.o_proj(attended_BTNH.reshape(*hidden_states.shape[:-1], -1))), weights

    def _split_heads(self, x_BTD):
        return x_BTD.unflatten(-1, (-1, self.head_dim))


def attention_function(implementation: str, options: dict[str, AttentionOption]):
    """The function that computes attention; `ValueError` if it is known to ignore one of the `options`."""
    for name, option in options.items():
        if option.implementations is not None and implementation not in option.implementations:
            raise ValueError(
                f"attention implementation {implementation} ignores {name}; use {' or '.join(option.implementations)}"
            )
    return ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention)


def count_positions(inputs_embeds, attention_mask, cache):
    """Default positions (B or 1, T): the number of real tokens before each token in its row."""
    length = inputs_embeds.shape[1]
    if _is_padding(attention_mask):
        counts = attention_mask.sum(-1, keepdim=True) if length == 1 else attention_mask.cumsum(-1)[:, -length:]
        return (counts.long() - 1).clamp(min=0)
    return (torch.arange(length, device=inputs_embeds.device) + _cached_length(cache))[None]


def causal_mask(config, inputs_embeds, attention_mask, past_key_values=None, position_ids=None, cache=None, **_):
    """As `create_causal_mask`, except that a token at position p attends to at most the p real tokens before it.

    So documents of a packed row, whose positions restart at 0, do not attend to each other. `create_causal_mask` alone
    ensures that only without a cache and without a padding mask (B, S). `position_ids` (B or 1, T) are the
    caller's, or None; the cache is passed under either of its names. A mask of four dimensions is returned
    unchanged.
    """
    cache = past_key_values if cache is None else cache
    given = (config, inputs_embeds, attention_mask, cache)
    rules = [option.mask(getattr(config, name)) for name, option in config.attention_options.items() if option.mask]
    allowed = and_masks(*rules) if rules else None
    if position_ids is None or (attention_mask is None and cache is None):
        return create_causal_mask(*given, position_ids, and_mask_function=allowed)
    is_paged = cache is not None and not isinstance(cache, Cache)
    if is_paged or (attention_mask is not None and not _is_padding(attention_mask)):
        return create_causal_mask(*given, and_mask_function=allowed)

    starts_BT = count_positions(inputs_embeds, attention_mask, cache) - position_ids.to(inputs_embeds.device)
    # Rows that are not packed need no mask of their own; a trace, which cannot depend on data, always has one.
    if not (is_tracing(starts_BT) or starts_BT.is_meta) and starts_BT.max().item() <= 0:
        return create_causal_mask(*given, and_mask_function=allowed)

    if attention_mask is not None:  # from a count of real tokens to an index in the row
        starts_BT = torch.searchsorted(attention_mask.long().cumsum(-1), starts_BT + 1)
    starts_BT, seen = starts_BT.expand(inputs_embeds.shape[0], -1), _cached_length(cache)
    same_document = lambda b, _n, t, s: s >= starts_BT[b, t - seen]  # noqa: E731
    return create_causal_mask(*given, and_mask_function=and_masks(same_document, *rules))


def _is_padding(attention_mask):
    return isinstance(attention_mask, torch.Tensor) and attention_mask.ndim == 2


def _cached_length(cache):
    return cache.get_seq_length() if cache is not None else 0
