"""Local sources: the documents of a folder, a file or a glob pattern."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from settings.checks import ConfigError
from settings.data_sections import DataSection

from .folders import READABLE, list_files
from .record_errors import Malformed
from .records import END_OF_TEXT, Fields, documents_end_at_mark, format_of, read_records
from .shards import HubShard, LocalShard
from .splits import Split, split_of_files, text_of

MAX_BYTES_SEARCHED, MAX_BYTES_PER_FILE = 1 << 26, 1 << 24
"""Bytes that are searched for `END_OF_TEXT`, in all files together and at the beginning of each."""
MARK_NOTES = {
    True: f"documents of text end at {END_OF_TEXT}, as in {{file}}; give data.sample_by to cut them otherwise",
    False: f"{END_OF_TEXT} within lines of {{file}} is read as text; give data.sample_by='{END_OF_TEXT}' if "
    "documents end there",
}
"""The note on a file that has `END_OF_TEXT` in it, by whether documents end at it."""


@dataclass(frozen=True)
class LocalFiles:
    """Text, JSON lines or table files, compressed or not; in a folder, file names determine the splits."""

    pattern: str
    text_field: str = "text"
    group_field: str | None = None
    sample_by: str | None = None
    default_documents: int | None = None

    @property
    def name(self) -> str:
        """The source's name in errors."""
        return self.pattern

    def splits(self, data: DataSection) -> dict[str, Split]:
        """`train`, and `validation` if file names say so; `ConfigError` if no file can be read."""
        listing = list_files(self.pattern, Path(data.cache_dir), data.text_field or self.text_field)
        source, notes = self, listing.notes
        every = (file for files in listing.splits.values() for file in files)
        if data.sample_by is None and (marks := find_marks(every)):
            file, are_ends = marks
            source = replace(self, sample_by=END_OF_TEXT) if are_ends else self
            notes += (f"{self.pattern}: {MARK_NOTES[are_ends].format(file=file.name)}",)
        # File names may contain any bytes.
        notes = tuple(note.encode("utf-8", "backslashreplace").decode() for note in notes)
        return {
            name: replace(split_of(source, [LocalShard.of(file) for file in files], data), notes=notes)
            for name, files in listing.splits.items()
        }


def find_marks(files: Iterable[Path]) -> tuple[Path, bool] | None:
    """The first text file that contains `END_OF_TEXT`, and whether documents end at it; None if none contains it.

    Only the beginnings of the files are searched.
    """
    left, within = MAX_BYTES_SEARCHED, None
    for file in files:
        if format_of(file) != "text" or left <= 0:
            continue
        most = min(left, MAX_BYTES_PER_FILE)
        if found := documents_end_at_mark(file, most):
            return file, True
        if found is False and within is None:
            within = file, False
        left -= min(file.stat().st_size, most)
    return within


def split_of(source, shards: Sequence[HubShard | LocalShard], data: DataSection) -> Split:
    """A split of a source's files, read with the source's settings or those of the data section."""
    unknown = [Path(shard.name).name for shard in shards if format_of(Path(shard.name)) is None]
    if unknown or not shards:
        raise ConfigError(f"{source.name} holds {', '.join(unknown[:3]) or 'no files'}; {READABLE}")
    fields = Fields(
        text=data.text_field or source.text_field,
        group=data.group_field or source.group_field,
        sample_by=data.sample_by or source.sample_by or "paragraph",
        prompts=data.text_field is None,
    )
    return split_of_files(shards, fields, data.bad_records)


def documents_of(path: Path, sample_by: str | None = None, text_field: str | None = None) -> list[dict]:
    """The documents of one file, as training reads them: text or a table, compressed or not.

    Plain text is one document, whatever the file is called, unless `END_OF_TEXT` separates documents or `sample_by` is
    given. `ConfigError` if a record is malformed (training would skip it), or if there is no text.
    """
    if not path.is_file():
        raise ConfigError(f"{path} {'is a folder' if path.is_dir() else 'does not exist'}; give a text file")
    if sample_by is None:
        sample_by = END_OF_TEXT if find_marks([path]) == (path, True) else "document"
    fields = Fields(text=text_field or "text", group=None, sample_by=sample_by, prompts=text_field is None)
    found = []
    for record in read_records(path, fields, 0, str(path)):
        document = fields.document(record.fields)
        if isinstance(document, Malformed):
            raise ConfigError(
                f"{path}, record {record.number + 1}: {document.kind}{document.detail}; fix it, or give another file"
            )
        if document is not None and len(text_of(document)):
            found.append(document)
    if not found:
        raise ConfigError(f"{path} is empty; give some text")
    return found
