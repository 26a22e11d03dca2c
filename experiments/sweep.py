"""Many runs from one sweep file: every cell a process, finished ones skipped, failed ones marked.

    python -m experiments.sweep configs/sweeps/fraction.yaml --status
    python -m experiments.sweep configs/sweeps/fraction.yaml --jobs 2
    python -m experiments.sweep configs/sweeps/fraction.yaml --only "recipe=ours,*" evaluation.evals_per_decade=40

The same command goes on where an earlier one was stopped: a failed or interrupted cell goes on from its last checkpoint
if it has written one, and else starts again. Ctrl-C stops the cells that run. Several sweeps of one file can share its
cells: each waits for those of the others, and goes on with what a killed one has left. The exit code is 0 if all cells
are finished. experiments/cells.py shows what a sweep file holds.
"""

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from datetime import datetime
from fnmatch import fnmatchcase

from tqdm import tqdm

from command_line.run import exit_on_user_error
from settings.checks import ConfigError
from settings.paths import ROOT

from .cells import Cell, check, describe, lock, read_sweep, refuse_changed, work

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
POLL_SECONDS = 0.2
LOCK_TRIES, LOCK_SECONDS = 5, 0.04
SECONDS_TO_RECORD = 2.0
"""What a sweep has to write down how a cell ended, before others take the cell to be left behind."""


def parse_arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.sweep", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sweep", help="a sweep file")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings of every cell")
    parser.add_argument("--only", action="append", metavar="PATTERN", help="cells of such names; may be given again")
    parser.add_argument("--status", action="store_true", help="show how far each cell is, and start nothing")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="cells to run at a time (default 1)")
    return parser.parse_intermixed_args(words)


def main(arguments: argparse.Namespace) -> int:
    """Run or show the cells; returns 1 if any is not finished in the end."""
    sweep = read_sweep(arguments.sweep, arguments.overrides)
    cells = choose(sweep.cells, arguments.only or ["*"])
    if arguments.jobs < 1:
        raise ConfigError(f"--jobs {arguments.jobs} is too small; give 1 or more")
    if not arguments.status or arguments.overrides:  # of a file that was run already, nothing has to fit any more
        check(sweep)
    if arguments.status:
        print("\n".join(status(cells)))
        return 0
    for cell in cells:
        refuse_changed(cell)
    run_cells(cells, sweep.script, arguments.jobs)
    states = Counter(cell.state.split()[0] for cell in cells)
    print(", ".join(f"{count} {state}" for state, count in states.items()))
    print(f"report   python -m experiments.report {shlex.quote(str(arguments.sweep))}")
    return int(states.total() > states["finished"])


def choose(cells: list[Cell], patterns: list[str]) -> list[Cell]:
    """The cells whose names match one of the patterns, as file names match in a shell."""
    chosen = [cell for cell in cells if any(fnmatchcase(cell.name, pattern) for pattern in patterns)]
    if not chosen:
        names = ", ".join(cell.name for cell in cells[:4])
        raise ConfigError(f"--only {' '.join(patterns)} matches no cell; there are {names}, ...")
    return chosen


def status(cells: list[Cell]) -> list[str]:
    """A line a cell: name, state, minutes."""
    width = max(len(cell.name) for cell in cells)
    lines = [f"{cell.name:{width}}  {cell.state:14}{cell.minutes:8.1f}" for cell in cells]
    return [f"{'cell':{width}}  {'state':14}{'minutes':>8}", *lines]


def run_cells(cells: list[Cell], script: str, jobs: int):
    """Run the unfinished ones of these cells, `jobs` at a time, and record how each ended.

    Those that another process has are asked for again until they are finished or have failed; what it has left is gone
    on with. An interrupt stops those that run and is passed on.

    `ConfigError` if a cell is refused before any has finished: the others, which may have the same mistake, are not
    started, and those that run are waited for.
    """
    waiting, elsewhere, running, refused = [cell for cell in cells if not cell.finished], [], {}, []
    with tqdm(total=len(waiting), unit="cell", smoothing=0, disable=None) as bar:
        try:
            while running or ((waiting or elsewhere) and not refused):
                while waiting and not refused and len(running) < jobs:
                    cell = waiting.pop(0)
                    if (process := start(cell, script, jobs)) is None:
                        bar.write(f"{cell.name}: another process has it")
                        elsewhere.append((cell, time.monotonic()))
                    else:
                        running[process] = cell
                ended = collect(running)
                free, elsewhere, ended_elsewhere = ask_again(elsewhere)
                waiting += free
                for cell in ended + ended_elsewhere:
                    bar.write(outcome(cell))
                    bar.update()
                refused += [cell for cell in ended if is_refused(cell) and not any(other.finished for other in cells)]
                bar.refresh()
                time.sleep(POLL_SECONDS)
        finally:
            stop(running)
    if refused:
        others = f"; cells not started: {len(waiting)}" if waiting else ""
        raise ConfigError(f"the cell {refused[0].name} was refused by {last_words(refused[0])}{others}")


def collect(running: dict[subprocess.Popen, Cell]) -> list[Cell]:
    """Take out the cells whose processes have ended, and record how."""
    ended = [process for process in running if process.poll() is not None]
    for process in ended:
        record_end(running[process], process)
    return [running.pop(process) for process in ended]


def ask_again(elsewhere: list[tuple[Cell, float]]) -> tuple[list[Cell], list[tuple[Cell, float]], list[Cell]]:
    """Of cells, each with the time at which another process last had it: those to start here, which it left unfinished;
    those that it still has; those that have ended."""
    free, still, ended, now = [], [], [], time.monotonic()
    for cell, seen in elsewhere:
        if cell.is_running():
            still.append((cell, now))
        elif cell.finished or cell.record.get("exit_code"):
            ended.append(cell)
        elif now - seen < SECONDS_TO_RECORD:
            still.append((cell, seen))
        else:
            free.append(cell)
    return free, still, ended


def is_refused(cell: Cell) -> bool:
    """Whether it ended with a user's mistake, and before any work."""
    return cell.record.get("exit_code") == 2 and not cell.folder.exists()


def start(cell: Cell, script: str, jobs: int) -> subprocess.Popen | None:
    """Start a cell, or go on with it if it has a folder; None if another process runs it or has just finished it."""
    cell.folder.parent.mkdir(parents=True, exist_ok=True)
    with cell.log.open("a", encoding="utf-8") as log:
        if not lock_soon(log) or cell.finished:
            return None
        goes_on = cell.folder.exists()
        command = [cell.config, *cell.overrides, f"training.output_dir={cell.folder.relative_to(work())}"]
        command.insert(0, script if (work() / script).exists() else str(ROOT / script))
        command += ["training.resume_from_checkpoint=true"] if goes_on else []
        record = describe(cell) | {
            "command": shlex.join(["python", *command]),
            "started": datetime.now().isoformat(timespec="milliseconds"),
            "seconds": cell.seconds if goes_on else 0,
            "exit_code": None,
        }
        cell.write_record(record)
        print(f"\n$ {record['command']}", file=log, flush=True)
        # In a session of its own, so that Ctrl-C comes to it once: from `stop`, as SIGTERM.
        process = subprocess.Popen(
            [sys.executable, *command], cwd=work(), env=environment(jobs), start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
    cell.write_record(record | {"pid": process.pid})
    return process


def lock_soon(log) -> bool:
    """Lock a log, with a few tries: whoever asks for the state of its cell has it for a moment."""
    for _ in range(LOCK_TRIES):
        if lock(log):
            return True
        time.sleep(LOCK_SECONDS)
    return False


def environment(jobs: int) -> dict[str, str]:
    """The environment of a cell: the cores divided among `jobs`. What is set already stays."""
    return {
        "OMP_NUM_THREADS": str(max(1, CORES // jobs)),
        "PYTHONUNBUFFERED": "1",
        **os.environ,
    }


def record_end(cell: Cell, process: subprocess.Popen, was_stopped: bool = False):
    """Note how a cell's process ended, with no exit code where we have stopped it. Nothing if another has it by now."""
    record, exit_code = cell.record, None if was_stopped else process.returncode
    if record.get("pid") != process.pid:
        return
    seconds = record["seconds"] + (datetime.now() - datetime.fromisoformat(record["started"])).total_seconds()
    cell.write_record(record | {"exit_code": exit_code, "seconds": round(seconds, 1), "pid": None})


def outcome(cell: Cell) -> str:
    """One line about a cell that has ended; of a failed one also what it said last."""
    line = f"{cell.state:12}  {cell.name}  {cell.minutes:.1f} minutes"
    if cell.finished:
        return line
    return f"{line}\n    {last_words(cell)}\n    {cell.log}"


def last_words(cell: Cell) -> str:
    """What it said last."""
    said = cell.log.read_text(encoding="utf-8", errors="replace").split("\n")
    return [*filter(str.strip, said)][-1].strip()


def stop(running: dict[subprocess.Popen, Cell]):
    """Ask processes to end, and wait for them; a second interrupt kills them."""
    if running:
        print(f"\nstopping {len(running)} cells; Ctrl-C again kills them", file=sys.stderr)
    for process in running:
        process.terminate()
    for process, cell in running.items():
        try:
            process.wait()
        except KeyboardInterrupt:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        record_end(cell, process, was_stopped=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup has it
        signal.signal(signal.SIGHUP, signal.default_int_handler)
    try:
        with exit_on_user_error("experiments.sweep"):
            sys.exit(main(parse_arguments()))
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
