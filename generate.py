"""Generate text with a model: a run folder, a checkpoint, or a Hub id.

Without a prompt the model starts a new document. Tokens are printed as they are sampled.

    python generate.py runs/demo
    python generate.py runs/demo --prompt "In a small house" "Far beyond" --temperature 0.7 --seed 1 --samples 3
    python generate.py runs/demo --interactive
    python generate.py runs/demo --score story.txt

--score reads files as training does: a text file is one document, or is cut by the run's data.sample_by; each record of
JSON lines, CSV and parquet is a document. Of a prompt with a completion, only the completion is scored.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

from command_line.run import exit_on_user_error
from storage.files import read_mapping
from training.reporting.prompting import Sampling, decoded, path_of_model, seeds_of


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="run folder, checkpoint folder or Hub id")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--prompt", nargs="+", help="one or more prompts")
    source.add_argument("--file", type=Path, help="a file with one prompt per line")
    source.add_argument("--score", type=Path, metavar="FILE", nargs="+", help="print loss and bits per byte of these")
    source.add_argument("--interactive", action="store_true", help="read prompts until an empty line")
    parser.add_argument("--samples", type=int, default=1, help="continuations per prompt (default 1)")
    parser.add_argument("--temperature", type=float, default=0.8, help="0 is greedy (default 0.8)")
    parser.add_argument("--top-k", type=int, default=0, help="sample from the k most likely tokens (default: all)")
    parser.add_argument("--top-p", type=float, default=1.0, help="nucleus (top-p) sampling (default 1: off)")
    parser.add_argument("--max-new-tokens", type=int, help="default: up to the model's maximum positions")
    parser.add_argument("--ignore-end", action="store_true", help="continue after an end-of-text token")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first sample; others add 1 (default 0)")
    return parser.parse_args()


def main(arguments: argparse.Namespace):
    seeds = seeds_of(arguments.seed, arguments.samples)
    sampling = Sampling(
        arguments.temperature, arguments.top_k, arguments.top_p, arguments.max_new_tokens, not arguments.ignore_end
    )
    texts, prompts = read_documents_to_score(arguments.score or [], arguments.model), read_prompts(arguments)
    path_of_model(arguments.model)
    from training.reporting import generation  # takes seconds

    model, tokenizer = generation.load_model(arguments.model)
    generation.check_known_text(tokenizer, texts)
    for name, documents in texts.items():
        print(generation.describe_score(model, tokenizer, documents, name))
    if not texts:
        print_continuations(model, tokenizer, prompts, seeds, sampling)


def print_continuations(model, tokenizer, prompts: Iterable[str], seeds: range, sampling):
    """Print each prompt's continuations as they are generated, after checking all known prompts; several with seeds."""
    from transformers import set_seed

    from training.reporting.generation import ids_to_continue, stream

    for prompt in prompts if isinstance(prompts, list) else ():
        ids_to_continue(model, tokenizer, prompt)
    for prompt in prompts:
        for seed in seeds:
            if len(seeds) > 1:
                print(f"--seed {seed}:")
            set_seed(seed)
            stream(model, tokenizer, prompt, sampling)


def read_prompts(arguments: argparse.Namespace) -> Iterable[str]:
    """The prompts given by the arguments, as a list unless they are typed; one empty prompt if there are none."""
    from data_prep.sources.local_files import documents_of

    if arguments.interactive:
        return map(decoded, iter(lambda: input("> "), ""))
    if arguments.file is None:
        return [decoded(prompt) for prompt in arguments.prompt or [""]]
    return [decoded(str(document["text"])) for document in documents_of(arguments.file, sample_by="line")]


def read_documents_to_score(paths: list[Path], model: str) -> dict[str, list[dict]]:
    """The documents of each file, cut as in the run if `model` is a run folder."""
    from data_prep.sources.local_files import documents_of

    settings = Path(model) / "experiment.yaml"
    data = read_mapping(settings, "restore the run's file").get("data", {}) if settings.exists() else {}
    as_trained = {name: data.get(name) for name in ("sample_by", "text_field")}
    return {str(path): documents_of(path, **as_trained) for path in paths}


if __name__ == "__main__":
    with exit_on_user_error("generate.py", only_prints=True):
        try:
            main(parse_arguments())
        except (EOFError, KeyboardInterrupt):
            print()
