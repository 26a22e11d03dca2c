"""Splits: documents in a fixed order, readable from any place; from files, mixed, or concatenated.

A document is a dictionary with `text`, or with `prompt` and `completion`, and with `group` if the source has groups.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from settings.checks import ConfigError
from settings.wording import all_count_is, count_is

from .long_text import Text
from .record_errors import CHECK_SETTINGS, Malformed, MalformedRecord, Reading
from .records import Fields, read_records
from .shards import HubShard, LocalShard, Program

MIN_FILES = 4
Place = Any
"""Where to continue reading a split, as plain JSON values; None is its beginning."""


@dataclass(frozen=True)
class Split:
    """Documents in a fixed order, with an identity by which tokens prepared from them are found again."""

    read_from: Callable[[Place, Reading], Iterator[tuple[dict, Place]]]
    """The documents from a place on, each with the place after it; malformed records are counted in the reading."""
    identity: dict
    floor: Callable[[str], float] | None = None
    """The exact -log p of a document's text in nats, including its end, if the source knows it."""
    bad_records: float = 0.0
    """Maximum fraction of malformed records."""
    size: int | None = None
    """Bytes of its files on disk, if it consists of files."""
    documents: int | None = None
    """Maximum number of documents, if known in advance."""
    revisions: Mapping[str, str] = field(default_factory=dict)
    """The Hub commits that it is read from, by data set."""
    is_held_out: bool = False
    """Whether it is held out from another split, whose check of malformed records includes its own."""
    notes: tuple[str, ...] = ()
    """Notes for the user on how its source is read."""
    shards: Sequence[LocalShard | HubShard | Program] = ()
    """The files or programs that it consists of, in order."""
    more: Callable[[Place], bool] | None = None
    """If a limit applies: whether there are more documents after the place where it ends."""
    thin: Callable[[int], "Split"] | None = None
    """A split of fewer files, evenly chosen, with at least this many bytes on disk; None if cut or without files."""

    def __iter__(self) -> Iterator[dict]:
        reading = self.reading()
        for document, _ in self.read_from(None, reading):
            yield document
        reading.judge()

    def reading(self, quarantine: Path | None = None, counts: dict | None = None) -> Reading:
        """A `Reading` of this split, which resumes from `counts` if given."""
        return Reading(self.bad_records, quarantine, **{"is_held_out": self.is_held_out} | (counts or {}))

    def _has_more(self, place: Place) -> bool:
        """Whether documents follow a place; also true if the next file cannot be read."""
        try:
            return next(self.read_from(place, Reading(1.0)), None) is not None
        except ConfigError:
            return True

    def cut(self, start: int, stop: int | None) -> "Split":
        """The documents from `start` up to `stop` (None: the end)."""

        def read_from(place: Place, reading: Reading):
            inner, count = place or (None, 0)
            if count == stop:
                return
            if count < start:
                reading.skip_held_out()
            for document, after in self.read_from(inner, reading):
                count += 1
                if count == start:
                    reading.is_skipping = False
                if count > start:
                    yield document, (after, count)
                if count == stop:  # stop before reading the next one, which may need another shard
                    return

        def more(place: Place) -> bool:
            inner, count = place or (None, 0)
            return count == stop and self._has_more(inner)

        if start == 0 and stop is None:
            return self
        documents = None if stop is None else stop - start
        identity = self.identity | {"start": start, "stop": stop}
        ends = any(not isinstance(shard, Program) for shard in self.shards)
        limits = {"documents": documents, "more": more if ends else None}
        return replace(self, read_from=read_from, identity=identity, **limits, thin=None)


def split_of_files(shards: Sequence[LocalShard | HubShard], fields: Fields, bad_records: float) -> Split:
    """The documents of files, one file after another."""

    def read_from(place: Place, reading: Reading):
        first, start = place or (0, 0)
        for index in range(first, len(shards)):
            before = sum(shard.size for shard in shards[:index])
            for document, after in _documents(shards[index], fields, start, reading, before):
                yield document, (index, after)
            start = 0

    identity = {"shards": [shard.identity for shard in shards], "fields": vars(fields)}
    size = sum(shard.size for shard in shards)

    def thin(least: int) -> Split:
        count = min(len(shards), max(MIN_FILES, math.ceil(least / max(size, 1) * len(shards))))
        chosen = [shards[index * len(shards) // count] for index in range(count)]
        return split_of_files(chosen, fields, bad_records)

    return Split(read_from, identity, bad_records=bad_records, size=size, shards=shards, thin=thin)


def _documents(shard, fields: Fields, start: int, reading: Reading, before: int) -> Iterator[tuple[dict, int]]:
    """A file's documents from record `start` on, each with the number of the record after it."""
    with shard.open() as path:
        for record in read_records(path, fields, start, shard.name):
            after, reading.bytes = record.number + 1, before + record.read
            document = fields.document(record.fields)
            if isinstance(document, Malformed):
                fault = MalformedRecord(shard.name, after, record.offset, document.kind + document.detail)
                reading.fault(fault, document.kind)
            elif document is not None and not any(parts_of(document)):
                reading.empty_document()
            elif document is not None:
                reading.document()
                yield document, after


def mix(splits: Mapping[str, Split], weights: Mapping[str, float]) -> Split:
    """Interleave splits by weight of bytes; ends when one of them ends.

    The next document comes from the split that is farthest behind its weight: deterministic, and without drift.
    """

    def read_from(place: Place, reading: Reading):
        places, sizes = place or (dict.fromkeys(splits), dict.fromkeys(splits, 0))
        readers = {
            name: split.read_from(places[name], reading.part(name, split.is_held_out)) for name, split in splits.items()
        }
        while True:
            name = min(splits, key=lambda name: sizes[name] / weights[name])
            document, after = next(readers[name], (None, None))
            if document is None:
                return
            places = places | {name: after}
            sizes = sizes | {name: sizes[name] + len(text_of(document).encode())}
            yield {"group": name} | document, (places, sizes)

    identity = {"mixture": {name: split.identity | {"weight": weights[name]} for name, split in splits.items()}}
    return _joined(splits, read_from, identity)


def concatenated(splits: Mapping[str, Split]) -> Split:
    """All documents of several splits, one split after another; each split is a group unless it has groups itself."""
    names = list(splits)

    def read_from(place: Place, reading: Reading):
        first, inner = place or (0, None)
        for index in range(first, len(names)):
            split = splits[names[index]]
            for document, after in split.read_from(inner, reading.part(names[index], split.is_held_out)):
                yield {"group": names[index]} | document, (index, after)
            inner = None

    identity = {"one after another": {name: split.identity for name, split in splits.items()}}
    return _joined(splits, read_from, identity)


def _joined(splits: Mapping[str, Split], read_from: Callable, identity: dict) -> Split:
    bad_records = max(split.bad_records for split in splits.values())
    revisions = {name: commit for split in splits.values() for name, commit in split.revisions.items()}
    notes = tuple(note for split in splits.values() for note in split.notes)
    shards = [shard for split in splits.values() for shard in split.shards]
    return Split(read_from, identity, bad_records=bad_records, revisions=revisions, notes=notes, shards=shards)


def parts_of(document: dict) -> tuple[Text, Text]:
    """The prompt, which may be empty, and the text that follows it."""
    return ("", document["text"]) if "text" in document else (document["prompt"], document["completion"])


def text_of(document: dict) -> Text:
    """A document's whole text, prompt and completion joined."""
    return document["text"] if "text" in document else document["prompt"] + document["completion"]


def explain_empty_split(name: str, split: Split, reading: Reading) -> str:
    """Why the split `name` has no documents, in one sentence."""
    parts = (reading, *reading.parts.values())
    passed = [part.before for part in parts if part.before and not part.records]
    reading = passed[0] if passed else reading
    documents, start = reading.documents, split.identity.get("start")
    so_many = f" in the place of {start:,}" if start else ""
    reasons = {
        f"{count_is(documents, 'document')} too short to hold out a part of each; give more text, or "
        "data.validation_source": documents and "last tenth" in split.identity,
        f"{all_count_is(documents, 'document')} held out; give data.validation_documents=null for a tenth{so_many}, or "
        "data.validation_source": documents,
        f"{reading}; {reading.remedy}": reading.faults,
        f"{all_count_is(reading.empty, 'record')} empty; {CHECK_SETTINGS}": reading.empty,
        f"it is empty; check data.source and data.{name}_documents": True,
    }
    return f"the {name} split holds no documents: {next(reason for reason, holds in reasons.items() if holds)}"
