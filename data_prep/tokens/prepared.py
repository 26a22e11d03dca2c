"""Opens a prepared folder: its tokenizer, and its splits as training examples."""

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from data_prep.sources.fingerprints import short_hash
from data_prep.sources.record_errors import Reading, describe_reasons
from data_prep.sources.table import SOURCES
from data_prep.tokenizer import build as tokenizers
from settings.checks import ConfigError
from settings.data_sections import DataSection
from settings.wording import count_is, format_bytes, format_count
from storage.files import from_saved, sha256

from .published import MANIFEST, REQUEST
from .stream import GrowingTokens
from .windows import Documents, TokenArray, Windows
from .writer import Journal

SECTIONS = ("data", "tokenizer")
PROMPTS_NEED_DOCUMENTS = "the data has prompts, on which data.layout=packed would put a loss; use data.layout=documents"


@dataclass(frozen=True)
class SplitInfo:
    """Counts of a prepared split. Bytes are UTF-8 bytes of text; `floor_nats` is the exact -log p of all of it."""

    documents: int
    tokens: int
    prompt_tokens: int
    text_bytes: int
    floor_nats: float | None
    groups: dict[str, dict] = field(default_factory=dict)
    """Documents and `text_bytes` of each, in the order of their numbers."""
    in_validation_too: int = 0
    """Documents that are identical to one of the validation split."""
    empty_documents: int = 0
    quarantined: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    """Why records were skipped, with the count of each reason."""
    revisions: dict[str, str] = field(default_factory=dict)
    """The Hub commits that were read, by data set."""
    shards: list[dict] = field(default_factory=list)
    """Tokens, documents and SHA-256 of each shard."""
    finished: bool = True
    """Whether it has all documents of its source, or as many as its limit allows."""
    more: bool = False
    """Whether a limit applied, and its source has more documents."""

    @classmethod
    def of(cls, journal: Journal) -> "SplitInfo":
        """The counts of a split's complete shards."""
        reading = Reading(**journal.reading)
        return cls(
            documents=journal.documents,
            tokens=journal.tokens,
            prompt_tokens=journal.prompt_tokens,
            text_bytes=journal.text_bytes,
            floor_nats=journal.floor_nats,
            groups=journal.groups,
            in_validation_too=journal.duplicates,
            empty_documents=reading.empty,
            quarantined=reading.faults,
            reasons=dict(reading.reasons),
            revisions=journal.revisions,
            shards=journal.shards,
            finished=journal.finished,
            more=bool(journal.more),
        )

    @property
    def skipped_records(self) -> int:
        return self.empty_documents + self.quarantined

    def skipped(self) -> str:
        """How many of the records read were skipped, and why."""
        found = self.documents + self.skipped_records
        reasons = {"empty": self.empty_documents} | (self.reasons or {"malformed": self.quarantined})
        told = describe_reasons({kind: count for kind, count in reasons.items() if count})
        return f"{self.skipped_records:,} of {format_count(found, 'record')}" + (f" ({told})" if told else "")

    def floor(self, targets: int) -> "Floor | None":
        """The lowest loss that a model can have on this split except by chance, if the source knows it."""
        if self.floor_nats is None:
            return None
        return Floor(self.floor_nats / targets, self.floor_nats / (math.log(2) * self.text_bytes))


@dataclass(frozen=True)
class Floor:
    """The exact -log p of a split's text under its source, in nats per target and in bits per byte."""

    loss: float
    bits_per_byte: float


def summary(folder: Path) -> dict:
    """The present contents of a prepared folder: the tokenizer's report and the counts of each split."""
    about = json.loads((folder / "tokenizer" / "report.json").read_text(encoding="utf-8"))
    journals = {name: Journal.load(folder / name) for name in ("validation", "train")}
    return {
        "tokenizer": about | {"sha256": sha256(folder / "tokenizer" / "tokenizer.json")},
        "splits": {name: asdict(SplitInfo.of(journal)) for name, journal in journals.items()},
    }


class PreparedData:
    """A prepared folder, opened: `tokenizer`, the tokenizer's report `about_tokenizer`, and `info` by split."""

    def __init__(self, folder: Path):
        path = folder / MANIFEST  # written last: without it the folder may be incomplete
        manifest = json.loads(path.read_text(encoding="utf-8")) if path.exists() else summary(folder)
        self.folder = folder
        self.tokenizer = tokenizers.load_tokenizer(str(folder / "tokenizer"))
        self.about_tokenizer = manifest["tokenizer"]
        self.info = {name: from_saved(SplitInfo, info) for name, info in manifest["splits"].items()}
        self._check_shards()

    def _check_shards(self):
        """`ConfigError` if a shard is missing or has another length; the contents are not read."""
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
    def _request(self) -> dict:
        return json.loads((self.folder / REQUEST).read_text(encoding="utf-8"))

    def origins(self) -> dict[str, list[str]]:
        """The Hub `datasets` that it was made from, and the known `licenses` and `languages`."""
        made = self._request["data"]
        known = [SOURCES[name] for name in made["mixture"] or [made["source"]] if name in SOURCES]
        return {
            "datasets": sorted({name for info in self.info.values() for name in info.revisions}),
            "licenses": sorted({source.licence for source in known}),
            "languages": sorted({source.language for source in known if source.language}),
        }

    @property
    def names(self) -> list[str]:
        """Identifiers of its tokens: a hash, which changes as they grow, and the fingerprint of their sources."""
        told = {
            name: [[shard["sha256"] for shard in info.shards], info.prompt_tokens] for name, info in self.info.items()
        }
        digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]
        return [digest, self._request.get("fingerprint", self.folder.name)]

    def identity(self, data: DataSection) -> dict:
        """What identifies this data for a run, wherever the folder is (`TrainedData`); a stream is still incomplete."""
        tokens, fingerprint = self.names
        journals = [Journal.load(self.folder / name) for name in ("validation", "train")]
        return {
            "origin": data.origin,
            "tokens": fingerprint if data.streaming else tokens,
            "folder": self.folder.name,
            "files": [known and short_hash(known) for journal in journals for known in journal.files],
            "settings": {f"{name}.{key}": value for name in SECTIONS for key, value in self._request[name].items()},
        }

    @property
    def compared_groups(self) -> dict[str, dict]:
        """The groups by which validation is reported: all of them, or none if there is only one."""
        groups = self.info["validation"].groups
        return groups if len(groups) > 1 else {}

    def examples(self, split: str, layout: str, length: int) -> Windows | Documents:
        """The split as examples: `layout` is `packed` or `documents`, `length` the maximum in tokens.

        Validation examples have the groups of their tokens, if there are groups to compare.
        """
        with_groups = split == "validation" and bool(self.compared_groups)
        ids = TokenArray.of_shards(self.folder / split, self.info[split].shards)
        if layout == "packed":
            self._check_no_prompts(split)
            return Windows(ids, length, _documents(ids.parts) if with_groups else None)
        return Documents(ids, _documents(ids.parts), length, with_groups)

    def numbered(self, split: str, layout: str, length: int) -> Windows | Documents:
        """As `examples`, with the number of each token's document as its group."""
        ids = TokenArray.of_shards(self.folder / split, self.info[split].shards)
        documents = _documents(ids.parts)
        documents["group"] = np.arange(len(documents))
        if layout == "packed":
            self._check_no_prompts(split)
            return Windows(ids, length, documents)
        return Documents(ids, documents, length, with_groups=True)

    def training_examples(self, data: DataSection, length: int) -> Windows | Documents:
        """The training examples, not yet in the order of a run (see `in_order`); those of a stream grow."""
        if not data.streaming:
            return self.examples("train", data.layout, length)
        self._check_no_prompts("train")
        info = self.info["train"]
        return Windows(GrowingTokens(self.folder / "train", info.shards, info.finished), length)

    def _check_no_prompts(self, split: str):
        if self.info[split].prompt_tokens:
            raise ConfigError(PROMPTS_NEED_DOCUMENTS)

    def documents(self, split: str) -> str:
        """The number of documents in a split, and in its source if a limit applied."""
        count = self.info[split].documents
        if not self.info[split].more:
            return format_count(count, "document")
        name = "train_documents" if split == "train" else "validation_documents"
        return f"{count:,} of at least {count + 1:,} documents (data.{name}={self._request['data'][name]})"

    def describe_tokenizer(self) -> str:
        """The tokenizer's size, bytes per token, and the limit on its training text if one applied."""
        told = f"{len(self.tokenizer):,} tokens, {self.about_tokenizer['bytes_per_token']} bytes per token"
        limit = tokenizers.describe_limit(self.about_tokenizer)
        return f"{told},{limit}" if limit else told

    def describe(self) -> list[str]:
        """A summary of the folder, as lines."""
        lines = [f"folder        {self.folder}", f"tokenizer     {self.describe_tokenizer()}"]
        for name, info in self.info.items():
            text = f"{format_bytes(info.text_bytes)} of text, {info.text_bytes / info.tokens:.2f} bytes per token"
            so_far = "" if info.finished else " so far"
            lines.append(f"{name:14}{self.documents(name)}, {format_count(info.tokens, 'token')}{so_far}, {text}")
            path = f", see {self.folder / name / 'quarantine.jsonl'}" if info.quarantined else ""
            lines.append(f"{'':14}skipped: {info.skipped()}{path}")
        return [*lines, f"overlap       {self.overlap()}"]

    def overlap(self) -> str:
        """How many training documents are also in validation, in words."""
        return f"{count_is(self.info['train'].in_validation_too, 'training document')} identical to one in validation"


def _documents(files: list[Path]) -> np.ndarray:
    """The document records that the writer has saved with each shard."""
    return np.concatenate([np.load(path.with_suffix(".documents.npy")) for path in files])
