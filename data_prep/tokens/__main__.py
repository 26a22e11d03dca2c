"""Prepare the tokens of an experiment before it runs.

usage: python -m data_prep.tokens CONFIG [section.key=value ...] [--push-to-hub USER/NAME]

    python -m data_prep.tokens configs/lm/tinystories.yaml

prepares what an experiment needs before it runs, on from where it was interrupted. --push-to-hub publishes it as a data
set, whose name is a data.source then.
"""

from command_line.run import run_script
from data_prep.sources.table import check_source_overrides
from settings.loading import load_experiment

from .prepare import prepare
from .published import check_publishable, publish


def main(path: str, overrides: list[str]):
    """Prepare an experiment's tokenizer and tokens, say what they are, and publish them if that is asked for."""
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
        print(f"published     https://huggingface.co/datasets/{name}, use it as data.source={name}")


if __name__ == "__main__":
    run_script(__doc__, main)
