"""Convert to and from transformers' own Llama and GPT-2 models, exactly or not at all.

A Kindling model that is equivalent to a stock Llama or GPT-2 can be exported as one, so that vLLM, llama.cpp and other
tools read it without our code. Whatever has no exact counterpart raises, fields and weights that are added later
included; nothing is approximated. What has no effect in inference is dropped: initialisation (`residual_init`,
`linear_init`, `embedding_init_std`), dropouts that Llama does not have, and `use_cache`, which a Trainer turns off
and saves so. muP's scales are multiplied into the weights. Pickled weights are not read.

    python -m modeling.native SOURCE OUT
    python -m modeling.native SOURCE OUT.gguf
"""

import argparse
import copy
import dataclasses
import json
import tempfile
from contextlib import contextmanager
from pathlib import Path

import torch
from huggingface_hub import get_token
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.utils import cached_file, logging

from .configuration_kindling import KindlingConfig
from .gguf_file import gguf_fields, import_gguf, write_gguf
from .loading import load_causal_lm
from .stock import ACTIVATIONS, GPT2, LLAMA, NATIVES, fold_scales, listed, native_of, require


def to_native(model: PreTrainedModel) -> PreTrainedModel:
    """The `LlamaForCausalLM` or `GPT2LMHeadModel` that computes what our `model` computes, with copies of its weights.

    A `ValueError` names every axis, and the first weight, that keeps the model from being one.
    """
    config = model.config
    native = native_of(config)
    theirs = {name: getattr(config, ours) for name, ours in native.fields.items()}
    folded = lambda weights, layers: native.to_theirs(fold_scales(weights, config), layers)  # noqa: E731
    return _rebuild(model, native.config(**theirs), folded)


def from_native(model: PreTrainedModel) -> PreTrainedModel:
    """Our model that computes what a `LlamaForCausalLM` or `GPT2LMHeadModel` computes, with copies of its weights.

    A `ValueError` names whatever our families cannot express.
    """
    native = NATIVES.get(type(model).__name__)
    if native is None:
        raise ValueError(f"{type(model).__name__} has no place in Kindling; give one of {', '.join(NATIVES)}")
    ours = _rebuild(model, our_config(model.config), native.to_ours)
    # The limit that our constructor sets: a native configuration may leave it open.
    ours.generation_config.max_length = ours.generation_config.max_length or ours.config.max_position_embeddings
    return ours


def our_config(config: PreTrainedConfig) -> KindlingConfig:
    """Our configuration of what a `LlamaConfig` or `GPT2Config` describes; a `ValueError` says why there is none.

    Theirs may leave the MLP's width open, and write a rate as an int or null.
    """
    native = next((one for one in NATIVES.values() if type(config) is one.config), None)
    if native is None:
        raise ValueError(f"model_type={config.model_type} has no place in Kindling; give a llama or a gpt2")
    theirs = _flat(config)
    require(theirs, native.required_of_theirs(), f"Kindling's {native.name}")
    if native is LLAMA and theirs["attention_bias"] != theirs["mlp_bias"]:
        raise ValueError(
            f"attention_bias={theirs['attention_bias']}, mlp_bias={theirs['mlp_bias']} has no place in Kindling's "
            "Llama, which has one bias for both; use the checkpoint as it is"
        )
    ours = {our_name: theirs[name] for name, our_name in native.fields.items()}
    ours["intermediate_size"] = ours["intermediate_size"] or 4 * ours["hidden_size"]
    if native is GPT2:
        ours["mlp"] = ACTIVATIONS[ours["mlp"]]
    floats = {field.name for field in dataclasses.fields(KindlingConfig) if field.type == float | int}
    return native.family(**{name: float(value or 0) if name in floats else value for name, value in ours.items()})


def _flat(config):
    """A native configuration as a flat dict, with transformers' common names and the rotary settings added."""
    given = config.to_dict()
    aliases = {common: given[own] for common, own in config.attribute_map.items()}
    return given | aliases | (given.get("rope_parameters") or {})


def _rebuild(model, config, convert):
    """A model of `config` with the converted weights of `model`, and its dtype, device and training mode."""
    with torch.random.fork_rng(
        devices=[]
    ):  # initialising weights that are then overwritten must not advance the random state
        rebuilt = AutoModelForCausalLM.from_config(config, dtype=model.dtype)
    weights = convert(model.state_dict(), model.config.num_hidden_layers)
    if odd := sorted(weights.keys() ^ rebuilt.state_dict().keys()):
        raise ValueError(f"{len(odd)} weights, such as {odd[0]}, have no place in a {type(rebuilt).__name__}")
    rebuilt.load_state_dict(weights)
    rebuilt.generation_config = copy.deepcopy(model.generation_config)
    return rebuilt.to(model.device).train(model.training)


def read_config(source: str, **changes) -> KindlingConfig:
    """Our configuration, with `changes`, of a checkpoint of ours, a Llama or a GPT-2: a folder or a Hub id.

    No weight is read. A `ValueError` says why it does not load, or what our families cannot express.
    """
    with _load_errors(source):
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    ours = config if isinstance(config, KindlingConfig) else our_config(config)
    ours.update(changes)
    ours.validate()
    return ours


def read_model(source: str) -> PreTrainedModel:
    """A checkpoint of ours, a Llama or a GPT-2 as a model of ours in float32. `ValueError` as from `read_config`."""
    with _load_errors(source):
        model = load_causal_lm(source, dtype=torch.float32)
    return model if isinstance(model.config, KindlingConfig) else from_native(model)


def convert(source: str, out: Path, gguf: bool = False) -> str:
    """Write the counterpart of the checkpoint `source` (a folder or a Hub id) to `out`, and say so in one line.

    Our models become native ones and the other way round; a tokenizer goes along. `out` must be new or empty and
    appears complete or not at all. With `gguf`, or an `out` that ends so, either kind becomes a file for llama.cpp,
    called model.gguf where `out` is a folder. A source that does not load is a `ValueError`, as one without a
    counterpart is.
    """
    out = Path(out).resolve()
    gguf = gguf or out.suffix == ".gguf"
    if gguf:
        import_gguf()
    if out.exists() and (out.suffix == ".gguf" or not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists already; give a new or an empty folder")
    if source.startswith((".", "/", "~")) and not Path(source).is_dir():
        raise ValueError(f"there is no folder {source}; give one with a checkpoint, or a Hub id")
    try:
        tempfile.TemporaryFile(dir=next(path for path in out.parents if path.exists())).close()
    except OSError as error:
        raise ValueError(f"{out} cannot be written to: {error.strerror}; give another folder") from None
    with _load_errors(source):
        model = load_causal_lm(source)
    tokenizer = read_tokenizer(source)
    converted = _counterpart(model, gguf)
    fields = gguf_fields(converted, tokenizer) if gguf else None

    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as staging:
        staged = Path(staging) / out.name
        if gguf:
            _save_gguf(converted, fields, staged)
        else:
            _save(converted, tokenizer, staged)
        staged.replace(out)
    with_tokenizer = "no tokenizer" if tokenizer is None else "with its tokenizer"
    size = f"{converted.num_parameters():,} parameters"
    return f"{out}: {type(converted).__name__}, {size}, {with_tokenizer}{_dropped_settings(model)}"


def _counterpart(model, gguf):
    """The native model for one of ours and vice versa; for a GGUF file a native model in both cases."""
    if isinstance(model.config, KindlingConfig):
        return to_native(model)
    ours = from_native(model)
    return to_native(ours) if gguf else ours


def _dropped_settings(model):
    if not isinstance(model.config, KindlingConfig):
        return ""
    dropouts = native_of(model.config).dropped_dropouts(model.config)
    return f", without {listed(dropouts)}" if dropouts else ""


def _save_gguf(model, fields, path):
    if path.suffix != ".gguf":
        path.mkdir()
        path /= "model.gguf"
    write_gguf(model, fields, path)


def _save(model, tokenizer, folder):
    model.save_pretrained(folder)
    if tokenizer is not None:
        _save_tokenizer(tokenizer, folder)


def _save_tokenizer(tokenizer, folder):
    """Save under the class name that transformers 4, and converters built on it, also know.

    Whether a text gets a start token, in transformers part of the post-processor, is written as `add_bos_token` too.
    """
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    about = json.loads(path.read_text(encoding="utf-8"))
    if about.get("tokenizer_class") == "TokenizersBackend":
        about["tokenizer_class"] = "PreTrainedTokenizerFast"
    about["add_bos_token"] = adds_start(tokenizer)
    path.write_text(json.dumps(about, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def adds_start(tokenizer) -> bool:
    """Whether it puts its start token before a text."""
    return tokenizer.bos_token_id is not None and tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]


@contextmanager
def _load_errors(source):
    """Turn any error into a `ValueError` of one line that names the source."""
    try:
        yield
    except Exception as error:  # tokenizers raises nothing narrower
        reason = str(error)
        if token := get_token():  # which an HTTP client quotes in some errors
            reason = reason.replace(repr(token.encode())[2:-1], "hf_***")
        raise ValueError(f"{source} does not load: {' '.join(reason.split())}") from error


def read_tokenizer(source: str):
    """The tokenizer, or None; its file is looked up, because AutoTokenizer returns an empty one for a GPT-2 without."""
    with _load_errors(source):
        if cached_file(source, "tokenizer_config.json", _raise_exceptions_for_missing_entries=False) is None:
            return None
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False)


def main():
    """The command line: one line on stdout, or one on stderr and exit code 2."""
    parser = argparse.ArgumentParser(
        prog="python -m modeling.native",
        description="Rewrite a Kindling checkpoint as transformers' own Llama or GPT-2, or the other way round, or "
        "either as a GGUF file for llama.cpp.",
    )
    parser.add_argument("source", help="a folder or a Hub id")
    parser.add_argument("out", type=Path, help="a new folder, or a new file that ends in .gguf")
    parser.add_argument(
        "--gguf", action="store_true", help="write a GGUF file for llama.cpp: `out`, or model.gguf in it"
    )
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    from storage.hub import check_has_model, check_repository  # of the command alone, as below

    check_has_model(Path(arguments.source))
    if not Path(arguments.source).is_dir() and arguments.source[:1] not in "./~":
        check_repository(arguments.source)
    try:
        print(convert(arguments.source, arguments.out, arguments.gguf))
    except (OSError, ValueError, StrictDataclassError) as error:
        parser.exit(2, f"modeling.native: {' '.join(str(error).split())}\n")


if __name__ == "__main__":
    from command_line.run import exit_on_user_error  # of the command alone, which does not go to the Hub

    with exit_on_user_error("modeling.native"):
        main()
