"""Starting from a checkpoint: GPT-2, Llama or Kindling, from a folder or the Hub; exact, or a `ConfigError`.

It reads configurations, safetensors and tokenizers, never code and never a pickle.
"""

import copy
from pathlib import Path

import torch
from transformers import PreTrainedModel
from transformers.utils import logging
from transformers.utils.hub import cached_file, extract_commit_hash

from modeling.configuration_kindling import KindlingConfig
from modeling.conversion import read_config, read_model, read_tokenizer
from modeling.loading import load_causal_lm, require_safe_files
from settings.checks import ConfigError, build
from storage.hub import check_model_path


def start_config(start: str, changes: dict) -> KindlingConfig:
    """Our configuration of the checkpoint `start`, with `changes`. `ConfigError` if it has none, or cannot be read."""
    build(check_model_path, "model.path", {"path": start})
    return build(read_config, "model.path", {"source": start} | changes)


def check_files(start: str, tokenizer_path: str):
    """`ConfigError` if the checkpoint's weights are not safetensors or do not fit its configuration, or the tokenizer
    is not its own. On the Hub, only checks that there are weights."""
    build(require_safe_files, "model.path", {"source": start})
    if Path(start).is_dir():
        build(_load_shapes, "model.path", {"source": start})
    if tokenizer_path != start:
        check_same_tokenizer(start, tokenizer_of(tokenizer_path))


def _load_shapes(source: str):
    """Load a checkpoint's shapes without values; a `ValueError` says why it fails."""
    verbosity, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        load_causal_lm(source, device_map="meta")
    except Exception as error:  # safetensors raises no narrower class
        raise ValueError(f"{source} does not load: {' '.join(str(error).split())}") from None
    finally:
        logging.set_verbosity(verbosity)
        if has_bars:
            logging.enable_progress_bar()


def describe_start(start: str) -> dict:
    """A checkpoint's name, and its commit if it is on the Hub, for provenance."""
    config = cached_file(start, "config.json", _raise_exceptions_for_missing_entries=False)
    return {"path": start, "commit": extract_commit_hash(config, None)}


def tokenizer_of(path: str):
    """The tokenizer of a folder or a Hub id, or a `ConfigError`."""
    build(check_model_path, "tokenizer.path", {"path": path})
    if (tokenizer := build(read_tokenizer, "tokenizer.path", {"source": path})) is None:
        raise ConfigError(f"tokenizer.path={path} holds no tokenizer; give the folder or Hub id of one")
    return tokenizer


def check_same_tokenizer(start: str, tokenizer):
    """`ConfigError` unless each token of the checkpoint's tokenizer has the same id in this one.

    Further tokens are new, such as a pad token. A checkpoint without a tokenizer is assumed to fit one of its size, not
    counting a pad token.
    """
    own, rows = build(read_tokenizer, "model.path", {"source": start}), start_config(start, {}).vocab_size
    if own is None:
        if len(tokenizer) > rows + 1:
            raise ConfigError(
                f"model.path={start} has {rows} rows of embeddings and no tokenizer, and the one given has "
                f"{len(tokenizer)} tokens; give the one it was trained with as tokenizer.path"
            )
        return
    ids = tokenizer.get_vocab()
    for token, row in sorted(own.get_vocab().items(), key=lambda item: item[1]):
        if ids.get(token) != row:
            raise ConfigError(
                f"model.path={start} has learnt {token!r} as token {row}, which the data's tokenizer has as "
                f"{ids.get(token)}; leave out tokenizer.path, and prepare the data with the checkpoint's own"
            )


def take_weights(model: PreTrainedModel, start: str):
    """Give `model`, built from `start_config`, the weights and the generation settings of the checkpoint.

    A new token's rows are the mean of all others, which adds at most ln(1 + 1/V) to a loss; with random rows it could
    be likelier than every trained token.
    """
    source = build(read_model, "model.path", {"source": start})
    weights = source.state_dict()
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        new = model.config.vocab_size - len(weights[name])
        weights[name] = torch.cat([weights[name], weights[name].mean(0, keepdim=True).expand(new, -1)])
    model.load_state_dict(weights)
    model.generation_config = copy.deepcopy(source.generation_config)
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(model.generation_config, name, getattr(model.config, name))
