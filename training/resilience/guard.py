"""Decides which steps are skipped: those with a non-finite loss or gradient, or with a loss spike."""

import json
import math
import statistics
import sys
from collections import deque
from collections.abc import Collection, Sequence
from pathlib import Path

from tqdm import tqdm
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from settings.sections import GuardSection
from storage.files import append_or_restore, write_json
from training.reporting.callbacks import tolerate_full_disk, truncate_after_step


class Guard(TrainerCallback, ExportableState):
    """Decides before each optimiser step whether to skip it, and counts skipped steps.

    `skipped.jsonl` in the run folder records the reason and the token ids of each skipped step, one line per process.
    The state is saved in checkpoints, so a resumed run skips the same steps as an uninterrupted one. Of several models
    trained together, `names`, some can skip a step that others make. The run ends when all have skipped
    `skips_in_a_row` steps; `diverged.json` then records the first of them and the reason.
    """

    def __init__(self, section: GuardSection, folder: Path, names: Sequence[str] = ("",)):
        self.section = section
        self.path, self.end = folder / "skipped.jsonl", folder / "diverged.json"
        self.skipped = 0
        self.in_a_row = dict.fromkeys(names, 0)
        self.losses = deque(maxlen=section.window)
        self.end_reason: str | None = None

    def state(self) -> dict:
        """What the Trainer writes into `trainer_state.json`."""
        kept = {"skipped": self.skipped, "in_a_row": self.in_a_row, "losses": [*self.losses]}
        return {"args": {}, "attributes": kept}

    def on_train_begin(self, args, state, control, **kwargs):  # noqa: ARG002
        before = state.stateful_callbacks.get(type(self).__name__, {}).get("attributes")
        if before:
            self.skipped = before["skipped"]
            self.in_a_row = dict(
                zip(self.in_a_row, before["in_a_row"].values(), strict=True)
            )  # also of a run that was renamed
            self.losses.extend(before["losses"])
        if min(self.in_a_row.values()) >= self.section.skips_in_a_row:  # these ended the run, which is now resumed
            self.in_a_row = dict.fromkeys(self.in_a_row, 0)
        self.end_reason = None
        if state.is_world_process_zero:
            truncate_after_step(self.path, state.global_step)
            self.end.unlink(missing_ok=True)

    def diverged(self, name: str, step: int) -> int | None:
        """The first of the last steps, up to `step`, that a model has skipped, if they are enough to end a run."""
        count = self.in_a_row[name]
        return step - count + 1 if count >= self.section.skips_in_a_row else None

    def reason_to_skip(self, loss: float, grad_norm: float | None) -> str | None:
        """Why to skip a step, or None; the loss of a step that is made is recorded for spike detection."""
        if not math.isfinite(loss):
            why = f"its loss is {loss}"
        elif grad_norm is not None and not math.isfinite(grad_norm):
            why = f"its gradient norm is {grad_norm}"
        else:
            why = self._spike(loss)
        if why is None:
            self.in_a_row = dict.fromkeys(self.in_a_row, 0)
            if self.section.loss_spike is not None:
                self.losses.append(loss)
        return why

    def _spike(self, loss: float) -> str | None:
        if self.section.loss_spike is None or len(self.losses) < self.section.window:
            return None
        mean, deviation = statistics.fmean(self.losses), statistics.pstdev(self.losses)
        limit = mean + self.section.loss_spike * deviation
        return f"its loss is {loss:.4f}, a spike above {limit:.4f}" if loss > limit else None

    def skip(self, step: int, why: str, batch: list[dict], process: int, names: Collection[str] | None = None):
        """Count a skipped step, of all models or of those in `names`; record its batch, a limited number in a row."""
        names = self.in_a_row.keys() if names is None else names
        self.skipped += 1
        self.in_a_row = {name: (count + 1) * (name in names) for name, count in self.in_a_row.items()}
        limit, counts = self.section.skips_in_a_row, self.in_a_row.values()
        if min(self.in_a_row[name] for name in names) <= limit:
            self._record_skip(step, why, batch, process, names)
        if min(counts) >= limit:
            self.end_reason = (
                f"the last {limit} steps were skipped ({why}), and the run ends after step {step:,}: look at their "
                f"batches in {self.path}, and resume with resume.allow=[training.learning_rate] and a lower one"
            )
            self._record_divergence(step - min(counts) + 1, why, process)

    @tolerate_full_disk
    def _record_divergence(self, step: int, why: str, process: int):
        if process == 0:
            self.end.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.end, {"step": step, "why": why})

    @tolerate_full_disk
    def _record_skip(self, step, why, batch, process, names):
        ids = [row for inputs in batch for row in inputs["input_ids"].flatten(0, -2).tolist()]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        append_or_restore(
            self.path, json.dumps({"step": step, "why": why, "process": process, "input_ids": ids}) + "\n"
        )
        if process == 0:
            by = f" by {', '.join(names)}" if len(names) < len(self.in_a_row) else ""
            tqdm.write(f"step {step:,} is skipped{by}: {why}; its batch is in {self.path}", file=sys.stderr)

    def on_step_end(self, args, state, control, **kwargs):  # noqa: ARG002
        if self.end_reason:
            control.should_save = control.should_training_stop = True
