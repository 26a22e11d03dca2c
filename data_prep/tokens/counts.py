"""Counts the targets and tokens of a run before it starts; exact, not estimated."""

from dataclasses import dataclass

import numpy as np

from data_prep.collator import CausalLMCollator

from .order import Epochs
from .windows import Documents, Windows

BLOCK = 2**22
"""Tokens that are scanned at a time."""


@dataclass(frozen=True)
class Tally:
    """Sums over all trained examples, repeated ones included; an example without targets counts as 0."""

    targets: int
    tokens: int
    pairs: int
    """The sum of squared lengths: the token pairs that attention compares."""
    is_exact: bool = True
    """Whether the numbers are exact; if not, they are upper bounds."""


def tally(run: Epochs, collate: CausalLMCollator) -> Tally:
    """The totals of a run whose batches `collate` makes, from its first step to its last.

    Windows of a stream that is still being written are assumed to be full.
    """
    if isinstance(run.examples, Windows):
        lengths, times = _windows(run)
        masked, is_exact = np.full(len(lengths), collate.mask_first_n), run.is_known
        targets, lengths = _targets_and_lengths(lengths, masked)
    else:
        targets, lengths = document_sizes(run.examples, collate)
        times, is_exact = run.repetitions(), True
    # Python integers, which cannot overflow.
    targets, tokens, pairs = (int(times @ sums) for sums in (targets, lengths, lengths**2))
    return Tally(targets, tokens, pairs, is_exact)


def document_sizes(documents: Documents, collate: CausalLMCollator) -> tuple[np.ndarray, np.ndarray]:
    """The targets and the tokens of each document; a document without targets counts as 0."""
    masked = masked_tokens(documents, collate.mask_first_n, collate.separator_id)
    return _targets_and_lengths(documents.stops - documents.starts, masked)


def _targets_and_lengths(lengths: np.ndarray, masked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    targets = np.maximum(lengths - np.maximum(masked, 1), 0)
    return targets, np.where(targets > 0, lengths, 0)


def _windows(run: Epochs) -> tuple[np.ndarray, np.ndarray]:
    """The lengths of full windows and of the last one, and how often each occurs."""
    windows = run.examples
    if not run.is_known:
        return np.array([windows.length]), np.array([run.stop], dtype=object)
    last, (epoch, rest) = len(windows) - 1, divmod(run.stop, len(windows))
    of_last = epoch + (run.place(last, epoch) < rest)
    lengths = [windows.length, len(windows.ids) - last * (windows.length - 1)]
    return np.array(lengths), np.array([run.stop - of_last, of_last], dtype=object)


def masked_tokens(documents: Documents, mask_first_n: int, separator: int | None) -> np.ndarray:
    """Tokens without loss at the beginning of each document; more than its length if it has no separator."""
    masked = np.maximum(documents.prompts, mask_first_n)
    return masked if separator is None else np.maximum(masked, prompt_ends(documents, separator))


def prompt_ends(documents: Documents, separator: int) -> np.ndarray:
    """Tokens of each document up to and including its first `separator`; more than its length if there is none."""
    ids = documents.ids
    first = np.full(len(documents), len(ids))
    for place in range(0, len(ids), BLOCK):
        found = place + np.flatnonzero(ids.read(place, place + BLOCK) == separator)
        np.minimum.at(first, np.searchsorted(documents.starts, found, side="right") - 1, found)
    return np.where(first < documents.stops, first, documents.stops) - documents.starts + 1
