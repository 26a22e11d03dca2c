"""Writes a checkpoint as transformers' own Llama or GPT-2, or the other way round; `python -m modeling.native`.

A Kindling model that is equivalent to a stock Llama or GPT-2 can be exported as one, so that vLLM, llama.cpp and other
tools read it without our code. What cannot be expressed exactly is refused (`conversion.py`).

    python -m modeling.native SOURCE OUT
    python -m modeling.native SOURCE OUT.gguf
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError

from command_line.run import exit_on_user_error
from storage.hub import check_has_model, check_repository

from . import register


def convert(source: str, out: Path, gguf: bool = False) -> str:
    """Write the counterpart of the checkpoint `source` (a folder or a Hub id) to `out`, and say so in one line.

    Our models become native ones and the other way round; a tokenizer goes along. `out` must be new or empty and
    appears complete or not at all. With `gguf`, or an `out` that ends so, either kind becomes a file for llama.cpp,
    called model.gguf where `out` is a folder. A source that does not load is a `ValueError`, as one without a
    counterpart is.
    """
    out = Path(out).resolve()
    check_places(source, out)

    from .conversion import counterpart, dropped_settings, load_errors, read_tokenizer
    from .gguf_file import gguf_fields, import_gguf
    from .loading import load_causal_lm

    gguf = gguf or out.suffix == ".gguf"
    if gguf:
        import_gguf()
    with load_errors(source):
        model = load_causal_lm(source)
    tokenizer = read_tokenizer(source)
    converted = counterpart(model, gguf)
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
    return f"{out}: {type(converted).__name__}, {size}, {with_tokenizer}{dropped_settings(model)}"


def check_places(source: str, out: Path):
    """`ValueError` if `out` cannot be written, or `source` is a path to no folder."""
    out = out.resolve()
    if out.exists() and (out.suffix == ".gguf" or not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists already; give a new or an empty folder")
    if source.startswith((".", "/", "~")) and not Path(source).is_dir():
        raise ValueError(f"there is no folder {source}; give one with a checkpoint, or a Hub id")
    try:
        tempfile.TemporaryFile(dir=next(path for path in out.parents if path.exists())).close()
    except OSError as error:
        raise ValueError(f"{out} cannot be written to: {error.strerror}; give another folder") from None


def _save_gguf(model, fields, path):
    from .gguf_file import write_gguf

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


def parse_arguments() -> argparse.Namespace:
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
    return parser.parse_args()


def main():
    """The command line: one line on stdout, or one on stderr and exit code 2."""
    arguments = parse_arguments()
    check_has_model(Path(arguments.source))
    try:
        check_places(arguments.source, arguments.out)
        if not Path(arguments.source).is_dir() and arguments.source[:1] not in "./~":
            check_repository(arguments.source)
        register()
        print(_convert_quietly(arguments))
    except (OSError, ValueError, StrictDataclassError) as error:
        print(f"modeling.native: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)


def _convert_quietly(arguments: argparse.Namespace) -> str:
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    return convert(arguments.source, arguments.out, arguments.gguf)


if __name__ == "__main__":
    with exit_on_user_error("modeling.native"):
        main()
