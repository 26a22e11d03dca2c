"""The cost of runs before they start: parameters, FLOPs, tokens, time, memory and disk, side by side.

    python -m experiments.plan configs/lm/tinystories.yaml model.hidden_size=768
    python -m experiments.plan configs/lm/demo.yaml configs/lm/tinystories.yaml --device h100 --price-per-hour 3

Overrides apply to all configurations. Tokens that are prepared on this machine are counted exactly; before that, the
vocabulary is model.vocab_size if given, else tokenizer.vocab_size. Nothing is prepared, trained or written.
"""

import argparse
from pathlib import Path

from command_line.run import exit_on_user_error
from settings.checks import ConfigError
from settings.loading import load_experiment

UTILIZATION = 0.4


def parse_arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line, with the words divided into `configs` and `overrides`."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.plan",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s CONFIG... [section.key=value ...] [options]",
    )
    parser.add_argument("words", nargs="+", metavar="CONFIG", help="experiment files, and settings for all of them")
    parser.add_argument("--calibrate", action="store_true", help="train a few steps here, aside, to know the time")
    parser.add_argument(
        "--device", metavar="NAME", help="estimate time and memory for one GPU: h200, h100, a100, l4, ..."
    )
    parser.add_argument(
        "--utilization",
        type=float,
        metavar="SHARE",
        help=f"share of its peak that the GPU reaches; {UTILIZATION} if left out",
    )
    parser.add_argument("--price-per-hour", type=float, metavar="PRICE", help="of the device, for the cost of the run")
    options = parser.parse_intermixed_args(given)
    options.configs = [word for word in options.words if is_file(word)]
    options.overrides = [word for word in options.words if not is_file(word)]
    return options


def is_file(word: str) -> bool:
    """Whether a word names a configuration and not a setting, whose value may end like a file."""
    return Path(word).is_file() or (word.endswith((".yaml", ".yml")) and "=" not in word)


def check_options(options: argparse.Namespace):
    """`ConfigError` for options that contradict each other or have no effect."""
    has_time = options.calibrate or options.device is not None
    for is_wrong, sentence in (
        (not options.configs, "no configuration is given; name one, such as configs/lm/demo.yaml"),
        (
            options.calibrate and options.device is not None,
            f"--calibrate measures this machine, and --device {options.device} is another; give one of them",
        ),
        (
            options.utilization is not None and options.device is None,
            f"--utilization {options.utilization} has no effect without --device; give it, or leave both out",
        ),
        (
            options.utilization is not None and not 0 < options.utilization <= 1,
            f"--utilization {options.utilization} is no share of a device's peak; give a number above 0 and up to 1",
        ),
        (
            options.price_per_hour is not None and not has_time,
            f"--price-per-hour {options.price_per_hour} needs a time; give --calibrate or --device NAME",
        ),
    ):
        if is_wrong:
            raise ConfigError(sentence)


def main(given: list[str] | None = None):
    print("\n".join(plan(parse_arguments(given))))


def plan(options: argparse.Namespace) -> list[str]:
    """The lines of the plan: a column per configuration, and for a single one every quantity by part."""
    check_options(options)
    experiments = [load_experiment(path, options.overrides) for path in options.configs]
    from training.machine.datasheet import DEVICES, find_device

    from .planning.run import plan_run
    from .planning.tables import conditions, details, table

    device = None
    if options.device is not None and (device := find_device(options.device)) is None:
        raise ConfigError(f"--device {options.device} is not known; known are {', '.join(DEVICES)}")
    utilization = UTILIZATION if options.utilization is None else options.utilization
    plans = [plan_run(experiment, device, utilization, options.calibrate) for experiment in experiments]
    named = dict(zip(column_names(options.configs), plans, strict=True))
    at = f"{options.device.upper()} at {utilization:.0%} of its peak" if device else None
    lines = [*table(named, options.price_per_hour), "", *conditions(named, at)]
    return [*lines, *details(plans[0])] if len(plans) == 1 else lines


def column_names(paths: list[str]) -> list[str]:
    """A name for each path: its last part, or as many parts as tell it from the others."""
    parts = [Path(path).with_suffix("").parts for path in paths]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(own[-depth:]) for own in parts]
        if len({*names}) == len({*paths}):
            break
    return [f"{name} ({index})" if names.count(name) > 1 else name for index, name in enumerate(names, start=1)]


if __name__ == "__main__":
    with exit_on_user_error("experiments.plan", only_prints=True):
        main()
