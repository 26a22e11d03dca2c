"""Prepares documents as tokens on disk, once, in a folder in which an interrupted preparation resumes.

A prepared folder has `tokenizer/`, `request.json` with the settings, one folder of shards per split, and, written last,
`manifest.json`.

The ids of a split form one sequence `end document end document end`: each document is preceded by the start token and
followed by the end token; if these are the same token, adjacent documents share it.
"""

import hashlib
import json
import os
import re
import shutil
import time
from contextlib import suppress
from dataclasses import asdict
from itertools import islice
from pathlib import Path

from filelock import Timeout

from data_prep.sources.fingerprints import CONTENTS, TrainedData
from data_prep.sources.shards import LocalShard
from data_prep.sources.table import open_corpus
from data_prep.tokenizer import build as tokenizers
from data_prep.tokenizer.encoder import Encoder
from settings.checks import ConfigError
from settings.data_sections import DataSection, TokenizerSection
from settings.paths import safe_file_name
from storage.files import remove_new_empty_folders, report_full_disk, write_json

from .lock import LOCKS, POLL_SECONDS, lock_of
from .prepared import PROMPTS_NEED_DOCUMENTS, PreparedData, summary
from .published import FORMAT, MANIFEST, REQUEST, find_prepared, is_prepared, matches_request, request
from .stream import BLOCK_TOKENS
from .writer import Journal, SplitWriter

MAX_NAME_LENGTH = 60


CHECKED_DOCUMENTS = 100
"""Validation documents that are checked before a tokenizer is trained."""


def prepare(
    data: DataSection, section: TokenizerSection, by_other_process: bool = False, trained: dict | None = None
) -> "PreparedData":
    """The tokenizer and tokens of an experiment, prepared now unless an earlier run has prepared the same.

    With `data.streaming`, only the training tokens that a run starts with. An interrupted preparation resumes after its
    last complete shard. A source that is already prepared is used as it is. With `by_other_process`, wait until another
    process has prepared everything. `trained` describes what a checkpoint was trained on (the fields of
    `TrainedData`): `ConfigError` before any preparation if a file has changed since.
    """
    if (folder := find_prepared(data, section)) is not None:
        return PreparedData(folder)
    preparation = Preparation(data, section)
    if trained is not None and not preparation.has_tokens(trained["tokens"]):
        TrainedData(**trained).check_unchanged(preparation.shards, data.origin, Path(data.cache_dir))
    if not by_other_process:
        print(*preparation.notes(), sep="", end="", flush=True)
    return preparation.make(BLOCK_TOKENS + 1 if data.streaming else None, by_other_process)


class Preparation:
    """What to prepare, and in which folder; `make` prepares what is missing."""

    def __init__(self, data: DataSection, section: TokenizerSection):
        """`ConfigError` if a source is unknown or cannot be read."""
        self.data, self.section = data, section
        train, validation = open_corpus(data)
        self.splits = {"validation": validation, "train": train}
        identity = {"format": FORMAT, "train": train.identity, "val": validation.identity}
        identity["tokenizer"] = asdict(section) | {"path": None}  # the vocabulary identifies it
        if section.kind == "pretrained":
            identity["vocabulary"] = self._load_tokenizer().backend_tokenizer.to_str()
        self._find_folder(identity)
        if not self._files_are_unchanged():  # changes that the sampled hashes do not detect
            self._find_folder(identity | {"contents": [shard.content for shard in self.shards]})

    @property
    def shards(self) -> list:
        """The files or programs of the splits, in order."""
        return [shard for split in self.splits.values() for shard in split.shards]

    def has_tokens(self, tokens: str) -> bool:
        """Whether the tokens of a checkpoint (by `PreparedData.identity`) are already prepared."""
        return is_prepared(self.folder) and tokens in PreparedData(self.folder).names

    def _find_folder(self, identity: dict):
        """Set the folder of this identity: an existing one, whatever its source was called, or a new one."""
        self.fingerprint = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
        cache, names = Path(self.data.cache_dir), self.data.mixture or [self.data.source]
        names = "-".join(map(_folder_part, names))[:MAX_NAME_LENGTH]
        there = sorted(cache.glob(f"[!.]*-{self.fingerprint}"))
        self.folder = there[0] if there else cache / f"{safe_file_name(names)}-{self.section.kind}-{self.fingerprint}"

    def _files_are_unchanged(self) -> bool:
        """Whether all files that were read for the folder are unchanged."""
        CONTENTS.load(self.folder)
        for name, split in self.splits.items():
            for shard, content in zip(split.shards, Journal.load(self.folder / name).files, strict=False):
                if content is not None and shard.content != content:
                    return False
        return True

    def _record_file_hashes(self):
        """Record the hashes of the files that were read so far."""
        for name, split in self.splits.items():
            (self.folder / name).mkdir(exist_ok=True)
            journal = Journal.load(self.folder / name)
            journal.note(split.shards)
            journal.save(self.folder / name)

    def _load_tokenizer(self):
        """The tokenizer at `tokenizer.path`, or the copy of an earlier preparation if it no longer exists."""
        try:
            return tokenizers.load_tokenizer(self.section.path)
        except ConfigError:
            wanted = request(self.data, self.section)
            for path in Path(self.data.cache_dir).glob(f"[!.]*/{REQUEST}"):
                if matches_request(path.parent, wanted):
                    return tokenizers.load_tokenizer(str(path.with_name("tokenizer")))
            raise

    def notes(self) -> list[str]:
        """The notes on how the sources are read, as lines."""
        return [f"{note}\n" for note in dict.fromkeys(one for split in self.splits.values() for one in split.notes)]

    def make(self, until: int | None, by_other_process: bool = False) -> "PreparedData":
        """Prepare all of validation and at least `until` training ids (None: all), or wait for another process."""
        while by_other_process and not self._has(until):
            time.sleep(POLL_SECONDS)
        with remove_new_empty_folders(self.folder.parent / LOCKS):
            lock = lock_of(self.folder)
            while not self._has(until):
                with suppress(Timeout), lock.acquire(timeout=POLL_SECONDS):  # another process may be preparing the same
                    if not self._has(until):
                        self._make(until)
        for name, split in self.splits.items():  # an earlier preparation may have had a higher limit
            if (journal := Journal.load(self.folder / name)).finished:
                split.reading(counts=journal.reading).judge()
        CONTENTS.save(self.folder, [shard.path for shard in self.shards if isinstance(shard, LocalShard)])
        return PreparedData(self.folder)

    def _has(self, until: int | None) -> bool:
        if (self.folder / MANIFEST).exists():
            return True
        journal = Journal.load(self.folder / "train")
        # If it is finished, the manifest is still missing.
        return until is not None and journal.tokens >= until and not journal.finished

    def _make(self, until: int | None):
        self.folder.mkdir(exist_ok=True)
        remedy = "make room, or choose another folder; the same command resumes from here"
        try:
            with report_full_disk("data.cache_dir=", self.data.cache_dir, remedy):
                self._make_what_is_missing(until)
        finally:
            if not self._has_progress():
                shutil.rmtree(self.folder)
                # while the lock is held, so that waiting processes find it gone
                Path(lock_of(self.folder).lock_file).unlink(missing_ok=True)

    def _make_what_is_missing(self, until: int | None):
        if not (self.folder / "tokenizer").exists():
            self._check_documents()
            self._make_tokenizer()
        if not (self.folder / REQUEST).exists():
            write_json(self.folder / REQUEST, request(self.data, self.section) | {"fingerprint": self.fingerprint})
        self._make_tokens(until)

    def _has_progress(self) -> bool:
        """Whether there is something to resume from: a shard, or a trained tokenizer."""
        learnt = self.section.kind != "pretrained" and (self.folder / "tokenizer").exists()
        return learnt or any(Journal.load(self.folder / name).shards for name in self.splits)

    def _check_documents(self):
        """`ConfigError` if the validation documents do not fit the settings; not checked if they must be downloaded."""
        validation = self.splits["validation"]
        if validation.revisions:
            return
        first = list(islice(validation, CHECKED_DOCUMENTS))
        if first and first[0].get("prompt") and self.data.layout == "packed":
            raise ConfigError(PROMPTS_NEED_DOCUMENTS)
        if self.data.group_field is not None and not any("group" in document for document in validation):
            raise ConfigError(self._missing_group_error())

    def _missing_group_error(self) -> str:
        return f"data.group_field={self.data.group_field} does not occur in the validation documents; leave it out"

    def _make_tokenizer(self):
        tokenizer, about = tokenizers.build_tokenizer(self.section, self.splits["train"], self.splits["validation"])
        staging = self.folder / ".tokenizer"
        shutil.rmtree(staging, ignore_errors=True)
        tokenizers.save(tokenizer, about, staging)
        self._record_file_hashes()
        staging.rename(self.folder / "tokenizer")
        if self.section.kind != "pretrained":
            print(tokenizers.describe(about))

    def _make_tokens(self, until: int | None):
        tokenizer = tokenizers.load_tokenizer(str(self.folder / "tokenizer"))
        encode = Encoder(tokenizer)
        train, validation = (
            SplitWriter(self.folder / name, self.splits[name], tokenizer, encode) for name in ("train", "validation")
        )
        if not validation.write().groups and self.data.group_field is not None:
            raise ConfigError(self._missing_group_error())
        if train.write(validation.hashes(), until).finished:
            source = {"source": self.data.mixture or self.data.source}
            write_json(self.folder / MANIFEST, source | summary(self.folder))


def _folder_part(source: str) -> str:
    """A source's part of a folder name: the last part of its path, without special characters of the shell."""
    return re.sub(r"[^\w.+-]+", "_", Path(os.path.abspath(source)).stem).strip("_-") or "texts"
