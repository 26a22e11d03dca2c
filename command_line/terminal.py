"""What a command finds where it runs: a terminal that may lack characters or go away, a processor that others use too.

It is made fit before anything heavy is imported, for torch reads how its threads are to wait when it is loaded.
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
"""How long OpenMP's threads spin for one another, where others may want the core: see benchmarks/threads.py."""
USER_WAIT_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
BROKEN_PIPE_EXIT = 141
"""The exit code of a program whose reader went away: 128 + SIGPIPE."""
RANK_ZERO_SECONDS = 30


class Output(io.FileIO):
    """A descriptor to write to. Words that it does not take, for their reader or the terminal is gone, are lost.

    Where they are all that a command does, the first such words are an `OSError`.
    """

    def __init__(self, descriptor: int, only_prints: bool):
        super().__init__(descriptor, "w", closefd=False)
        self.is_lost, self.only_prints = False, only_prints

    def write(self, data) -> int:
        """All of the data."""
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
    """Within, nothing that the terminal lacks or that became of it is an error: characters are replaced, words lost.

    Where `only_prints` that a command does, it ends with its reader, quietly, with the exit code 141.
    """
    _fill_closed_descriptors()
    if not any(name in os.environ for name in USER_WAIT_VARIABLES):
        os.environ.update(OPENMP_WAIT)
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = _robust_stream(sys.stdout, 1, only_prints)
    sys.stderr = _robust_stream(sys.stderr, 2, only_prints=False)
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="surrogateescape")  # whoever reads it says what is wrong with it
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
    """Files that are opened must not become standard output, to which libraries write."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free


def _robust_stream(stream, number: int, only_prints: bool):
    """The stream, or one in its place that takes everything; one that is not of the system stays as it is."""
    if stream is None:
        return open(number, "w", encoding="utf-8", closefd=False)  # closed, and now null
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
    """What is under a stream's text and buffer."""
    buffer = getattr(stream, "buffer", None)
    return getattr(buffer, "raw", buffer)


def report_to_launcher(sentence: str):
    """Have torch's launcher, if there is one, end its report, which is long, with the sentence."""
    if "TORCHELASTIC_ERROR_FILE" not in os.environ:
        return
    if int(os.environ["RANK"]) > 0:
        time.sleep(RANK_ZERO_SECONDS)  # it has made the same mistake, and the launcher ends this process with it
    about = {"message": sentence, "timestamp": int(time.time())}
    Path(os.environ["TORCHELASTIC_ERROR_FILE"]).write_text(json.dumps(about), encoding="utf-8")
