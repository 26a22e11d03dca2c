"""Run the cells of a sweep file, each in a process of its own; finished cells are skipped, failed ones marked.

    python -m experiments.sweep configs/sweeps/fraction.yaml --status
    python -m experiments.sweep configs/sweeps/fraction.yaml --jobs 2
    python -m experiments.sweep configs/sweeps/fraction.yaml --only "recipe=ours,*" evaluation.evals_per_decade=40

The same command resumes a stopped sweep: a failed or interrupted cell resumes from its last checkpoint, or starts again
if it has none. Ctrl-C stops the running cells. Several processes can work on one sweep file: each waits for the cells
of the others, and resumes those of a killed one. The exit code is 0 if all cells are finished. experiments/cells.py
describes the sweep file.
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

from .cells import Cell, check, describe, lock, read_sweep, require_unchanged, work_folder

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
POLL_SECONDS = 0.2
LOCK_TRIES, LOCK_SECONDS = 5, 0.04
SECONDS_TO_RECORD = 2.0
"""Time for a sweep to record how a cell ended, before other sweeps consider the cell abandoned."""


def parse_arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.sweep", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sweep", help="a sweep file")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings of every cell")
    parser.add_argument("--only", action="append", metavar="PATTERN", help="only cells whose names match; repeatable")
    parser.add_argument("--status", action="store_true", help="show the state of each cell, and start nothing")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="cells to run at a time (default 1)")
    return parser.parse_intermixed_args(words)


def main(arguments: argparse.Namespace) -> int:
    """Run or show the cells; returns 1 if any is not finished in the end."""
    sweep = read_sweep(arguments.sweep, arguments.overrides)
    cells = select_cells(sweep.cells, arguments.only or ["*"])
    if arguments.jobs < 1:
        raise ConfigError(f"--jobs {arguments.jobs} is too small; give 1 or more")
    if not arguments.status or arguments.overrides:  # the status of a sweep that ran before needs no check
        check(sweep)
    if arguments.status:
        print("\n".join(status(cells)))
        return 0
    for cell in cells:
        require_unchanged(cell)
    run_cells(cells, sweep.script, arguments.jobs)
    states = Counter(cell.state.split()[0] for cell in cells)
    print(", ".join(f"{count} {state}" for state, count in states.items()))
    print(f"report   python -m experiments.report {shlex.quote(str(arguments.sweep))}")
    return int(states.total() > states["finished"])


def select_cells(cells: list[Cell], patterns: list[str]) -> list[Cell]:
    """The cells whose names match one of the shell patterns."""
    chosen = [cell for cell in cells if any(fnmatchcase(cell.name, pattern) for pattern in patterns)]
    if not chosen:
        names = ", ".join(cell.name for cell in cells[:4])
        raise ConfigError(f"--only {' '.join(patterns)} matches no cell; the cells are {names}, ...")
    return chosen


def status(cells: list[Cell]) -> list[str]:
    """One line per cell: name, state, minutes."""
    width = max(len(cell.name) for cell in cells)
    lines = [f"{cell.name:{width}}  {cell.state:14}{cell.minutes:8.1f}" for cell in cells]
    return [f"{'cell':{width}}  {'state':14}{'minutes':>8}", *lines]


def run_cells(cells: list[Cell], script: str, jobs: int):
    """Run the unfinished ones of these cells, `jobs` at a time, and record how each ended.

    Cells that another process runs are polled until they are finished or have failed; those that it abandoned are
    resumed. An interrupt stops the running cells and is re-raised.

    `ConfigError` if a cell is refused before any has finished: the others, which may have the same mistake, are not
    started, and the running ones are waited for.
    """
    waiting, elsewhere, running, refused = [cell for cell in cells if not cell.finished], [], {}, []
    with tqdm(total=len(waiting), unit="cell", smoothing=0, disable=None) as bar:
        try:
            while running or ((waiting or elsewhere) and not refused):
                while waiting and not refused and len(running) < jobs:
                    cell = waiting.pop(0)
                    if (process := start(cell, script, jobs)) is None:
                        bar.write(f"{cell.name}: another process runs it")
                        elsewhere.append((cell, time.monotonic()))
                    else:
                        running[process] = cell
                ended = collect(running)
                free, elsewhere, ended_elsewhere = poll_shared_cells(elsewhere)
                waiting += free
                for cell in ended + ended_elsewhere:
                    bar.write(describe_outcome(cell))
                    bar.update()
                refused += [cell for cell in ended if is_rejected(cell) and not any(other.finished for other in cells)]
                bar.refresh()
                time.sleep(POLL_SECONDS)
        finally:
            stop(running)
    if refused:
        others = f"; cells not started: {len(waiting)}" if waiting else ""
        raise ConfigError(f"the cell {refused[0].name} was refused by {last_log_line(refused[0])}{others}")


def collect(running: dict[subprocess.Popen, Cell]) -> list[Cell]:
    """Remove the cells whose processes have ended, and record how they ended."""
    ended = [process for process in running if process.poll() is not None]
    for process in ended:
        record_end(running[process], process)
    return [running.pop(process) for process in ended]


def poll_shared_cells(elsewhere: list[tuple[Cell, float]]) -> tuple[list[Cell], list[tuple[Cell, float]], list[Cell]]:
    """Sort the cells of other processes, each with the time at which it was last seen running: abandoned ones, to start
    here; those still running; those that have ended."""
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


def is_rejected(cell: Cell) -> bool:
    """Whether its run was refused because of a user's mistake, before any work."""
    return cell.record.get("exit_code") == 2 and not cell.folder.exists()


def start(cell: Cell, script: str, jobs: int) -> subprocess.Popen | None:
    """Start a cell, or resume it if it has a folder; None if another process runs it or has just finished it."""
    cell.folder.parent.mkdir(parents=True, exist_ok=True)
    with cell.log.open("a", encoding="utf-8") as log:
        if not retry_lock(log) or cell.finished:
            return None
        resumes = cell.folder.exists()
        command = [cell.config, *cell.overrides, f"training.output_dir={cell.folder.relative_to(work_folder())}"]
        command.insert(0, script if (work_folder() / script).exists() else str(ROOT / script))
        command += ["training.resume_from_checkpoint=true"] if resumes else []
        record = describe(cell) | {
            "command": shlex.join(["python", *command]),
            "started": datetime.now().isoformat(timespec="milliseconds"),
            "seconds": cell.seconds if resumes else 0,
            "exit_code": None,
        }
        cell.write_record(record)
        print(f"\n$ {record['command']}", file=log, flush=True)
        # In a session of its own, so that Ctrl-C comes to it once: from `stop`, as SIGTERM.
        process = subprocess.Popen(
            [sys.executable, *command], cwd=work_folder(), env=environment(jobs), start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
    cell.write_record(record | {"pid": process.pid})
    return process


def retry_lock(log) -> bool:
    """Lock a log, with a few retries: a process that reads the state of the cell holds the lock for a moment."""
    for _ in range(LOCK_TRIES):
        if lock(log):
            return True
        time.sleep(LOCK_SECONDS)
    return False


def environment(jobs: int) -> dict[str, str]:
    """The environment of a cell: the cores divided among `jobs`. Variables that are set already are kept."""
    return {
        "OMP_NUM_THREADS": str(max(1, CORES // jobs)),
        "PYTHONUNBUFFERED": "1",
        **os.environ,
    }


def record_end(cell: Cell, process: subprocess.Popen, was_stopped: bool = False):
    """Record how a cell's process ended, without exit code if we stopped it; not if another process runs it by now."""
    record, exit_code = cell.record, None if was_stopped else process.returncode
    if record.get("pid") != process.pid:
        return
    seconds = record["seconds"] + (datetime.now() - datetime.fromisoformat(record["started"])).total_seconds()
    cell.write_record(record | {"exit_code": exit_code, "seconds": round(seconds, 1), "pid": None})


def describe_outcome(cell: Cell) -> str:
    """One line about a cell that has ended; of a failed one also the last line of its log."""
    line = f"{cell.state:12}  {cell.name}  {cell.minutes:.1f} minutes"
    if cell.finished:
        return line
    return f"{line}\n    {last_log_line(cell)}\n    {cell.log}"


def last_log_line(cell: Cell) -> str:
    """The last line of its log that is not empty."""
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
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # set by nohup
        signal.signal(signal.SIGHUP, signal.default_int_handler)
    try:
        with exit_on_user_error("experiments.sweep"):
            sys.exit(main(parse_arguments()))
    except KeyboardInterrupt:
        print("stopped; the same command resumes from here", file=sys.stderr)
        sys.exit(130)
