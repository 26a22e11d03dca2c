"""Schedules of weight decay and dropout: multiples of their settings as functions of the step."""

from collections.abc import Mapping

import numpy as np
from torch import nn
from torch.optim import Optimizer
from transformers import TrainerCallback

from settings.recipe_sections import SchedulesSection


def weight_decays(_model: nn.Module, optimizer: Optimizer) -> list[tuple[dict, str]]:
    """Where the weight decays are: each a mapping and a key of it."""
    return [(group, "weight_decay") for group in optimizer.param_groups]


def dropouts(model: nn.Module, _optimizer: Optimizer) -> list[tuple[dict, str]]:
    """Where the dropouts are."""
    modules = list(model.modules())
    inside = [(vars(one), "attention_dropout") for one in modules if "attention_dropout" in vars(one)]
    return inside + [(vars(one), "p") for one in modules if isinstance(one, nn.Dropout)]


PLACES = {"weight_decay": weight_decays, "dropout": dropouts}
"""By the names of the settings in `SchedulesSection`."""


def multiple(points: Mapping[float, float], step: int, steps: int) -> float:
    """The multiple in the step after `step` of `steps`: linear between points at fractions of the run, constant outside
    of them."""
    return float(np.interp(step / steps, sorted(points), [points[at] for at in sorted(points)]))


class Schedules(TrainerCallback):
    """Sets weight decays and dropouts before each step. A function of the step alone: a resumed run has the same."""

    def __init__(self, section: SchedulesSection):
        self.points = section.points
        self.present: dict[str, float] = {}
        """The multiples of the last step, by their names in logs."""
        self.places: list[tuple[str, dict, str, float]] = []

    def on_train_begin(self, args, state, control, model=None, optimizer=None, **kwargs):  # noqa: ARG002
        if not self.places:  # with the values of the settings
            found = {name: PLACES[name](model, optimizer) for name in self.points}
            self.places = [(name, place, key, place[key]) for name, several in found.items() for place, key in several]

    def on_step_begin(self, args, state, control, **kwargs):  # noqa: ARG002
        now = {name: multiple(points, state.global_step, state.max_steps) for name, points in self.points.items()}
        for name, place, key, value in self.places:
            place[key] = value * now[name]
        self.present = {f"{name}_multiple": value for name, value in now.items()}
