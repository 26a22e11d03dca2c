"""Reads files as records and records as documents: JSON lines, plain text and tables, compressed or not.

A malformed record has a `Malformed` in place of its fields; a truncated or undecodable file is a `ConfigError`.
"""

import bz2
import codecs
import csv
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import orjson
import pyarrow

from settings.checks import ConfigError

from .long_text import Text, load_json, text_from
from .record_errors import Malformed
from .tables import Rows, arrow_rows, csv_header, csv_rows, parquet_rows

BLOCK = 1 << 20
END_OF_TEXT = "<|endoftext|>"
DOCUMENT_END = re.compile(
    rb"(?:^|\n)[ \t]*<\|endoftext\|>[ \t]*(?:\r?\n|$)|[^\s`(\[{=:,]<\|endoftext\|>(?:\r?\n|$)|\n<\|endoftext\|>[\"\w]"
)
"""`END_OF_TEXT` on a line of its own, or at the end or the beginning of a line of text."""
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
PROMPT_FIELDS = ("prompt", "completion")
UNSUPPORTED_ENCODINGS = {
    "UTF-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),
    "UTF-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),  # with which UTF-32's begins
}
"""Byte order marks."""
DAMAGE_ERRORS = (EOFError, OSError, UnicodeDecodeError, csv.Error, zlib.error, lzma.LZMAError, pyarrow.ArrowException)


@dataclass(frozen=True)
class Record:
    """One record of a file: its fields, or a `Malformed`; None for an empty line."""

    number: int
    """Number of records of the file before this one."""
    offset: int | None
    """Where it begins, in bytes of the decompressed file; None for tables."""
    fields: dict | Malformed | None
    read: int
    """Bytes of the file on disk that were read up to here."""


@dataclass(frozen=True)
class Fields:
    """Which fields of a record make the document, and how plain text is cut into records."""

    text: str
    group: str | None
    sample_by: str
    prompts: bool = True
    """Whether a record with `prompt` and `completion` is read as these, whatever other fields it has."""

    @property
    def columns(self) -> list[str]:
        """All columns that may be needed, the text first."""
        pair = PROMPT_FIELDS if self.prompts else ()
        return [self.text, self.text.split(".")[0], *pair, *([self.group.split(".")[0]] if self.group else [])]

    def document(self, row: dict | Malformed | None) -> dict | Malformed | None:
        """The document of a record, a `Malformed`, or None if the record is empty."""
        if row is None or isinstance(row, Malformed):
            return row
        names = PROMPT_FIELDS if self.prompts and set(PROMPT_FIELDS) <= row.keys() else (self.text,)
        document = {}
        for name in names:
            if name not in row and name.split(".")[0] not in row:
                return Malformed(f"there is no column {name}", f"; there are {', '.join(row)}")
            value = _value_at_path(row, name)
            if isinstance(value, Malformed):
                return value
            if not isinstance(value, Text):
                return Malformed(f"{name} is {json_type_name(value)}", "; it must be text")
            document[name if len(names) == 2 else "text"] = value
        group = _value_at_path(row, self.group) if self.group else None
        if isinstance(group, Malformed):
            return group
        return document if group is None else document | {"group": str(group)}


def _value_at_path(row: dict, path: str):
    """The value of a column or dotted path; objects may be stored as JSON text, as in parquet files."""
    if path in row:
        return row[path]
    value = row
    for name in path.split("."):
        try:
            value = orjson.loads(value) if isinstance(value, str) and value.startswith("{") else value
        except orjson.JSONDecodeError as error:
            return Malformed(f"{path} is not valid JSON", f": {error.msg}")
        value = value.get(name) if isinstance(value, dict) else None
    return value


def read_records(path: Path, fields: Fields, start: int, name: str) -> Iterator[Record]:
    """The records of a file from number `start` on; `name` is the file's name in errors."""
    count = start
    if path.stat().st_size == 0:
        is_plain = path.suffix.lower() not in DECOMPRESSORS and format_of(path) in (
            "json",
            "text",
        )  # other formats have a header
        yield from [Record(0, None, {fields.text: ""} if is_plain else Malformed("an empty file"), 0)][start:]
        return
    try:
        if path.stat().st_size < 1000 and path.read_bytes().startswith(LFS_POINTER):
            raise ConfigError(f"{name} is a Git LFS pointer, not the file itself; run `git lfs pull` in its repository")
        for record in FORMATS[format_of(path) or "text"](path, fields, start):
            count = record.number + 1
            yield record
    except PermissionError as error:
        raise ConfigError(f"{name} cannot be read: {error.strerror}; allow it, or give another file") from error
    except DAMAGE_ERRORS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(
            f"{name} is damaged after record {count}: {reason}; download or copy the file again"
        ) from error


def format_of(path: Path) -> str | None:
    """The format of a file by its name, compression aside; None if unknown."""
    plain = path.with_suffix("") if path.suffix.lower() in DECOMPRESSORS else path
    return SUFFIXES.get(plain.suffix.lower())


def _json_lines(path: Path, fields: Fields, start: int) -> Iterator[Record]:  # noqa: ARG001
    with path.open("rb") as file, _decompressed(path, file) as stream:
        number, offset = 0, _skip_byte_order_mark(path, stream)
        for line in stream:  # lines end at \n only: texts may hold U+2028 and U+0085
            if number == 0:
                _check_not_array(path, line)
            size = len(line)
            if number >= start:
                row = _parse(line)
                del line  # free it: the line and the row may take 100 MB each
                yield Record(number, offset, row, file.tell())
            number, offset = number + 1, offset + size


def _parse(line: bytes) -> dict | Malformed | None:
    if not line.strip():
        return None
    try:
        row = load_json(line)
    except orjson.JSONDecodeError as error:
        return Malformed("invalid JSON, not UTF-8" if "UTF-8" in error.msg else "invalid JSON", f": {error.msg}")
    return row if isinstance(row, dict) else Malformed(f"a line must be a JSON object, not {json_type_name(row)}")


def _check_not_array(path: Path, line: bytes):
    """`ConfigError` for a file that is one JSON array: every line of it would be malformed."""
    text = line.strip()
    if text == b"[" or (text.startswith(b"[") and text[1:].lstrip().startswith(b"{")):
        raise ConfigError(f"{path.name} begins with [, like a JSON array; write one object per line instead")


def _rows(read: Callable[[Path, Sequence[str], int], Rows]) -> Callable[[Path, Fields, int], Iterator[Record]]:
    """A reader of records, from a reader of the rows of a table."""

    def records(path: Path, fields: Fields, start: int) -> Iterator[Record]:
        return (Record(number, None, row, size) for number, row, size in read(path, fields.columns, start))

    return records


def _csv(path: Path, columns: Sequence[str], start: int) -> Rows:
    with path.open("rb") as file, _decompressed(path, file) as stream:
        _skip_byte_order_mark(path, stream)
        yield from csv_rows(path, stream, columns, start, file.tell)


def csv_columns(path: Path, wanted: Sequence[str]) -> set[str]:
    """The columns in the header of a CSV file; the delimiter is the one that gives a `wanted` column."""
    with path.open("rb") as file, _decompressed(path, file) as stream:
        _skip_byte_order_mark(path, stream)
        return set(csv_header(path, stream, wanted))


def documents_end_at_mark(path: Path, most: int) -> bool | None:
    """Whether documents end at `END_OF_TEXT`, judged from the first `most` bytes; None if it does not occur."""
    try:
        with path.open("rb") as file, _decompressed(path, file) as stream:
            begin = stream.read(most)
    except DAMAGE_ERRORS:  # reported later, when the file is read
        return None
    return bool(DOCUMENT_END.search(begin)) if END_OF_TEXT.encode() in begin else None


def _texts(path: Path, fields: Fields, start: int) -> Iterator[Record]:
    samples = DOCUMENT_READERS.get(fields.sample_by) or partial(_between_separators, mark=fields.sample_by.encode())
    with path.open("rb") as file, _decompressed(path, file) as stream:
        before = _skip_byte_order_mark(path, stream)
        for number, (offset, text) in enumerate(samples(stream)):
            if number >= start:
                yield Record(number, before + offset, _text_row(fields.text, text), file.tell())


def _text_row(field: str, text: bytes) -> dict | Malformed:
    if b"\0" in text:
        return Malformed("a NUL byte", f" at byte {text.index(0)} of the text")
    try:
        return {field: text_from(text)}
    except UnicodeDecodeError as error:
        return Malformed("invalid UTF-8", f" at byte {error.start} of the text")


def _lines(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    offset = 0
    for line in stream:
        yield offset, line.rstrip(b"\r\n")
        offset += len(line)


def _paragraphs(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Lines between blank lines."""
    begin, offset, lines = 0, 0, []
    for line in stream:
        if line.strip():
            begin = begin if lines else offset
            lines.append(line)
        elif lines:
            yield begin, b"".join(lines).rstrip(b"\r\n")
            lines = []
        offset += len(line)
    if lines:
        yield begin, b"".join(lines).rstrip(b"\r\n")


def _whole(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    yield 0, stream.read()


def _between_separators(stream: BinaryIO, mark: bytes) -> Iterator[tuple[int, bytes]]:
    """The texts between separators, without newlines around them."""
    kept, offset = b"", 0
    while block := stream.read(max(BLOCK, len(kept))):  # growing, or a long text would be searched repeatedly
        *texts, kept = (kept + block).split(mark)
        for text in texts:
            yield offset, text.strip(b"\r\n")
            offset += len(text) + len(mark)
    if kept.strip(b"\r\n"):
        yield offset, kept.strip(b"\r\n")


def _skip_byte_order_mark(path: Path, stream: BinaryIO) -> int:
    """Skip a byte order mark and return its length; `ConfigError` if it is that of another encoding than UTF-8."""
    begin = stream.peek(4)
    if other := next((name for name, marks in UNSUPPORTED_ENCODINGS.items() if begin.startswith(marks)), None):
        raise ConfigError(f"{path.name} is encoded as {other}, by its byte order mark; save it as UTF-8")
    return len(stream.read(3)) if begin.startswith(codecs.BOM_UTF8) else 0


def _decompressed(path: Path, file: BinaryIO) -> BinaryIO:
    unpack = DECOMPRESSORS.get(path.suffix.lower())
    return io.BufferedReader(unpack(file) if unpack else file, BLOCK)


def _zstd(file: BinaryIO) -> BinaryIO:
    # zstandard's own reader takes a truncated frame for the end of the file
    return pyarrow.CompressedInputStream(pyarrow.PythonFile(file), "zstd")


def json_type_name(value) -> str:
    """The type of a JSON value, in words."""
    names = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", list: "a list"}
    return names.get(type(value), "an object" if isinstance(value, dict) else "text")


DECOMPRESSORS: dict[str, Callable[[BinaryIO], BinaryIO]] = {
    ".gz": gzip.open,
    ".zst": _zstd,
    ".xz": lzma.open,
    ".bz2": bz2.open,
}
FORMATS = {
    "json": _json_lines,
    "text": _texts,
    "parquet": _rows(parquet_rows),
    "arrow": _rows(arrow_rows),
    "csv": _rows(_csv),
}
SUFFIXES = {
    ".txt": "text", ".text": "text", ".md": "text", ".markdown": "text", ".rst": "text", ".jsonl": "json",
    ".ndjson": "json", ".json": "json", ".parquet": "parquet", ".arrow": "arrow", ".csv": "csv", ".tsv": "csv",
}  # fmt: skip
DOCUMENT_READERS = {"line": _lines, "paragraph": _paragraphs, "document": _whole}
