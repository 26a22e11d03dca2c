"""Write a stock Llama or GPT-2 with its tokenizer as one GGUF file for llama.cpp, exactly or not at all.

llama.cpp knows pre-tokenizers by name. Ours is identical to GPT-2's, and the file says so; llama.cpp's own converter
identifies tokenizers by hashes of their output, and knows published ones only. Weights are float32, as llama.cpp reads
them; its `llama-quantize` makes smaller files from it.
"""

import json
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

NOT_SUPPORTED = "has no place in a GGUF file, which has"
# The settings of byte-level BPE in a tokenizer's JSON with which llama.cpp gives the same tokens.
GPT2_BPE = {
    "type": ("BPE",),
    "dropout": (None,),
    "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""),
    "byte_fallback": (False,),
    "ignore_merges": (False,),
}
GPT2_PRE_TOKENIZER = {"type": ("ByteLevel",), "add_prefix_space": (False,), "use_regex": (True,)}


def gguf_fields(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> dict:
    """Metadata of a `LlamaForCausalLM` or `GPT2LMHeadModel` and its tokenizer, by the names of the writer's methods.

    `ValueError` names what a file cannot represent exactly.
    """
    described = {"llama": _llama, "gpt2": _gpt2}[model.config.model_type](model.config)
    return _size(model.config) | described | _tokens(tokenizer, model)


def write_gguf(model: PreTrainedModel, fields: dict, path: Path):
    """Write the file, in float32, with its `gguf_fields`."""
    gguf = import_gguf()
    writer = gguf.GGUFWriter(path, model.config.model_type)
    for name, value in {"name": path.stem, "file_type": gguf.LlamaFileType.ALL_F32, **fields}.items():
        getattr(writer, f"add_{name}")(value)
    for name, tensor in _tensors(model, gguf).items():
        writer.add_tensor(name, tensor.float().contiguous().cpu().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def import_gguf():
    """The package, which is an extra; `ValueError` says how to install it."""
    try:
        import gguf
    except ImportError:
        raise ValueError("a GGUF file needs the package gguf; pip install 'kindling-lm[gguf]'") from None
    return gguf


# ---- the model


def _size(config) -> dict:
    return {
        "vocab_size": config.vocab_size,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "head_count": config.num_attention_heads,
    }


def _llama(config) -> dict:
    return {
        "feed_forward_length": config.intermediate_size,
        "head_count_kv": config.num_key_value_heads,
        "key_length": config.head_dim,
        "value_length": config.head_dim,
        "rope_dimension_count": config.head_dim,
        "rope_freq_base": config.rope_parameters["rope_theta"],
        "layer_norm_rms_eps": config.rms_norm_eps,
    }


def _gpt2(config) -> dict:
    if config.activation_function != "gelu_new":
        raise ValueError(
            f"activation_function={config.activation_function} {NOT_SUPPORTED} gelu_new; use the checkpoint as it is"
        )
    return {"feed_forward_length": config.n_inner or 4 * config.n_embd, "layer_norm_eps": config.layer_norm_epsilon}


def _tensors(model, gguf) -> dict[str, torch.Tensor]:
    """The weights with llama.cpp's names and layout; without a head it uses the embedding."""
    config = model.config
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[config.model_type.upper()], config.num_hidden_layers)
    tensors = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        if config.model_type == "gpt2" and ".c_" in name and tensor.ndim == 2:
            tensor = tensor.T  # a Conv1D is in x out
        for projection, heads in ("q_proj", "num_attention_heads"), ("k_proj", "num_key_value_heads"):
            if f".{projection}." in name:
                tensor = _interleave_pairs(tensor, getattr(config, heads))
        tensors[names.get_name(name, try_suffixes=(".weight", ".bias"))] = tensor
    return tensors


def _interleave_pairs(tensor, heads):
    """Rows of queries or keys: the pairs that rotate together, (i, i + H/2) of a head, become (2i, 2i + 1)."""
    return tensor.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


# ---- the tokenizer


def _tokens(tokenizer, model) -> dict:
    """The metadata of the tokenizer, by the names of the writer's methods."""
    if tokenizer is None:
        raise ValueError("there is no tokenizer, which a GGUF file holds; use the checkpoint as it is")
    state = json.loads(tokenizer.backend_tokenizer.to_str()) if tokenizer.is_fast else {"model": {}}
    _check_tokenizer(state)
    end = tokenizer.eos_token_id
    start = end if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    _check_end_token(model, end)
    tokens, types = _vocabulary(tokenizer, state, model.config.vocab_size)
    pad = {} if tokenizer.pad_token_id is None else {"pad_token_id": tokenizer.pad_token_id}
    return pad | {
        "tokenizer_model": "gpt2",
        "tokenizer_pre": "gpt-2",
        "token_list": tokens,
        "token_types": types,
        "token_merges": [pair if isinstance(pair, str) else " ".join(pair) for pair in state["model"]["merges"]],
        "bos_token_id": start,
        "eos_token_id": end,
        "add_bos_token": _adds_start(tokenizer, start),
    }


def _check_tokenizer(state):
    """`ValueError` for all but GPT-2's byte-level BPE, with other merges and tokens."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    found = {f"model.{name}": (state["model"].get(name), known) for name, known in GPT2_BPE.items()}
    found["normalizer"] = state.get("normalizer"), (None,)
    before = state.get("pre_tokenizer") or {}
    found |= {f"pre_tokenizer.{name}": (before.get(name), known) for name, known in GPT2_PRE_TOKENIZER.items()}
    wrong = [f"{name}={value}" for name, (value, known) in found.items() if value not in known]
    if not wrong and set(bytes_to_unicode().values()) - set(state["model"]["vocab"]):
        wrong = ["a vocabulary without some of the 256 bytes"]
    if wrong:
        raise ValueError(
            f"a tokenizer with {wrong[0]} {NOT_SUPPORTED} GPT-2's byte-level BPE; use the checkpoint as it is"
        )


def _check_end_token(model, end):
    """`ValueError` if generation stops at several tokens: a file has one end of text."""
    ends = model.generation_config.eos_token_id
    if end is None or not {end} >= set(ends if isinstance(ends, list) else [end if ends is None else ends]):
        raise ValueError(f"eos_token_id={ends} {NOT_SUPPORTED} the tokenizer's, {end}; use the checkpoint as it is")


def _vocabulary(tokenizer, state, size):
    """Tokens by id and their types; unused ids of the model get names that do not occur in text."""
    vocabulary, added = tokenizer.get_vocab(), {token["content"]: token for token in state["added_tokens"]}
    if max(vocabulary.values()) >= size:
        raise ValueError(f"a tokenizer of {len(vocabulary)} tokens has no place beside a model of {size}")
    for name, token in added.items():
        if not token["special"] and (token["lstrip"] or token["rstrip"] or token["single_word"]):
            raise ValueError(f"the token {name!r}, which takes spaces or whole words, {NOT_SUPPORTED} no such tokens")
    tokens = [f"[PAD{index}]" for index in range(size)]
    types = ["UNUSED"] * size
    for token, index in vocabulary.items():
        tokens[index], types[index] = token, "NORMAL"
        if token in added:
            types[index] = "CONTROL" if added[token]["special"] else "USER_DEFINED"
    return tokens, [import_gguf().TokenType[name] for name in types]


def _adds_start(tokenizer, start) -> bool:
    """Whether a text begins with the start token; a `ValueError` if something else is added."""
    plain, ids = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
    if ids not in (plain, [start, *plain]):
        raise ValueError(f"a tokenizer that makes {ids} of {plain} {NOT_SUPPORTED} a start token or none")
    return ids != plain
