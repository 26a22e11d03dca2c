"""What an experiment file may hold: its sections as dataclasses, each with the checks that it can make by itself."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .checks import ConfigError, check_fraction, check_language, check_licence, check_maximum, check_minimum
from .paths import expand_folder

LAYOUT_SETTINGS = {
    "bad_records", "streaming", "layout", "reset_at_documents", "context_length", "mask_first_n", "mask_up_to",
    "cache_dir",
}  # fmt: skip
"""Settings of the data section that decide nothing about which documents there are."""

MAX_VOCAB_SIZE = 2**32
"""So many tokens can be told apart on disk."""
SEED_LIMIT = 2**32
"""Seeds are below: what every generator of random numbers takes."""
MAX_DOCUMENTS = 10**12
"""No corpus has more."""
MAX_POSITIONS = 2**24
"""No model has more positions."""
MIN_TEMPERATURE = 0.001
"""Lowest temperature that is not 0: logits divided by less could overflow."""


@dataclass(kw_only=True)
class TokenizerSection:
    kind: Literal["bpe", "characters", "numbers", "pretrained"] = "bpe"
    """bpe (byte-level), characters, numbers (each integer or symbol a token), or pretrained (load `path`)."""
    vocab_size: int = 4096
    """Tokens of a bpe vocabulary, the 256 bytes and the special tokens included."""
    path: str | None = None
    """Folder or Hub id of an existing tokenizer, for kind=pretrained."""
    train_documents: int | None = 50_000
    """At most so many documents are read to learn the vocabulary; null means all of them."""
    train_bytes: int | None = None
    """At most so many bytes of text are learnt from, spread evenly over the corpus; null means no limit."""

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
    """Several sources in place of data.source, with their shares of the bytes: {tinystories: 0.7, fables: 0.3}."""
    subset: str | None = None
    """Which configuration of a Hub data set; null means the source's own."""
    revision: str | None = None
    """Which commit, tag or branch of a Hub data set; null means the source's own, or else the newest."""
    validation_source: str | None = None
    """Where validation comes from; null means the source's own split, or else documents held out from training."""
    train_documents: int | None = None
    """At most so many training documents; null means all (of an endless source, as many as its row says)."""
    validation_documents: int | None = 1000
    """At most so many validation documents; null means all of the split, or a tenth of a source that has none."""
    text_field: str | None = None
    """Column of the text, or path to it; null: `text`, or `prompt` and `completion`, with loss on the completion."""
    group_field: str | None = None
    """Column, or path to it such as meta.pile_set_name, whose values are the groups that validation tells apart."""
    sample_by: str | None = None
    """A document of a plain text file: paragraph (the default), line, document, or what stands between such words."""
    bad_records: float = 0.001
    """The largest share of a split's records that may be no documents; they are skipped, counted and written down."""
    layout: Literal["packed", "documents"] = "packed"
    """packed: documents joined and cut into full windows; documents: one padded example each."""
    streaming: bool = False
    """Begin training while the training tokens are still being prepared, up to what training.max_steps asks for."""
    reset_at_documents: bool = False
    """With packed: attention and positions begin anew where a document does, so that none sees the one before."""
    context_length: int | None = None
    """Tokens a window; null means model.max_position_embeddings."""
    mask_first_n: int = 0
    """The first n tokens of each example, its start token included, carry no loss."""
    mask_up_to: str | None = None
    """Tokens of each example up to and including the first such token carry no loss."""
    seed: int = 0
    """Seed of a generated source."""
    cache_dir: str = "prepared"
    """Where tokenizers and tokens are kept between runs."""

    def __post_init__(self):
        check_minimum(
            "data", self, train_documents=1, validation_documents=1, bad_records=0, context_length=2, mask_first_n=0
        )
        check_maximum("data", self, train_documents=MAX_DOCUMENTS, validation_documents=MAX_DOCUMENTS, bad_records=1)
        check_maximum("data", self, context_length=MAX_POSITIONS)
        if self.sample_by == "":
            raise ConfigError("data.sample_by is empty; give paragraph, line, document, or what separates documents")
        for name in ("source", "validation_source", "cache_dir"):
            if getattr(self, name) == "":
                raise ConfigError(f"data.{name} is empty; leave it out, or give a name")
        self.cache_dir = expand_folder("data.cache_dir", self.cache_dir)
        self._check_mixture()
        if self.streaming and self.layout != "packed":
            raise ConfigError(f"data.streaming=true needs data.layout=packed, and it is {self.layout}; leave one out")
        if self.layout != "packed":  # each document is an example by itself
            self.reset_at_documents = False
        if self.mask_up_to is not None and self.layout != "documents":
            raise ConfigError(
                f"data.mask_up_to={self.mask_up_to!r} needs data.layout=documents; windows hold no whole example"
            )
        if self.context_length is not None and self.mask_first_n >= self.context_length:
            raise ConfigError(
                f"data.mask_first_n={self.mask_first_n} leaves nothing of data.context_length={self.context_length}"
            )

    def contents(self) -> dict:
        """The settings that decide which documents there are."""
        return {key: value for key, value in vars(self).items() if key not in LAYOUT_SETTINGS}

    def order_settings(self, length: int) -> dict:
        """What the order of a run's examples of `length` tokens depends on, by name."""
        return {"data.context_length": length, "data.layout": self.layout, "data.streaming": self.streaming}

    @property
    def origin(self) -> str:
        """The source, or the sources and their shares, in words; of an absolute path, and of `.`, the last part."""
        shares = (f"{share:g} {_last_part(name)}" for name, share in (self.mixture or {}).items())
        return " + ".join(shares) or _last_part(self.source)

    def _check_mixture(self):
        if self.mixture is None:
            return
        shares = self.mixture.values()
        if not self.mixture or not all(type(share) in (int, float) and 0 < share < math.inf for share in shares):
            raise ConfigError(f"data.mixture={self.mixture} needs shares above 0, as in {{tinystories: 0.7, c4: 0.3}}")
        if self.validation_source is not None:
            raise ConfigError(
                f"data.mixture is validated on each of its sources; leave out data.validation_source="
                f"{self.validation_source}"
            )


@dataclass(kw_only=True)
class OptimizerSection:
    kind: Literal["adamw", "muon"] = "adamw"
    """adamw; or muon on the matrices inside the blocks, and adamw on embeddings, norms, biases and head."""
    muon_learning_rate: float = 0.02
    """Peak learning rate of Muon; AdamW's is training.learning_rate. Both follow the same schedule."""
    muon_weight_decay: float = 0.1
    """Weight decay of Muon; AdamW's is training.weight_decay."""
    muon_momentum: float = 0.95
    """Nesterov momentum of Muon."""
    grokfast_lambda: float = 0.0
    """Adds so many times the running mean of the gradients to each gradient (Grokfast); 0 is off."""
    grokfast_alpha: float = 0.98
    """Decay of that running mean, a step."""

    def __post_init__(self):
        check_minimum("optimizer", self, muon_learning_rate=0, muon_weight_decay=0, grokfast_lambda=0)
        check_fraction("optimizer", self, "muon_momentum", "grokfast_alpha")

    @property
    def matrix_settings(self) -> dict[str, float]:
        """The settings of the optimiser of matrices, those whose names begin with `kind`, as torch names them."""
        prefix = f"{self.kind}_"
        own = {key.removeprefix(prefix): value for key, value in vars(self).items() if key.startswith(prefix)}
        return {"lr": own.pop("learning_rate")} | own if own else {}

    @property
    def is_stock(self) -> bool:
        """Whether the Trainer's own optimiser, `training.optim`, is all that is asked for."""
        return self.kind == "adamw" and not self.grokfast_lambda


@dataclass(kw_only=True)
class EquationsSection:
    operation: str = "divide"
    """add, subtract, multiply, divide, quadratic (a^2 + ab + b^2), s5 (permutations of five), or FILE.py:FUNCTION."""
    modulus: int | None = None
    """A prime p: operands and answers are 0 to p - 1; null means 97. (s5 has none, for its 120 permutations.)"""
    train_fraction: float = 0.5
    """Share of all equations to train on, rounded down."""
    validation_fraction: float = 0.0
    """Share held out for validation, rounded down; what is left of all equations is the test split."""
    tokens: Literal["numbers", "characters", "padded"] = "numbers"
    """numbers (each a token), characters, or padded: characters, numbers filled up with zeros to the same length."""
    seed: int | None = None
    """Seed of the split; null means training.seed."""

    def __post_init__(self):
        train, validation = self.train_fraction, self.validation_fraction
        if not 0 < train < 1 or not 0 <= validation < 1 or train + validation >= 1:
            raise ConfigError(
                f"data.train_fraction={train} and data.validation_fraction={validation} leave no split to test on or "
                "none to train on; give a train_fraction above 0 and a sum of both below 1"
            )


@dataclass(kw_only=True)
class EvaluationSection:
    evals_per_decade: int = 20
    """Evaluations a factor of ten in steps, evenly spread on a log axis; training.eval_steps can add others."""
    stop_when_grokked: bool = False
    """End once test accuracy was at least 99 % at three evaluations in a row, in every replica."""

    def __post_init__(self):
        check_minimum("evaluation", self, evals_per_decade=1)
        check_maximum("evaluation", self, evals_per_decade=1000)


@dataclass(kw_only=True)
class GuardSection:
    skips_in_a_row: int = 3
    """A step whose loss or gradient is no number is skipped; so many in a row end the run, saved as it was before."""
    loss_spike: float | None = None
    """Also skip a step whose loss is so many standard deviations above the mean of the last ones; null is off."""
    window: int = 128
    """How many losses a spike is told by; there is none before there are so many."""

    def __post_init__(self):
        check_minimum("guard", self, skips_in_a_row=1, window=2)
        check_maximum("guard", self, skips_in_a_row=10**9, window=10**6)
        if self.loss_spike is not None and not 0 < self.loss_spike < math.inf:
            raise ConfigError(f"guard.loss_spike={self.loss_spike} is out of range; it must be above 0, such as 6")


@dataclass(kw_only=True)
class ResumeSection:
    extend: bool = False
    """Go on to another length, training.max_steps or num_train_epochs; the schedule becomes that of the new length."""
    allow: list | None = None
    """Names of settings that may be other than before, such as [training.learning_rate]; all else must be as it was."""

    def __post_init__(self):
        for name in self.allow or []:
            if not isinstance(name, str):
                raise ConfigError(f"resume.allow={self.allow} has {name!r}, which is no name of a setting")


@dataclass(kw_only=True)
class SampleSection:
    prompt: str = ""
    """Continued at each evaluation; the empty prompt is the start of a document."""
    max_new_tokens: int = 200
    """Longest sample, in tokens."""
    temperature: float = 0.8
    """Randomness of the sample; 0 is greedy."""
    seed: int = 0
    """Seed of the sample, the same at each evaluation."""

    def __post_init__(self):
        check_minimum("sample", self, max_new_tokens=1, temperature=0, seed=0)
        check_maximum("sample", self, seed=SEED_LIMIT - 1)
        if 0 < self.temperature < MIN_TEMPERATURE:
            raise ConfigError(
                f"sample.temperature={self.temperature} is too small; give 0, which is greedy, or at least "
                f"{MIN_TEMPERATURE}"
            )


@dataclass(kw_only=True)
class CardSection:
    license: str | None = None
    """Licence of the model, as the Hub names it: apache-2.0, mit, cc-by-4.0; null says that none is given."""
    language: str | None = None
    """Language of the text, as en or de; null means the source's, where it is known."""

    def __post_init__(self):
        check_licence("card.license", self.license)
        check_language("card.language", self.language)


def _last_part(source: str) -> str:
    path = Path(source) if Path(source).name not in ("", "..") else Path(source).resolve()
    return (path.name if path.is_absolute() else "") or source
