"""Trains a tokenizer on a corpus: `python -m data_prep.tokenizer --source SOURCE`."""

import argparse
from pathlib import Path

from command_line.run import exit_on_user_error
from data_prep.sources.table import open_corpus
from settings.checks import ConfigError
from settings.data_sections import DataSection, TokenizerSection
from settings.loading import read_settings
from settings.paths import safe_file_name
from storage.files import check_writable

from .build import build_tokenizer, describe, parse_bytes, save


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.tokenizer", description="Train byte-level BPE on a corpus."
    )
    parser.add_argument(
        "--source", required=True, help="a name that `python -m data_prep.sources` lists, a Hub id or files"
    )
    parser.add_argument(
        "--vocab-size", type=int, default=10_000, help="tokens, including special ones (default: 10,000)"
    )
    parser.add_argument(
        "--bytes", help="amount of text to train on, spread over the corpus, such as 500MB (default: all)"
    )
    parser.add_argument("--text-field", help="text column (default: the source's)")
    parser.add_argument(
        "--sample-by", help="how plain text is cut into documents: paragraph, line, document or a separator"
    )
    parser.add_argument(
        "--output", type=Path, help="folder for the tokenizer (default: prepared/tokenizers/SOURCE-SIZE)"
    )
    parser.add_argument(
        "settings",
        nargs="*",
        metavar="section.key=value",
        help="settings of data and tokenizer, such as data.bad_records=0.01",
    )
    return parser.parse_intermixed_args()


@exit_on_user_error("data_prep.tokenizer")
def main():
    arguments = parse_arguments()
    folder = (
        arguments.output
        or Path("prepared", "tokenizers") / f"{safe_file_name(Path(arguments.source).stem)}-{arguments.vocab_size}"
    )
    if folder.exists():
        raise ConfigError(f"{folder} exists already; choose another --output")
    check_writable(folder, f"--output {folder}")
    size = None if arguments.bytes is None else parse_bytes(arguments.bytes)
    given = read_settings(arguments.settings, ("data", "tokenizer"))
    learning = {"vocab_size": arguments.vocab_size, "train_documents": None, "train_bytes": size}
    reading = {"source": arguments.source, "text_field": arguments.text_field, "sample_by": arguments.sample_by}
    section = TokenizerSection(**learning | given["tokenizer"])
    data = DataSection(**reading | {"validation_documents": None} | given["data"])
    train, validation = open_corpus(data)
    print(*train.notes, sep="\n", end="\n" if train.notes else "")
    tokenizer, about = build_tokenizer(section, train, validation)
    save(tokenizer, about, folder)
    print(describe(about))
    print(f"longest ({about['longest_token_bytes']} bytes): {', '.join(map(repr, about['longest_tokens']))}")
    print(f"use it: tokenizer.kind=pretrained tokenizer.path={folder}")


if __name__ == "__main__":
    main()
