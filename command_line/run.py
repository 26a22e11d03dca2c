"""Runs a command: a mistake of the user ends it with one sentence and exit code 2."""

import re
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

from settings.checks import ConfigError
from settings.experiment import Experiment, LanguageExperiment
from settings.help import describe_sections
from storage.files import told_by_the_system

from .terminal import made_fit, tell_launcher


@contextmanager
def one_sentence(program: str, words_are_all: bool = False):
    """Around a command, with `made_fit`: a user's mistake, a `ConfigError`, ends `program` with its sentence and exit
    code 2; Ctrl-C with 130; a full disk with a sentence and 1."""
    with made_fit(words_are_all):
        from storage.hub import refuse_broken_token  # here, for --help does without it

        try:
            refuse_broken_token()
            with told_by_the_system():
                yield
        except KeyboardInterrupt:
            print(f"\n{program}: interrupted", file=sys.stderr)
            sys.exit(130)
        except ConfigError as error:
            *_, sentence = str(error).splitlines()  # from a loader's worker it comes with its traceback before it
            sentence = f"{program}: {sentence.removeprefix(f'{ConfigError.__module__}.ConfigError: ')}"
            tell_launcher(sentence)
            print(sentence, file=sys.stderr)
            sys.exit(2)


def run_script(
    usage: str,
    main: Callable[[str, list[str]], None],
    kind: type[Experiment] = LanguageExperiment,
    words_are_all: bool = False,
) -> None:
    """Run `main(config_path, overrides)` on the command line, as `one_sentence` does, under the name in its usage."""
    arguments = sys.argv[1:]
    if not arguments or {"-h", "--help"} & set(arguments):
        with made_fit(words_are_all=True):
            print(usage.strip() + "\n" + (describe_sections(kind) if arguments else "\n--help lists every setting."))
        sys.exit(0 if arguments else 2)
    own = re.search(r"usage: python (?:-m )?(\S+)", usage)
    with one_sentence(own[1] if own else Path(sys.argv[0]).name, words_are_all):
        main(arguments[0], arguments[1:])
