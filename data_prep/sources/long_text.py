"""Texts of many MB, kept as UTF-8 and read in pieces: one emoji makes a Python string use four bytes per character."""

import codecs
import re
import uuid
from collections.abc import Iterator

import orjson

LONG_TEXT_BYTES = 1 << 24
"""Texts of at least this many bytes become a `LongText`."""
PIECE_BYTES = 1 << 22
STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+("?)', re.DOTALL)
LOW_SURROGATE = re.compile(rb"\\u[dD][c-fC-F]")


class LongText:
    """A long text with the parts of `str` that documents need: length, bytes, and pieces."""

    def __init__(self, blocks: list[bytes]):
        """`blocks` joined must be valid UTF-8, or else `UnicodeDecodeError`."""
        self.blocks = blocks
        self.length = sum(map(len, self.pieces()))

    def __len__(self) -> int:
        return self.length

    def pieces(self) -> Iterator[str]:
        """The text, some MB at a time."""
        decoder = codecs.getincrementaldecoder("utf-8")()
        for block in self.blocks:
            for start in range(0, len(block), PIECE_BYTES):
                yield decoder.decode(block[start : start + PIECE_BYTES])
        yield decoder.decode(b"", final=True)

    def encode(self) -> bytes:
        """The text as UTF-8."""
        return b"".join(self.blocks)

    def __str__(self) -> str:
        return "".join(self.pieces())

    def __add__(self, other: "Text") -> "LongText":
        return LongText([*self.blocks, other.encode()])

    def __radd__(self, other: str) -> "LongText":
        return LongText([other.encode(), *self.blocks])


Text = str | LongText


def text_from(utf8: bytes) -> Text:
    """Decode UTF-8 bytes to a text; `UnicodeDecodeError` if they are invalid."""
    return utf8.decode() if len(utf8) < LONG_TEXT_BYTES else LongText([utf8])


def pieces_of(text: Text) -> Iterator[str]:
    """The pieces of a text; a short text is a single piece."""
    return iter((text,)) if isinstance(text, str) else text.pieces()


def load_json(line: bytes):
    """As `orjson.loads`, but long texts that are values of the outermost object become `LongText`.

    Such a text is cut out and decoded separately, because decoding it with the rest would take its size several times.
    """
    if len(line) < LONG_TEXT_BYTES:
        return orjson.loads(line)
    places = {}

    def cut_out(match: re.Match) -> bytes:
        start, end = match.span()
        if not match[1]:
            return b'"'  # never closed: invalid JSON in any case
        if end - start < LONG_TEXT_BYTES or not line[max(start - 9, 0) : start].rstrip().endswith(b":"):
            return match[0]
        name = uuid.uuid4().hex
        places[name] = (start + 1, end - 1)
        return f'"{name}"'.encode()

    row = orjson.loads(STRING.sub(cut_out, line))
    texts = {name: LongText([*_decoded(line, *place)]) for name, place in places.items()}
    if not isinstance(row, dict):
        return row
    return {key: texts.get(value, value) if isinstance(value, str) else value for key, value in row.items()}


def _decoded(line: bytes, start: int, stop: int) -> Iterator[bytes]:
    """The content of a JSON string between its quotes, decoded to UTF-8."""
    while start < stop:
        end = stop if stop - start <= PIECE_BYTES else _cut_position(line, start, start + PIECE_BYTES)
        yield orjson.loads(b'"' + line[start:end] + b'"').encode()
        start = end


def _cut_position(line: bytes, start: int, place: int) -> int:
    """The last position up to `place` that does not cut a character or an escape sequence in two."""
    escape = line.rfind(b"\\", place - 12, place)
    if escape >= 0:
        backslashes = escape - start - len(line[start:escape].rstrip(b"\\"))
        if backslashes % 2:
            return escape + 1  # it is itself escaped, and ends its pair
        return escape - 6 if LOW_SURROGATE.match(line, escape) else escape
    while line[place] & 0xC0 == 0x80:
        place -= 1
    return place
