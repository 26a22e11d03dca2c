"""Documents to tokens on disk, once, in a folder that an interrupted preparation goes on with.

A prepared folder holds `tokenizer/`, `request.json` with the settings that it is made by, the shards of each split in a
folder of its name, and last of all `manifest.json`.

All ids of a split in a row read `end document end document end`: each document is preceded by the start token and
followed by the end token, which are one token where a tokenizer does not tell them apart.

usage: python -m data_prep.tokens CONFIG [section.key=value ...] [--push-to-hub USER/NAME]

    python -m data_prep.tokens configs/lm/tinystories.yaml

prepares what an experiment needs before it runs, on from where it was interrupted. --push-to-hub publishes it as a data
set, whose name is a data.source then.
"""

import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from filelock import Timeout

from config import load_experiment, run_script
from sections import ConfigError, DataSection, TokenizerSection

from . import tokenizer as tokenizers
from .encoder import Encoder
from .files import sha256, write_json
from .published import FORMAT, MANIFEST, REQUEST, find_prepared, publish, refuse_publishing, request
from .sources import open_corpus
from .stream import BLOCK_TOKENS, POLL_SECONDS, GrowingTokens, Stream, lock_of
from .windows import Documents, Epochs, TokenArray, Windows
from .writer import Journal, SplitWriter

LONGEST_NAME = 60


@dataclass(frozen=True)
class SplitInfo:
    """What a prepared split holds. Bytes are UTF-8 bytes of text; `floor_nats` is the exact -log p of all of it."""

    documents: int
    tokens: int
    prompt_tokens: int
    text_bytes: int
    floor_nats: float | None
    groups: dict[str, dict] = field(default_factory=dict)
    """Documents and `text_bytes` of each, in the order of their numbers."""
    in_validation_too: int = 0
    """Documents that the validation split has as well, word for word."""
    empty_documents: int = 0
    quarantined: int = 0
    revisions: dict[str, str] = field(default_factory=dict)
    """The commits of the Hub that were read, by data set."""
    shards: list[dict] = field(default_factory=list)
    """Tokens, documents and SHA-256 of each."""
    finished: bool = True
    """Whether this is all that its source holds."""

    @classmethod
    def of(cls, journal: Journal) -> "SplitInfo":
        """What is in a split's whole shards."""
        return cls(
            documents=journal.documents,
            tokens=journal.tokens,
            prompt_tokens=journal.prompt_tokens,
            text_bytes=journal.text_bytes,
            floor_nats=journal.floor_nats,
            groups=journal.groups,
            in_validation_too=journal.duplicates,
            empty_documents=journal.reading["empty"],
            quarantined=journal.reading["faults"],
            revisions=journal.revisions,
            shards=journal.shards,
            finished=journal.finished,
        )

    def floor(self, targets: int) -> "Floor | None":
        """The lowest loss that a model can have on this split but for chance, where the source knows it."""
        if self.floor_nats is None:
            return None
        return Floor(self.floor_nats / targets, self.floor_nats / (math.log(2) * self.text_bytes))


@dataclass(frozen=True)
class Floor:
    """Exact entropy of a split's text, in nats a target token and in bits per byte."""

    loss: float
    bits_per_byte: float


def prepare(data: DataSection, section: TokenizerSection, by_another: bool = False) -> "PreparedData":
    """The tokenizer and the tokens of an experiment, made now unless an earlier run has made the same.

    With `data.streaming`, no more training tokens than a run begins with. A preparation that was interrupted goes on
    after its last whole shard. A source that is prepared already is used as it is. With `by_another`, wait until
    another process has prepared all this, however long it takes.
    """
    if (folder := find_prepared(data, section)) is not None:
        return PreparedData(folder)
    return Preparation(data, section).make(BLOCK_TOKENS + 1 if data.streaming else None, by_another)


class Preparation:
    """What is to be prepared, and in which folder: `make` does what is missing of it."""

    def __init__(self, data: DataSection, section: TokenizerSection):
        """`ConfigError` if a source is unknown or cannot be read."""
        self.data, self.section = data, section
        train, validation = open_corpus(data)
        self.splits = {"validation": validation, "train": train}
        identity = {"format": FORMAT, "tokenizer": asdict(section), "train": train.identity, "val": validation.identity}
        if section.kind == "pretrained":
            identity["vocabulary"] = tokenizers.load_tokenizer(section.path).backend_tokenizer.to_str()
        fingerprint = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
        names = "-".join(Path(name).stem for name in data.mixture or [data.source])
        self.folder = Path(data.cache_dir) / f"{names[:LONGEST_NAME]}-{section.kind}-{fingerprint}"

    def make(self, until: int | None, by_another: bool = False) -> "PreparedData":
        """Prepare all of validation, and of training at least `until` ids (None: all); or wait for who does."""
        while by_another and not self._has(until):
            time.sleep(POLL_SECONDS)
        lock = lock_of(self.folder)
        while not self._has(until):
            with suppress(Timeout), lock.acquire(timeout=POLL_SECONDS):  # another process may be making the same
                if not self._has(until):
                    self._make(until)
        return PreparedData(self.folder)

    def _has(self, until: int | None) -> bool:
        if (self.folder / MANIFEST).exists():
            return True
        journal = Journal.load(self.folder / "train")
        return until is not None and journal.tokens >= until and not journal.finished  # or the manifest is missing

    def _make(self, until: int | None):
        self.folder.mkdir(exist_ok=True)
        try:
            if not (self.folder / "tokenizer").exists():
                self._make_tokenizer()
            if not (self.folder / REQUEST).exists():
                write_json(self.folder / REQUEST, request(self.data, self.section))
            self._make_tokens(until)
        finally:
            if not any(self.folder.iterdir()):  # nothing that a next attempt could go on with
                self.folder.rmdir()

    def _make_tokenizer(self):
        tokenizer, about = tokenizers.build_tokenizer(self.section, self.splits["train"], self.splits["validation"])
        staging = self.folder / ".tokenizer"
        shutil.rmtree(staging, ignore_errors=True)
        tokenizers.save(tokenizer, about, staging)
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
            raise ConfigError(f"data.group_field={self.data.group_field} is in no document of validation; leave it out")
        if train.write(validation.hashes(), until).finished:
            source = {"source": self.data.mixture or self.data.source}
            write_json(self.folder / MANIFEST, source | _summary(self.folder))


def _summary(folder: Path) -> dict:
    """What a prepared folder holds so far, of the tokenizer and of each split."""
    about = json.loads((folder / "tokenizer" / "report.json").read_text(encoding="utf-8"))
    journals = {name: Journal.load(folder / name) for name in ("validation", "train")}
    return {
        "tokenizer": about | {"sha256": sha256(folder / "tokenizer" / "tokenizer.json")},
        "splits": {name: asdict(SplitInfo.of(journal)) for name, journal in journals.items()},
    }


class PreparedData:
    """A prepared folder, opened: `tokenizer`, the tokenizer's report `about_tokenizer`, and `info` by split."""

    def __init__(self, folder: Path):
        path = folder / MANIFEST  # which comes last: without it there may be more to come
        manifest = json.loads(path.read_text(encoding="utf-8")) if path.exists() else _summary(folder)
        self.folder = folder
        self.tokenizer = tokenizers.load_tokenizer(str(folder / "tokenizer"))
        self.about_tokenizer = manifest["tokenizer"]
        self.info = {name: SplitInfo(**info) for name, info in manifest["splits"].items()}
        self._refuse_damage()

    def _refuse_damage(self):
        """What can be seen without reading them: whether all shards are there, and as long as they were."""
        for split, info in self.info.items():
            for index, shard in enumerate(info.shards):
                path = self.folder / split / f"{index:05}.npy"
                try:
                    length = len(np.load(path, mmap_mode="r"))
                except (OSError, ValueError):
                    length = None
                if length != shard["tokens"]:
                    raise ConfigError(f"{path} is missing or damaged; prepare or fetch {self.folder} again")

    @property
    def compared_groups(self) -> dict[str, dict]:
        """The groups that validation is told apart by: all, or none where there is one."""
        groups = self.info["validation"].groups
        return groups if len(groups) > 1 else {}

    def examples(self, split: str, layout: str, length: int) -> Windows | Documents:
        """The split as examples: `layout` is `packed` or `documents`, `length` the longest, in tokens.

        Those of validation tell the groups of their tokens, if there are groups to compare.
        """
        with_groups = split == "validation" and bool(self.compared_groups)
        ids = TokenArray.of_shards(self.folder / split, self.info[split].shards)
        if layout == "packed":
            self._refuse_prompts(split)
            return Windows(ids, length, _documents(ids.parts) if with_groups else None)
        return Documents(ids, _documents(ids.parts), length, with_groups)

    def order(self, data: DataSection, length: int, positions: Callable[[int | None, dict], dict]) -> Epochs:
        """The examples of a whole run, whose arguments `positions` tells for a number of examples and what they are.

        The number is None for a stream, whose end is not known.
        """
        about = {"data": self.folder.name, "data.context_length": length}
        about |= {"data.layout": data.layout, "data.streaming": data.streaming}
        if data.streaming:
            self._refuse_prompts("train")
            tokens = GrowingTokens(self.folder / "train", self.info["train"].shards, self.info["train"].finished)
            return Stream(tokens, length, **positions(None, about))
        examples = self.examples("train", data.layout, length)
        return Epochs(examples, **positions(len(examples), about))

    def _refuse_prompts(self, split: str):
        if self.info[split].prompt_tokens:
            raise ConfigError("the data has prompts, whose loss data.layout=packed would count; use layout=documents")

    def describe(self) -> list[str]:
        """What there is, in lines of numbers."""
        lines = [f"folder        {self.folder}", f"tokenizer     {len(self.tokenizer):,} tokens"]
        for name, info in self.info.items():
            text = f"{info.text_bytes / 1e6:,.1f} MB of text, {info.text_bytes / info.tokens:.2f} bytes a token"
            so_far = "" if info.finished else " so far"
            lines.append(f"{name:14}{info.documents:,} documents, {info.tokens:,} tokens{so_far}, {text}")
            if info.empty_documents:
                lines.append(f"{'':14}{info.empty_documents:,} documents are empty, and left out")
            if info.quarantined:
                path = self.folder / name / "quarantine.jsonl"
                lines.append(f"{'':14}{info.quarantined:,} records are no documents: {path}")
        overlap = self.info["train"].in_validation_too
        return [*lines, f"overlap       {overlap:,} training documents are in validation too, word for word"]


def _documents(files: list[Path]) -> np.ndarray:
    """What the writer has noted of each document in shards of ids."""
    return np.concatenate([np.load(path.with_suffix(".documents.npy")) for path in files])


def main(path: str, overrides: list[str]):
    """Prepare an experiment's tokenizer and tokens, say what they are, and publish them if that is asked for."""
    name = None
    if "--push-to-hub" in overrides:
        place = overrides.index("--push-to-hub")
        name, overrides = " ".join(overrides[place + 1 : place + 2]), overrides[:place] + overrides[place + 2 :]
    experiment = load_experiment(path, overrides)
    if name is not None:
        refuse_publishing(name, experiment.data)
    prepared = prepare(experiment.data, experiment.tokenizer)
    print("\n".join(prepared.describe()))
    if name is not None:
        publish(prepared.folder, name)
        print(f"published     https://huggingface.co/datasets/{name}, use it as data.source={name}")


if __name__ == "__main__":
    run_script(__doc__, main)
