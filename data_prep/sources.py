"""Where documents come from: a table of named sources, any Hub data set, or local files; always streamed.

A document is a dictionary with `text`, or with `prompt` and `completion`. A split is read anew at each iteration.
"""

import difflib
import glob
import itertools
import math
import random
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import datasets

from sections import ConfigError, DataSection

from . import fables

HELD_OUT_DOCUMENTS = 1000
HUB_HINT = "check its name and your connection"
BUILDERS = {".txt": "text", ".jsonl": "json", ".json": "json", ".parquet": "parquet"}
COMPRESSIONS = (".gz", ".zst", ".xz", ".bz2")
VALIDATION_WORDS = {"validation", "valid", "val", "dev"}


@dataclass(frozen=True)
class Split:
    """Documents in a fixed order, and what they are, so that tokens prepared from them can be found again."""

    read: Callable[[], Iterator[dict]]
    identity: dict
    floor: Callable[[str], float] | None = None
    """The exact -log p of a document's text in nats, its end included, where the source knows it."""

    def __iter__(self) -> Iterator[dict]:
        return self.read()

    def cut(self, start: int, stop: int | None) -> "Split":
        """The documents from `start` up to `stop` (None: the end)."""
        identity = self.identity | {"start": start, "stop": stop}
        return replace(self, read=lambda: itertools.islice(self.read(), start, stop), identity=identity)


@dataclass(frozen=True)
class Generated:
    """A source that is computed: a document is a function of (seed, index), and there is no last one."""

    document: Callable[[str, int], str]
    floor: Callable[[str], float]
    code: str
    default_documents: int
    about: str
    licence: str = "no licence needed"

    def splits(self, data: DataSection) -> dict[str, Split]:
        """Validation comes from another seed than training, so that its documents are new."""
        return {"train": self._split(str(data.seed)), "validation": self._split(f"{data.seed}-validation")}

    def _split(self, seed: str) -> Split:
        def read():
            return ({"text": self.document(seed, index)} for index in itertools.count())

        code = Path(self.code).read_text(encoding="utf-8")  # other words make other documents
        return Split(read, {"code": code, "seed": seed}, self.floor)


@dataclass(frozen=True)
class HubDataset:
    """A data set of the Hugging Face Hub, streamed."""

    id: str
    licence: str = "see its page"
    about: str = ""
    default_documents: int | None = None

    def splits(self, data: DataSection) -> dict[str, Split]:
        return _dataset_splits({"hub": self.id}, data, path=self.id)


@dataclass(frozen=True)
class LocalFiles:
    """Text, JSON lines or parquet files, compressed or not; in a folder, file names tell the splits."""

    pattern: str
    default_documents: int | None = None

    def files(self) -> list[Path]:
        path = Path(self.pattern).expanduser()
        if path.is_dir():
            return sorted(file for file in path.rglob("*") if _builder_of(file))
        return [path] if path.is_file() else sorted(map(Path, glob.glob(str(path), recursive=True)))

    def splits(self, data: DataSection) -> dict[str, Split]:
        files = self.files()
        builders = {_builder_of(file) for file in files}
        if len(builders) != 1 or None in builders:
            names = ", ".join(sorted(file.name for file in files)[:3])
            raise ConfigError(f"{self.pattern} holds {names}; give files of one kind of {', '.join(BUILDERS)}")
        builder = builders.pop()
        options = {"sample_by": data.sample_by} if builder == "text" else {}
        stamps = [[str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns] for file in files]
        return _dataset_splits(
            {"files": stamps} | options, data, path=builder, data_files=self._split(files), **options
        )

    def _split(self, files: list[Path]) -> dict[str, list[str]]:
        """Files by split, told by the words of their names below the folder; what says neither is for training."""
        folder = Path(self.pattern).expanduser()
        if not folder.is_dir():
            return {"train": [str(file) for file in files]}
        words = {file: set(re.split(r"[^a-z]+", str(file.relative_to(folder)).lower())) for file in files}
        has_train = any("train" in found for found in words.values())
        validation = [file for file in files if words[file] & VALIDATION_WORDS]
        tests = [file for file in files if has_train and "test" in words[file]]
        splits = {"train": [file for file in files if file not in validation + tests], "validation": validation}
        return {name: list(map(str, found)) for name, found in splits.items() if found}


def uniform_integers(seed: str, index: int) -> str:
    """50,000 independent uniform integers 0..7: data that nothing can predict better than by ln 8 nats each."""
    generator = random.Random(f"uniform_integers {seed} {index}")
    return " ".join(str(generator.randrange(8)) for _ in range(50_000))


SOURCES = {
    "fables": Generated(
        fables.fable,
        fables.nats,
        fables.__file__,
        default_documents=50_000,
        about="seeded children's stories whose entropy is known exactly; endless, needs no network",
    ),
    "uniform_integers": Generated(
        uniform_integers,
        lambda text: len(text.split()) * math.log(8),
        __file__,
        default_documents=1,
        about="unlearnable: uniform integers 0..7, whose loss cannot fall below ln 8",
    ),
    "tinystories": HubDataset(
        "roneneldan/TinyStories",
        licence="CDLA-Sharing-1.0",
        about="2.1 million short stories written by GPT-3.5 and GPT-4 (1.9 GB)",
    ),
}


def open_corpus(data: DataSection) -> tuple[Split, Split]:
    """The training and the validation documents of an experiment.

    Validation is `data.validation_source`, or the source's own validation split, or else its first documents, which
    training then skips. `ConfigError` if a source is unknown or cannot be read.
    """
    source = find_source(data.source)
    splits = source.splits(data)
    train = splits.get("train") or next(iter(splits.values()))
    limit = data.train_documents or source.default_documents
    if data.validation_source is not None:
        others = find_source(data.validation_source).splits(data)
        validation = others.get("validation") or next(iter(others.values()))
    elif "validation" in splits:
        validation = splits["validation"]
    else:
        held_out = data.validation_documents or HELD_OUT_DOCUMENTS
        return train.cut(held_out, limit and held_out + limit), train.cut(0, held_out)
    return train.cut(0, limit), validation.cut(0, data.validation_documents)


def find_source(name: str) -> Generated | HubDataset | LocalFiles:
    """What `data.source` names: a row of the table, existing local files, or a Hub id."""
    if name in SOURCES:
        return SOURCES[name]
    if LocalFiles(name).files():
        return LocalFiles(name)
    if name.count("/") == 1 and not name.startswith((".", "/", "~")) and not _builder_of(Path(name)):
        return HubDataset(name)
    nearest = difflib.get_close_matches(name, SOURCES, n=1)
    hint = f"did you mean {nearest[0]}?" if nearest else f"give one of {', '.join(SOURCES)}, a Hub id or existing files"
    raise ConfigError(f"{name} is neither a known source nor an existing file; {hint}")


def _builder_of(file: Path) -> str | None:
    """Which reader of `datasets` a file's name calls for, compression aside."""
    plain = file.with_suffix("") if file.suffix.lower() in COMPRESSIONS else file
    return BUILDERS.get(plain.suffix.lower())


def _dataset_splits(identity: dict, data: DataSection, **load) -> dict[str, Split]:
    try:
        found = datasets.load_dataset(**load, streaming=True)
    except Exception as error:  # `datasets` raises dozens of kinds here, from FileNotFoundError to HTTP errors
        reason = " ".join(str(error).split()) or type(error).__name__
        what, hint = (data.source, "are the files empty?") if "data_files" in load else (load["path"], HUB_HINT)
        raise ConfigError(f"{what} cannot be read: {reason}; {hint}") from error
    identity = identity | {"text_field": data.text_field}
    return {
        str(name): Split(lambda rows=rows: _documents(rows, data), identity | {"split": str(name)})
        for name, rows in found.items()
    }


def _documents(rows: Iterable[dict], data: DataSection) -> Iterator[dict]:
    count = 0
    try:
        for count, row in enumerate(rows, start=1):
            yield _document(row, count, data)
    except (ValueError, TypeError, OSError, datasets.exceptions.DatasetsError) as error:  # of the reader
        reason = " ".join(str(error).split())
        raise ConfigError(f"{data.source} cannot be read after row {count}: {reason}; mend the file") from error


def _document(row: dict, number: int, data: DataSection) -> dict:
    fields = ("prompt", "completion") if {"prompt", "completion"} <= row.keys() else (data.text_field,)
    for field in fields:
        if field not in row:
            raise ConfigError(f"data.text_field={field} is no column; there are {', '.join(row)}")
        if not isinstance(row[field], str):
            raise ConfigError(f"row {number} of {data.source} has {field}={row[field]!r}; it must be text")
    return {name: row[name] for name in fields} if len(fields) == 2 else {"text": row[data.text_field]}


if __name__ == "__main__":
    for name, source in SOURCES.items():
        print(f"{name:20}{source.about}; {source.licence}")
