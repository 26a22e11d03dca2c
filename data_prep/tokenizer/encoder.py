"""Encodes text to token ids, fast and in bounded memory, with the same ids as the tokenizer itself."""

import json
import logging
import re
import sys
import unicodedata
from collections.abc import Iterator
from functools import lru_cache

import gigatoken
import numpy as np
from tokenizers import Regex, pre_tokenizers

from data_prep.sources.long_text import Text, pieces_of

LOGGER = logging.getLogger(__name__)
PIECE_CHARACTERS = 4_000_000
"""Characters encoded at once where text can be cut, so that memory does not grow with the longest document."""
RESTART_AFTER = 64_000_000
"""Characters after which the fast encoder is recreated, because it caches every word."""
SAFE_CUT = re.compile(r"(?<=\w)[ \n]")
"""White space after a letter or digit: our pre-tokenizers always end a piece before it."""
HARD_TEXTS = [
    "",
    " ",
    "  two  spaces,\n\n\nlines\t\tand tabs \n",
    "it's we'll THEY'RE 'tis ''s",
    "3.14159 12345678901234567890 x1y2_z",
    "<|endoftext|> <|pad|>a<|endoftext|>",
    "\u00e9\u0301\u6f22\u5b57\u3001\u3000\u0420\u0443\u0441 \u0627\u0644\u0639",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 \u2028 \u0085 \u00a0 \ufeff",
    "\x00\x01\x7f \u0000",
    "a" * 300 + " " * 300 + "!?" * 100,
]


class Encoder:
    """Encodes texts as `tokenizer` does without special tokens, by gigatoken if that gives the same ids.

    Both are compared on difficult texts and on the first texts given; on a difference it warns and uses the tokenizer
    itself, which is slower. Texts with characters newer than Python's Unicode tables always use the tokenizer.
    """

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.can_cut = _state(tokenizer.backend_tokenizer.pre_tokenizer) in CUTTABLE and (
            tokenizer.backend_tokenizer.normalizer is None
        )
        self._json = _without_special_tokens(tokenizer)
        self._fast = self._new_fast()
        self._since = 0
        self._compared = False
        self._compare(HARD_TEXTS)

    @property
    def is_fast(self) -> bool:
        """Whether gigatoken is used."""
        return self._fast is not None

    def __call__(self, texts: list[Text], dtype=np.uint32) -> tuple[np.ndarray, np.ndarray]:
        """All ids in one array, and the number of ids of each text."""
        if not self._compared:
            self._compared = True
            self._compare([next(pieces_of(text))[:10_000] for text in texts[:100]])
        parts, counts = [np.empty(0, dtype)], np.zeros(len(texts), np.int64)
        for group, owners in self._groups(texts):
            ids, lengths = self._encode(group)
            parts.append(ids.astype(dtype))
            np.add.at(counts, owners, lengths)
        return np.concatenate(parts), counts

    def _groups(self, texts: list[Text]) -> Iterator[tuple[list[str], list[int]]]:
        """Pieces of the texts, some MB at a time, with the index of the text of each piece."""
        group, owners, size = [], [], 0
        for owner, text in enumerate(texts):
            for piece in self._pieces(text):
                group.append(piece)
                owners.append(owner)
                size += len(piece)
                if size >= PIECE_CHARACTERS:
                    yield group, owners
                    group, owners, size = [], [], 0
        if group:
            yield group, owners

    def _pieces(self, text: Text) -> Iterator[str]:
        if not self.can_cut:
            yield str(text)
            return
        rest = ""
        for piece in pieces_of(text):
            piece, start = rest + piece, 0
            while len(piece) - start > PIECE_CHARACTERS and (cut := SAFE_CUT.search(piece, start + PIECE_CHARACTERS)):
                yield piece[start : cut.start()]
                start = cut.start()
            rest = piece[start:] if start else piece
        yield rest

    def _encode(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        if self._fast is None:
            return _encode_slowly(self.tokenizer, texts)
        odd = [i for i, text in enumerate(texts) if not (text.isascii() or _unassigned_characters().isdisjoint(text))]
        if odd:
            return self._encode_odd(texts, odd)
        self._since += sum(map(len, texts))
        if self._since > RESTART_AFTER:
            self._fast, self._since = self._new_fast(), 0
        array = self._fast.encode_batch(texts).layout
        offsets = array.offsets.data
        return array.content.data[offsets[0] : offsets[-1]], np.diff(offsets)

    def _encode_odd(self, texts: list[str], odd: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """As `_encode`, with the texts at the indices `odd` encoded by the tokenizer itself."""
        slow, slow_counts = _encode_slowly(self.tokenizer, [texts[i] for i in odd])
        others = list(texts)
        for i in odd:
            others[i] = ""
        fast, counts = self._encode(others)
        ids = np.insert(fast, np.repeat(np.cumsum(counts)[odd], slow_counts), slow)
        counts = counts.copy()
        counts[odd] = slow_counts
        return ids, counts

    def _new_fast(self) -> gigatoken.Tokenizer | None:
        try:
            return gigatoken.Tokenizer.from_json(self._json)
        except Exception as error:  # it documents no exceptions for unsupported tokenizers
            LOGGER.info("gigatoken does not support this tokenizer: %s", error)
            return None

    def _compare(self, texts: list[str]):
        """Disable the fast encoder if its ids differ on some text."""
        if self._fast is None:
            return
        ids, counts = self._encode(texts)
        right, right_counts = _encode_slowly(self.tokenizer, texts)
        if not (np.array_equal(ids, right) and np.array_equal(counts, right_counts)):
            LOGGER.warning("gigatoken gives other ids than this tokenizer, which is used instead and is slower")
            self._fast = None


@lru_cache(maxsize=1)
def _unassigned_characters() -> frozenset[str]:
    """Characters that are unassigned in Python's Unicode tables.

    The tables of the two encoders may differ in which of them are letters, and so in where words end.
    """
    return frozenset(char for char in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(char) == "Cn")


def _encode_slowly(tokenizer, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    rows = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []
    counts = np.array([len(row) for row in rows], dtype=np.int64)
    return np.fromiter((token for row in rows for token in row), np.uint32, counts.sum()), counts


def _without_special_tokens(tokenizer) -> str:
    """The tokenizer as JSON without special tokens, so that their spelling in a text is encoded as text."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if not token["special"]]
    return json.dumps(state | {"post_processor": None})


def _state(pre_tokenizer) -> bytes | None:
    return pre_tokenizer and pre_tokenizer.__getstate__()


CUTTABLE = {
    _state(known)
    for known in (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated"),
    )
}
