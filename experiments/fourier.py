"""Fourier spectra of number embeddings in the checkpoints of a run.

A model that has found the rule of addition modulo p places its numbers on a few circles: their embeddings are cosines
and sines of a handful of frequencies, where a random embedding has all of them equally (Nanda et al. 2023, "Progress
measures for grokking via mechanistic interpretability"). In other groups, characters of the group take the place of
cosines (Chughtai et al. 2023, "A toy model of universality").
"""

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from settings.checks import ConfigError
from storage.files import read_json_lines, read_mapping, report_file_errors

TOP = 5
EMBEDDING = "model.embed_tokens.weight"
WEIGHTS = "model.safetensors"
FILES = ("metrics.json", "metrics.jsonl", "tokenizer.json", WEIGHTS)
CHECKPOINT = re.compile(r"checkpoint-(\d+)")
ACCURACIES = ("train_accuracy", "test_accuracy")
REMEDY = "restore the file that the run wrote, or train again"
SAVING = "training.save_strategy=steps training.save_steps=20 training.save_total_limit=null"


def natural(p: int) -> list[int]:
    """0 to p - 1, each one more than the last: the additive group modulo p, which is cyclic."""
    return list(range(p))


def by_logarithm(p: int) -> list[int]:
    """1 to p - 1, each g times the last, g the smallest primitive root of the prime p: the multiplicative group.

    In this order of discrete logarithms its characters are cosines and sines, as those of the additive group are in
    the natural one. Another root would give the frequencies other names, and the same powers.
    """
    for g in itertools.count(1):
        powers = list(itertools.accumulate(range(p - 2), lambda power, _: power * g % p, initial=1))  # noqa: B023
        if len(set(powers)) == p - 1:
            return powers


# By operation, the order of the numbers in its cyclic group; quadratic has no group, and that of s5 is not cyclic
ORDERS: dict[str, Callable[[int], list[int]]] = {
    "add": natural,
    "subtract": natural,
    "multiply": by_logarithm,
    "divide": by_logarithm,
}


def spectrum(rows_nD: np.ndarray) -> np.ndarray:
    """Shares (n // 2) of the power of n embeddings of D dimensions at the frequencies 1 to n // 2; their sum is 1.

    The power at a frequency k is the squared norm, over dimensions, of the discrete Fourier transform along the
    embeddings, their mean removed. It counts k and n - k, which are conjugate, so none of the power is left out.
    """
    n = len(rows_nD)
    waves_kD = np.fft.rfft(rows_nD - rows_nD.mean(0), axis=0)[1:]
    both_k = np.where(2 * np.arange(1, n // 2 + 1) == n, 1, 2)  # n / 2 is its own conjugate
    power_k = both_k * (np.abs(waves_kD) ** 2).sum(1)
    return power_k / power_k.sum()


def gini(shares: np.ndarray) -> float:
    """The Gini coefficient: 0 if all shares are equal, 1 - 1/n if one of n has everything."""
    n = len(shares)
    return float(2 * (np.arange(1, n + 1) @ np.sort(shares)) / (n * shares.sum()) - (n + 1) / n)


@dataclass(frozen=True)
class Snapshot:
    """The number embeddings at one step, with the accuracies of the evaluation nearest to it."""

    step: int
    train_accuracy: float
    test_accuracy: float
    top_share: float
    """Share of all power at the strongest frequencies; of random embeddings a little above `Model.random_share`."""
    gini: float
    frequencies: list[int]
    """The strongest ones, from the strongest on."""


@dataclass(frozen=True)
class Model:
    """A trained model: its task, its evaluations, and its embeddings at each saved step."""

    name: str
    operation: str
    modulus: int
    order: list[int]
    """The numbers in the order of the transform."""
    evaluations: list[dict]
    snapshots: list[Snapshot]
    shown: dict[int, np.ndarray]
    """The spectra of the steps that are drawn."""

    @property
    def random_share(self) -> float:
        """The share of power at `TOP` frequencies if all frequencies are equally strong."""
        return TOP / (len(self.order) // 2)


def read_models(folder: Path) -> list[Model]:
    """The model of a run's folder, or its replicas; `ConfigError` if it has no such spectra."""
    metrics = folder / "metrics.json"
    replicas = read_mapping(metrics, REMEDY).get("replicas") if metrics.is_file() else None
    return [read_model(folder, name) for name in replicas or ["."]]


def read_model(parent: Path, name: str) -> Model:
    """One model of a run: the final one is in `parent/name`, earlier ones in `parent/checkpoint-N/name`."""
    folder = parent / name
    operation = require_number_embeddings(folder)
    with report_file_errors(folder / "tokenizer.json", REMEDY):
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    modulus = sum(token.isdigit() for token in tokenizer.get_vocab())  # it knows 0 to p - 1, and no other number
    order = ORDERS[operation](modulus)
    if len(order) // 2 <= TOP:
        raise ConfigError(f"data.modulus={modulus} has only {len(order) // 2} frequencies; use a prime of at least 13")
    ids = [tokenizer.token_to_id(str(number)) for number in order]
    evaluations = [
        row for row in read_json_lines(folder / "metrics.jsonl", REMEDY) if {*ACCURACIES, "step"} <= row.keys()
    ]
    if not evaluations:
        raise ConfigError(f"{folder / 'metrics.jsonl'} has no evaluation with {' and '.join(ACCURACIES)}; {REMEDY}")
    with report_file_errors(folder / "metrics.json", REMEDY):
        metrics = read_mapping(folder / "metrics.json", REMEDY)
        last, fit = int(metrics["steps"]), metrics["steps_to_fit"]
    spectra = {step: spectrum(embeddings(file, ids)) for step, file in weights(parent, name, last).items()}
    snapshots = [summarize(step, shares, evaluations) for step, shares in spectra.items()]
    shown = {step: spectra[step] for step in steps_to_show(snapshots, fit)}
    return Model(folder.resolve().name, operation, modulus, order, evaluations, snapshots, shown)


def require_number_embeddings(folder: Path) -> str:
    """`ConfigError` unless a finished model with number embeddings is there; returns what it was trained on."""
    settings = folder / "experiment.yaml"
    data = read_mapping(settings, REMEDY).get("data") if settings.is_file() else {}
    if not isinstance(data, dict) or not {"operation", "tokens"} <= data.keys():
        raise ConfigError(f"{folder} has no experiment.yaml with a data.operation; give a run of train_algorithmic.py")
    if data["operation"] not in ORDERS:
        given = f"{folder} was trained on data.operation={data['operation']}"
        raise ConfigError(f"{given}, which is not known to be of a cyclic group; give a run on {', '.join(ORDERS)}")
    if data["tokens"] != "numbers":
        given = f"{folder} was trained with data.tokens={data['tokens']}, so digits have embeddings and not numbers"
        raise ConfigError(f"{given}; give a run with data.tokens=numbers")
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        raise ConfigError(f"{folder} is not finished: it has no {missing[0]}; let train_algorithmic.py end its steps")
    return data["operation"]


def weights(parent: Path, name: str, last: int) -> dict[int, Path]:
    """The files with a model's weights at each step, in order: of its checkpoints and, at the `last`, its own."""
    files = {
        int(match[1]): path / name / WEIGHTS
        for path in parent.glob("checkpoint-*")
        if (match := CHECKPOINT.fullmatch(path.name)) and (path / name / WEIGHTS).is_file()
    } | {last: parent / name / WEIGHTS}
    if len(files) == 1:
        raise ConfigError(f"{parent} has weights of step {last} alone; train again with {SAVING}")
    return dict(sorted(files.items()))


def embeddings(file: Path, ids: list[int]) -> np.ndarray:
    """The embeddings of tokens, in the order of `ids`, from a file of weights."""
    with report_file_errors(file, REMEDY):
        rows = load_file(file)[EMBEDDING][ids].astype(np.float64)
    if not np.isfinite(rows).all():
        raise ConfigError(f"{file} has embeddings that are not finite, so the run diverged; lower its learning rate")
    return rows


def summarize(step: int, shares: np.ndarray, evaluations: list[dict]) -> Snapshot:
    """Summarise a spectrum."""
    nearest = min(evaluations, key=lambda row: abs(row["step"] - step))
    accuracies = {name: nearest[name] for name in ACCURACIES}
    strongest = np.argsort(-shares, kind="stable")[:TOP]
    sparsity = {"top_share": round(float(shares[strongest].sum()), 6), "gini": round(gini(shares), 6)}
    return Snapshot(step, **accuracies, **sparsity, frequencies=(strongest + 1).tolist())


def steps_to_show(snapshots: list[Snapshot], fit: int | None) -> list[int]:
    """Up to four steps to show: the first, the first after memorisation, the one halfway to the last share, the last.

    Halfway is where the share of the strongest frequencies is nearest to the mean of its first and its last value.
    """
    first, last = snapshots[0], snapshots[-1]
    fitted = next((one.step for one in snapshots if fit and one.step >= fit), last.step)
    mean = (first.top_share + last.top_share) / 2
    halfway = min(snapshots, key=lambda one: abs(one.top_share - mean))
    return sorted({first.step, fitted, halfway.step, last.step})
