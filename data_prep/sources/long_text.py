"""Texts of many MB, held as UTF-8 and read in pieces: in a Python string, one emoji makes every letter four bytes."""

import codecs
import re
import uuid
from collections.abc import Iterator

import orjson

LONG_TEXT_BYTES = 1 << 24
"""Bytes from which a text is a `LongText`."""
PIECE_BYTES = 1 << 22
STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+("?)', re.DOTALL)
LOW_SURROGATE = re.compile(rb"\\u[dD][c-fC-F]")


class LongText:
    """What of a `str` documents need: length, bytes, and pieces in its place."""

    def __init__(self, blocks: list[bytes]):
        """`blocks` are UTF-8 when joined. `UnicodeDecodeError` if they are not."""
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
    """Bytes as a text. `UnicodeDecodeError` if they are not UTF-8."""
    return utf8.decode() if len(utf8) < LONG_TEXT_BYTES else LongText([utf8])


def pieces_of(text: Text) -> Iterator[str]:
    """A text whole, or in pieces if it is long."""
    return iter((text,)) if isinstance(text, str) else text.pieces()


def load_json(line: bytes):
    """As `orjson.loads`, but that long texts which are values of the outermost object become `LongText`.

    Such a text is cut out and decoded by itself, for on the way to a string it would be in memory several times.
    """
    if len(line) < LONG_TEXT_BYTES:
        return orjson.loads(line)
    places = {}

    def cut_out(match: re.Match) -> bytes:
        start, end = match.span()
        if not match[1]:
            return b'"'  # never closed: no JSON, as without it
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
    """What stands between the quotes of a JSON string, as UTF-8."""
    while start < stop:
        end = stop if stop - start <= PIECE_BYTES else _cut_position(line, start, start + PIECE_BYTES)
        yield orjson.loads(b'"' + line[start:end] + b'"').encode()
        start = end


def _cut_position(line: bytes, start: int, place: int) -> int:
    """The nearest place, not after this one, where no letter and no escape of the string is cut in two."""
    escape = line.rfind(b"\\", place - 12, place)
    if escape >= 0:
        backslashes = escape - start - len(line[start:escape].rstrip(b"\\"))
        if backslashes % 2:
            return escape + 1  # it is itself escaped, and ends its pair
        return escape - 6 if LOW_SURROGATE.match(line, escape) else escape
    while line[place] & 0xC0 == 0x80:
        place -= 1
    return place
