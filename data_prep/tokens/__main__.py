"""Prepare the tokens of an experiment in advance.

usage: python -m data_prep.tokens CONFIG [section.key=value ...] [--push-to-hub USER/NAME]

    python -m data_prep.tokens configs/lm/tinystories.yaml

An interrupted preparation is resumed by the same command. --push-to-hub publishes the tokens as a data set, whose name
can then be used as data.source.
"""

from command_line.run import run_script
from data_prep.sources.table import check_source_overrides
from settings.loading import load_experiment

from .prepare import prepare
from .published import check_publishable, publish


def main(path: str, overrides: list[str]):
    """Prepare an experiment's tokenizer and tokens, describe them, and publish them with --push-to-hub."""
    name = None
    if "--push-to-hub" in overrides:
        place = overrides.index("--push-to-hub")
        name, overrides = " ".join(overrides[place + 1 : place + 2]), overrides[:place] + overrides[place + 2 :]
    experiment = load_experiment(path, overrides)
    check_source_overrides(experiment)
    if name is not None:
        check_publishable(name, experiment.data)
    prepared = prepare(experiment.data, experiment.tokenizer)
    print("\n".join(prepared.describe()))
    if name is not None:
        publish(prepared.folder, name)
        print(f"published     https://huggingface.co/datasets/{name}, use data.source={name}")


if __name__ == "__main__":
    run_script(__doc__, main)
