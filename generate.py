"""Prompt a model: a run folder, a checkpoint, or a Hub id.

Without a prompt the model starts a text of its own. Text goes to the terminal as it is drawn.

    python generate.py runs/demo
    python generate.py runs/demo --prompt "Once, by the river," --temperature 0.7 --seed 1
    python generate.py runs/demo --prompt "In a small house" "Far beyond" --max-new-tokens 50
    python generate.py runs/demo --interactive
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

from config import one_sentence
from sections import ConfigError


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="run folder, checkpoint folder or Hub id")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--prompt", nargs="+", help="one or several prompts")
    source.add_argument("--file", type=Path, help="a file with one prompt a line")
    source.add_argument("--interactive", action="store_true", help="ask for prompts until an empty line")
    parser.add_argument("--temperature", type=float, default=0.8, help="0 is greedy (default 0.8)")
    parser.add_argument("--top-k", type=int, default=0, help="draw among the k likeliest tokens only (default: all)")
    parser.add_argument("--top-p", type=float, default=1.0, help="draw among the likeliest with this share (default 1)")
    parser.add_argument("--max-new-tokens", type=int, help="default: as many as the model has positions for")
    parser.add_argument("--ignore-end", action="store_true", help="go on after an end of text")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same text (default 0)")
    return parser.parse_args()


def main(arguments: argparse.Namespace):
    from transformers import set_seed

    from training.generation import Sampling, load_model, stream

    sampling = Sampling(
        arguments.temperature, arguments.top_k, arguments.top_p, arguments.max_new_tokens, not arguments.ignore_end
    )
    model, tokenizer = load_model(arguments.model)
    for prompt in prompts(arguments):
        set_seed(arguments.seed)
        stream(model, tokenizer, prompt, sampling)


def prompts(arguments: argparse.Namespace) -> Iterator[str]:
    """The prompts asked for, one after the other; an empty one where none was."""
    if arguments.interactive:
        while prompt := input("> "):
            yield prompt
    elif arguments.file is None:
        yield from arguments.prompt or [""]
    elif arguments.file.is_file():
        try:
            yield from arguments.file.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            raise ConfigError(f"{arguments.file} is not UTF-8; save it as UTF-8 text") from None
    else:
        raise ConfigError(f"there is no file {arguments.file}; give a text file with one prompt a line")


if __name__ == "__main__":
    try:
        with one_sentence("generate.py"):
            main(parse_arguments())
    except (EOFError, KeyboardInterrupt):
        print()
