"""The sections of an experiment file on parts of a training recipe, each with the checks that need no other section."""

import math
import re
import sys
from dataclasses import dataclass
from typing import Literal

from .checks import ConfigError, check_maximum, check_minimum

UNITS = {"T": 10**12, "B": 10**9, "M": 10**6, "K": 10**3}
MAX_PER_DECADE = 20
"""Log-spaced checkpoints per factor of ten: with more, two would have the same two digits."""


@dataclass(kw_only=True)
class CheckpointsSection:
    save_tokens: list | dict | None = None
    """Also save once so many tokens were trained on: [1e6, 2e6], named chck_1M and chck_2M, or {NAME: 1e6}. These
    checkpoints are kept, and published as revisions (branches) of these names."""
    saves_per_decade: int | None = None
    """The same at log-spaced numbers of tokens, so many per factor of ten: with 3, at 1M, 2.2M, 4.6M, 10M and so on."""

    def __post_init__(self):
        check_minimum("checkpoints", self, saves_per_decade=1)
        check_maximum("checkpoints", self, saves_per_decade=MAX_PER_DECADE)
        if self.save_tokens is not None and self.saves_per_decade is not None:
            raise ConfigError(
                f"checkpoints.save_tokens={self.save_tokens} and checkpoints.saves_per_decade={self.saves_per_decade} "
                "exclude each other; leave out one of them"
            )
        self._check_counts()

    def _check_counts(self):
        named = self.save_tokens if isinstance(self.save_tokens, dict) else {}
        counts = list(named.values() or self.save_tokens or [])
        if self.save_tokens is not None and not (
            counts and all(type(one) in (int, float) and 1 <= one < 1e18 and one == int(one) for one in counts)
        ):
            raise ConfigError(
                f"checkpoints.save_tokens={self.save_tokens} needs whole numbers of tokens, as in [1e6, 2e6] or "
                "{chck_1M: 1e6}"
            )
        if len(set(counts)) < len(counts):
            raise ConfigError(f"checkpoints.save_tokens={self.save_tokens} has a number twice; leave one of them out")
        for name in named:
            if not re.fullmatch(r"[A-Za-z0-9_][\w.-]{0,99}", str(name)) or name == "main":
                raise ConfigError(
                    f"checkpoints.save_tokens={self.save_tokens} has the name {name!r}; give another, of letters, "
                    "digits, - _ and ., that is not main"
                )

    @property
    def counts(self) -> dict[str, int]:
        """The numbers of tokens to save at, by name."""
        if isinstance(self.save_tokens, dict):
            return {str(name): int(count) for name, count in self.save_tokens.items()}
        counts = self.save_tokens or []
        if self.saves_per_decade:
            per = self.saves_per_decade
            counts = [float(f"{10 ** (step / per):.1e}") for step in range(per, 15 * per)]  # two digits, from 10 on
        return {f"chck_{_short(count)}": int(count) for count in counts}


def _short(count: float) -> str:
    """A number of tokens as BabyLM writes it, exactly: 1M, 2.2M, 131.072K."""
    unit = next((unit for unit, size in UNITS.items() if count >= size), "")
    return f"{count / UNITS.get(unit, 1):.15g}{unit}"


@dataclass(kw_only=True)
class LossSection:
    z_loss: float = 0.0
    """Trains with this multiple of the mean of log^2 Z, Z being the softmax's normaliser, such as 1e-4; 0 is off. The
    logged loss stays the cross-entropy; this term is logged as z_loss."""

    def __post_init__(self):
        check_minimum("loss", self, z_loss=0)


@dataclass(kw_only=True)
class SchedulesSection:
    weight_decay: dict | None = None
    """Multiples of every weight decay over the run, at fractions of its steps and linear in between: {0: 1, 1: 0}."""
    dropout: dict | None = None
    """The same for every dropout; {0: 0, 0.5: 0, 1: 1} begins half-way."""

    def __post_init__(self):
        for name, given in self.points.items():
            points = {_number(at): _number(value) for at, value in given.items()}
            most = {"weight_decay": sys.float_info.max, "dropout": 1}[name]
            if not points or not all(0 <= at <= 1 and 0 <= value <= most for at, value in points.items()):
                allowed = "from 0 to 1" if name == "dropout" else "of at least 0"
                raise ConfigError(
                    f"schedules.{name}={given} is not a schedule; give multiples {allowed} at fractions of the run, "
                    "as in {0: 1, 1: 0}"
                )
            setattr(self, name, points)

    @property
    def points(self) -> dict[str, dict[float, float]]:
        """The schedules that are given."""
        return {name: given for name, given in vars(self).items() if given is not None}


def _number(value) -> float:
    """A number, which may be written as text, as JSON writes keys; NaN for anything else."""
    try:
        return math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return math.nan


@dataclass(kw_only=True)
class AveragingSection:
    ema: float | None = None
    """Exponential moving average of the weights, with this memory as a fraction of the run's steps, such as 0.05: of N
    steps, its decay per step is 1 - 1 / (0.05 N). Evaluations report it as eval_ema_loss."""
    tail: float | None = None
    """Mean of the weights over this last fraction of the run's steps, such as 0.2 (stochastic weight averaging).
    Evaluations report it as eval_tail_loss."""
    save: Literal["raw", "ema", "tail"] = "raw"
    """Which weights the run comes to: those after its last step (raw), or one of the averages."""

    def __post_init__(self):
        for name, fraction in self.fractions.items():
            if not 0 < fraction <= 1:
                raise ConfigError(
                    f"averaging.{name}={fraction} is out of range; it is a fraction of the steps, above 0 and at most 1"
                )
        if self.save != "raw" and getattr(self, self.save) is None:
            raise ConfigError(
                f"averaging.save={self.save} needs averaging.{self.save}, a fraction of the run's steps; give 0.1, say"
            )

    @property
    def count(self) -> int:
        """How many averages are kept."""
        return len(self.fractions)

    @property
    def fractions(self) -> dict[str, float]:
        """The averages to keep, with their fractions."""
        given = {"ema": self.ema, "tail": self.tail}
        return {name: fraction for name, fraction in given.items() if fraction is not None}
