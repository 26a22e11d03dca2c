"""Trains byte-level BPE on any amount of text: the merges of the `tokenizers` library, faster and in less memory."""

import json
import os
import sys
import tempfile
from collections.abc import Iterable
from contextlib import contextmanager
from pathlib import Path

import gigatoken
import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from data_prep.sources.long_text import Text
from settings.checks import ConfigError
from storage.files import report_full_disk

END, PAD = "<|endoftext|>", "<|pad|>"
TEXT_SEPARATOR = b"\xff\xfe\xff"
"""Separates texts in a file; these bytes cannot occur in UTF-8."""
FILE_SIZE = 64_000_000
Merges = list[tuple[bytes, bytes]]


def train_bpe(texts: Iterable[Text], vocab_size: int) -> Tokenizer:
    """Byte-level BPE (Radford et al., 2019) with GPT-2's pre-tokenizer and all 256 bytes in the alphabet.

    The vocabulary is smaller than requested if the texts have too few distinct words. It equals that of
    `tokenizers.trainers.BpeTrainer`, including ties and order, except for characters newer than its Unicode tables.
    Memory grows with the number of distinct words: the texts are written to files in the system's temporary folder.
    """
    smallest = 256 + 2
    if vocab_size < smallest:
        raise ConfigError(f"tokenizer.vocab_size={vocab_size} is too small; 256 bytes and 2 special tokens need 258")
    with tempfile.TemporaryDirectory(prefix="kindling-") as folder:
        with report_full_disk("the folder for temporary files, ", folder, "make room there, or set TMPDIR to another"):
            files = _write(texts, Path(folder))
        with _silence_output():
            # Without special tokens, which it would remove from the text.
            source = gigatoken.TextFileSource(files, TEXT_SEPARATOR)
            _, merges = gigatoken.train_bpe(source, vocab_size - 2, [], tie_breaking="huggingface")
            merges = list(dict.fromkeys(merges))
            learnt = _count_learnt(merges, files)
        return _tokenizer(merges[:learnt])


def _write(texts: Iterable[Text], folder: Path) -> list[Path]:
    """Write the texts to files of some MB, which are mapped into memory one at a time."""
    files, size = [folder / "0"], 0
    file = files[0].open("wb")
    for text in texts:
        if size >= FILE_SIZE:
            file.close()
            files.append(folder / str(len(files)))
            file, size = files[-1].open("wb"), 0
        size += file.write(text.encode() + TEXT_SEPARATOR)
    file.close()
    return files


def _tokenizer(merges: Merges) -> Tokenizer:
    from transformers.convert_slow_tokenizer import bytes_to_unicode  # deferred: importing it takes seconds

    letters = bytes_to_unicode()
    pairs = [tuple("".join(letters[byte] for byte in part) for part in pair) for pair in merges]
    vocabulary = {}
    for token in [END, PAD, *sorted(letters.values()), *map("".join, pairs)]:
        vocabulary.setdefault(token, len(vocabulary))
    tokenizer = Tokenizer(models.BPE(vocabulary, pairs))
    tokenizer.add_special_tokens([END, PAD])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _count_learnt(merges: Merges, files: list[Path]) -> int:
    """How many of the merges were learnt from the text, before nothing was left to merge.

    gigatoken continues with merges of pairs that do not occur. If the last merge does not occur in the encoded text,
    every word has become one token, and the learnt merges are those that these tokens are made of.
    """
    tokens = [left + right for left, right in merges]
    state = json.loads(_tokenizer(merges).to_str())
    encoder = gigatoken.Tokenizer.from_json(json.dumps(state | {"added_tokens": []}))
    ids = {token: index for index, token in encoder.vocab.items()}
    used = np.zeros(encoder.vocab_size, dtype=bool)
    for file in files:
        used[encoder.encode_files(gigatoken.TextFileSource([file], TEXT_SEPARATOR)).layout.content.data] = True
        if tokens and used[ids[tokens[-1]]]:
            return len(merges)
    needed = {token for token in tokens if used[ids[token]]}
    for left, right in reversed(merges):
        if left + right in needed:
            needed |= {left, right}
    return next((index for index, token in enumerate(tokens) if token not in needed), len(tokens))


@contextmanager
def _silence_output():
    """Suppress the output of gigatoken, which it prints from native code."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    with open(os.devnull, "wb") as nothing:
        for number in (1, 2):
            os.dup2(nothing.fileno(), number)
    try:
        yield
    finally:
        for number, old in zip((1, 2), kept, strict=True):
            os.dup2(old, number)
            os.close(old)
