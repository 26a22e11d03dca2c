"""A split's documents to shards of ids on disk: one at a time, so that an interrupted preparation loses one at most.

A shard is an array of ids (`00000.npy`), of where its documents begin (`00000.documents.npy`) and, for validation,
hashes of its texts (`00000.hashes.npy`). `journal.json` says what there is so far and where to read on;
`quarantine.jsonl` has what was no document.
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
    """What of a split is on disk, and where to read on: the state after the last whole shard."""

    place: object = None
    reading: dict = field(default_factory=dict)
    shards: list[dict] = field(default_factory=list)
    groups: dict[str, dict] = field(default_factory=dict)
    """Documents and `text_bytes` of each group; a group's number is its place here."""
    prompt_tokens: int = 0
    text_bytes: int = 0
    floor_nats: float | None = 0.0
    duplicates: int = 0
    """Documents that the validation split has as well, word for word."""
    quarantine_bytes: int = 0
    revisions: dict[str, str] = field(default_factory=dict)
    """The commits of the Hub that were read, by data set."""
    files: list[str | None] = field(default_factory=list)
    """A hash of each file of the split, None for one that was not come to."""
    finished: bool = False
    more: bool | None = None
    """Whether it is finished because of a limit, and its source holds more; None where that was not looked at yet."""

    @property
    def tokens(self) -> int:
        """Ids in whole shards."""
        return sum(shard["tokens"] for shard in self.shards)

    @property
    def documents(self) -> int:
        """Documents in whole shards."""
        return sum(shard["documents"] for shard in self.shards)

    def has(self, tokens: int | None) -> bool:
        """Whether there are so many ids, or all that there will ever be (None: all)."""
        return self.finished or (tokens is not None and self.tokens >= tokens)

    @classmethod
    def load(cls, folder: Path) -> "Journal":
        """The journal of a split's folder, or a new one."""
        path = folder / "journal.json"
        return from_saved(cls, json.loads(path.read_text(encoding="utf-8"))) if path.exists() else cls()

    def note(self, shards: Sequence):
        """Take over the hashes of the files that were come to by now."""
        before = self.files or [None] * len(shards)
        self.files = [shard.known or was for shard, was in zip(shards, before, strict=True)]

    def save(self, folder: Path):
        """Write it down, whole or not at all."""
        write_atomically(folder / "journal.json", json.dumps(asdict(self), ensure_ascii=False))


class SplitWriter:
    """Encodes a split into its folder, shard by shard, on from the last whole one.

    A shard ends with the first batch of documents that makes it `TOKENS_PER_SHARD` long, and a batch begins where a
    shard does: so the bytes on disk do not depend on where a preparation was interrupted.
    """

    def __init__(self, folder: Path, split: Split, tokenizer, encode: Encoder):
        folder.mkdir(exist_ok=True)
        self.folder, self.split, self.encode = folder, split, encode
        self.ids_type = np.uint16 if len(tokenizer) <= 2**16 else np.uint32
        self.end, self.start = tokenizer.eos_token_id, start_token(tokenizer)
        self.journal = Journal.load(folder)
        self.journal.revisions = dict(split.revisions)

    def write(self, held_out: set[int] | None = None, until: int | None = None) -> Journal:
        """Write what is missing of at least `until` ids (None: of all), and return what there is.

        `held_out` are the hashes of texts that should not occur; None is for the split that they come from.
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
        """Of the split's texts, for a split that keeps them."""
        return {int(known) for path in sorted(self.folder.glob("0*.hashes.npy")) for known in np.load(path)}

    def _quarantine(self) -> Path:
        """The file of faults, cut to what it held at the last whole shard."""
        path = self.folder / "quarantine.jsonl"
        path.touch()
        os.truncate(path, self.journal.quarantine_bytes)
        return path

    def _write_shard(self, documents: Iterator, reading: Reading, held_out: set[int] | None, progress: "Progress"):
        """The next shard, and the journal, without which it does not count."""
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
        """Note whether a limit has left something out: only now, for it may take another file."""
        self.journal.more = bool(self.split.more and self.split.more(self.journal.place))
        self.journal.save(self.folder)

    def _write_batch(self, ids: TokenFile, documents: list[dict]) -> np.ndarray:
        """Append the documents' ids, and return where they begin in the split."""
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
        """Lengths of the prompts and of what follows them, and all ids; the two parts are encoded apart."""
        if any("prompt" in document for document in documents):
            parts = [part for document in documents for part in parts_of(document)]
            ids, counts = self.encode(parts, self.ids_type)
            return counts[::2], counts[1::2], ids
        ids, counts = self.encode([document["text"] for document in documents], self.ids_type)
        return np.zeros_like(counts), counts, ids

    def _count(self, documents: list[dict], held_out: set[int] | None) -> np.ndarray:
        """Add the documents to the journal's sums; return hashes of their texts."""
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
        """Add to a group. Of training, which nothing tells by group, more than so many have none."""
        groups = self.journal.groups
        if name not in groups and len(groups) == MAX_GROUPS:
            if is_training:
                return
            raise ConfigError(
                f"data.group_field tells more than {MAX_GROUPS} groups apart, {name!r} among them; "
                "give a field that many documents have in common"
            )
        group = groups.setdefault(name, {"documents": 0, "text_bytes": 0})
        group["documents"] += 1
        group["text_bytes"] += size


class Progress:
    """A bar of a split's preparation: documents, tokens, MB of text a second, and the time left where it is known."""

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
            self.bar.total = self.bar.n  # a limit that the source did not reach is no measure of what was done
            self.bar.refresh()
        self.bar.close()

    def show(self, new_tokens: int, new_documents: int):
        """Bring the bar up to date; what is new has no whole shard yet."""
        documents, tokens = self.journal.documents + new_documents, self.journal.tokens + new_tokens
        speed = (self.journal.text_bytes - self.bytes_before) / max(time.monotonic() - self.started, 1e-3)
        told = f"{format_count(documents, 'document')}, {format_count(tokens, 'token')}, {format_bytes(speed)}/s"
        self.bar.set_postfix_str(told, refresh=False)
        so_far = {"documents": documents, "tokens": tokens, "bytes": self.reading.bytes}
        self.bar.update(so_far[self.measure] - self.bar.n)


def _batches(documents: Iterator) -> Iterator[tuple[list[dict], object, bool]]:
    """Documents of some MB together, the place after them, and whether there is nothing more to read."""
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
    """A hash of a text, and its UTF-8 bytes."""
    hasher, size = xxhash.xxh3_64(), 0
    for part in parts:
        for piece in map(str.encode, pieces_of(part)):
            hasher.update(piece)
            size += len(piece)
    return hasher.intdigest(), size
