"""Draw the Fourier spectrum of a model's number embeddings before and after it generalises.

    python -m experiments.spectrum RUN [--out FILE.png]

RUN is a run folder of train_algorithmic.py, with one model or replicas, trained with data.tokens=numbers and all
checkpoints kept: training.save_strategy=steps training.save_steps=20 training.save_total_limit=null. The figure, by
default RUN/spectrum.png, has the spectrum of the first model at up to four steps, and accuracy and sparsity of all
models over time; .md and .json files next to it have the numbers. experiments/fourier.py defines them.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from command_line.run import exit_on_user_error
from settings.checks import ConfigError
from storage.files import check_writable

from .fourier import ORDERS, TOP, Model, read_models


def table(models: list[Model]) -> list[str]:
    """A Markdown table with a row for each model and saved step."""
    head = ["model", "step", "train (%)", "test (%)", f"power at the {TOP} strongest (%)", "Gini", "frequencies"]
    lines = [head, ["---"] * len(head)]
    for model in models:
        for one in model.snapshots:
            percent = [f"{100 * share:.2f}" for share in (one.train_accuracy, one.test_accuracy)]
            sparsity = [f"{100 * one.top_share:.1f}", f"{one.gini:.2f}", " ".join(map(str, one.frequencies))]
            lines.append([model.name, f"{one.step:,}", *percent, *sparsity])
    return [
        *(f"| {' | '.join(cells)} |" for cells in lines),
        "",
        f"A random embedding has {models[0].random_share:.0%} of its power at any {TOP} frequencies, "
        "and a little more at its strongest.",
    ]


def main(arguments: argparse.Namespace):
    if not arguments.run.is_dir():
        raise ConfigError(f"there is no folder {arguments.run}; give the folder of a run of train_algorithmic.py")
    picture = arguments.out or arguments.run / "spectrum.png"
    if picture.suffix != ".png":
        raise ConfigError(f"--out {picture} is not a PNG; give a name that ends in .png")
    check_writable(picture.parent, f"--out {picture}")
    if picture.is_dir():
        raise ConfigError(f"--out {picture} is a folder; give another name")
    models = read_models(arguments.run)

    from .figures.spectra import draw  # after what can be refused: this takes a second

    numbers = {
        "operation": models[0].operation,
        "modulus": models[0].modulus,
        "order": ORDERS[models[0].operation].__name__,
        "random_share": round(models[0].random_share, 5),
        "models": {
            model.name: {
                "looks": [asdict(one) for one in model.snapshots],
                "shares": {step: shares.round(6).tolist() for step, shares in model.shown.items()},
            }
            for model in models
        },
    }
    lines = table(models)
    picture.parent.mkdir(parents=True, exist_ok=True)
    draw(models).savefig(picture, dpi=130)
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
    with exit_on_user_error("experiments.spectrum"):
        main(parse_arguments())
