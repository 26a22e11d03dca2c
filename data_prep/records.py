"""Files to records: JSON lines, parquet and plain text, compressed or not, read one record at a time.

A record that is no document comes as a `Bad` with its reason in the place of its fields, so that one bad line never
costs more than itself. A file that breaks off or cannot be unpacked is a `ConfigError`: what follows it is unknown.
"""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import orjson
import pyarrow
import pyarrow.parquet
import zstandard

from sections import ConfigError

ROWS_A_BATCH = 1000
BLOCK = 1 << 20
PACKED_BLOCK = 1 << 16
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
DAMAGE = (EOFError, OSError, zlib.error, lzma.LZMAError, zstandard.ZstdError, pyarrow.ArrowException)


@dataclass(frozen=True)
class Bad:
    """A record that is no document, and why."""

    reason: str


@dataclass(frozen=True)
class Record:
    """One record of a file: its fields, or what is wrong with it; None for an empty line."""

    number: int
    """How many records of the file come before it."""
    offset: int | None
    """Where it begins, in bytes of the unpacked file; None in parquet, which has no such places."""
    fields: dict | Bad | None
    read: int
    """Bytes of the file, as it is on disk, that it took to get here."""


def read_records(path: Path, fields: list[str], sample_by: str, start: int, name: str) -> Iterator[Record]:
    """The records of a file from number `start` on; `name` is what an error calls it.

    `fields` are the columns that parquet reads, `sample_by` says what a record of plain text is.
    """
    count = start
    if path.stat().st_size == 0:  # which parquet and gzip would call damaged
        return
    try:
        for record in FORMATS[format_of(path)](path, fields, sample_by, start):
            count = record.number + 1
            yield record
    except DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(f"{name} is damaged after record {count}: {reason}; get the file again") from error


def format_of(path: Path) -> str | None:
    """Which reader a file's name calls for, compression aside; None for none."""
    plain = path.with_suffix("") if path.suffix.lower() in UNPACKED else path
    return SUFFIXES.get(plain.suffix.lower())


def _json_lines(path: Path, fields: list[str], sample_by: str, start: int) -> Iterator[Record]:  # noqa: ARG001
    with path.open("rb") as file, _unpacked(path, file) as stream:
        offset = 0
        for number, line in enumerate(stream):  # lines end at \n only: texts may hold U+2028 and U+0085
            if number == 0:
                _refuse_array(path, line)
            size = len(line)
            if number >= start:
                row = _parse(line.removeprefix(BYTE_ORDER_MARK) if number == 0 else line)
                del line  # it may be 100 MB long, and so may the row be
                yield Record(number, offset, row, file.tell())
            offset += size


def _parse(line: bytes) -> dict | Bad | None:
    if not line.strip():
        return None
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        return Bad(f"no JSON: {error.msg}")
    return row if isinstance(row, dict) else Bad(f"a line must hold an object, not {kind_of(row)}")


def _refuse_array(path: Path, line: bytes):
    """One array over many lines, or of all objects on one, would be a file of faults."""
    text = line.strip()
    if text == b"[" or (text.startswith(b"[") and text[1:].lstrip().startswith(b"{")):
        raise ConfigError(f"{path.name} begins with [ as a JSON array does; write one object a line instead")


def _parquet_rows(path: Path, fields: list[str], sample_by: str, start: int) -> Iterator[Record]:  # noqa: ARG001
    file = pyarrow.parquet.ParquetFile(path)
    names = file.schema_arrow.names
    columns = [field for field in fields if field in names]
    if not columns:
        raise ConfigError(f"{path.name}: {fields[0]} is no column; there are {', '.join(names)}")
    number, size = 0, path.stat().st_size
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        if number + rows <= start:
            number += rows
            continue
        for batch in file.iter_batches(ROWS_A_BATCH, row_groups=[group], columns=columns):
            for row in _python_rows(batch):
                if number >= start:
                    yield Record(number, None, row, size * (number + 1) // file.metadata.num_rows)
                number += 1


def _python_rows(batch: pyarrow.RecordBatch) -> Iterator[dict | Bad]:
    """Rows of a batch. Strings are decoded one by one, so that invalid UTF-8 costs its own row only."""
    for row in zip(*map(_values, batch.columns), strict=True):
        values = zip(batch.schema.names, row, strict=True)
        try:
            yield {name: value.decode() if isinstance(value, bytes) else value for name, value in values}
        except UnicodeDecodeError as error:
            yield Bad(f"invalid UTF-8 at byte {error.start} of the text")


def _values(column: pyarrow.Array) -> list:
    """A column's values, texts as bytes; None for one with text inside that cannot be decoded."""
    is_text = pyarrow.types.is_string(column.type) or pyarrow.types.is_large_string(column.type)
    column = column.cast(pyarrow.large_binary()) if is_text else column
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        return [_value(scalar) for scalar in column]


def _value(scalar: pyarrow.Scalar):
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return None


def _texts(path: Path, fields: list[str], sample_by: str, start: int) -> Iterator[Record]:
    with path.open("rb") as file, _unpacked(path, file) as stream:
        if stream.peek(len(BYTE_ORDER_MARK)).startswith(BYTE_ORDER_MARK):  # which is no text
            stream.read(len(BYTE_ORDER_MARK))
        for number, (offset, text) in enumerate(SAMPLES.get(sample_by, _between)(stream, sample_by)):
            if number >= start:
                yield Record(number, offset, _text_row(fields[0], text), file.tell())


def _text_row(field: str, text: bytes) -> dict | Bad:
    if b"\0" in text:
        return Bad(f"a NUL byte at byte {text.index(0)} of the text")
    try:
        return {field: text.decode()}
    except UnicodeDecodeError as error:
        return Bad(f"invalid UTF-8 at byte {error.start} of the text")


def _lines(stream: BinaryIO, sample_by: str) -> Iterator[tuple[int, bytes]]:  # noqa: ARG001
    offset = 0
    for line in stream:
        yield offset, line.rstrip(b"\r\n")
        offset += len(line)


def _paragraphs(stream: BinaryIO, sample_by: str) -> Iterator[tuple[int, bytes]]:  # noqa: ARG001
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


def _whole(stream: BinaryIO, sample_by: str) -> Iterator[tuple[int, bytes]]:  # noqa: ARG001
    yield 0, stream.read()


def _between(stream: BinaryIO, separator: str) -> Iterator[tuple[int, bytes]]:
    """What stands between separators, newlines around it aside."""
    mark, kept, offset = separator.encode(), [b""], 0
    while block := stream.read(BLOCK):
        border = kept[-1][-len(mark) :] + block  # where a separator can be new
        kept.append(block)
        if mark in border or len(kept[-2]) < len(mark):
            *texts, last = b"".join(kept).split(mark)
            for text in texts:
                yield offset, text.strip(b"\r\n")
                offset += len(text) + len(mark)
            kept = [last]
    last = b"".join(kept)
    if last.strip(b"\r\n"):
        yield offset, last.strip(b"\r\n")


def _unpacked(path: Path, file: BinaryIO) -> BinaryIO:
    unpack = UNPACKED.get(path.suffix.lower())
    return io.BufferedReader(unpack(file) if unpack else file, BLOCK)


class _Zstd(io.RawIOBase):
    """Frames of Zstandard, one after another; zstandard's own reader takes a frame that breaks off for the end."""

    def __init__(self, file: BinaryIO):
        self.file, self.frame = file, None
        self.packed, self.plain = b"", memoryview(b"")

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer) -> int:
        """As all raw streams."""
        while not self.plain:
            self.packed = self.packed or self.file.read(PACKED_BLOCK)
            if not self.packed:
                if self.frame is not None and not self.frame.eof:
                    raise EOFError("it ends inside a frame")
                return 0
            if self.frame is None or self.frame.eof:
                self.frame = zstandard.ZstdDecompressor().decompressobj()
            self.plain = memoryview(self.frame.decompress(self.packed))
            self.packed = self.frame.unused_data if self.frame.eof else b""
        size = min(len(buffer), len(self.plain))
        buffer[:size] = self.plain[:size]
        self.plain = self.plain[size:]
        return size


def kind_of(value) -> str:
    """What a value of JSON is, in words."""
    names = {type(None): "null", bool: "a truth value", int: "a number", float: "a number", list: "a list"}
    return names.get(type(value), "an object" if isinstance(value, dict) else "text")


UNPACKED: dict[str, Callable[[BinaryIO], BinaryIO]] = {
    ".gz": gzip.open,
    ".zst": _Zstd,
    ".xz": lzma.open,
    ".bz2": bz2.open,
}
FORMATS = {"json": _json_lines, "parquet": _parquet_rows, "text": _texts}
SUFFIXES = {".txt": "text", ".jsonl": "json", ".json": "json", ".parquet": "parquet"}
SAMPLES = {"line": _lines, "paragraph": _paragraphs, "document": _whole}
