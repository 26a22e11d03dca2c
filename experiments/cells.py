"""Read a sweep file into its cells (one run each), and tell the state of every cell.

    title: Steps to generalise against the share of equations trained on
    script: train_algorithmic.py
    config: configs/algorithmic/fast.yaml       # or in the rows of an axis
    settings:                                   # of every cell
      replicas.training.seed: [0, 1, 2]
    grid:                                       # a cell for each combination of
      recipe:                                   #   named rows of settings,
        ours: {}
        paper: {config: configs/algorithmic/paper.yaml, training.max_steps: 6000}
      data.train_fraction: [0.3, 0.4, 0.5]      #   and values of one setting
    cells:                                      # more cells, by name
      longest: {training.max_steps: 100000}
    report:                                     # see experiments/report.py
      columns: [steps_to_fit, steps_to_grok]

In runs/sweeps/NAME, CELL/ is a run folder, CELL.log its output, CELL.json its command, start time and exit code.
"""

import fcntl
import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from settings.checks import ConfigError
from settings.loading import load_experiment
from settings.paths import ROOT, find_packaged_config, safe_file_name
from settings.schema import KINDS
from storage.files import read_json_lines, read_mapping, write_json

KEYS = ("title", "script", "config", "settings", "grid", "cells", "report")
SET_BY_THE_SWEEP = ("training.output_dir", "training.resume_from_checkpoint")


def work_folder() -> Path:
    """The folder that paths are relative to: the checkout, or the current folder if Kindling is installed."""
    return Path.cwd() if any(ROOT.glob("kindling_lm-*.dist-info")) else ROOT


@dataclass(frozen=True)
class Cell:
    """One run of a sweep: its values on the axes, its configuration and settings, its folder."""

    name: str
    axes: dict
    config: str
    settings: dict[str, str]
    folder: Path

    @property
    def overrides(self) -> list[str]:
        return [f"{key}={text}" for key, text in self.settings.items()]

    @property
    def config_path(self) -> Path:
        """The path of its configuration, which may be one that is shipped with Kindling."""
        places = (work_folder() / self.config, ROOT / self.config)
        return next((path for path in places if path.exists()), Path(self.config))

    @property
    def log(self) -> Path:
        return self.folder.parent / f"{self.name}.log"

    @property
    def record(self) -> dict:
        """The contents of CELL.json; empty if the cell was never started."""
        path = self.folder.parent / f"{self.name}.json"
        return read_mapping(path, "delete it, and run the cell again") if path.exists() else {}

    def write_record(self, record: dict):
        write_json(self.folder.parent / f"{self.name}.json", record)

    @property
    def finished(self) -> bool:
        return (self.folder / "metrics.json").exists()

    @property
    def state(self) -> str:
        """finished, running, failed (exit code), interrupted or pending."""
        code, started = self.record.get("exit_code"), self.folder.exists()
        if self.finished:
            return "finished"
        if self.is_running():
            return "running"
        if code or (code == 0 and started):
            return f"failed ({code})"
        return "interrupted" if started else "pending"

    def is_running(self) -> bool:
        """Whether a process holds the log."""
        if not self.log.exists():
            return False
        with self.log.open("a", encoding="utf-8") as log:
            return not lock(log, fcntl.LOCK_SH)

    @property
    def minutes(self) -> float:
        """Minutes of running time, all attempts together."""
        seconds, started = self.seconds, self.record.get("started")
        if started and self.state == "running":
            seconds += (datetime.now() - datetime.fromisoformat(started)).total_seconds()
        return seconds / 60

    @property
    def seconds(self) -> float:
        """Seconds up to the end of the last attempt; from the run's own log if the sweep was killed before that."""
        record = self.record
        seconds = record.get("seconds", 0)
        return max(seconds, self._seconds_of_training()) if record.get("pid") else seconds

    def _seconds_of_training(self) -> float:
        """The running time that the run last logged; 0 if it has logged none."""
        with suppress(ConfigError):
            return read_mapping(self.folder / "metrics.json", "").get("seconds", 0)
        with suppress(ConfigError):
            rows = read_json_lines(self.folder / "metrics.jsonl", "")
            return max((row["seconds"] for row in rows if "seconds" in row), default=0)
        return 0


def lock(log, kind: int = fcntl.LOCK_EX) -> bool:
    """Lock an open log for as long as it is open here or in a child; False if another process has it.

    A lock ends with the processes that hold it; a recorded process id could belong to another process after a restart.
    Readers of the state take it shared (`fcntl.LOCK_SH`), so that they do not block each other.
    """
    try:
        fcntl.flock(log, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@dataclass(frozen=True)
class Sweep:
    """A sweep file: its cells are those of the grid, then those of the list; `report` is as written."""

    name: str
    title: str
    script: str
    cells: list[Cell]
    report: dict


def read_sweep(path: str, overrides: Sequence[str] = (), runs: Path | None = None) -> Sweep:
    """Read a sweep file whose run folders are in `runs`, by default runs/sweeps/NAME; `ConfigError` if it is invalid.

    Overrides are settings of every cell and take precedence over all others. Configurations are checked by `check`.
    """
    name = Path(path).stem
    written = _read(path)
    first = {"config": written.get("config")} | mapping("settings", written.get("settings"))
    last = dict(_parse_override(text) for text in overrides)
    rows = _grid_rows(mapping("grid", written.get("grid")))
    rows += [({"cell": cell}, more) for cell, more in _axis("cells", mapping("cells", written.get("cells")))]
    folder = runs or work_folder() / "runs" / "sweeps" / name
    cells = [_cell(axes, first | settings | last, folder) for axes, settings in rows]
    if not cells:
        raise ConfigError(f"{path} has no cells; write `grid:` with axes, or `cells:` with named rows of settings")
    if len(names := Counter(cell.name for cell in cells)) < len(cells):
        twice = names.most_common(1)[0][0]
        raise ConfigError(f"{path} has more than one cell called {twice}; give them different values or names")
    title, report = written.get("title") or name, mapping("report", written.get("report"))
    if isinstance(title, dict | list):
        raise ConfigError(f"title holds {title!r}; write a text")
    return Sweep(name, str(title), written.get("script"), cells, report)


def _read(path: str) -> dict:
    path = find_packaged_config(path)
    if not Path(path).is_file():
        raise ConfigError(f"there is no sweep file {path}; `ls configs/sweeps` shows the ones that come with Kindling")
    try:
        written = mapping(path, OmegaConf.to_container(OmegaConf.load(path), resolve=True))
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    if unknown := [key for key in written if key not in KEYS]:
        raise ConfigError(
            f"{path} has {unknown[0]!r}, which is not a key of a sweep file; the keys are {', '.join(KEYS)}"
        )
    return written


def mapping(where: str, values) -> dict:
    """A part of a sweep file that must be a mapping; empty if it is absent."""
    if not isinstance(values or {}, dict):
        raise ConfigError(f"{where} holds {values!r}; write keys and values beneath it")
    return values or {}


def _parse_override(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or "." not in key:
        raise ConfigError(f"{text!r} is not an override; write section.key=value, as in training.max_steps=500")
    return key, value


def _grid_rows(grid: dict) -> list[tuple[dict, dict]]:
    """Every combination of the axes' rows as (values on the axes, settings)."""
    if unnamed := [key for key in grid if not isinstance(key, str)]:
        raise ConfigError(f"grid has the axis {unnamed[0]!r}, which is not a text; write a setting, or a name")
    uses = Counter(key.split(".")[-1] for key in grid)
    rows = [({}, {})] if grid else []
    for key, values in grid.items():
        last = key.split(".")[-1]
        name = last if uses[last] == 1 else key
        axis = _axis(key, values)
        rows = [(axes | {name: value}, settings | more) for axes, settings in rows for value, more in axis]
    return rows


def _axis(key: str, values) -> list[tuple]:
    """The rows of an axis as (value, settings): named rows of settings, or a list of values of the setting `key`."""
    if isinstance(values, dict):
        return [(name, mapping(f"{key}: {name}", settings)) for name, settings in values.items()]
    if isinstance(values, list):
        return [(_text(value) if isinstance(value, list | dict) else value, {key: value}) for value in values]
    raise ConfigError(f"the axis {key} holds {values!r}; write a list of values, or names with settings beneath each")


def _cell(axes: dict, settings: dict, runs: Path) -> Cell:
    name = ",".join(f"{axis}={_text(value)}" for axis, value in axes.items()).removeprefix("cell=")
    name = safe_file_name(re.sub(r"[^\w.,=+-]+", "_", name))
    if not isinstance(settings["config"], str):
        raise ConfigError(f"the cell {name} has no configuration; write `config: FILE` in the sweep or in its row")
    if taken := [key for key in SET_BY_THE_SWEEP if key in settings]:
        raise ConfigError(f"the cell {name} sets {taken[0]}, which the sweep sets for each cell; leave it out")
    texts = {key: _text(value) for key, value in settings.items() if key != "config"}
    return Cell(name, axes, settings["config"], texts, runs / name)


def _text(value) -> str:
    """A value as the text of an override: strings unchanged, all else as JSON, which is also YAML."""
    return value if isinstance(value, str) else json.dumps(value)


def check(sweep: Sweep):
    """Check the configuration of every cell; `ConfigError` names the first invalid cell."""
    if sweep.script not in list(KINDS):  # may be any YAML value, also an unhashable one
        what = "there is no script" if sweep.script is None else f"script: {sweep.script} is not known"
        raise ConfigError(f"{what}; write one of {', '.join(KINDS)}")
    for cell in sweep.cells:
        try:
            load_experiment(str(cell.config_path), cell.overrides, KINDS[sweep.script])
        except ConfigError as error:
            raise ConfigError(f"the cell {cell.name}: {error}") from None


def describe(cell: Cell) -> dict:
    """What identifies the run of a cell: a hash of its configuration, comments aside, and its settings."""
    held = OmegaConf.to_container(OmegaConf.load(cell.config_path))
    digest = hashlib.sha256(json.dumps(held, sort_keys=True, default=str).encode()).hexdigest()
    return {"config": cell.config, "config_sha256": digest, "overrides": cell.settings}


def differences(cell: Cell) -> list[str]:
    """The settings in which the sweep differs from the run in the cell's folder, in words."""
    was = cell.record
    if not was or not cell.folder.exists():
        return []
    now = describe(cell)
    before, after = was["overrides"], now["overrides"]
    changed = [key for key in before | after if resolve_paths(before.get(key)) != resolve_paths(after.get(key))]
    found = [f"{key}={before.get(key, '(unset)')} (now {after.get(key, '(unset)')})" for key in changed]
    if was["config_sha256"] != now["config_sha256"]:
        found.append(f"{was['config']} as it was (the contents of {now['config']} have changed)")
    return found


def resolve_paths(setting: str | None):
    """A setting in a form to compare: its paths resolved, also those inside lists and mappings."""
    if setting is None:
        return None
    if setting[:1] in ("[", "{"):
        with suppress(ValueError):
            value = json.loads(setting)
            parts = [[*pair] for pair in value.items()] if isinstance(value, dict) else value
            return type(value).__name__, [resolve_paths(_text(part)) for part in parts]
    is_path = "://" not in setting and re.search(r"[/.]|^~", setting)
    return Path(work_folder(), Path(setting).expanduser()).resolve() if is_path else setting


def require_unchanged(cell: Cell):
    """`ConfigError` if the cell's folder was made with other settings than the sweep now has."""
    if found := differences(cell):
        raise ConfigError(
            f"the cell {cell.name} was run with {' and '.join(found)}; delete or rename {cell.folder} to run it again, "
            "or restore the settings of the sweep"
        )
