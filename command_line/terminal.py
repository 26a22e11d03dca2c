"""Makes a command robust against its environment: a terminal that lacks characters or closes, a shared processor.

This happens before heavy imports, because torch reads the settings of its threads when it is loaded.
"""

import errno
import io
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

OPENMP_WAIT = {"GOMP_SPINCOUNT": "1000"}
"""Limits how long OpenMP threads busy-wait for one another: see benchmarks/threads.py."""
USER_WAIT_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
BROKEN_PIPE_EXIT = 141
"""The exit code of a program whose output pipe was closed: 128 + SIGPIPE."""
RANK_ZERO_SECONDS = 30


class Output(io.FileIO):
    """A file descriptor whose write errors are ignored: output to a closed pipe or terminal is discarded.

    If the command `only_prints`, the first write error is raised as an `OSError`.
    """

    def __init__(self, descriptor: int, only_prints: bool):
        super().__init__(descriptor, "w", closefd=False)
        self.is_lost, self.only_prints = False, only_prints

    def write(self, data) -> int:
        """Write all of the data, and return its length."""
        left = memoryview(data).cast("B")
        try:
            while left:
                left = left[super().write(left) or len(left) :]
        except OSError:
            is_first, self.is_lost = not self.is_lost, True
            if self.only_prints and is_first:
                raise
        return memoryview(data).nbytes


@contextmanager
def robust_terminal(only_prints: bool = False) -> Iterator[None]:
    """In the block, the terminal causes no errors: unsupported characters are replaced, lost output is discarded.

    A command that `only_prints` exits silently with code 141 when its output pipe is closed.
    """
    _fill_closed_descriptors()
    if not any(name in os.environ for name in USER_WAIT_VARIABLES):
        os.environ.update(OPENMP_WAIT)
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = _robust_stream(sys.stdout, 1, only_prints)
    sys.stderr = _robust_stream(sys.stderr, 2, only_prints=False)
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="surrogateescape")  # the reader reports invalid bytes
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except OSError as error:
        if not getattr(_raw_stream(sys.stdout), "is_lost", False):
            raise
        sys.exit(BROKEN_PIPE_EXIT if error.errno == errno.EPIPE else f"the output cannot be written: {error.strerror}")


def _fill_closed_descriptors():
    """Open null devices for closed standard streams, so that no later file gets their numbers."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number


def _robust_stream(stream, number: int, only_prints: bool):
    """The stream, or a replacement that ignores write errors; a stream that is not the system's is kept."""
    if stream is None:
        return open(number, "w", encoding="utf-8", closefd=False)  # was closed, now the null device
    with suppress(AttributeError):
        if stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="replace")
    if type(raw := _raw_stream(stream)) is not io.FileIO or raw.fileno() != number:
        return stream
    stream.flush()
    output = Output(number, only_prints)
    return io.TextIOWrapper(
        output if stream.write_through else io.BufferedWriter(output),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _raw_stream(stream):
    """The raw stream beneath the text and buffer layers."""
    buffer = getattr(stream, "buffer", None)
    return getattr(buffer, "raw", buffer)


def report_to_launcher(sentence: str):
    """Let torch's launcher, if there is one, end its long report with the sentence."""
    if "TORCHELASTIC_ERROR_FILE" not in os.environ:
        return
    if int(os.environ["RANK"]) > 0:
        time.sleep(RANK_ZERO_SECONDS)  # rank 0 has the same error; the launcher then ends this process
    about = {"message": sentence, "timestamp": int(time.time())}
    Path(os.environ["TORCHELASTIC_ERROR_FILE"]).write_text(json.dumps(about), encoding="utf-8")
