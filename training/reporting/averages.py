"""Metrics of averages of the weights, in logs and in what a run came to."""

import re
from collections.abc import Mapping


def averaged_losses(metrics: Mapping[str, float]) -> dict[str, float]:
    """The validation losses of averages of the weights, by the average's name; `raw`, too, where it is named."""
    found = {re.fullmatch(r"eval_([a-z]+)_loss", name): value for name, value in metrics.items()}
    return {match[1]: value for match, value in found.items() if match}


def of_saved_weights(metrics: Mapping[str, float], saved: str, prefix: str = "eval_") -> dict[str, float]:
    """The metrics with those of the weights that were saved under the plain names, `eval_loss` and so on.

    `saved` is the name of an average, as it stands behind the `prefix`; the raw weights' then have `raw` in its place.
    """
    own = f"{prefix}{saved}_"
    of_average = {name.removeprefix(own): value for name, value in metrics.items() if name.startswith(own)}
    raw = {f"{prefix}raw_{name}": metrics[f"{prefix}{name}"] for name in of_average}
    return {**metrics, **raw, **{f"{prefix}{name}": value for name, value in of_average.items()}}
