"""Reads rows of tables from any row on: parquet, arrow as `datasets` saves it, CSV."""

import csv
import io
import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import pyarrow
import pyarrow.parquet

from settings.checks import ConfigError

from .long_text import LONG_TEXT_BYTES, LongText, text_from
from .record_errors import Malformed

ROWS_PER_BATCH = 1000
LARGEST_FIELD = 2**31 - 1
DELIMITERS = ",;\t|"
"""CSV delimiters; Excel writes the second in locales with a decimal comma."""
END_OF_STREAM, END_OF_FILE = b"\0\0\0\0", b"ARROW1"
Rows = Iterator[tuple[int, dict | Malformed | None, int]]
"""Row numbers, rows as dictionaries, and bytes of the file read so far."""


def parquet_rows(path: Path, columns: Sequence[str], start: int) -> Rows:
    """Rows of a parquet file as dictionaries of its `columns`; `ConfigError` if it has none of them."""
    file = pyarrow.parquet.ParquetFile(path)
    columns = _existing_columns(path, columns, file.schema_arrow.names)
    number, size = 0, path.stat().st_size
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        if number + rows <= start:
            number += rows
            continue
        for batch in file.iter_batches(ROWS_PER_BATCH, row_groups=[group], columns=columns):
            for row in _python_rows(batch):
                if number >= start:
                    yield number, row, size * (number + 1) // file.metadata.num_rows
                number += 1


def arrow_rows(path: Path, columns: Sequence[str], start: int) -> Rows:
    """As `parquet_rows`, for an arrow file or stream; a truncated one raises `ArrowInvalid`."""
    with pyarrow.memory_map(str(path)) as source:
        batches = _record_batches(source)
        columns, number = _existing_columns(path, columns, batches.schema.names), 0
        for batch in _iterate_batches(batches):
            for first in range(0, batch.num_rows, ROWS_PER_BATCH):
                part = batch.slice(first, ROWS_PER_BATCH)
                if number + part.num_rows <= start:
                    number += part.num_rows
                    continue
                for row in _python_rows(part.select(columns)):
                    if number >= start:
                        yield number, row, source.tell()
                    number += 1


def _record_batches(source: pyarrow.MemoryMappedFile):
    source.seek(source.size() - len(END_OF_FILE))
    end = source.read()
    source.seek(0)
    if end == END_OF_FILE:
        return pyarrow.ipc.open_file(source)
    if not end.endswith(END_OF_STREAM):  # pyarrow would read a truncated stream as if complete
        raise pyarrow.ArrowInvalid("it is truncated")
    return pyarrow.ipc.open_stream(source)


def _iterate_batches(batches) -> Iterator[pyarrow.RecordBatch]:
    """The record batches of a stream or a file."""
    if isinstance(batches, pyarrow.ipc.RecordBatchFileReader):
        return (batches.get_batch(index) for index in range(batches.num_record_batches))
    return iter(batches)


def csv_header(path: Path, stream: BinaryIO, wanted: Sequence[str]) -> list[str]:
    """The columns in the header of a CSV file; `wanted` as `columns` of `csv_rows`."""
    return next(_csv_reader(path, _text_of(stream), wanted), [])


def csv_rows(path: Path, stream: BinaryIO, columns: Sequence[str], start: int, tell) -> Rows:
    """As `parquet_rows`, for CSV with a header. A row that cannot be read is malformed.

    The delimiter is the one of `DELIMITERS` by which the header has one of `columns`. Each line of a malformed row
    counts as one row, because an open quote may include any number of lines.
    """
    text = _text_of(stream)  # closes the file when it is garbage-collected
    reader = _csv_reader(path, text, columns)
    head = next(reader, [])
    columns, number = _existing_columns(path, columns, head), 0
    while True:
        before = reader.line_num
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            values = error
        row = _csv_row(head, values, columns)
        after = number + (reader.line_num - before if isinstance(row, Malformed) else 1)
        for place in range(max(number, start), after):
            yield place, row, tell()
        number = after


def _text_of(stream: BinaryIO) -> io.TextIOWrapper:
    return io.TextIOWrapper(stream, encoding="utf-8", errors="surrogateescape", newline="")


def _csv_reader(path: Path, text: io.TextIOWrapper, wanted: Sequence[str]):
    csv.field_size_limit(LARGEST_FIELD)
    first = text.readline()
    own = "\t" if re.search(r"\.tsv(\.\w+)?$", path.name, re.IGNORECASE) else ","
    delimiter = max((own, *DELIMITERS), key=lambda one: _matching_columns(one, first, wanted))
    return csv.reader(itertools.chain([first], text), delimiter=delimiter, strict=True)


def _matching_columns(delimiter: str, line: str, wanted: Sequence[str]) -> tuple[bool, int]:
    """Whether the header has a wanted column with this delimiter, and how many columns it has."""
    names = next(csv.reader([line], delimiter=delimiter), [])
    return not set(wanted).isdisjoint(names), len(names)


def _csv_row(head: list[str], values: list[str] | csv.Error, columns: Sequence[str]) -> dict | Malformed | None:
    if isinstance(values, csv.Error):
        return Malformed("invalid CSV", f": {values}")
    if not values:
        return None
    if len(values) != len(head):
        return Malformed("wrong number of fields", f": {len(values)} for {len(head)} columns")
    row = {name: value for name, value in zip(head, values, strict=True) if name in columns}
    if not all(map(_is_utf8, row.values())):
        return Malformed("invalid UTF-8")
    return {name: value if len(value) < LONG_TEXT_BYTES else LongText([value.encode()]) for name, value in row.items()}


def _is_utf8(text: str) -> bool:
    """Whether a text was decoded without surrogate escapes, so from valid UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _existing_columns(path: Path, columns: Sequence[str], names: Sequence[str]) -> list[str]:
    """Those of the wanted columns that exist, the text first; `ConfigError` if there are none."""
    if known := [*dict.fromkeys(column for column in columns if column in names)]:
        return known
    raise ConfigError(f"{path.name} has no column {columns[0]}; there are {', '.join(names)}")


def _python_rows(batch: pyarrow.RecordBatch) -> Iterator[dict | Malformed]:
    """Rows of a batch. Strings are decoded one by one, so that invalid UTF-8 affects only its own row."""
    for row in zip(*map(_values, batch.columns), strict=True):
        values = zip(batch.schema.names, row, strict=True)
        try:
            yield {name: text_from(value) if isinstance(value, bytes) else value for name, value in values}
        except UnicodeDecodeError as error:
            yield Malformed("invalid UTF-8", f" at byte {error.start} of the text")


def _values(column: pyarrow.Array) -> list:
    """A column's values, texts as bytes."""
    is_text = pyarrow.types.is_string(column.type) or pyarrow.types.is_large_string(column.type)
    return (column.cast(pyarrow.large_binary()) if is_text else column).to_pylist()
