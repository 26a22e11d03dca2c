"""Documents to tokens on disk, once, in a folder that an interrupted preparation goes on with.

A prepared folder holds `tokenizer/`, `request.json` with the settings that it is made by, the shards of each split in a
folder of its name, and last of all `manifest.json`.

All ids of a split in a row read `end document end document end`: each document is preceded by the start token and
followed by the end token, which are one token where a tokenizer does not tell them apart.
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
from settings.paths import safe_file_name
from settings.sections import DataSection, TokenizerSection
from storage.files import remove_new_empty_folders, report_full_disk, write_json

from .lock import LOCKS, POLL_SECONDS, lock_of
from .prepared import PROMPTS_NEED_DOCUMENTS, PreparedData, summary
from .published import FORMAT, MANIFEST, REQUEST, find_prepared, is_prepared, matches_request, request
from .stream import BLOCK_TOKENS
from .writer import Journal, SplitWriter

MAX_NAME_LENGTH = 60


CHECKED_DOCUMENTS = 100
"""Documents of validation that are looked at before a vocabulary is learnt."""


def prepare(
    data: DataSection, section: TokenizerSection, by_other_process: bool = False, trained: dict | None = None
) -> "PreparedData":
    """The tokenizer and the tokens of an experiment, made now unless an earlier run has made the same.

    With `data.streaming`, no more training tokens than a run begins with. A preparation that was interrupted goes on
    after its last whole shard. A source that is prepared already is used as it is. With `by_other_process`, wait until
    another process has prepared all this, however long it takes. What a checkpoint was `trained` on (the fields of
    `TrainedData`) is compared before anything is prepared: `ConfigError` if a file holds something else now.
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
    """What is to be prepared, and in which folder: `make` does what is missing of it."""

    def __init__(self, data: DataSection, section: TokenizerSection):
        """`ConfigError` if a source is unknown or cannot be read."""
        self.data, self.section = data, section
        train, validation = open_corpus(data)
        self.splits = {"validation": validation, "train": train}
        identity = {"format": FORMAT, "train": train.identity, "val": validation.identity}
        identity["tokenizer"] = asdict(section) | {"path": None}  # its vocabulary is what it is
        if section.kind == "pretrained":
            identity["vocabulary"] = self._load_tokenizer().backend_tokenizer.to_str()
        self._find_folder(identity)
        if not self._files_are_unchanged():  # which the samples do not tell apart
            self._find_folder(identity | {"contents": [shard.content for shard in self.shards]})

    @property
    def shards(self) -> list:
        """What the splits are made of, in order."""
        return [shard for split in self.splits.values() for shard in split.shards]

    def has_tokens(self, tokens: str) -> bool:
        """Whether the tokens that a checkpoint was trained on, by `PreparedData.identity`, are there already."""
        return is_prepared(self.folder) and tokens in PreparedData(self.folder).names

    def _find_folder(self, identity: dict):
        """The folder of this identity, whatever its source was called when it was made."""
        self.fingerprint = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
        cache, names = Path(self.data.cache_dir), self.data.mixture or [self.data.source]
        names = "-".join(map(_folder_part, names))[:MAX_NAME_LENGTH]
        there = sorted(cache.glob(f"[!.]*-{self.fingerprint}"))
        self.folder = there[0] if there else cache / f"{safe_file_name(names)}-{self.section.kind}-{self.fingerprint}"

    def _files_are_unchanged(self) -> bool:
        """Whether each file that was read for the folder holds what it held then."""
        CONTENTS.load(self.folder)
        for name, split in self.splits.items():
            for shard, content in zip(split.shards, Journal.load(self.folder / name).files, strict=False):
                if content is not None and shard.content != content:
                    return False
        return True

    def _record_file_hashes(self):
        """Write down what the files held that were read so far."""
        for name, split in self.splits.items():
            (self.folder / name).mkdir(exist_ok=True)
            journal = Journal.load(self.folder / name)
            journal.note(split.shards)
            journal.save(self.folder / name)

    def _load_tokenizer(self):
        """The one at `tokenizer.path`, or a copy that an earlier preparation has made, if there is none any more."""
        try:
            return tokenizers.load_tokenizer(self.section.path)
        except ConfigError:
            wanted = request(self.data, self.section)
            for path in Path(self.data.cache_dir).glob(f"[!.]*/{REQUEST}"):
                if matches_request(path.parent, wanted):
                    return tokenizers.load_tokenizer(str(path.with_name("tokenizer")))
            raise

    def notes(self) -> list[str]:
        """Lines on how the sources are read."""
        return [f"{note}\n" for note in dict.fromkeys(one for split in self.splits.values() for one in split.notes)]

    def make(self, until: int | None, by_other_process: bool = False) -> "PreparedData":
        """Prepare all of validation, and of training at least `until` ids (None: all); or wait for who does."""
        while by_other_process and not self._has(until):
            time.sleep(POLL_SECONDS)
        with remove_new_empty_folders(self.folder.parent / LOCKS):
            lock = lock_of(self.folder)
            while not self._has(until):
                with suppress(Timeout), lock.acquire(timeout=POLL_SECONDS):  # another process may be making the same
                    if not self._has(until):
                        self._make(until)
        for name, split in self.splits.items():  # which an earlier preparation may have been less strict with
            if (journal := Journal.load(self.folder / name)).finished:
                split.reading(counts=journal.reading).judge()
        CONTENTS.save(self.folder, [shard.path for shard in self.shards if isinstance(shard, LocalShard)])
        return PreparedData(self.folder)

    def _has(self, until: int | None) -> bool:
        if (self.folder / MANIFEST).exists():
            return True
        journal = Journal.load(self.folder / "train")
        return until is not None and journal.tokens >= until and not journal.finished  # or the manifest is missing

    def _make(self, until: int | None):
        self.folder.mkdir(exist_ok=True)
        remedy = "make room, or choose another; the same command goes on from here"
        try:
            with report_full_disk("data.cache_dir=", self.data.cache_dir, remedy):
                self._make_what_is_missing(until)
        finally:
            if not self._has_progress():
                shutil.rmtree(self.folder)
                # While it is held: who waits for it finds that it is gone.
                Path(lock_of(self.folder).lock_file).unlink(missing_ok=True)

    def _make_what_is_missing(self, until: int | None):
        if not (self.folder / "tokenizer").exists():
            self._check_documents()
            self._make_tokenizer()
        if not (self.folder / REQUEST).exists():
            write_json(self.folder / REQUEST, request(self.data, self.section) | {"fingerprint": self.fingerprint})
        self._make_tokens(until)

    def _has_progress(self) -> bool:
        """Whether there is something that a next attempt would go on with: a shard, or a tokenizer that was learnt."""
        learnt = self.section.kind != "pretrained" and (self.folder / "tokenizer").exists()
        return learnt or any(Journal.load(self.folder / name).shards for name in self.splits)

    def _check_documents(self):
        """`ConfigError` if validation's documents, where they need not be fetched, do not fit the settings."""
        validation = self.splits["validation"]
        if validation.revisions:
            return
        first = list(islice(validation, CHECKED_DOCUMENTS))
        if first and first[0].get("prompt") and self.data.layout == "packed":
            raise ConfigError(PROMPTS_NEED_DOCUMENTS)
        if self.data.group_field is not None and not any("group" in document for document in validation):
            raise ConfigError(self._missing_group_error())

    def _missing_group_error(self) -> str:
        return f"data.group_field={self.data.group_field} is in no document of validation; leave it out"

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
    """A source in the name of a folder: the last part of its path without what a shell would read otherwise."""
    return re.sub(r"[^\w.+-]+", "_", Path(os.path.abspath(source)).stem).strip("_-") or "texts"
