"""Differences between releases of transformers: the name of the cache, and the keywords that a forward accepts.

transformers 5.24 renamed the cache: forward, mask and output call it `cache`; before, it was
`past_key_values`. Our forwards take either name, and pass on the one that the installed release uses.
"""

import inspect

import torch
import transformers
from transformers import Cache
from transformers.masking_utils import create_causal_mask
from transformers.utils import TransformersKwargs, logging

NEWEST = "5.24"
"""The newest minor release of transformers that these files were tested with; the oldest is 5.13."""
CACHE = "cache" if "cache" in inspect.signature(create_causal_mask).parameters else "past_key_values"


class KindlingKwargs(TransformersKwargs, total=False):
    """Further keywords of a forward: those of transformers, of the loss and of attention kernels."""

    shift_labels: torch.LongTensor | None
    ignore_index: int
    return_dict: bool | None
    # Continuous batching; `max_seqlen` is the older name of `max_length`.
    max_seqlen_q: int | None
    max_seqlen_k: dict | None
    read_index: list[torch.Tensor] | None
    write_index: list[torch.Tensor] | None
    block_table: torch.Tensor | None
    logits_indices: torch.Tensor | None
    logits_processor_args: torch.Tensor | None
    # The attention layers of serving engines: vLLM's and SGLang's.
    attention_instances: dict | None
    forward_batch: object


KNOWN = frozenset({*KindlingKwargs.__annotations__, "cache"})


def check_keywords(model: torch.nn.Module, kwargs: dict):
    """`TypeError` for a keyword that no part of the model reads.

    So a release that renames an input fails; a model that ignored the new name would compute something else.
    """
    if unknown := kwargs.keys() - KNOWN:
        raise TypeError(
            f"{type(model).__name__}.forward() got an unexpected keyword argument {min(unknown)!r}; leave it out, or "
            f"use transformers {NEWEST} or older, which this code was tested with"
        )


def select_cache(past_key_values, cache, kwargs: dict):
    """The cache under either of its names; `ValueError` for two of them.

    Before 5.24 continuous batching passes its own cache, not a `Cache`, to the attention kernel: it stays in `kwargs`.
    """
    if past_key_values is not None and cache is not None:
        raise ValueError("cache and past_key_values are two names of one input; give one of them")
    if CACHE != "cache" and cache is not None and not isinstance(cache, Cache):
        kwargs["cache"] = cache
        return None
    return cache if past_key_values is None else past_key_values


def warn_if_untested(version: str = transformers.__version__):
    """Warn once if transformers is newer than the releases that these files were tested with."""
    if _minor(version) > _minor(NEWEST):
        # The library's own logger, so that several copies of this file warn once together.
        logging.get_logger().warning_once(
            f"this model's code was tested with transformers up to {NEWEST}, and {version} is newer: if its outputs "
            f"look wrong, compare them with those under {NEWEST}"
        )


def _minor(version: str) -> tuple[int, int]:
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


warn_if_untested()
