"""Documents to tokens on disk, once, in a folder that an interrupted preparation goes on with.

A prepared folder holds `tokenizer/`, the shards of each split in a folder of its name, and last of all `manifest.json`.
All ids of a split in a row read `end document end document end`: each document is preceded by the start token and
followed by the end token, which are one token where a tokenizer does not tell them apart.

usage: python -m data_prep.tokens CONFIG [section.key=value ...]

    python -m data_prep.tokens configs/lm/tinystories.yaml

prepares what an experiment needs before it runs, on from where it was interrupted.
"""

import hashlib
import json
import math
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from filelock import FileLock

from config import load_experiment, run_script
from sections import ConfigError, DataSection, TokenizerSection

from . import tokenizer as tokenizers
from .encoder import Encoder
from .files import sha256, write_whole
from .sources import open_corpus
from .splits import Split
from .windows import Documents, TokenArray, Windows
from .writer import Journal, SplitWriter

FORMAT = 4
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


def prepare(data: DataSection, section: TokenizerSection) -> "PreparedData":
    """The tokenizer and the tokens of an experiment, made now unless an earlier run has made the same.

    A preparation that was interrupted goes on after its last whole shard.
    """
    train, validation = open_corpus(data)
    identity = {"format": FORMAT, "tokenizer": asdict(section), "train": train.identity, "val": validation.identity}
    if section.kind == "pretrained":
        identity["vocabulary"] = tokenizers.load_tokenizer(section.path).backend_tokenizer.to_str()
    fingerprint = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    folder = Path(data.cache_dir) / f"{_name(data)}-{section.kind}-{fingerprint}"
    if not (folder / "manifest.json").exists():
        locks = folder.parent / ".locks"
        locks.mkdir(parents=True, exist_ok=True)
        with FileLock(locks / folder.name):  # another process may be making the same
            if not (folder / "manifest.json").exists():
                folder.mkdir(exist_ok=True)
                try:
                    _prepare(folder, {"validation": validation, "train": train}, section, data)
                finally:
                    if not any(folder.iterdir()):  # nothing that a next attempt could go on with
                        folder.rmdir()
    return PreparedData(folder)


def _name(data: DataSection) -> str:
    names = "-".join(Path(name).stem for name in data.mixture or [data.source])
    return names[:LONGEST_NAME]


def _prepare(folder: Path, splits: dict[str, Split], section: TokenizerSection, data: DataSection):
    if not (folder / "tokenizer").exists():
        tokenizer, about = tokenizers.build_tokenizer(section, splits["train"], splits["validation"])
        staging = folder / ".tokenizer"
        shutil.rmtree(staging, ignore_errors=True)
        tokenizers.save(tokenizer, about, staging)
        staging.rename(folder / "tokenizer")
        if section.kind != "pretrained":
            print(tokenizers.describe(about))
    tokenizer = tokenizers.load_tokenizer(str(folder / "tokenizer"))
    about = json.loads((folder / "tokenizer" / "report.json").read_text(encoding="utf-8"))
    encode = Encoder(tokenizer)
    writers = {name: SplitWriter(folder / name, split, tokenizer, encode) for name, split in splits.items()}
    journals = {"validation": writers["validation"].write()}
    journals["train"] = writers["train"].write(held_out=writers["validation"].hashes())
    manifest = {
        "format": FORMAT,
        "source": data.mixture or data.source,
        "tokenizer": about | {"sha256": sha256(folder / "tokenizer" / "tokenizer.json")},
        "splits": {name: asdict(_info(journal, splits[name])) for name, journal in journals.items()},
    }
    write_whole(folder / "manifest.json", json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")


def _info(journal: Journal, split: Split) -> SplitInfo:
    return SplitInfo(
        documents=journal.documents,
        tokens=journal.tokens,
        prompt_tokens=journal.prompt_tokens,
        text_bytes=journal.text_bytes,
        floor_nats=journal.floor_nats,
        groups=journal.groups,
        in_validation_too=journal.duplicates,
        empty_documents=journal.reading["empty"],
        quarantined=journal.reading["faults"],
        revisions=dict(split.revisions),
        shards=journal.shards,
    )


class PreparedData:
    """A prepared folder, opened: `tokenizer`, the tokenizer's report `about_tokenizer`, and `info` by split."""

    def __init__(self, folder: Path):
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        self.folder = folder
        self.tokenizer = tokenizers.load_tokenizer(str(folder / "tokenizer"))
        self.about_tokenizer = manifest["tokenizer"]
        self.info = {name: SplitInfo(**info) for name, info in manifest["splits"].items()}

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
        shards = self.info[split].shards
        files = [self.folder / split / f"{index:05}.npy" for index in range(len(shards))]
        ids = TokenArray(files, [shard["tokens"] for shard in shards])
        if layout == "packed":
            if self.info[split].prompt_tokens:
                raise ConfigError(
                    "the data has prompts, whose loss data.layout=packed would count; use layout=documents"
                )
            return Windows(ids, length, _documents(files) if with_groups else None)
        return Documents(ids, _documents(files), length, with_groups)

    def describe(self) -> list[str]:
        """What there is, in lines of numbers."""
        lines = [f"folder        {self.folder}", f"tokenizer     {len(self.tokenizer):,} tokens"]
        for name, info in self.info.items():
            text = f"{info.text_bytes / 1e6:,.1f} MB of text, {info.text_bytes / info.tokens:.2f} bytes a token"
            lines.append(f"{name:14}{info.documents:,} documents, {info.tokens:,} tokens, {text}")
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
    """Prepare an experiment's tokenizer and tokens, and say what they are."""
    experiment = load_experiment(path, overrides)
    print("\n".join(prepare(experiment.data, experiment.tokenizer).describe()))


if __name__ == "__main__":
    run_script(__doc__, main)
