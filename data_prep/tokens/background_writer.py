"""The process that prepares tokens in the background while a run already trains on the first of them."""

import atexit
import json
import os
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from settings.checks import ConfigError
from settings.data_sections import DataSection, TokenizerSection
from settings.paths import ROOT

from .prepare import Preparation
from .stream import Stream, Writer


def start_writer_process(data: DataSection, section: TokenizerSection, run: Stream):
    """Start a process that prepares the tokens that the run needs; it ends when this process ends, for any reason."""
    if run.tokens.has(run.horizon):
        return
    descriptor, complaint = tempfile.mkstemp(prefix="kindling-writer-")  # not on the disk that may be full
    os.close(descriptor)
    task = {"data": asdict(data), "tokenizer": asdict(section), "until": run.horizon, "complaint": complaint}
    task["folder"] = str(run.tokens.folder.parent)
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", __name__, json.dumps(task)],
        stdin=subprocess.PIPE,  # nothing is sent; its closing signals that this process has ended
        stdout=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": path, "TQDM_DISABLE": "1"},
        start_new_session=True,  # so that Ctrl-C reaches only this process
    )
    run.tokens.writer = Writer(process.pid, Path(complaint))
    atexit.register(_stop, process, Path(complaint))


def _stop(process: subprocess.Popen, complaint: Path):
    process.kill()  # safe at any time: it resumes after its last complete shard
    process.wait()
    complaint.unlink(missing_ok=True)
    with suppress(OSError):
        process.stdin.close()


def _run_writer(task: dict):
    """Run the writer process."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if hasattr(os, "nice"):
        os.nice(10)  # training comes first
    try:
        preparation = Preparation(DataSection(**task["data"]), TokenizerSection(**task["tokenizer"]))
        if str(preparation.folder) != task["folder"]:
            raise ConfigError(f"{preparation.data.origin} has changed since the run started; start a new run")
        preparation.make(task["until"])
    except Exception as error:
        sentence = " ".join(str(error).split()) or type(error).__name__
        Path(task["complaint"]).write_text(sentence, encoding="utf-8")
        if not isinstance(error, ConfigError):
            raise


def _end_with_parent():
    os.read(sys.stdin.fileno(), 1)  # returns when the parent ends
    os._exit(1)


if __name__ == "__main__":
    _run_writer(json.loads(sys.argv[1]))
