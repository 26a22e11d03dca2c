"""Writes a split's documents as shards of ids, one at a time, so that an interruption loses at most one.

A shard is an array of ids (`00000.npy`), the starts of its documents (`00000.documents.npy`) and, for validation,
hashes of its texts (`00000.hashes.npy`). `journal.json` records what is written and where to continue reading;
`quarantine.jsonl` has the malformed records.
"""

import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import xxhash
from tqdm import tqdm

from data_prep.sources.long_text import Text, pieces_of
from data_prep.sources.record_errors import Reading
from data_prep.sources.splits import Split, explain_empty_split, parts_of, text_of
from data_prep.tokenizer.build import start_token
from data_prep.tokenizer.encoder import Encoder
from settings.checks import ConfigError
from settings.wording import format_bytes, format_count
from storage.arrays import TokenFile, save_array
from storage.files import from_saved, sha256, write_atomically

TOKENS_PER_SHARD = 1 << 23
CHARACTERS_PER_BATCH = 1_000_000
MAX_GROUPS = 256
DOCUMENT = np.dtype([("start", "<i8"), ("prompt", "<i4"), ("group", "<i4")])


@dataclass
class Journal:
    """The state of a split after its last complete shard: what is on disk, and where to continue reading."""

    place: object = None
    reading: dict = field(default_factory=dict)
    shards: list[dict] = field(default_factory=list)
    groups: dict[str, dict] = field(default_factory=dict)
    """Documents and `text_bytes` of each group; a group's number is its index here."""
    prompt_tokens: int = 0
    text_bytes: int = 0
    floor_nats: float | None = 0.0
    duplicates: int = 0
    """Documents that are identical to one of the validation split."""
    quarantine_bytes: int = 0
    revisions: dict[str, str] = field(default_factory=dict)
    """The Hub commits that were read, by data set."""
    files: list[str | None] = field(default_factory=list)
    """A hash of each file of the split, None for a file that was not reached."""
    finished: bool = False
    more: bool | None = None
    """Whether a limit applied and its source has more documents; None if that has not been checked yet."""

    @property
    def tokens(self) -> int:
        """Ids in complete shards."""
        return sum(shard["tokens"] for shard in self.shards)

    @property
    def documents(self) -> int:
        """Documents in complete shards."""
        return sum(shard["documents"] for shard in self.shards)

    def has(self, tokens: int | None) -> bool:
        """Whether there are `tokens` ids (None: all), or the split is finished."""
        return self.finished or (tokens is not None and self.tokens >= tokens)

    @classmethod
    def load(cls, folder: Path) -> "Journal":
        """The journal of a split's folder, or a new one."""
        path = folder / "journal.json"
        return from_saved(cls, json.loads(path.read_text(encoding="utf-8"))) if path.exists() else cls()

    def note(self, shards: Sequence):
        """Record the hashes of the files that were reached so far."""
        before = self.files or [None] * len(shards)
        self.files = [shard.known or was for shard, was in zip(shards, before, strict=True)]

    def save(self, folder: Path):
        """Save the journal atomically."""
        write_atomically(folder / "journal.json", json.dumps(asdict(self), ensure_ascii=False))


class SplitWriter:
    """Encodes a split into its folder, shard by shard, continuing after the last complete one.

    A shard ends with the first batch of documents that makes it `TOKENS_PER_SHARD` long, and the next batch starts a
    shard, so that the bytes on disk do not depend on interruptions.
    """

    def __init__(self, folder: Path, split: Split, tokenizer, encode: Encoder):
        folder.mkdir(exist_ok=True)
        self.folder, self.split, self.encode = folder, split, encode
        self.ids_type = np.uint16 if len(tokenizer) <= 2**16 else np.uint32
        self.end, self.start = tokenizer.eos_token_id, start_token(tokenizer)
        self.journal = Journal.load(folder)
        self.journal.revisions = dict(split.revisions)

    def write(self, held_out: set[int] | None = None, until: int | None = None) -> Journal:
        """Write what is missing of at least `until` ids (None: all), and return the journal.

        `held_out` are the hashes of the validation texts; None when writing the validation split itself.
        `ConfigError` if the split holds no documents.
        """
        reading = self.split.reading(self._quarantine(), self.journal.reading)
        documents = self.split.read_from(self.journal.place, reading)
        with Progress(self.folder.name, self.split, self.journal, reading, until) as progress:
            while not self.journal.has(until):
                self._write_shard(documents, reading, held_out, progress)
        if self.journal.documents == 0:
            raise ConfigError(explain_empty_split(self.folder.name, self.split, reading))
        if self.journal.finished and self.journal.more is None:
            self._check_for_more()
        return self.journal

    def hashes(self) -> set[int]:
        """The hashes of the split's texts, if it stores them."""
        return {int(known) for path in sorted(self.folder.glob("0*.hashes.npy")) for known in np.load(path)}

    def _quarantine(self) -> Path:
        """The file of malformed records, truncated to its state at the last complete shard."""
        path = self.folder / "quarantine.jsonl"
        path.touch()
        os.truncate(path, self.journal.quarantine_bytes)
        return path

    def _write_shard(self, documents: Iterator, reading: Reading, held_out: set[int] | None, progress: "Progress"):
        """Write the next shard, and then the journal that makes it valid."""
        journal, name = self.journal, f"{len(self.journal.shards):05}"
        abouts, hashes = [], []
        ids = TokenFile(self.folder / f"{name}.npy", self.ids_type)
        for batch, place, is_last in _batches(documents):
            hashes.append(self._count(batch, held_out))
            abouts.append(self._write_batch(ids, batch))
            journal.place = place
            progress.show(ids.length, sum(map(len, abouts)))
            journal.finished = is_last
            if ids.length >= TOKENS_PER_SHARD:
                break
        else:
            journal.finished = True
        if journal.finished:
            reading.judge()
        ids.close()
        if count := sum(map(len, abouts)):
            save_array(self.folder / f"{name}.documents.npy", np.concatenate(abouts))
            if held_out is None:
                save_array(self.folder / f"{name}.hashes.npy", np.concatenate(hashes))
            path = self.folder / f"{name}.npy"
            journal.shards.append({"tokens": ids.length, "documents": count, "sha256": sha256(path)})
        else:
            (self.folder / f"{name}.npy").unlink()
        journal.reading = reading.counts()
        journal.note(self.split.shards)
        journal.quarantine_bytes = (self.folder / "quarantine.jsonl").stat().st_size
        journal.save(self.folder)

    def _check_for_more(self):
        """Record whether the source has more documents; done last, because it may need another file."""
        self.journal.more = bool(self.split.more and self.split.more(self.journal.place))
        self.journal.save(self.folder)

    def _write_batch(self, ids: TokenFile, documents: list[dict]) -> np.ndarray:
        """Append the documents' ids, and return the document records with their starts in the split."""
        prompts, rests, encoded = self._encode(documents)
        ends = np.cumsum(prompts + rests)
        begins = ends - prompts - rests
        number = np.arange(len(documents))
        if self.start == self.end:  # one token between documents, and one before the first
            rows = np.insert(encoded, ends, self.end)
            if self.journal.tokens + ids.length == 0:
                rows = np.insert(rows, 0, self.end)
            starts = begins + number + max(self.journal.tokens + ids.length - 1, 0)
        else:
            places = np.stack([begins, ends], axis=1).ravel()
            rows = np.insert(encoded, places, np.tile([self.start, self.end], len(documents)))
            starts = begins + 2 * number + self.journal.tokens + ids.length
        ids.append(rows)
        about = np.zeros(len(documents), DOCUMENT)
        about["start"] = starts
        about["prompt"] = np.where(["prompt" in document for document in documents], prompts + 1, 0)
        groups = {name: place for place, name in enumerate(self.journal.groups)}
        about["group"] = [groups.get(document.get("group"), -1) for document in documents]
        self.journal.prompt_tokens += int(prompts.sum())
        return about

    def _encode(self, documents: list[dict]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Lengths of the prompts and of the rests, and all ids; the two parts are encoded separately."""
        if any("prompt" in document for document in documents):
            parts = [part for document in documents for part in parts_of(document)]
            ids, counts = self.encode(parts, self.ids_type)
            return counts[::2], counts[1::2], ids
        ids, counts = self.encode([document["text"] for document in documents], self.ids_type)
        return np.zeros_like(counts), counts, ids

    def _count(self, documents: list[dict], held_out: set[int] | None) -> np.ndarray:
        """Add the documents to the journal's counts; return the hashes of their texts."""
        journal, floor, hashes = self.journal, self.split.floor, []
        for document in documents:
            known, size = _hash(parts_of(document))
            hashes.append(known)
            journal.text_bytes += size
            if "group" in document:
                self._count_group(document["group"], size, is_training=held_out is not None)
            journal.duplicates += held_out is not None and known in held_out
            if floor is None:
                journal.floor_nats = None
            else:
                journal.floor_nats += floor(text_of(document))
        return np.array(hashes, dtype=np.uint64)

    def _count_group(self, name: str, size: int, is_training: bool):
        """Add a document to its group. Training groups beyond `MAX_GROUPS` are ignored: they are not reported."""
        groups = self.journal.groups
        if name not in groups and len(groups) == MAX_GROUPS:
            if is_training:
                return
            raise ConfigError(
                f"data.group_field has more than {MAX_GROUPS} different values, such as {name!r}; "
                "give a field with fewer values"
            )
        group = groups.setdefault(name, {"documents": 0, "text_bytes": 0})
        group["documents"] += 1
        group["text_bytes"] += size


class Progress:
    """Progress bar of a split: documents, tokens, MB of text per second, and the remaining time if known."""

    def __init__(self, name: str, split: Split, journal: Journal, reading: Reading, until: int | None):
        self.journal, self.reading = journal, reading
        self.started, self.bytes_before = time.monotonic(), journal.text_bytes
        if until is not None:
            self.measure, unit = "tokens", {"unit": " tokens", "unit_scale": True, "total": until}
        elif split.documents is None and split.size is not None:
            self.measure, unit = "bytes", {"unit": "B", "unit_scale": True, "total": split.size}
        else:
            self.measure, unit = "documents", {"unit": " documents", "total": split.documents}
        self.bar = tqdm(desc=f"{name} tokens", **unit)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.bar.total = self.bar.n  # the source may have ended before the limit
            self.bar.refresh()
        self.bar.close()

    def show(self, new_tokens: int, new_documents: int):
        """Update the bar; new tokens and documents are not in a complete shard yet."""
        documents, tokens = self.journal.documents + new_documents, self.journal.tokens + new_tokens
        speed = (self.journal.text_bytes - self.bytes_before) / max(time.monotonic() - self.started, 1e-3)
        summary = f"{format_count(documents, 'document')}, {format_count(tokens, 'token')}, {format_bytes(speed)}/s"
        self.bar.set_postfix_str(summary, refresh=False)
        so_far = {"documents": documents, "tokens": tokens, "bytes": self.reading.bytes}
        self.bar.update(so_far[self.measure] - self.bar.n)


def _batches(documents: Iterator) -> Iterator[tuple[list[dict], object, bool]]:
    """Batches of documents of about 1 MB, the place after each, and whether it is the last."""
    batch, size = [], 0
    for document, place in documents:
        batch.append(document)
        size += sum(map(len, parts_of(document)))
        if size >= CHARACTERS_PER_BATCH:
            yield batch, place, False
            batch, size = [], 0
    if batch:
        yield batch, place, True


def _hash(parts: tuple[Text, Text]) -> tuple[int, int]:
    """A hash of a text, and its length in UTF-8 bytes."""
    hasher, size = xxhash.xxh3_64(), 0
    for part in parts:
        for piece in map(str.encode, pieces_of(part)):
            hasher.update(piece)
            size += len(piece)
    return hasher.intdigest(), size
