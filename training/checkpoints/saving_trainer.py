"""A Trainer whose checkpoints are written atomically, without pickles, and from which a run resumes exactly."""

import dataclasses
import random
import sys
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import gather_object
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import SaveStrategy

from settings.checks import ConfigError
from storage.checkpoint_manifest import checkpoint_folders, find_damage
from training.reporting.losses import TrainingLoss
from training.resilience.watchdog import SAVE, Watch
from training.trainer_hooks import TrainerHooks

from .state import read_state, write_state
from .store import Checkpoints, atomic_replace, is_disk_error


class SavingTrainer(TrainerHooks):
    """A Trainer that saves and restores by `store.py` and `state.py`."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.checkpoints = Checkpoints(Path(self.args.output_dir), self.args.save_total_limit)
        self.watch = Watch(self.args, self._resume_hint)
        self.losses = TrainingLoss(self)
        self.add_callback(self.losses)
        self._saved, self._first_step = None, 0
        self._was_finished = False
        """Whether a run that was resumed had made all its steps already."""
        self._best = (None, None)
        """Metric and step of the best model that is saved."""

    def train(self, *args, **kwargs):
        """As the Trainer's; `training_loss` is the mean of the whole run, however often it was resumed."""
        output = super().train(*args, **kwargs)
        return output._replace(training_loss=output.metrics["train_loss"])

    def save_checkpoint(self):
        """Save the run as it is, atomically. Where the disk is full, that is reported and training continues."""
        if self._saved == self.state.global_step:  # rewriting it would remove the valid one for a moment
            return self._find_best()
        self.store_flos()
        self.collect_sums()
        phases = (self._begin_checkpoint, self._write_checkpoint, self._commit_checkpoint)
        for number, phase in enumerate(phases):
            why = None
            try:
                phase(self.checkpoints.staging(self.state.global_step))
            except Exception as error:
                if not is_disk_error(error):
                    raise
                why = str(error)
            self.watch.arrive(self.state.global_step, SAVE, number)
            if self._any_process(why is not None):  # all processes end a phase before any begins the next
                self._find_best()
                return self.checkpoints.record_failure(self.state.global_step, self._failure_reasons(why))
        self.checkpoints.failures, self._saved = 0, self.state.global_step
        self._find_best()

    def collect_sums(self):
        """Bring the sums that callbacks save up to date; called by all processes together."""
        self.losses.collect()

    def save_model(self, output_dir=None, _internal_call=False):
        """As the Trainer's; the files of a model in the run folder are replaced atomically."""
        if output_dir is not None or not self.args.should_save:
            return super().save_model(output_dir, _internal_call)
        with atomic_replace(self.checkpoints.run) as staging:
            super().save_model(str(staging), _internal_call)

    def _any_process(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        return self.accelerator.reduce(torch.tensor(float(flag), device=self.args.device)).item() > 0

    def _resume_hint(self) -> str:
        """What to print about resuming when the run ends without a save."""
        if not (found := checkpoint_folders(self.checkpoints.run)):
            return "the run ends before its first checkpoint"
        return f"the run ends after {found[0].name}; resume with training.resume_from_checkpoint=true"

    def _failure_reasons(self, why: str | None) -> str:
        """Why a save has failed; with several processes, in which of them."""
        if self.args.world_size == 1:
            return why
        reasons = enumerate(gather_object([why]))
        return "; ".join(f"process {rank}: {reason}" for rank, reason in reasons if reason is not None)

    def _begin_checkpoint(self, staging: Path):
        if self.args.should_save:
            self.checkpoints.begin(staging)

    def _write_checkpoint(self, staging: Path):
        self.save_model(str(staging), _internal_call=True)
        if not self.args.save_only_model:
            self._save_optimizer_state(staging)
            self.save_random_state(staging)

    def _commit_checkpoint(self, staging: Path):
        """Add the Trainer's state, without the best model's folder: it follows from its step, and runs can be moved."""
        if not self.args.should_save:
            return
        for callback in (*self.callback_handler.callbacks, self.control):
            if isinstance(callback, ExportableState):
                name, kept = type(callback).__name__, self.state.stateful_callbacks
                kept[name] = [*kept[name], callback.state()] if isinstance(kept.get(name), list) else callback.state()
        state = dataclasses.replace(self.state, best_model_checkpoint=None)
        state.save_to_json(str(staging / TRAINER_STATE_NAME))
        last = self.checkpoints.commit(self.state.global_step)
        self.checkpoints.rotate(last, self._find_best())

    def on_best_metric(self):
        """Save the model that would be loaded at the end when it is found."""
        self.control.should_save |= self.args.load_best_model_at_end

    def _find_best(self) -> Path | None:
        """Set the Trainer's best checkpoint; where a best model is needed, it is the best of those that were saved."""
        if self._needs_best and not self._folder_of(self.state.best_global_step).is_dir():
            self.state.best_metric, self.state.best_global_step = self._best
        self._best = self.state.best_metric, self.state.best_global_step
        best = self._folder_of(self.state.best_global_step)
        self.state.best_model_checkpoint = str(best) if best.is_dir() else None
        return best if best.is_dir() else None

    @property
    def _needs_best(self) -> bool:
        return self.args.load_best_model_at_end or self.args.save_strategy == SaveStrategy.BEST

    def _folder_of(self, step: int | None) -> Path:
        return self.checkpoints.run / f"checkpoint-{step}"

    def log(self, logs, start_time=None):
        """As the Trainer's; the final `train_loss` is the mean of the whole run."""
        if "train_runtime" in logs:
            logs["train_loss"] = self.losses.mean()
        super().log(logs, start_time)

    def load_best_model(self):
        """As the Trainer's, unless the checkpoint is damaged."""
        if why := find_damage(Path(self.state.best_model_checkpoint)):
            if self.args.should_save:
                best = Path(self.state.best_model_checkpoint).name
                tqdm.write(f"the best checkpoint, {best}, is damaged ({why}); the last model is kept", file=sys.stderr)
            return
        super().load_best_model()
        self.on_best_model_loaded(Path(self.state.best_model_checkpoint))

    def on_best_model_loaded(self, checkpoint: Path):
        """Called when the weights are those of the best checkpoint."""

    def prepare_state(self):
        """Find the best checkpoint and the last one of a resumed run, and whether it is finished."""
        # By the settings of now: the checkpoint's state has the intervals of the run before.
        self.state.compute_steps(self.args, self.state.max_steps)
        best, self._first_step = self.state.best_global_step, self.state.global_step
        if best is not None and self._find_best() is None and self._needs_best and self.args.should_save:
            lost = f"the best checkpoint so far, checkpoint-{best}, is not in {self.checkpoints.run}"
            tqdm.write(f"{lost}; the best is chosen from later ones", file=sys.stderr)
        if self._folder_of(self.state.global_step).is_dir():
            self._saved = self.state.global_step
        self._was_finished = self.is_finished()

    def before_epoch(self) -> bool:
        """Skip the epoch of a run that was finished already: the Trainer would make one more step."""
        self.control.should_training_stop |= self._was_finished
        return not self.control.should_training_stop

    def is_finished(self) -> bool:
        """Whether a resumed run has made all its steps."""
        return self.state.global_step >= self.state.max_steps

    @property
    def _is_sharded(self) -> bool:
        """Whether weights are sharded over processes: then FSDP or DeepSpeed saves the optimiser in its own way."""
        return self.is_fsdp_enabled or self.is_deepspeed_enabled

    def state_parts(self) -> dict:
        """What is saved and restored besides weights and random state, by file; each part has a `state_dict`."""
        parts = {"optimizer": self.optimizer, "scheduler": self.lr_scheduler, "scaler": self.accelerator.scaler}
        return {f"{name}.safetensors": part for name, part in parts.items() if part is not None}

    def _save_optimizer_state(self, folder: Path):
        if self._is_sharded:
            self.save_sharded_optimizer_state(str(folder))
        elif self.args.should_save:
            for name, part in self.state_parts().items():
                write_state(folder / name, part.state_dict())

    def load_optimizer_state(self, checkpoint: str | None):
        """Load optimiser, schedule and scaler; learning rates, decays and so on are those of the present settings."""
        if self._is_sharded:
            return super().load_optimizer_state(checkpoint)
        asked = [{key: group[key] for key in group.keys() - {"params", "lr"}} for group in self.optimizer.param_groups]
        rates = getattr(self.lr_scheduler, "base_lrs", None)
        for name, part in self.state_parts().items() if checkpoint else ():
            if Path(checkpoint, name).exists():  # no scaler in bf16; none of them with training.save_only_model
                part.load_state_dict(read_state(Path(checkpoint, name)))
        for group, settings in zip(self.optimizer.param_groups, asked, strict=True):
            group.update(settings)
        if isinstance(self.lr_scheduler, LambdaLR):
            _apply_schedule(self.lr_scheduler, rates)

    def check_loaded_weights(self, missing: list[str], unexpected: list[str]):
        """`ConfigError` if weights are missing or unexpected; tied weights may be missing."""
        tied = self.accelerator.unwrap_model(self.model).all_tied_weights_keys
        if wrong := sorted({*missing, *unexpected} - {*tied}):
            raise ConfigError(
                f"the checkpoint does not fit this model: only one of them has {wrong[0]}, the first of {len(wrong)} "
                "such weights; resume the run with its own model"
            )

    def _random_state_file(self, checkpoint) -> Path:
        """The file with the random state of this process."""
        process = f"_{self.args.process_index}" if self.args.world_size > 1 else ""
        return Path(checkpoint, f"rng_state{process}.safetensors")

    def save_random_state(self, folder: Path):
        """Save the state of this process's random number generators."""
        kind, keys, *counters = np.random.get_state()
        states = {"python": random.getstate(), "numpy": (kind, torch.from_numpy(keys), *counters)}
        states["torch"] = torch.get_rng_state()
        if (device := self.args.device.type) != "cpu":
            states[device] = torch.get_device_module(device).get_rng_state()
        write_state(self._random_state_file(folder), states)

    def load_random_state(self, checkpoint: str | None):
        """Load the generators used between steps; with another number of processes they keep their seeds.

        The random numbers of a step are a function of the seed and the step, and need no state.
        """
        if checkpoint is None or not (path := self._random_state_file(checkpoint)).exists():
            return
        states = read_state(path)
        kind, keys, *counters = states["numpy"]
        random.setstate(states["python"])
        np.random.set_state((kind, keys.numpy(), *counters))
        torch.set_rng_state(states["torch"])
        if (device := self.args.device.type) in states:
            torch.get_device_module(device).set_rng_state(states[device])


def _apply_schedule(scheduler: LambdaLR, rates: list[float]):
    """Set the learning rates of the schedule's present step from these base rates; bit-identical if unchanged."""
    scheduler.base_lrs = rates
    groups, step = scheduler.optimizer.param_groups, scheduler.last_epoch
    for group, rate, share in zip(groups, rates, scheduler.lr_lambdas, strict=True):
        group["lr"] = rate * share(step)
    scheduler._last_lr = [group["lr"] for group in groups]
