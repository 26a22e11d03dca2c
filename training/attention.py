"""Chooses the attention implementation that trains fastest on the present hardware."""

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, TrainingArguments
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from modeling.configuration_kindling import KindlingConfig


def attention_implementation(args: TrainingArguments, config: KindlingConfig) -> str:
    """The attention interface that trains fastest here: transformers' sdpa, in float32 on a CPU that computes in bf16.

    There the backward pass of PyTorch's bfloat16 attention makes steps slower (`benchmarks/attention.py`). With dropout
    PyTorch has no fused attention on a CPU, and an explicit one with masks by row is faster. A GPU's fused
    attention draws masks for a whole batch; an explicit one would take (T, S) memory per head.
    """
    if not config.supports_sdpa:
        return "eager"
    if args.device.type != "cpu":
        return "sdpa"
    if config.attention_dropout:
        return "dropout_by_row"
    return "sdpa_float32" if args.bf16 else "sdpa"


def sdpa_float32(module, query, key, value, attention_mask, **kwargs):
    """transformers' sdpa attention, kept out of a surrounding autocast."""
    with torch.autocast(query.device.type, enabled=False):
        return sdpa_attention_forward(module, query.float(), key.float(), value.float(), attention_mask, **kwargs)


def dropout_by_row(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    """Attention in float32 with the dropout masks of `module.place` (`dropout.py`); without them, sdpa."""
    place = getattr(module, "place", None)
    if not dropout or place is None or not place.is_of(query.transpose(1, 2)):
        return sdpa_float32(module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs)
    with torch.autocast(query.device.type, enabled=False):
        q_BNTH, k_BGSH, v_BGSH = query.float(), key.float(), value.float()
        k_BNSH, v_BNSH = (x.repeat_interleave(q_BNTH.shape[1] // x.shape[1], dim=1) for x in (k_BGSH, v_BGSH))
        scores_BNTS = q_BNTH * scaling @ k_BNSH.transpose(2, 3)
        allowed = attention_mask
        if allowed is None:  # as with `is_causal` of sdpa: only the future is masked
            allowed = torch.ones(scores_BNTS.shape[2:], dtype=torch.bool, device=query.device).tril()
        scores_BNTS = scores_BNTS.masked_fill(~allowed, torch.finfo(torch.float32).min)
        weights_BNTS = nn.functional.softmax(scores_BNTS, dim=-1)
        weights_BNTS = weights_BNTS * place.mask_heads(module.key, weights_BNTS.shape, dropout, weights_BNTS.dtype)
        return (weights_BNTS @ v_BNSH).transpose(1, 2).contiguous(), None


AttentionInterface.register("sdpa_float32", sdpa_float32)
AttentionMaskInterface.register("sdpa_float32", sdpa_mask)
AttentionInterface.register("dropout_by_row", dropout_by_row)
AttentionMaskInterface.register("dropout_by_row", sdpa_mask)
