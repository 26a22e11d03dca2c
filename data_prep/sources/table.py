"""Opens sources of documents: a table of named sources, any Hub data set, or local files; always streamed.

`python -m data_prep.sources` lists the table.
"""

import difflib
import itertools
import math
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import xxhash

from data_prep import fables
from settings.checks import ConfigError
from settings.data_sections import DataSection
from settings.experiment import LanguageExperiment
from storage.hub import check_repository, with_retries

from .folders import is_local_source, kindling_folder_kind
from .held_out import hold_out
from .local_files import LocalFiles, split_of
from .record_errors import Reading
from .records import format_of
from .shards import Program, hub_shards
from .splits import Place, Split, concatenated, mix


@dataclass(frozen=True)
class Generated:
    """A generated source: each document is a function of (seed, index), and the source is endless."""

    document: Callable[[str, int], str]
    floor: Callable[[str], float]
    code: str
    default_documents: int
    about: str
    size: str = "endless"
    licence: str = "no licence needed"
    language: str | None = None

    def splits(self, data: DataSection) -> dict[str, Split]:
        """Training and validation splits with different seeds, so that validation documents are new."""
        return {"train": self._split(str(data.seed)), "validation": self._split(f"{data.seed}-validation")}

    def _split(self, seed: str) -> Split:
        def read_from(place: Place, reading: Reading):
            for index in itertools.count(place or 0):
                reading.document()
                yield {"text": self.document(seed, index)}, index + 1

        code = Path(self.code).read_text(encoding="utf-8")  # it determines the documents
        program = Program(Path(self.code).name, xxhash.xxh3_128_hexdigest(f"{seed} {code}".encode()))
        return Split(read_from, {"code": code, "seed": seed}, self.floor, shards=[program])


@dataclass(frozen=True)
class HubDataset:
    """A data set of the Hugging Face Hub, read shard by shard."""

    id: str
    about: str = ""
    size: str = ""
    licence: str = "see its page"
    language: str | None = None
    revision: str | None = None
    """The commit to read; None means the newest. The manifest of the prepared tokens records which it was."""
    subset: str | None = None
    files: Mapping[str, str | list[str]] | None = None
    """File patterns of each split, if the data set does not define them, or defines others."""
    text_field: str = "text"
    group_field: str | None = None
    sample_by: str | None = None
    default_documents: int | None = None

    @property
    def name(self) -> str:
        """The source's name in errors."""
        return self.id

    def splits(self, data: DataSection) -> dict[str, Split]:
        """The data set's own splits; `ConfigError` if it is not found or has unsupported files."""
        check_repository(self.id, "dataset")
        commit, files = with_retries(self.id, lambda: self._files(data))
        shards = {name: hub_shards(self.id, commit, found) for name, found in files.items()}
        splits = {name: split_of(self, found, data) for name, found in shards.items()}
        return {name: replace(split, revisions={self.id: commit}) for name, split in splits.items()}

    def _files(self, data: DataSection) -> tuple[str, dict[str, list[str]]]:
        """The commit, and the paths of each split's files, as `datasets` finds them."""
        import datasets

        builder = datasets.load_dataset_builder(
            self.id,
            name=data.subset or self.subset,
            revision=data.revision or self.revision,
            data_files=dict(self.files) if self.files else None,
        )
        urls = {str(split): list(found) for split, found in (builder.config.data_files or {}).items()}
        pattern = re.compile(rf"hf://datasets/{re.escape(self.id)}@([0-9a-f]+)/(.*)")
        matches = {split: [pattern.fullmatch(url) for url in found] for split, found in urls.items()}
        commits = {match[1] for found in matches.values() for match in found}
        return commits.pop(), {split: [match[2] for match in found] for split, found in matches.items()}


def uniform_integers(seed: str, index: int) -> str:
    """50,000 independent uniform integers 0..7: no model can have a loss below ln 8 nats per integer."""
    generator = random.Random(f"uniform_integers {seed} {index}")
    return " ".join(str(generator.randrange(8)) for _ in range(50_000))


SOURCES = {
    "fables": Generated(
        fables.fable,
        fables.nats,
        fables.__file__,
        default_documents=50_000,
        about="seeded children's stories with exactly known probability; needs no network",
        language="en",
    ),
    "uniform_integers": Generated(
        uniform_integers,
        lambda text: len(text.split()) * math.log(8),
        __file__,
        default_documents=1,
        about="unlearnable: uniform integers 0..7, with a minimum loss of ln 8",
    ),
    "tinystories": HubDataset(
        "roneneldan/TinyStories",
        about="short stories in simple words by GPT-3.5 and GPT-4 (Eldan and Li, 2023)",
        size="2.1 million stories, 1.9 GB",
        licence="CDLA-Sharing-1.0",
        language="en",
        revision="f54c09fd23315a6f9c86f9dc80f725de7d8f9c64",
    ),
    "tinystories-v2": HubDataset(
        "roneneldan/TinyStories",
        about="only the stories by GPT-4, as the text files that courses use",
        size="2.7 million stories, 2.2 GB",
        licence="CDLA-Sharing-1.0",
        language="en",
        revision="f54c09fd23315a6f9c86f9dc80f725de7d8f9c64",
        files={"train": "TinyStoriesV2-GPT4-train.txt", "validation": "TinyStoriesV2-GPT4-valid.txt"},
        sample_by="<|endoftext|>",
    ),
    "tinyshakespeare": HubDataset(
        "karpathy/tiny_shakespeare",
        about="parts of Shakespeare's plays (Karpathy, 2015); the last tenth, which its page halves, is validation",
        size="1.1 MB",
        licence="public domain",
        language="en",
        revision="fe12e06d82fe3af4291b90426557387520d81385",
        files={"train": "data/train-*.parquet", "validation": ["data/validation-*.parquet", "data/test-*.parquet"]},
    ),
    "c4": HubDataset(
        "allenai/c4",
        about="web pages of April 2019, cleaned (Raffel et al., 2020), the English part",
        size="365 million pages, 305 GB compressed",
        licence="ODC-BY",
        language="en",
        revision="607bd4c8450a42878aa9ddc051a65a055450ef87",
        files={"train": "en/c4-train.*.json.gz", "validation": "en/c4-validation.*.json.gz"},
    ),
    "pile": HubDataset(
        "monology/pile-uncopyrighted",
        about="the Pile (Gao et al., 2020) without its copyrighted parts, with the subset of each document",
        size="177 million documents, 330 GB compressed",
        licence="mixed, see its page",
        language="en",
        files={"train": "train/*.jsonl.zst", "validation": "val.jsonl.zst", "test": "test.jsonl.zst"},
        group_field="meta.pile_set_name",
    ),
    "fineweb-edu": HubDataset(
        "HuggingFaceFW/fineweb-edu",
        about="educational web pages (Penedo et al., 2024), the sample of 10 billion tokens",
        size="9.7 million pages, 27 GB",
        licence="ODC-BY",
        language="en",
        subset="sample-10BT",
    ),
    "openwebtext": HubDataset(
        "Skylion007/openwebtext",
        about="pages linked from Reddit (Gokaslan and Cohen, 2019), as GPT-2's WebText",
        size="8 million pages, 24 GB",
        licence="CC0-1.0",
        language="en",
        revision="refs/convert/parquet",  # maintained by the Hub: the data set itself consists of archives and a script
        files={"train": "plain_text/train/*.parquet"},
    ),
}


def open_corpus(data: DataSection) -> tuple[Split, Split]:
    """The training and validation documents of an experiment.

    Validation comes from `data.validation_source`, the source's own validation split, or is held out from training.
    `ConfigError` if a source is unknown or cannot be read.
    """
    if data.mixture:
        return _open_mixture(data)
    source = find_source(data.source)
    splits = source.splits(data)
    if "validation" in splits and "train" not in splits:
        raise ConfigError(
            f"{source.name} has validation files only, nothing to train on; give training texts as data.source, "
            "and this as data.validation_source"
        )
    train = splits.get("train") or next(iter(splits.values()))
    train = replace(train, notes=(*train.notes, *_unused_source_notes(splits, data)))
    limit = data.train_documents or source.default_documents
    if data.validation_source is not None:
        others = find_source(data.validation_source).splits(data)
        validation = others.get("validation") or next(iter(others.values()))
    elif "validation" in splits:
        validation = splits["validation"]
    else:
        return hold_out(train, data.validation_documents, limit)
    return train.cut(0, limit), validation.cut(0, data.validation_documents)


def _unused_source_notes(splits: dict[str, Split], data: DataSection) -> list[str]:
    """Notes on a folder or a validation split that the settings leave unused."""
    notes = []
    if data.source in SOURCES and Path(data.source).is_dir():
        notes.append(f"{data.source} is read as the source of that name; for the folder give ./{data.source}")
    if data.validation_source and "validation" in splits and data.validation_source != data.source:
        notes.append(f"{data.source}: its own validation split is not used, because data.validation_source is given")
    return notes


def find_source(name: str) -> Generated | HubDataset | LocalFiles:
    """The source that `data.source` names: a row of the table, existing local files, or a Hub id."""
    if name in SOURCES:
        return SOURCES[name]
    if is_local_source(name):
        ours = kindling_folder_kind(Path(name).expanduser())
        if ours == "prepared tokens":
            raise ConfigError(
                f"{name} holds prepared tokens, not texts; give it as data.source, without data.mixture, once its "
                "preparation has finished"
            )
        if ours == "a run":
            raise ConfigError(f"{name} is a run folder, not a folder of texts; give texts, and this as model.path")
        return LocalFiles(name)
    if name.count("/") == 1 and not name.startswith((".", "/", "~")) and not format_of(Path(name)):
        return HubDataset(name)
    nearest = difflib.get_close_matches(name, SOURCES, n=1)
    hint = f"did you mean {nearest[0]}?" if nearest else f"give one of {', '.join(SOURCES)}, a Hub id or existing files"
    raise ConfigError(f"{name} is neither a known source nor an existing file; {hint}")


def _open_mixture(data: DataSection) -> tuple[Split, Split]:
    """The training splits of all sources, mixed by weight, and their validation splits, one after another.

    Each source is a group, named after the source or, for local files, after the file.
    """
    parts, shares = {}, {}
    for source, share in data.mixture.items():
        name = Path(source).name if isinstance(find_source(source), LocalFiles) else source
        name = name if name not in parts else f"{name} ({len(parts)})"
        parts[name] = open_corpus(replace(data, source=source, mixture=None, train_documents=None))
        shares[name] = share
    train = mix({name: part for name, (part, _) in parts.items()}, shares)
    validation = concatenated({name: part for name, (_, part) in parts.items()})
    return train.cut(0, data.train_documents), validation


SOURCE_SETTINGS = {
    "data.subset": {HubDataset},
    "data.revision": {HubDataset},
    "data.text_field": {HubDataset, LocalFiles},
    "data.group_field": {HubDataset, LocalFiles},
    "data.sample_by": {HubDataset, LocalFiles},
    "data.seed": {Generated},
}
"""Settings that apply only to some kinds of sources."""


def check_source_overrides(experiment: LanguageExperiment):
    """`ConfigError` if an override does not apply to the experiment's sources."""
    data, given = experiment.data, experiment.overrides
    for name in SOURCE_SETTINGS.keys() & {name for name, value in given.items() if value}:
        sources = (find_source(one) for one in data.mixture or [data.source, data.validation_source] if one)
        if not {type(source) for source in sources} & SOURCE_SETTINGS[name]:
            raise ConfigError(f"{name}={given[name]} has no effect on {data.origin}; leave it out")
