"""Builds tokenizers: byte-level BPE, characters, numbers, or an existing one; all are standard Hugging Face tokenizers.

`<|endoftext|>` starts and ends a document, and `<|pad|>` pads: separate tokens, so that masking the padding never masks
an end of text. Text never produces either: `<|endoftext|>` in a document is encoded as ordinary characters.

    python -m data_prep.tokenizer --source tinystories --vocab-size 10000 --bytes 500MB
"""

import itertools
import json
import re
import resource
import string
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from data_prep.sources.long_text import Text, pieces_of
from data_prep.sources.splits import Split, explain_empty_split, text_of
from settings.checks import ConfigError
from settings.data_sections import TokenizerSection
from settings.wording import format_bytes, format_count
from storage.hub import check_model_path

from .bpe import END, PAD, train_bpe
from .encoder import Encoder
from .training_text import TrainingTexts

if TYPE_CHECKING:  # imported where it is used: it takes seconds, and `--help` does not need it
    from .fast_tokenizer import PreTrainedTokenizerFast


UNKNOWN = "<|unknown|>"


def train_characters(texts: Iterable[Text], vocab_size: int) -> Tokenizer:  # noqa: ARG001
    """One token per character of the texts; other characters become the unknown token."""
    characters = set()
    for text in texts:
        for piece in pieces_of(text):
            characters.update(piece)
    return _character_level(sorted(characters))


def train_numbers(texts: Iterable[Text], vocab_size: int) -> Tokenizer:  # noqa: ARG001
    """One token per sequence of digits and per other symbol; spaces separate tokens and are dropped."""
    split = _number_split()
    tokens = {token for text in texts for token, _ in split.pre_tokenize_str(str(text))}
    return _number_level(sorted(tokens, key=lambda token: (not token.isdigit(), len(token), token)))


def _number_split() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex(r"\d+|\D"), behavior="isolated")]
    )


def _number_level(tokens: list[str]) -> Tokenizer:
    tokenizer = _word_level(tokens)
    tokenizer.pre_tokenizer = _number_split()
    return tokenizer  # no decoder: tokens are joined by spaces


def _character_level(tokens: list[str]) -> Tokenizer:
    tokenizer = _word_level(tokens)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def _word_level(tokens: list[str]) -> Tokenizer:
    vocabulary = {token: index for index, token in enumerate([END, PAD, UNKNOWN, *tokens])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.add_special_tokens([END, PAD, UNKNOWN])
    return tokenizer


TRAINERS = {"bpe": train_bpe, "characters": train_characters, "numbers": train_numbers}


def equation_tokenizer(kind: str, symbol: str, largest: int) -> "PreTrainedTokenizerFast":
    """The tokenizer for equations such as `91 / 7 = 13`, of numbers from 0 to `largest`; spaces are dropped.

    `kind` is numbers, characters, or padded: characters, with numbers zero-padded to the length of the largest, in
    prompts as well. No start token is added, so that a prompt has only its own tokens.
    """
    if kind == "numbers":
        return wrap(_number_level([*map(str, range(largest + 1)), symbol, "="]), start=None)
    tokenizer = _character_level([*string.digits[: largest + 1], symbol, "="])
    without_spaces = [normalizers.Replace(Regex(r"\s+"), "")]
    fill = _zero_padding_rules(len(str(largest))) if kind == "padded" else []
    tokenizer.normalizer = normalizers.Sequence(without_spaces + fill)
    return wrap(tokenizer, start=None)


def _zero_padding_rules(width: int) -> list[normalizers.Normalizer]:
    """Rules that zero-pad numbers of fewer than `width` digits, one rule per length."""
    return [
        normalizers.Replace(Regex(rf"(?<!\d)(?=\d{{{digits}}}(?!\d))"), "0" * (width - digits))
        for digits in range(1, width)
    ]


def wrap(tokenizer: Tokenizer, start: str | None = END) -> "PreTrainedTokenizerFast":
    """Convert to a transformers tokenizer that adds the start token (None: no token) before each text.

    It is added before both texts of a pair. Text never yields special ids.
    """
    from .fast_tokenizer import PreTrainedTokenizerFast

    unknown = UNKNOWN if tokenizer.token_to_id(UNKNOWN) is not None else None
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=start,
        eos_token=END,
        pad_token=PAD,
        unk_token=unknown,
        add_bos_token=start is not None,  # creates the post-processor, and informs tools that ignore it
        split_special_tokens=True,
        model_input_names=["input_ids", "attention_mask"],  # transformers 4 would add token_type_ids
    )


def load_tokenizer(path: str) -> "PreTrainedTokenizerFast":
    """An existing tokenizer, from a folder or the Hub, with a separate pad token added if it has none."""
    from transformers import AutoTokenizer

    from .fast_tokenizer import PreTrainedTokenizerFast, TokenizersBackend

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            check_model_path(path), split_special_tokens=True, trust_remote_code=False
        )
        if type(tokenizer) is TokenizersBackend:
            tokenizer = PreTrainedTokenizerFast.from_pretrained(path, split_special_tokens=True)
    except Exception as error:  # tokenizers raises nothing narrower
        why = " ".join(str(error).split()).rstrip(".")
        raise ConfigError(f"tokenizer.path={path} cannot be loaded: {why}; give the folder or Hub id of one") from None
    if not tokenizer.get_vocab().keys() - set(tokenizer.all_special_tokens):  # made up for a GPT-2 without one
        raise ConfigError(f"tokenizer.path={path} holds no tokenizer; give the folder or Hub id of one")
    if tokenizer.eos_token_id is None:
        raise ConfigError(f"tokenizer.path={path} has no end-of-text token; give a tokenizer that has an eos_token")
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
        tokenizer.add_special_tokens({"pad_token": PAD})
    return tokenizer


def build_tokenizer(section: TokenizerSection, split: Split, held_out: Iterable[dict]):
    """Train the tokenizer that the section describes, or load it; return it and a report of the training.

    The report has seconds, the process's peak memory, documents and bytes, vocabulary, the longest tokens and, on up to
    1,000 held-out documents, bytes per token.
    """
    started = time.perf_counter()
    if section.kind == "pretrained":
        tokenizer, count = load_tokenizer(section.path), {}
    else:
        texts = TrainingTexts(split, section.train_documents, section.train_bytes)
        tokenizer = wrap(TRAINERS[section.kind](texts, section.vocab_size))
        count = {"documents": texts.documents, "text_bytes": texts.bytes, "limit": texts.limit}
        if texts.documents == 0:
            raise ConfigError(explain_empty_split("train", split, texts.reading))
    seconds = time.perf_counter() - started
    return tokenizer, count | {"seconds": round(seconds, 2)} | report(tokenizer, held_out)


def report(tokenizer, held_out: Iterable[dict]) -> dict:
    """A tokenizer's size, longest tokens (including ties), and bytes per token on held-out text."""
    tokens = {token: len(tokenizer.decode([index]).encode()) for token, index in tokenizer.get_vocab().items()}
    ordinary = {token: size for token, size in tokens.items() if token not in tokenizer.all_special_tokens}
    longest = max(ordinary.values(), default=0)
    texts = [text_of(document) for document in itertools.islice(held_out, 1000)]
    ids = len(Encoder(tokenizer)(texts)[0])
    return {
        "vocabulary": len(tokenizer),
        "longest_token_bytes": longest,
        "longest_tokens": sorted(
            tokenizer.decode([tokenizer.get_vocab()[token]]) for token, size in ordinary.items() if size == longest
        ),
        "bytes_per_token": round(sum(len(text.encode()) for text in texts) / ids, 3) if ids else None,
        "peak_memory_megabytes": round(_peak_memory() / 1e6),
    }


def describe(about: dict) -> str:
    """A report in one line."""
    return (
        f"tokenizer: {about['vocabulary']:,} tokens{describe_limit(about) or describe_training_text(about)} in "
        f"{about['seconds']:.1f} s, peak memory {about['peak_memory_megabytes']:,} MB, {about['bytes_per_token']} "
        f"bytes per token on held-out text, longest {', '.join(map(repr, about['longest_tokens'][:3]))}"
    )


def describe_training_text(about: dict) -> str:
    """The text that the tokenizer of a report was trained on."""
    return f" learnt from {format_count(about['documents'], 'document')} ({format_bytes(about['text_bytes'])})"


def describe_limit(about: dict) -> str:
    """The same with the setting that limited it; empty if none did."""
    return f"{describe_training_text(about)} of more ({about['limit']})" if about.get("limit") else ""


def start_token(tokenizer) -> int:
    """The token that starts a document: the start token, or the end token if there is none."""
    return tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id


def save(tokenizer, about: dict, folder: Path):
    """Save the tokenizer for `AutoTokenizer`, with its report."""
    tokenizer.save_pretrained(folder)
    (folder / "report.json").write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _peak_memory() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def parse_bytes(text: str) -> int:
    """Parse a size such as 500MB, 2.2GB or 1e6 as bytes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?(?:e\d\d?)?)\s*([KMG]?)B?", text.strip(), re.IGNORECASE)
    if match is None:
        raise ConfigError(f"--bytes {text!r} is not a size; write 500MB or 2.2GB")
    return int(float(match[1]) * 1000 ** " KMG".index(match[2].upper() or " "))
