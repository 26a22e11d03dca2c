"""Scripts that run against the Hub on loopback, each in a process of its own: clients read HF_ENDPOINT on import."""

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from config import ROOT


@contextmanager
def serving(folder: Path, start: str, **settings: str) -> Iterator[Callable[..., list]]:
    """A Hub that serves `folder`/hub while it lasts, and what runs a script in `folder` after the lines of `start`.

    It returns what the script prints, a JSON value a line. `settings` are environment variables.
    """
    command = [sys.executable, str(ROOT / "tests" / "hub.py"), str(folder / "hub")]
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        environment = kept | settings | {
            "HF_ENDPOINT": server.stdout.readline().strip(),
            "HF_HOME": str(folder / "home"),
            "PYTHONPATH": str(ROOT),
        }  # fmt: skip

        def run(script: str, **more: str) -> list:
            done = subprocess.run(
                [sys.executable, "-c", textwrap.dedent(start) + textwrap.dedent(script)],
                cwd=folder,
                env=environment | more,
                capture_output=True,
                text=True,
                check=False,
                timeout=500,
            )
            assert done.returncode == 0, done.stderr[-3000:]
            return [json.loads(line) for line in done.stdout.splitlines()]

        try:
            yield run
        finally:
            server.terminate()
