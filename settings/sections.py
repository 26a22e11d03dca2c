"""The sections of an experiment file on training and results, each with the checks that need no other section."""

import math
from dataclasses import dataclass
from typing import Literal

from .checks import ConfigError, check_fraction, check_language, check_licence, check_maximum, check_minimum

SEED_LIMIT = 2**32
"""Seeds must be below this limit, which every random number generator accepts."""
MAX_ACCUMULATION = 10**5
"""Upper limit for the batches that a process accumulates in a step."""
BUDGETS = ("tokens", "flops", "minutes", "epochs")
"""What a run may be limited by, besides its steps."""
MIN_TEMPERATURE = 0.001
"""Lowest temperature other than 0; dividing logits by less could overflow."""


@dataclass(kw_only=True)
class BudgetSection:
    tokens: float | None = None
    """Length of the run in trained targets, as logs count them. At most one of tokens, flops, minutes and epochs."""
    flops: float | None = None
    """Length in training FLOPs, as total_flos: 3 x the forward matrix products, a multiply-add is two."""
    minutes: float | None = None
    """Length in minutes of training, evaluations included; a short calibration on real steps precedes the run."""
    epochs: float | None = None
    """Length in passes over the data; the same as training.num_train_epochs."""
    batch_tokens: int | None = None
    """Tokens per step over all processes, by accumulating batches of up to training.per_device_train_batch_size."""
    fit_memory: bool = False
    """When memory runs out, compute a batch in halves; examples, steps and losses stay the same."""

    def __post_init__(self):
        check_minimum("budget", self, batch_tokens=2)
        check_maximum("budget", self, tokens=1e18, flops=1e30, minutes=1e7, epochs=1e6, batch_tokens=10**12)
        for name, amount in self.amounts.items():
            if not amount > 0:
                raise ConfigError(f"budget.{name}={amount} is too small; it must be above 0")
        if len(self.amounts) > 1:
            given = " and ".join(f"budget.{name}={amount:g}" for name, amount in self.amounts.items())
            raise ConfigError(f"{given} each set the length of the run; give one of them")

    @property
    def amounts(self) -> dict[str, float]:
        """What the run may spend, by name; empty if `training` sets its length."""
        return {name: value for name in BUDGETS if (value := getattr(self, name)) is not None}


@dataclass(kw_only=True)
class OptimizerSection:
    kind: Literal["adamw", "muon"] = "adamw"
    """adamw; or muon: Muon for the matrices inside the blocks, AdamW for embeddings, norms, biases and head."""
    muon_learning_rate: float = 0.02
    """Peak learning rate of Muon; AdamW's is training.learning_rate. Both follow the same schedule."""
    muon_weight_decay: float = 0.1
    """Weight decay of Muon; AdamW's is training.weight_decay."""
    muon_momentum: float = 0.95
    """Nesterov momentum of Muon."""
    grokfast_lambda: float = 0.0
    """Adds this multiple of the running mean of the gradients to each gradient (Grokfast); 0 is off."""
    grokfast_alpha: float = 0.98
    """Decay per step of that running mean."""
    decay_embeddings: bool = True
    """Weight decay on embeddings, tokens' and positions', as on the other matrices; a tied one is the head, too."""

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
        """Whether the Trainer's own optimiser, `training.optim`, is used unchanged."""
        return self.kind == "adamw" and not self.grokfast_lambda


@dataclass(kw_only=True)
class EvaluationSection:
    evals_per_decade: int = 20
    """Evaluations per factor of ten in steps, evenly spaced on a log axis; training.eval_steps can add others."""
    stop_when_grokked: bool = False
    """Stop once test accuracy was at least 99 % at three consecutive evaluations, in every replica."""

    def __post_init__(self):
        check_minimum("evaluation", self, evals_per_decade=1)
        check_maximum("evaluation", self, evals_per_decade=1000)


@dataclass(kw_only=True)
class GuardSection:
    skips_in_a_row: int = 3
    """Steps with a non-finite loss or gradient are skipped; this many in a row end the run, saved as before them."""
    loss_spike: float | None = None
    """Also skip steps whose loss is this many standard deviations above the recent mean; null is off."""
    window: int = 128
    """Number of recent losses that a spike is compared with; none is detected before there are that many."""

    def __post_init__(self):
        check_minimum("guard", self, skips_in_a_row=1, window=2)
        check_maximum("guard", self, skips_in_a_row=10**9, window=10**6)
        if self.loss_spike is not None and not 0 < self.loss_spike < math.inf:
            raise ConfigError(f"guard.loss_spike={self.loss_spike} is out of range; it must be above 0, such as 6")


@dataclass(kw_only=True)
class ResumeSection:
    extend: bool = False
    """Resume with another training.max_steps or num_train_epochs; the schedule becomes that of the new length."""
    allow: list | None = None
    """Names of settings that may differ from the saved run, such as [training.learning_rate]; no others may."""
    decay_from: str | None = None
    """Checkpoint of a run at a constant rate, to go on from in a run of its own, whose rate decays to its end."""

    def __post_init__(self):
        for name in self.allow or []:
            if not isinstance(name, str):
                raise ConfigError(
                    f"resume.allow={self.allow} has {name!r}, which is not the name of a setting; give "
                    "names such as training.learning_rate"
                )


@dataclass(kw_only=True)
class SampleSection:
    prompt: str = ""
    """Prompt continued at each evaluation; an empty prompt is the start of a document."""
    max_new_tokens: int = 200
    """Maximum length of the sample, in tokens."""
    temperature: float = 0.8
    """Sampling temperature; 0 is greedy decoding."""
    seed: int = 0
    """Seed of the sample, the same at each evaluation."""

    def __post_init__(self):
        check_minimum("sample", self, max_new_tokens=1, temperature=0, seed=0)
        check_maximum("sample", self, seed=SEED_LIMIT - 1)
        if 0 < self.temperature < MIN_TEMPERATURE:
            raise ConfigError(
                f"sample.temperature={self.temperature} is too small; give 0 (greedy decoding), or at least "
                f"{MIN_TEMPERATURE}"
            )


@dataclass(kw_only=True)
class CardSection:
    license: str | None = None
    """Licence of the model by its Hub name, such as apache-2.0, mit or cc-by-4.0; null means none is stated."""
    language: str | None = None
    """Language code of the text, such as en or de; null means the source's, where known."""

    def __post_init__(self):
        check_licence("card.license", self.license)
        check_language("card.language", self.language)
