"""The length of a run: which of the settings that could set it does."""

from collections.abc import Mapping

from .checks import ConfigError
from .sections import BUDGETS

MAX_STEPS = 10**9
"""Upper limit for the steps of a run."""
STEPS, EPOCHS = ("training", "max_steps"), ("training", "num_train_epochs")
HORIZONS = (STEPS, EPOCHS, *(("budget", name) for name in BUDGETS))
"""The settings that set the length of a run, as section and key."""


def only_given_horizon(sections: Mapping[str, dict], given: Mapping) -> dict[str, dict]:
    """The sections of a file without a length that an override on the command line replaces.

    `sections` already have the overrides, `given` by `section.key`. `ConfigError` if these are several.
    """
    chosen = [(section, key) for section, key in HORIZONS if is_length(given.get(f"{section}.{key}"))]
    if len(chosen) > 1:
        asked = " and ".join(f"{section}.{key}={given[f'{section}.{key}']}" for section, key in chosen)
        raise ConfigError(f"{asked} each set the length of the run; give one of them")
    if not chosen:
        return dict(sections)
    others = {horizon for horizon in HORIZONS if horizon not in chosen}
    return {
        section: values and {key: value for key, value in values.items() if (section, key) not in others}
        for section, values in sections.items()
    }


def check_horizon(training: Mapping, amounts: Mapping[str, float], default_epochs: float | None):
    """`ConfigError` if both the budget's `amounts` and the section `training` set the length of a run."""
    for name, amount in amounts.items():
        for _, key in (STEPS, EPOCHS):
            value = training.get(key)
            if is_length(value) and not (key == EPOCHS[1] and value == default_epochs):
                raise ConfigError(
                    f"budget.{name}={amount:g} and training.{key}={value} each set the length of the run; "
                    f"leave one of them out"
                )


def is_length(value) -> bool:
    """Whether a setting's value sets a length; null and -1 leave it to another."""
    return value is not None and value != -1
