"""Parameters and FLOPs of a configuration, counted part by part, without building the model.

Conventions. A multiply-add is 2 FLOPs. Attention is counted over the full T x T square, as every kernel's
specification is, although a causal kernel may skip half of it. Element-wise work is counted separately: 6 per score
for the softmax, 4 per element for a norm, 3 per element of q and k for rotary positions, 1 for each residual add, bias
and learned position; activation functions, a soft-cap on logits and dropout are not counted.

Training FLOPs (`training_flops`; `total_flos` and MFU of a run) are the matrix products of the forward pass and of its
backward pass, which has twice as many (Kaplan et al., 2020). Each example counts by its own length: padding is left
out, although the device computes it, and so is what gradient checkpointing computes again. The optimiser's own
products (Muon's) are counted separately, as `optimizer_flops`. `tests/modeling/test_accounting.py` and
`tests/training/test_flops.py` compare with torch's FLOP counter.

A published table for a 24-layer, 1024-wide, 16-head model gives 1,035,328,290,816 forward FLOPs; it counts the
softmax for 12 heads. With 16 it is 1,035,932,270,592, which is what this module returns.
"""

import torch

from .configuration_kindling import KindlingConfig
from .layers import MLPS, build_norm

FLOAT32_BYTES = 4


def parameters(config: KindlingConfig) -> dict[str, int]:
    """Trainable parameters by part; a tied head adds none."""
    d, f, v, layers = config.hidden_size, config.intermediate_size, config.vocab_size, config.num_hidden_layers
    q, kv, bias = _query_size(config), _key_value_size(config), int(config.bias)
    mlp_inputs = 2 if MLPS[config.mlp].gated else 1
    return {
        "embedding": v * d,
        "positions": config.max_position_embeddings * d if config.position == "learned" else 0,
        "attention": layers * (2 * d * q + 2 * d * kv + bias * (q + 2 * kv + d)),
        "query-key norms": layers * 2 * config.head_dim if config.qk_norm else 0,
        "feedforward": layers * ((mlp_inputs + 1) * d * f + bias * (mlp_inputs * f + d)),
        "norms": _norm_count(config) * _norm_parameters(config),
        "head": 0 if config.tie_word_embeddings else v * d,
    }


def embedding_parameters(config: KindlingConfig) -> int:
    """Parameters that are only looked up by id or position; a tied embedding counts here, an untied head does not."""
    count = parameters(config)
    return count["embedding"] + count["positions"]


def matmul_flops(config: KindlingConfig, length: int, batch: int = 1) -> dict[str, int]:
    """FLOPs of the matrix products of one forward pass over `batch` sequences of `length` tokens, by part."""
    return product_flops(config, batch * length, batch * length * length)


def product_flops(config: KindlingConfig, tokens: int, pairs: int, logits: int | None = None) -> dict[str, int]:
    """FLOPs of the matrix products of any forward pass, by part.

    It runs over `tokens`, compares `pairs` of a query and a key (T x T for a sequence of T tokens) and has the head at
    `logits` of the tokens, by default at all. Each number may be a tensor.
    """
    d, f, layers, q = config.hidden_size, config.intermediate_size, config.num_hidden_layers, _query_size(config)
    mlp_matrices = 3 if MLPS[config.mlp].gated else 2
    return {
        "feedforward": layers * mlp_matrices * 2 * tokens * d * f,
        "attention projections": layers * 2 * tokens * d * (2 * q + 2 * _key_value_size(config)),
        "attention mechanism": layers * 2 * 2 * pairs * q,
        "head": 2 * (tokens if logits is None else logits) * d * config.vocab_size,
    }


def elementwise_flops(config: KindlingConfig, length: int, batch: int = 1) -> dict[str, int]:
    """FLOPs of the element-wise work of one forward pass, by part, in this module's conventions."""
    d, f, layers, tokens = config.hidden_size, config.intermediate_size, config.num_hidden_layers, batch * length
    q, kv = _query_size(config), _key_value_size(config)
    mlp_inputs = 2 if MLPS[config.mlp].gated else 1
    return {
        "softmax": layers * 6 * tokens * length * config.num_attention_heads,
        "norms": 4 * tokens * d * _norm_count(config),
        "query-key norms": layers * 4 * tokens * (q + kv) if config.qk_norm else 0,
        "rotary positions": layers * 3 * tokens * (q + kv) if config.position == "rope" else 0,
        "learned positions": tokens * d if config.position == "learned" else 0,
        "residual adds": layers * 2 * tokens * d,
        "biases": layers * tokens * (q + 2 * kv + d + mlp_inputs * f + d) if config.bias else 0,
    }


def forward_flops(config: KindlingConfig, length: int, batch: int = 1) -> dict[str, int]:
    """Matrix products and element-wise work of one forward pass, by part."""
    return matmul_flops(config, length, batch) | elementwise_flops(config, length, batch)


def training_flops(config: KindlingConfig, length: int, batch: int = 1) -> int:
    """FLOPs of training once on `batch` sequences of `length` tokens: 3 x the forward pass's matrix products."""
    return training_flops_of(config, batch * length, batch * length * length)


def training_flops_of(config: KindlingConfig, tokens: int, pairs: int) -> int:
    """FLOPs of training once on examples of lengths T: `tokens` is the sum of T over them, `pairs` that of T x T."""
    return 3 * sum(product_flops(config, tokens, pairs).values())


def key_value_flops(config: KindlingConfig, tokens: int) -> int:
    """FLOPs of the keys and values of one layer for `tokens` tokens."""
    return 2 * tokens * config.hidden_size * 2 * _key_value_size(config)


def _query_size(config):
    return config.num_attention_heads * config.head_dim


def _key_value_size(config):
    return config.num_key_value_heads * config.head_dim


def _norm_count(config):
    """Two per block, and a final one unless the last block ends in a norm."""
    if config.norm == "none":
        return 0
    return 2 * config.num_hidden_layers + (config.norm_placement == "pre")


def _norm_parameters(config):
    with torch.device("meta"):
        return sum(one.numel() for one in build_norm(config, config.hidden_size).parameters())
