"""The attention that trains fastest on the hardware at hand."""

import torch
from transformers import AttentionInterface, AttentionMaskInterface, TrainingArguments
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask


def attention_implementation(args: TrainingArguments) -> str:
    """The attention interface that trains fastest here: transformers' sdpa, in float32 on a CPU that computes in bf16.

    There PyTorch's bfloat16 attention is so slow backward that a step takes longer (`benchmarks/attention.py`).
    """
    return "sdpa_float32" if args.device.type == "cpu" and args.bf16 else "sdpa"


def sdpa_float32(module, query, key, value, attention_mask, **kwargs):
    """transformers' sdpa attention, kept out of a surrounding autocast."""
    with torch.autocast(query.device.type, enabled=False):
        return sdpa_attention_forward(module, query.float(), key.float(), value.float(), attention_mask, **kwargs)


AttentionInterface.register("sdpa_float32", sdpa_float32)
AttentionMaskInterface.register("sdpa_float32", sdpa_mask)
