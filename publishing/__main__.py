"""Publishes a run on the Hub: `python -m publishing RUN`."""

import argparse
import math
from pathlib import Path

from command_line.run import exit_on_user_error
from settings.checks import ConfigError
from storage import hub

from .push import publish, set_http_timeout


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m publishing", description="Publish a run on the Hub.")
    parser.add_argument("run", type=Path, help="folder of a run, finished or not")
    parser.add_argument("--to", metavar="NAME", help="USER/NAME, or NAME below your own (default: the run's own)")
    parser.add_argument("--revision", metavar="BRANCH", help="branch to push to (default: the run's own, or main)")
    parser.add_argument("--checkpoint", metavar="NAME", help="a checkpoint of the run, such as checkpoint-500")
    parser.add_argument("--private", action="store_true", help="create the repository as private, if it is new")
    parser.add_argument("--replace", action="store_true", help="replace another run that was published under this name")
    parser.add_argument("--tries", type=int, help="number of attempts, with growing waits (default: 8)")
    parser.add_argument("--timeout", type=float, default=60, help="seconds to wait for a response (default: 60)")
    return parser.parse_args()


@exit_on_user_error("publishing")
def main():
    arguments = parse_arguments()
    if not arguments.run.is_dir():
        raise ConfigError(f"there is no folder {arguments.run}; give the folder of a run")
    if not 0 < arguments.timeout < math.inf:
        raise ConfigError(f"--timeout {arguments.timeout} is not a valid time; give seconds above 0")
    if arguments.to is not None:
        hub.check_model_name(arguments.to)
    hub.ATTEMPTS = max(arguments.tries or hub.ATTEMPTS, 1)
    set_http_timeout(arguments.timeout)
    is_awaited = arguments.tries is None  # entered by a user who waits for the answer
    address = publish(
        arguments.run,
        arguments.to,
        arguments.private,
        arguments.replace,
        is_awaited,
        revision=arguments.revision,
        checkpoint=arguments.checkpoint,
    )
    print(f"published   {address}")


if __name__ == "__main__":
    main()
