"""A look inside a grokked model: the Fourier spectrum of its number embeddings before and after it generalises.

    python -m experiments.spectrum RUN [--out FILE.png]

RUN is a folder of train_algorithmic.py, of one model or of replicas, run with data.tokens=numbers and checkpoints kept:
training.save_strategy=steps training.save_steps=20 training.save_total_limit=null. The picture, by default
RUN/spectrum.png, has the first model's spectrum at up to four steps, and how accuracy and sparsity went in all of them;
beside it .md and .json have the numbers.

A model that has found the rule of addition modulo p places its numbers on a few circles: their embeddings are cosines
and sines of a handful of frequencies, where a random embedding has all of them alike (Nanda et al. 2023, "Progress
measures for grokking via mechanistic interpretability"). In other groups, characters of the group take the place of
cosines (Chughtai et al. 2023, "A toy model of universality").
"""

import argparse
import itertools
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from config import one_sentence
from experiments.figures import GREY, PALETTE, TEST, TRAIN
from sections import ConfigError

TOP = 5
EMBEDDING = "model.embed_tokens.weight"
WEIGHTS = "model.safetensors"
FILES = ("metrics.json", "metrics.jsonl", "tokenizer.json", WEIGHTS)
OUTLINE = withStroke(linewidth=2, foreground="white")
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


# The order in which an operation's cyclic group makes circles of its numbers; quadratic has no group, s5 no cyclic one
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
    """How unequal shares are: 0 if they are all alike, 1 - 1/n if one of n has everything."""
    n = len(shares)
    return float(2 * (np.arange(1, n + 1) @ np.sort(shares)) / (n * shares.sum()) - (n + 1) / n)


@dataclass(frozen=True)
class Look:
    """The number embeddings at one step, with the accuracies of the evaluation nearest to it."""

    step: int
    train_accuracy: float
    test_accuracy: float
    top_share: float
    """What the strongest frequencies hold of all power; for random embeddings a little above `Run.random_share`."""
    gini: float
    frequencies: list[int]
    """The strongest ones, from the strongest on."""


@dataclass(frozen=True)
class Run:
    """A trained model: its task, its evaluations, and what its embeddings are at each step that was kept."""

    name: str
    operation: str
    modulus: int
    order: list[int]
    """The numbers as the spectra take them."""
    evaluations: list[dict]
    looks: list[Look]
    shown: dict[int, np.ndarray]
    """The spectra of the steps that get a panel."""

    @property
    def random_share(self) -> float:
        """What `TOP` frequencies hold of embeddings that have all frequencies alike."""
        return TOP / (len(self.order) // 2)


def read_runs(folder: Path) -> list[Run]:
    """The model of a run's folder, or its replicas; `ConfigError` if there is nothing in it to look at."""
    metrics = folder / "metrics.json"
    replicas = json.loads(metrics.read_text(encoding="utf-8")).get("replicas") if metrics.is_file() else None
    return [read_run(folder, name) for name in replicas or ["."]]


def read_run(parent: Path, name: str) -> Run:
    """One model of a run: what it came to is in `parent/name`, what it was before in `parent/checkpoint-N/name`."""
    folder = parent / name
    operation = find_operation(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    modulus = sum(token.isdigit() for token in tokenizer.get_vocab())  # it knows 0 to p - 1, and no other number
    order = ORDERS[operation](modulus)
    if len(order) // 2 <= TOP:
        raise ConfigError(f"data.modulus={modulus} has only {len(order) // 2} frequencies; take a prime from 13 on")
    ids = [tokenizer.token_to_id(str(number)) for number in order]
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    evaluations = [row for row in map(json.loads, lines) if "test_accuracy" in row]
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    spectra = {step: spectrum(embeddings(file, ids)) for step, file in weights(parent, name, metrics["steps"]).items()}
    looks = [look(step, shares, evaluations) for step, shares in spectra.items()]
    shown = {step: spectra[step] for step in choose([*spectra], metrics["steps_to_fit"], metrics["steps_to_grok"])}
    return Run(folder.resolve().name, operation, modulus, order, evaluations, looks, shown)


def find_operation(folder: Path) -> str:
    """What a finished run of one model was trained on, if it has a spectrum; else `ConfigError`."""
    settings = folder / "experiment.yaml"
    data = yaml.safe_load(settings.read_text(encoding="utf-8"))["data"] if settings.is_file() else {}
    if "operation" not in data:
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
    files = {int(path.name.split("-")[1]): path / name / WEIGHTS for path in parent.glob("checkpoint-*")}
    files = {step: file for step, file in files.items() if file.is_file()} | {last: parent / name / WEIGHTS}
    if len(files) == 1:
        raise ConfigError(f"{parent} has weights of step {last} alone; train again with {SAVING}")
    return dict(sorted(files.items()))


def embeddings(file: Path, ids: list[int]) -> np.ndarray:
    """The embeddings of tokens, in the order of `ids`, from a file of weights."""
    rows = load_file(file)[EMBEDDING][ids].astype(np.float64)
    if not np.isfinite(rows).all():
        raise ConfigError(f"{file} has embeddings that are not finite, so the run diverged; lower its learning rate")
    return rows


def look(step: int, shares: np.ndarray, evaluations: list[dict]) -> Look:
    """Sum a spectrum up."""
    nearest = min(evaluations, key=lambda row: abs(row["step"] - step))
    accuracies = {name: nearest[name] for name in ("train_accuracy", "test_accuracy")}
    strongest = np.argsort(-shares, kind="stable")[:TOP]
    sparsity = {"top_share": round(float(shares[strongest].sum()), 6), "gini": round(gini(shares), 6)}
    return Look(step, **accuracies, **sparsity, frequencies=(strongest + 1).tolist())


def choose(steps: list[int], fit: int | None, grok: int | None) -> list[int]:
    """Up to four steps to show: the first, the first that has fitted, one halfway from there to grokking, the last.

    Halfway is on a log axis, between `fit` and `grok`; without them it is between the first and the last step.
    """
    first, last = steps[0], steps[-1]
    halfway = math.sqrt((fit or first) * (grok or last))
    fitted = next((step for step in steps if step >= (fit or first)), last)
    between = sorted((s for s in steps if fitted < s < last), key=lambda s: abs(math.log(s / halfway)))
    return sorted({first, fitted, *between[:1], last})


def draw(runs: list[Run]) -> Figure:
    """The spectra shown of the first run, one beneath the other; below them accuracies and sparsity of all runs."""
    run = runs[0]
    count = len(run.shown)
    figure = Figure(figsize=(9, 1.5 * count + 3.4), layout="constrained")
    grid = figure.add_gridspec(count + 1, 1, height_ratios=[1] * count + [1.7])
    panels = [figure.add_subplot(grid[0])]
    panels += [figure.add_subplot(grid[i], sharex=panels[0], sharey=panels[0]) for i in range(1, count)]
    top = 100 * max(shares.max() for shares in run.shown.values())
    panels[0].set(xlim=(0, len(run.order) // 2 + 1), ylim=(0, 1.25 * top))
    looks = {one.step: one for one in run.looks}
    for axes, (step, shares) in zip(panels, run.shown.items(), strict=True):
        _spectrum(axes, looks[step], 100 * shares, top)
        axes.tick_params(labelbottom=axes is panels[-1])
    numbers = ", ".join(map(str, run.order[:4]))
    panels[-1].set_xlabel(f"frequency along the numbers {numbers}, ... (modulo {run.modulus})")
    _history(figure.add_subplot(grid[count]), runs)
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    figure.align_ylabels()
    which = f" ({run.name}; at the bottom {len(runs)} models)" if len(runs) > 1 else ""
    figure.suptitle(f"Fourier spectrum of the number embeddings: {run.operation} modulo {run.modulus}{which}")
    return figure


def _spectrum(axes: Axes, one: Look, percent: np.ndarray, top: float):
    """A bar a frequency, the strongest in colour and with their names; `top` is the highest bar of all panels."""
    places = range(1, len(percent) + 1)
    axes.bar(places, percent, color=[PALETTE[0] if k in one.frequencies else "0.75" for k in places])
    accuracies = f"train {one.train_accuracy:.1%}, test {one.test_accuracy:.1%}"
    title = f"step {one.step:,}: {accuracies}; {one.top_share:.0%} of the power at the {TOP} strongest"
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_ylabel("share (%)")
    wide, high = 0.009 * len(str(len(percent))) * len(percent), 0.2 * top  # the room of a name
    heights = {}
    for k in reversed(one.frequencies):
        heights[k] = percent[k - 1]
        for taken in sorted(height for other, height in heights.items() if 0 < abs(other - k) < wide):
            heights[k] = taken + high if abs(heights[k] - taken) < high else heights[k]
        axes.text(k, heights[k] + 0.02 * top, str(k), ha="center", fontsize=8, path_effects=[OUTLINE])
    axes.set_ylim(top=max(axes.get_ylim()[1], max(heights.values()) + high))


def _history(axes: Axes, runs: list[Run]):
    """Accuracies at all evaluations, and the share of the strongest frequencies at all steps that were kept."""
    for run in runs[1:]:
        _course(axes, run, lw=1, alpha=0.5)
    names = ("train accuracy", "test accuracy", f"power at the {TOP} strongest")
    for line, name in zip(_course(axes, runs[0], lw=1.8), names, strict=True):
        line.set_label(name)
    axes.axhline(100 * runs[0].random_share, color=PALETTE[0], ls=":", label=f"at any {TOP} of a random embedding")
    for step in runs[0].shown:
        axes.axvline(step, color=GREY, lw=0.8, zorder=0)
    axes.set(xscale="log", xlabel="steps (vertical lines: the spectra above)", ylabel="share (%)", ylim=(-3, 103))
    last = runs[0].evaluations[-1]["step"]
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if last < 2000 else (1,), numticks=20))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)


def _course(axes: Axes, run: Run, **look) -> list[Line2D]:
    """One run's lines: train accuracy, test accuracy, share of the strongest frequencies."""
    steps = [row["step"] for row in run.evaluations]
    train, test = ([100 * row[f"{split}_accuracy"] for row in run.evaluations] for split in ("train", "test"))
    kept, shares = [one.step for one in run.looks], [100 * one.top_share for one in run.looks]
    return [
        *axes.plot(steps, train, color=TRAIN, ls=(0, (4, 2)), **look),
        *axes.plot(steps, test, color=TEST, **look),
        *axes.plot(kept, shares, "o-", color=PALETTE[0], ms=4, **look),
    ]


def table(runs: list[Run]) -> list[str]:
    """A line for each step that was kept of each run, as a Markdown table."""
    head = ["model", "step", "train (%)", "test (%)", f"power at the {TOP} strongest (%)", "Gini", "frequencies"]
    lines = [head, ["---"] * len(head)]
    for run in runs:
        for one in run.looks:
            percent = [f"{100 * share:.2f}" for share in (one.train_accuracy, one.test_accuracy)]
            sparsity = [f"{100 * one.top_share:.1f}", f"{one.gini:.2f}", " ".join(map(str, one.frequencies))]
            lines.append([run.name, f"{one.step:,}", *percent, *sparsity])
    return [
        *(f"| {' | '.join(cells)} |" for cells in lines),
        "",
        f"A random embedding has about {runs[0].random_share:.0%} of its power at its {TOP} strongest frequencies.",
    ]


def main(arguments: argparse.Namespace):
    picture = arguments.out or arguments.run / "spectrum.png"
    if picture.suffix != ".png":
        raise ConfigError(f"--out {picture} is no PNG; give a name that ends in .png")
    runs = read_runs(arguments.run)
    numbers = {
        "operation": runs[0].operation,
        "modulus": runs[0].modulus,
        "order": ORDERS[runs[0].operation].__name__,
        "random_share": round(runs[0].random_share, 5),
        "models": {
            run.name: {
                "looks": [asdict(one) for one in run.looks],
                "shares": {step: shares.round(6).tolist() for step, shares in run.shown.items()},
            }
            for run in runs
        },
    }
    lines = table(runs)
    picture.parent.mkdir(parents=True, exist_ok=True)
    draw(runs).savefig(picture, dpi=130)
    picture.with_suffix(".md").write_text("\n".join([*lines, ""]), encoding="utf-8")
    picture.with_suffix(".json").write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    print("\n".join([*lines, "", *(f"written  {picture.with_suffix(kind)}" for kind in (".png", ".md", ".json"))]))


def parse_arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.spectrum", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="the folder of a run")
    parser.add_argument("--out", type=Path, metavar="FILE.png", help="the picture (default: RUN/spectrum.png)")
    return parser.parse_args(words)


if __name__ == "__main__":
    with one_sentence("experiments.spectrum"):
        main(parse_arguments())
