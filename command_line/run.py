"""Runs a command, and ends it with one sentence and exit code 2 on a user's mistake."""

import re
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

from settings.checks import ConfigError
from settings.experiment import Experiment, LanguageExperiment
from settings.help import describe_sections
from storage.files import report_system_errors

from .terminal import report_to_launcher, robust_terminal


@contextmanager
def exit_on_user_error(program: str, only_prints: bool = False):
    """Run the block as the command `program`, inside `robust_terminal`, and turn known errors into exit codes.

    A `ConfigError` (a user's mistake) prints its sentence and exits with 2, Ctrl-C exits with 130, and a full disk
    prints a sentence and exits with 1.
    """
    with robust_terminal(only_prints):
        from storage.hub import check_token  # deferred, because --help does not need it

        try:
            check_token()
            with report_system_errors():
                yield
        except KeyboardInterrupt:
            print(f"\n{program}: interrupted", file=sys.stderr)
            sys.exit(130)
        except ConfigError as error:
            *_, sentence = str(error).splitlines()  # a data loader's worker puts its traceback before it
            sentence = f"{program}: {sentence.removeprefix(f'{ConfigError.__module__}.ConfigError: ')}"
            report_to_launcher(sentence)
            print(sentence, file=sys.stderr)
            sys.exit(2)


def run_script(
    usage: str,
    main: Callable[[str, list[str]], None],
    kind: type[Experiment] = LanguageExperiment,
    only_prints: bool = False,
) -> None:
    """Run `main(config_path, overrides)` with the command line's arguments, inside `exit_on_user_error`.

    The name of the command is read from `usage`, which `--help` prints together with every setting of `kind`.
    """
    arguments = sys.argv[1:]
    if not arguments or {"-h", "--help"} & set(arguments):
        with robust_terminal(only_prints=True):
            print(usage.strip() + "\n" + (describe_sections(kind) if arguments else "\n--help lists every setting."))
        sys.exit(0 if arguments else 2)
    own = re.search(r"usage: python (?:-m )?(\S+)", usage)
    with exit_on_user_error(own[1] if own else Path(sys.argv[0]).name, only_prints):
        main(arguments[0], arguments[1:])
