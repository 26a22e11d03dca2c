"""Averages of the weights over the steps of a run: exponential, and uniform over the last of them."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from transformers import TrainerCallback

from settings.checks import warn
from settings.recipe_sections import AveragingSection


@dataclass(frozen=True)
class Kind:
    """An average: how much less a step counts with each later one, and the steps that count at all."""

    decay: Callable[[float, int], float]
    """Of the setting, a fraction of the run, and the number of the run's steps."""
    after: Callable[[float, int], int]
    """The last step that does not count, of the same."""


KINDS = {
    "ema": Kind(decay=lambda fraction, steps: 1 - 1 / max(fraction * steps, 1), after=lambda _fraction, _steps: 0),
    "tail": Kind(decay=lambda _fraction, _steps: 1.0, after=lambda fraction, steps: steps - round(fraction * steps)),
}
"""By the names of the settings in `AveragingSection`."""


@dataclass
class Average:
    """The weighted mean of a model's weights: `mass` is the sum of the weights of all steps in it, the last one's 1."""

    weights: dict[str, torch.Tensor]
    mass: float = 0.0

    def add(self, model: nn.Module, decay: float):
        """Count the model's present weights once, and what was counted before `decay` times."""
        self.mass = self.mass * decay + 1
        now = [one.detach() for one in model.parameters()]
        torch._foreach_lerp_(list(self.weights.values()), now, 1 / self.mass)

    def swap(self, model: nn.Module):
        """Exchange the average and the model's weights, in place: compiled graphs and optimisers keep their tensors."""
        for average, weight in zip(self.weights.values(), model.parameters(), strict=True):
            now = weight.detach().clone()
            weight.copy_(average)
            average.copy_(now)

    def state_dict(self) -> dict:
        return {"mass": self.mass, "weights": self.weights if self.mass else {}}

    def load_state_dict(self, state: Mapping):
        self.mass = state["mass"]
        for name, value in state["weights"].items():
            self.weights[name].copy_(value)


class WeightAverages(TrainerCallback):
    """The averages that a section asks for, of one model or of several that are trained together.

    After each step t, an average is sum_s d^(t - s) w_s / sum_s d^(t - s) over the steps s that count, d = 1 for the
    tail. It is updated in the precision of the weights, float32, on their device; every process has the same. A step
    counts for the models that have made it. `state_dict` is part of checkpoints.
    """

    def __init__(self, models: Mapping[str, nn.Module], section: AveragingSection, has_skipped: Callable[[str], bool]):
        """`has_skipped` says whether the model of a name has skipped the present step."""
        self.models, self.has_skipped, self.saved = models, has_skipped, section.save
        self.fractions = section.fractions
        self.averages = {
            kind: {name: Average(_zeros(model)) for name, model in models.items()} for kind in self.fractions
        }

    @torch.no_grad()
    def on_optimizer_step(self, args, state, control, **kwargs):  # noqa: ARG002
        step, steps = state.global_step + 1, state.max_steps
        for kind, fraction in self.fractions.items():
            decay, after = KINDS[kind].decay(fraction, steps), KINDS[kind].after(fraction, steps)
            for name, average in self.averages[kind].items():
                if step <= after:  # also of a run that was extended, whose tail begins anew
                    average.mass = 0.0
                elif not self.has_skipped(name):
                    average.add(self.models[name], decay)

    @property
    def begun(self) -> list[str]:
        """The averages that have weights of a step in them."""
        return [kind for kind, models in self.averages.items() if all(one.mass for one in models.values())]

    @contextmanager
    def swapped(self, kind: str) -> Iterator[None]:
        """Within, the models have the average's weights; `raw` leaves them as they are."""
        self._swap(kind)
        try:
            yield
        finally:
            self._swap(kind)

    @torch.no_grad()
    def _swap(self, kind: str):
        for name, average in self.averages.get(kind, {}).items():
            average.swap(self.models[name])

    @property
    def result(self) -> str:
        """Which weights the run comes to: those that the section asks for, or the raw ones, with a warning."""
        if self.saved in ("raw", *self.begun):
            return self.saved
        warn(f"averaging.save={self.saved}: the run has ended before a step that counts; the raw weights are saved")
        return "raw"

    def state_dict(self) -> dict:
        return {
            kind: {name: one.state_dict() for name, one in models.items()} for kind, models in self.averages.items()
        }

    @torch.no_grad()
    def load_state_dict(self, state: Mapping):
        """By the order of the models, whose names may have changed."""
        for kind, models in self.averages.items():
            for average, saved in zip(models.values(), state[kind].values(), strict=True):
                average.load_state_dict(saved)


def _zeros(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: torch.zeros_like(one, requires_grad=False) for name, one in model.named_parameters()}
