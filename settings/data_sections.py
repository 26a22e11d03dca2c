"""The sections of an experiment file on text, tokens and equations, each with the checks that need no other section."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .checks import ConfigError, check_maximum, check_minimum
from .paths import expand_folder

LAYOUT_SETTINGS = {
    "bad_records", "streaming", "layout", "reset_at_documents", "context_length", "mask_first_n", "mask_up_to",
    "cache_dir",
}  # fmt: skip
"""Settings of the data section that do not affect which documents there are."""
MAX_VOCAB_SIZE = 2**32
"""Tokens are stored as at most 32-bit integers."""
MAX_DOCUMENTS = 10**12
"""Upper limit for settings that count documents; no corpus has more."""
MAX_POSITIONS = 2**24
"""Upper limit for positions and context lengths; no model has more."""


@dataclass(kw_only=True)
class TokenizerSection:
    kind: Literal["bpe", "characters", "numbers", "pretrained"] = "bpe"
    """bpe (byte-level), characters, numbers (one token per integer or symbol), or pretrained (load `path`)."""
    vocab_size: int = 4096
    """Tokens of a bpe vocabulary, the 256 bytes and the special tokens included."""
    path: str | None = None
    """Folder or Hub id of an existing tokenizer, for kind=pretrained."""
    train_documents: int | None = 50_000
    """Maximum number of documents read to learn the vocabulary; null means all of them."""
    train_bytes: int | None = None
    """Maximum bytes of text to learn the vocabulary from, spread evenly over the corpus; null means no limit."""

    def __post_init__(self):
        # 256 bytes and 2 special tokens
        check_minimum("tokenizer", self, vocab_size=258 if self.kind == "bpe" else 1, train_documents=1, train_bytes=1)
        check_maximum(
            "tokenizer", self, vocab_size=MAX_VOCAB_SIZE - 1, train_documents=MAX_DOCUMENTS, train_bytes=10**18
        )
        if self.path == "":
            raise ConfigError("tokenizer.path is empty; give the folder or Hub id of a tokenizer, or leave it out")
        if (self.kind == "pretrained") != (self.path is not None):
            raise ConfigError(
                f"tokenizer.kind={self.kind} with tokenizer.path={self.path}; "
                "give a path with kind=pretrained, and only then"
            )


@dataclass(kw_only=True)
class DataSection:
    source: str = "fables"
    """A name that `python -m data_prep.sources` lists, a Hub id, or local files: a folder, a file or a glob pattern."""
    mixture: dict | None = None
    """Several sources instead of data.source, with their fractions of the bytes: {tinystories: 0.7, fables: 0.3}."""
    subset: str | None = None
    """Which configuration of a Hub data set; null means the source's own."""
    revision: str | None = None
    """Which commit, tag or branch of a Hub data set; null means the source's own, or else the newest."""
    validation_source: str | None = None
    """Source of the validation documents; null: the source's own split, or else documents held out from training."""
    train_documents: int | None = None
    """Maximum number of training documents; null means all (of an endless source, its default number)."""
    validation_documents: int | None = 1000
    """Maximum number of validation documents; null: the whole split, or a tenth of a source without one."""
    text_field: str | None = None
    """Text column, or path to it; null: `text`, or `prompt` and `completion`, with loss on the completion only."""
    group_field: str | None = None
    """Column, or path to it such as meta.pile_set_name, by whose values validation is reported in groups."""
    sample_by: str | None = None
    """How a plain text file is cut into documents: paragraph (the default), line, document, or a separator."""
    bad_records: float = 0.001
    """Maximum fraction of malformed records in a split; they are skipped, counted and written to a file."""
    layout: Literal["packed", "documents"] = "packed"
    """packed: documents joined and cut into full windows; documents: one padded example each."""
    streaming: bool = False
    """Start training while tokens are still being prepared; prepares only as many as training.max_steps needs."""
    reset_at_documents: bool = False
    """With packed: attention and positions restart at each document, so that it does not attend to the one before."""
    context_length: int | None = None
    """Tokens per window; null means model.max_position_embeddings."""
    mask_first_n: int = 0
    """No loss on the first n tokens of each example, its start token included."""
    mask_up_to: str | None = None
    """No loss on the tokens of each example up to and including the first occurrence of this token."""
    seed: int = 0
    """Seed of a generated source."""
    cache_dir: str = "prepared"
    """Folder where prepared tokenizers and tokens are kept between runs."""

    def __post_init__(self):
        check_minimum(
            "data", self, train_documents=1, validation_documents=1, bad_records=0, context_length=2, mask_first_n=0
        )
        check_maximum("data", self, train_documents=MAX_DOCUMENTS, validation_documents=MAX_DOCUMENTS, bad_records=1)
        check_maximum("data", self, context_length=MAX_POSITIONS)
        if self.sample_by == "":
            raise ConfigError("data.sample_by is empty; give paragraph, line, document, or a separator")
        for name in ("source", "validation_source", "cache_dir"):
            if getattr(self, name) == "":
                raise ConfigError(f"data.{name} is empty; leave it out, or give a value")
        self.cache_dir = expand_folder("data.cache_dir", self.cache_dir)
        self._check_mixture()
        if self.streaming and self.layout != "packed":
            raise ConfigError(f"data.streaming=true needs data.layout=packed, not {self.layout}; leave one of them out")
        if self.layout != "packed":  # each document is an example by itself
            self.reset_at_documents = False
        if self.mask_up_to is not None and self.layout != "documents":
            raise ConfigError(
                f"data.mask_up_to={self.mask_up_to!r} needs data.layout=documents, because a window may start "
                "inside an example; give that layout, or leave data.mask_up_to out"
            )
        if self.context_length is not None and self.mask_first_n >= self.context_length:
            raise ConfigError(
                f"data.mask_first_n={self.mask_first_n} masks all of data.context_length="
                f"{self.context_length}; lower it, or raise data.context_length"
            )

    def contents(self) -> dict:
        """The settings that determine which documents there are."""
        return {key: value for key, value in vars(self).items() if key not in LAYOUT_SETTINGS}

    def order_settings(self, length: int) -> dict:
        """The settings that determine the order of a run's examples of `length` tokens, by name."""
        return {"data.context_length": length, "data.layout": self.layout, "data.streaming": self.streaming}

    @property
    def origin(self) -> str:
        """The source, or the sources with their weights, as text; of an absolute path, and of `.`, the last part."""
        shares = (f"{share:g} {_last_part(name)}" for name, share in (self.mixture or {}).items())
        return " + ".join(shares) or _last_part(self.source)

    def _check_mixture(self):
        if self.mixture is None:
            return
        shares = self.mixture.values()
        if not self.mixture or not all(type(share) in (int, float) and 0 < share < math.inf for share in shares):
            raise ConfigError(f"data.mixture={self.mixture} needs weights above 0, as in {{tinystories: 0.7, c4: 0.3}}")
        if self.validation_source is not None:
            raise ConfigError(
                f"data.mixture is validated on each of its sources; leave data.validation_source="
                f"{self.validation_source} out"
            )


@dataclass(kw_only=True)
class EquationsSection:
    operation: str = "divide"
    """add, subtract, multiply, divide, quadratic (a^2 + ab + b^2), s5 (permutations of five), or FILE.py:FUNCTION."""
    modulus: int | None = None
    """A prime p: operands and answers are 0 to p - 1; null means 97. (s5 has 120 permutations instead.)"""
    train_fraction: float = 0.5
    """Fraction of all equations to train on, rounded down."""
    validation_fraction: float = 0.0
    """Fraction held out for validation, rounded down; the remaining equations are the test split."""
    tokens: Literal["numbers", "characters", "padded"] = "numbers"
    """numbers (one token each), characters, or padded: characters, with numbers zero-padded to the same length."""
    seed: int | None = None
    """Seed of the split; null means training.seed."""

    def __post_init__(self):
        train, validation = self.train_fraction, self.validation_fraction
        if not 0 < train < 1 or not 0 <= validation < 1 or train + validation >= 1:
            raise ConfigError(
                f"data.train_fraction={train} and data.validation_fraction={validation} leave no equations to test on "
                "or none to train on; give a train_fraction above 0 and a sum of both below 1"
            )


def _last_part(source: str) -> str:
    path = Path(source) if Path(source).name not in ("", "..") else Path(source).resolve()
    return (path.name if path.is_absolute() else "") or source
