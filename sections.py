"""What an experiment may hold: its sections as dataclasses, and the two kinds of experiment that are made of them."""

import itertools
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal


class ConfigError(Exception):
    """What is wrong with what the user gave, in one sentence: what was given, what is allowed, what to do."""


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

    def __post_init__(self):
        # 256 bytes and 2 special tokens
        _at_least("tokenizer", self, vocab_size=258 if self.kind == "bpe" else 1, train_documents=1)
        if (self.kind == "pretrained") != (self.path is not None):
            raise ConfigError(
                f"tokenizer.kind={self.kind} with tokenizer.path={self.path}; "
                "give a path with kind=pretrained, and only then"
            )


@dataclass(kw_only=True)
class DataSection:
    source: str = "fables"
    """A name that `python -m data_prep.sources` lists, a Hub id, or local files: a folder, a file or a glob pattern."""
    validation_source: str | None = None
    """Where validation comes from; null means the source's own split, or else its first documents, held out."""
    train_documents: int | None = None
    """At most so many training documents; null means all (of an endless source, as many as its row says)."""
    validation_documents: int | None = 1000
    """At most so many validation documents; null means all of the validation split."""
    text_field: str = "text"
    """Column that holds the text; rows with `prompt` and `completion` instead are trained on the completion only."""
    sample_by: Literal["paragraph", "line", "document"] = "paragraph"
    """What one document is in a plain text file (blank lines end a paragraph)."""
    layout: Literal["packed", "documents"] = "packed"
    """packed: documents joined and cut into full windows; documents: one padded example each."""
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
        _at_least("data", self, train_documents=1, validation_documents=1, context_length=2, mask_first_n=0)
        if self.mask_up_to is not None and self.layout != "documents":
            raise ConfigError(
                f"data.mask_up_to={self.mask_up_to!r} needs data.layout=documents; windows hold no whole example"
            )
        if self.context_length is not None and self.mask_first_n >= self.context_length:
            raise ConfigError(
                f"data.mask_first_n={self.mask_first_n} leaves nothing of data.context_length={self.context_length}"
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
        _at_least("optimizer", self, muon_learning_rate=0, muon_weight_decay=0, grokfast_lambda=0)
        _below_one("optimizer", self, "muon_momentum", "grokfast_alpha")

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
        _at_least("evaluation", self, evals_per_decade=1)


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
        _at_least("sample", self, max_new_tokens=1, temperature=0)


def _at_least(section: str, values, **minima):
    for key, least in minima.items():
        if (value := getattr(values, key)) is not None and value < least:
            raise ConfigError(f"{section}.{key}={value} is too small; it must be at least {least}")


def _below_one(section: str, values, *keys: str):
    for key in keys:
        if not 0 <= (value := getattr(values, key)) < 1:
            raise ConfigError(f"{section}.{key}={value} is out of range; it must be at least 0 and below 1")


# Where pre-training wants something else than transformers' fine-tuning defaults.
LM_TRAINING = {
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 32,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.05,
    "weight_decay": 0.1,
    "adam_beta2": 0.95,
    "num_train_epochs": 1.0,
    "logging_steps": 10,
    "logging_first_step": True,
    "logging_nan_inf_filter": False,  # a loss that is not a number must be seen
    "eval_strategy": "steps",
    "eval_steps": 0.1,
    "save_strategy": "steps",
    "save_steps": 0.2,
    "save_total_limit": 2,
    "report_to": "none",
    "remove_unused_columns": False,  # the collator reads `prompt_length`, which no forward takes
    "ddp_find_unused_parameters": False,
}

# Small tables and thousands of cheap steps: a constant rate, no clipping, whole batches, our own evaluations.
ALGORITHMIC_TRAINING = {
    "per_device_train_batch_size": 512,
    "per_device_eval_batch_size": 1024,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "constant_with_warmup",
    "warmup_steps": 10,
    "weight_decay": 1.0,
    "adam_beta2": 0.98,
    "max_grad_norm": 0.0,
    "max_steps": 1000,
    "logging_strategy": "no",
    "eval_strategy": "no",
    "save_strategy": "no",
    "save_total_limit": 1,
    "dataloader_drop_last": True,
    "train_sampling_strategy": "sequential",  # the equations are shuffled anew each epoch, by their own seed
    "report_to": "none",
    "remove_unused_columns": False,
    "ddp_find_unused_parameters": False,
}

ALGORITHMIC_MODEL = {
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


@dataclass(frozen=True)
class Experiment:
    """A checked experiment. `model` and `training` stay dictionaries: their classes are too heavy to import here."""

    name: str
    model: dict
    data: DataSection | EquationsSection
    training: dict
    optimizer: OptimizerSection

    script: ClassVar[str]
    model_defaults: ClassVar[dict] = {}
    training_defaults: ClassVar[dict]

    def as_dict(self) -> dict:
        """Every setting, defaults included, as plain values."""
        return {key: value for key, value in asdict(self).items() if key != "name"}


@dataclass(frozen=True)
class LanguageExperiment(Experiment):
    """What `train_lm.py` runs."""

    data: DataSection
    tokenizer: TokenizerSection
    sample: SampleSection

    script = "train_lm.py"
    training_defaults = LM_TRAINING


# What the replicas of an algorithmic experiment can differ in: settings that change no tensor's shape.
REPLICABLE = {
    "training": ("seed", "learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon"),
    "optimizer": (
        "muon_learning_rate", "muon_weight_decay", "muon_momentum", "grokfast_lambda", "grokfast_alpha",
    ),
    "model": ("initializer_range", "embedding_init_std", "linear_init", "residual_init"),
    "data": ("seed",),
}  # fmt: skip


@dataclass(frozen=True)
class AlgorithmicExperiment(Experiment):
    """What `train_algorithmic.py` runs."""

    data: EquationsSection
    evaluation: EvaluationSection
    replicas: dict

    script = "train_algorithmic.py"
    model_defaults = ALGORITHMIC_MODEL
    training_defaults = ALGORITHMIC_TRAINING

    def replicated(self) -> list["AlgorithmicExperiment"]:
        """The experiments that run side by side as this one: all combinations of what `replicas` lists.

        Each is complete in itself, has its replica's values for a name, and a folder of that name below this one's.
        """
        axes = [(section, key, values) for section, lists in self.replicas.items() for key, values in lists.items()]
        if not axes:
            return [self]
        count = Counter(key for _, key, _ in axes)
        labels = [key if count[key] == 1 else f"{section}.{key}" for section, key, _ in axes]
        combinations = itertools.product(*(values for _, _, values in axes))
        return [self._replica(axes, labels, values) for values in combinations]

    def _replica(self, axes: list[tuple], labels: list[str], values: tuple) -> "AlgorithmicExperiment":
        name = ",".join(f"{label}={value}" for label, value in zip(labels, values, strict=True))
        replica = replace(self, name=name, replicas={})
        for (section, key, _), value in zip(axes, values, strict=True):
            replica = replica.with_value(section, key, value)
        return replica.with_value("training", "output_dir", str(Path(self.training["output_dir"]) / name))

    def with_value(self, section: str, key: str, value) -> "AlgorithmicExperiment":
        """The same experiment, but for one setting."""
        old = getattr(self, section)
        return replace(self, **{section: old | {key: value} if isinstance(old, dict) else replace(old, **{key: value})})
