"""Documents to tokens on disk, once, and tokens to training examples by index arithmetic.

A prepared folder holds `tokenizer/`, and for each split one flat array of ids (`train.npy`), where its documents
begin (`train-starts.npy`), how long their prompts are (`train-prompts.npy`), and counts in `manifest.json`.
The flat array reads `end document end document end`: each document is preceded by the start token and followed by
the end token, which are one token where a tokenizer does not tell them apart.
"""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset
from tqdm import tqdm

from sections import ConfigError, DataSection, TokenizerSection

from . import tokenizer as tokenizers
from .sources import Split, open_corpus

FORMAT = 2
DOCUMENTS_A_BATCH = 1000


@dataclass(frozen=True)
class SplitInfo:
    """What a prepared split holds. Bytes are UTF-8 bytes of text; `floor_nats` is the exact -log p of all of it."""

    documents: int
    tokens: int
    prompt_tokens: int
    text_bytes: int
    floor_nats: float | None

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


class TokenFile:
    """An `.npy` file of one dimension that grows: appended to as it comes, its length written at the end."""

    def __init__(self, path: Path, dtype):
        self.file = path.open("wb")
        self.dtype = np.dtype(dtype)
        self.length = 0
        self._write_header()

    def append(self, ids):
        array = np.asarray(ids, dtype=self.dtype)
        self.file.write(array.tobytes())
        self.length += len(array)

    def close(self):
        self.file.seek(0)
        self._write_header()  # numpy pads headers so that a longer first dimension fits in the same place
        self.file.close()

    def _write_header(self):
        header = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.length,)}
        np.lib.format.write_array_header_1_0(self.file, header)


def prepare(data: DataSection, section: TokenizerSection) -> "PreparedData":
    """The tokenizer and the tokens of an experiment, made now unless an earlier run has made the same."""
    train, validation = open_corpus(data)
    identity = {"format": FORMAT, "tokenizer": asdict(section), "train": train.identity, "val": validation.identity}
    if section.kind == "pretrained":
        identity["vocabulary"] = tokenizers.load_tokenizer(section.path).backend_tokenizer.to_str()
    fingerprint = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
    folder = Path(data.cache_dir) / f"{Path(data.source).stem}-{section.kind}-{fingerprint}"
    if not (folder / "manifest.json").exists():
        with _staged(folder) as staging:
            tokenizer, about = tokenizers.build_tokenizer(section, train, validation)
            tokenizers.save(tokenizer, about, staging / "tokenizer")
            if section.kind != "pretrained":
                print(tokenizers.describe(about))
            splits = {
                name: asdict(write_split(staging, name, split, tokenizer))
                for name, split in {"train": train, "validation": validation}.items()
            }
            manifest = {"source": data.source, "tokenizer": about, "splits": splits}
            (staging / "manifest.json").write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
    return PreparedData(folder)


@contextmanager
def _staged(folder: Path):
    """A sibling folder that becomes `folder` if all goes well, and otherwise is gone."""
    staging = folder.with_name(f".{folder.name}.{os.getpid()}")
    staging.mkdir(parents=True)
    try:
        yield staging
        if not folder.exists():  # else another process was faster, and made the same
            staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def write_split(folder: Path, name: str, split: Split, tokenizer) -> SplitInfo:
    """Encode a split's documents into the folder's arrays. `ConfigError` if there are none."""
    ids_type = np.uint16 if len(tokenizer) <= 2**16 else np.uint32
    ids = TokenFile(folder / f"{name}.npy", ids_type)
    starts, prompts = (TokenFile(folder / f"{name}-{what}.npy", np.int64) for what in ("starts", "prompts"))
    text_bytes, prompt_tokens, floor_nats = 0, 0, 0.0
    progress = iter(tqdm(split, desc=f"{name} tokens", unit=" documents"))
    while documents := list(islice(progress, DOCUMENTS_A_BATCH)):
        for document, prompt, rest in zip(documents, *_encode(documents, tokenizer), strict=True):
            start = start_tokens(tokenizer) if ids.length == 0 or _has_own_start(tokenizer) else []
            # Where start and end are one token, a document begins at the end of the one before.
            starts.append([ids.length - (not start)])
            prompts.append([len(prompt) + 1 if prompt is not None else 0])
            ids.append([*start, *(prompt or []), *rest, tokenizer.eos_token_id])
            text = tokenizers.text_of(document)
            text_bytes += len(text.encode())
            prompt_tokens += len(prompt or [])
            floor_nats += split.floor(text) if split.floor else math.nan
    count = starts.length
    for file in (ids, starts, prompts):
        file.close()
    if count == 0:
        raise ConfigError(f"the {name} split holds no documents; check data.source and data.{name}_documents")
    return SplitInfo(count, ids.length, prompt_tokens, text_bytes, None if math.isnan(floor_nats) else floor_nats)


def _encode(documents: Iterable[dict], tokenizer) -> tuple[list, list]:
    """Ids of the prompts (None where there is none) and of the rest, each document's two parts encoded apart."""
    prompts = [document.get("prompt") for document in documents]
    rests = [document["completion"] if "completion" in document else document["text"] for document in documents]
    encoded = tokenizer([p or "" for p in prompts] + rests, add_special_tokens=False, verbose=False)["input_ids"]
    heads, tails = encoded[: len(prompts)], encoded[len(prompts) :]
    return [None if p is None else head for p, head in zip(prompts, heads, strict=True)], tails


def start_tokens(tokenizer) -> list[int]:
    """What a document begins with: the start token, or the end token for a tokenizer that has no start."""
    return [tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id]


def _has_own_start(tokenizer) -> bool:
    return start_tokens(tokenizer) != [tokenizer.eos_token_id]


class PreparedData:
    """A prepared folder, opened: `tokenizer`, the tokenizer's report `about_tokenizer`, and `info` by split."""

    def __init__(self, folder: Path):
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        self.folder = folder
        self.tokenizer = tokenizers.load_tokenizer(str(folder / "tokenizer"))
        self.about_tokenizer = manifest["tokenizer"]
        self.info = {name: SplitInfo(**info) for name, info in manifest["splits"].items()}

    def examples(self, split: str, layout: str, length: int) -> Dataset:
        """The split as training examples: `layout` is `packed` or `documents`, `length` the longest, in tokens."""
        ids, starts, prompts = (
            np.load(self.folder / f"{split}{part}.npy", mmap_mode="r") for part in ("", "-starts", "-prompts")
        )
        if layout == "documents":
            return Documents(ids, starts, prompts, length)
        if prompts.any():
            raise ConfigError("the data has prompts, whose loss data.layout=packed would count; use layout=documents")
        return Windows(ids, length)


class Windows(Dataset):
    """A flat array of tokens cut into windows of `length`, each beginning with the last token of the one before.

    A causal model predicts from a window of T tokens T - 1; the shared token makes each adjacent pair of the array a
    target exactly once. The last window may be shorter.
    """

    def __init__(self, ids: np.ndarray, length: int):
        self.ids = ids
        self.length = length

    @property
    def targets(self) -> int:
        """Tokens to predict in one epoch."""
        return len(self.ids) - 1

    def __len__(self) -> int:
        return max(1, math.ceil((len(self.ids) - 1) / (self.length - 1)))

    def __getitem__(self, index: int) -> dict:
        start = range(len(self))[index] * (self.length - 1)
        return {"input_ids": self.ids[start : start + self.length].astype(np.int64)}


class Documents(Dataset):
    """One document an example, from its start token to its end token; one too long for `length` is a `ConfigError`."""

    def __init__(self, ids: np.ndarray, starts: np.ndarray, prompts: np.ndarray, length: int):
        self.ids, self.starts, self.prompts = ids, starts, prompts
        # Documents overlap by the shared token if and only if the first id of the array is also the last.
        shared = int(ids[0] == ids[-1])
        self.stops = np.append(starts[1:] + shared, len(ids))
        longest = int((self.stops - starts).max())
        if longest > length:
            raise ConfigError(
                f"a document has {longest} tokens and data.context_length is {length}; "
                f"raise it and model.max_position_embeddings to {longest}, or use data.layout=packed"
            )

    @property
    def targets(self) -> int:
        """Tokens to predict in one epoch: all but the first of each document and its prompt."""
        return int((self.stops - self.starts - np.maximum(self.prompts, 1)).sum())

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> dict:
        ids = self.ids[self.starts[index] : self.stops[index]].astype(np.int64)
        return {"input_ids": ids, "prompt_length": int(self.prompts[index])}
