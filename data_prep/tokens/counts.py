"""What the examples of a run come to, before the first is read: targets and tokens, counted and not estimated."""

from dataclasses import dataclass

import numpy as np

from data_prep.collator import CausalLMCollator

from .order import Epochs, first_shuffled, key
from .windows import Documents, Windows

BLOCK = 2**22
"""Tokens that are looked through at a time."""


@dataclass(frozen=True)
class Tally:
    """Sums over examples, each as often as it is trained on; one without a target, which teaches nothing, counts 0."""

    targets: int
    tokens: int
    pairs: int
    """The sum of tokens squared: what attention compares."""
    is_exact: bool = True
    """Whether it is known; if not, the numbers are the most that they can be."""


def tally(run: Epochs, collate: CausalLMCollator) -> Tally:
    """What a run comes to whose batches `collate` makes, from its first step to its last.

    Of a stream that is still being written, windows are taken to be full.
    """
    if isinstance(run.examples, Windows):
        lengths, times = _windows(run)
        masked, is_exact = np.full(len(lengths), collate.mask_first_n), run.is_known
    else:
        lengths, times, is_exact = run.examples.stops - run.examples.starts, _repetitions(run), True
        masked = masked_tokens(run.examples, collate.mask_first_n, collate.separator_id)
    targets = np.maximum(lengths - np.maximum(masked, 1), 0)
    lengths = np.where(targets > 0, lengths, 0)
    # Windows are counted in Python's integers, which have no largest one.
    targets, tokens, pairs = (int(times @ sums) for sums in (targets, lengths, lengths**2))
    return Tally(targets, tokens, pairs, is_exact)


def _windows(run: Epochs) -> tuple[np.ndarray, np.ndarray]:
    """The lengths that windows have, that of the last one apart, and how often each comes."""
    windows = run.examples
    if not run.is_known:
        return np.array([windows.length]), np.array([run.stop], dtype=object)
    last, (epoch, rest) = len(windows) - 1, divmod(run.stop, len(windows))
    of_last = epoch + (run.place(last, epoch) < rest)
    lengths = [windows.length, len(windows.ids) - last * (windows.length - 1)]
    return np.array(lengths), np.array([run.stop - of_last, of_last], dtype=object)


def _repetitions(run: Epochs) -> np.ndarray:
    """How often a run comes by each of its examples."""
    count = len(run.examples)
    epochs, rest = divmod(run.stop, count)
    times = np.full(count, epochs)
    times[first_shuffled(rest, count, key(run.seed, epochs))] += 1
    return times


def masked_tokens(documents: Documents, mask_first_n: int, separator: int | None) -> np.ndarray:
    """How many tokens at the beginning of each document carry no loss; more than it has if it has no separator."""
    masked = np.maximum(documents.prompts, mask_first_n)
    return masked if separator is None else np.maximum(masked, prompt_ends(documents, separator))


def prompt_ends(documents: Documents, separator: int) -> np.ndarray:
    """Tokens of each document up to and including its first `separator`; more than it has where there is none."""
    ids = documents.ids
    first = np.full(len(documents), len(ids))
    for place in range(0, len(ids), BLOCK):
        found = place + np.flatnonzero(ids.read(place, place + BLOCK) == separator)
        np.minimum.at(first, np.searchsorted(documents.starts, found, side="right") - 1, found)
    return np.where(first < documents.stops, first, documents.stops) - documents.starts + 1
