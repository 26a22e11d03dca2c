"""The sections of an experiment file on parts of a training recipe, each with the checks that need no other section."""

from dataclasses import dataclass
from typing import Literal

from .checks import ConfigError, check_minimum


@dataclass(kw_only=True)
class LossSection:
    z_loss: float = 0.0
    """Trains with this multiple of the mean of log^2 Z, Z being the softmax's normaliser, such as 1e-4; 0 is off. The
    logged loss stays the cross-entropy; this term is logged as z_loss."""

    def __post_init__(self):
        check_minimum("loss", self, z_loss=0)


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
