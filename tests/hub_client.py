"""Scripts that run against the Hub on loopback, in processes of their own: clients read HF_ENDPOINT on import."""

import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from settings.paths import ROOT

FORKING = """
import gc as _gc, json as _json, os as _os, sys as _sys
_gc.freeze()
for _line in _sys.stdin:
    _script, _out, _err = _json.loads(_line)
    if _child := _os.fork():
        print(_os.waitstatus_to_exitcode(_os.waitpid(_child, 0)[1]), flush=True)
        continue
    for _path, _number in ((_os.devnull, 0), (_out, 1), (_err, 2)):
        _os.dup2(_os.open(_path, _os.O_RDWR | _os.O_CREAT), _number)
    exec(_script)
    break
"""
"""A fork for each script that comes in, whose exit code is told."""


def empty(folder: Path):
    """Remove everything in a folder that is served: no repository, and no cache of one."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextmanager
def serving(folder: Path, start: str, imports: str = "", **settings: str) -> Iterator[Callable[..., list]]:
    """A Hub that serves `folder`/hub while it lasts, and what runs a script in `folder` after the lines of `start`.

    It returns what the script prints, a JSON value a line. `settings` are environment variables. If there
    are `imports`, each script that wants no further settings is run by a fork of one process that has done them.
    """
    command = [sys.executable, str(ROOT / "tests" / "hub.py"), str(folder / "hub")]
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    with ExitStack() as stack:
        server = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        stack.callback(server.terminate)
        environment = kept | settings | {
            "HF_ENDPOINT": server.stdout.readline().strip(),
            "HF_HOME": str(folder / "home"),
            "PYTHONPATH": str(ROOT),
        }  # fmt: skip

        def alone(script: str, **more: str) -> tuple[int, str, str]:
            done = subprocess.run(
                [sys.executable, "-c", textwrap.dedent(start) + textwrap.dedent(script)],
                cwd=folder,
                env=environment | more,
                capture_output=True,
                text=True,
                check=False,
                timeout=500,
            )
            return done.returncode, done.stdout, done.stderr

        fork = stack.enter_context(forking(folder, imports, start, environment)) if imports else alone

        def run(script: str, **more: str) -> list:
            code, out, err = alone(script, **more) if more else fork(script)
            assert code == 0, err[-3000:]
            return [json.loads(line) for line in out.splitlines()]

        yield run


@contextmanager
def forking(folder: Path, imports: str, start: str, environment: dict[str, str]) -> Iterator[Callable[[str], tuple]]:
    """What runs a script in a fork of a process in `folder` that has done the lines of `imports` and `start`."""
    command = [sys.executable, "-c", textwrap.dedent(imports) + textwrap.dedent(start) + FORKING]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=folder, env=environment, **pipes) as process:

        def run(script: str) -> tuple[int, str, str]:
            said = [folder / name for name in ("stdout.txt", "stderr.txt")]
            for path in said:
                path.unlink(missing_ok=True)
            print(json.dumps([textwrap.dedent(script), *map(str, said)]), file=process.stdin, flush=True)
            code = int(process.stdout.readline())
            return code, *(path.read_text() for path in said)

        yield run
        process.stdin.close()
