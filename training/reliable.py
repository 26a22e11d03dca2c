"""A Trainer that loses nothing and lets nothing in: whole checkpoints, exact resumes, skipped steps, signals heeded."""

import dataclasses
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from signal import Signals as Number

import numpy as np
import torch
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm
from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState

from sections import ConfigError, GuardSection

from .checkpoint import Checkpoints, disk_error
from .guard import Guard
from .signals import Signals
from .state import read_state, write_state
from .workers import LOST, RESTARTS, from_new_workers, is_death, leave_deaths_to_the_loader


class ReliableTrainer(Trainer):
    """A Trainer whose checkpoints are whole or do not count (`checkpoint.py`) and whose weights stay numbers.

    `guard` is the experiment's section of that name. `train` ends in `SystemExit` if a signal has stopped it (128 and
    the signal's number), or the guard (1): saved, both times.
    """

    def __init__(self, *args, guard: GuardSection | None = None, names: Sequence[str] = ("",), **kwargs):
        """`names` are those of the models that are trained, where there are several."""
        super().__init__(*args, **kwargs)
        run = Path(self.args.output_dir)
        self.checkpoints = Checkpoints(run, self.args.save_total_limit)
        self.args.logging_nan_inf_filter = False  # the Trainer would log a loss that is no number as 0
        self.signals = Signals()
        self.guard = Guard(guard or GuardSection(), run, names)
        self.add_callback(self.signals)
        self.add_callback(self.guard)
        self.restarts = 0
        self._batches_for = self._batches = None
        self._batch, self._loss = [], 0.0

    # ---- how a training ends

    def train(self, resume_from_checkpoint: str | None = None, **kwargs):
        """As the Trainer's, unless it was stopped; of a finished run what is in the checkpoint, and no step more."""
        with self.signals.heeded():
            output = super().train(resume_from_checkpoint, **kwargs)
        if self.guard.verdict:
            sys.exit(self.guard.verdict if self.args.should_save else 1)
        if self.signals.agreed:
            self._leave()
        return output

    def _leave(self):
        """Say where the run can be gone on from, and exit as the signal would have it."""
        name, step = Number(self.signals.agreed).name, self.state.global_step
        if self.args.should_save:
            saved = "its last checkpoints could not be saved" if self.checkpoints.failures else "it is saved"
            print(
                f"{name}: the run ends after step {step:,} of {self.state.max_steps:,}, {saved}; go on with "
                "training.resume_from_checkpoint=true",
                file=sys.stderr,
            )
        sys.exit(128 + self.signals.agreed)

    # ---- which steps are made

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """As the Trainer's, from new workers if some have died; the batch is kept until the step is made."""
        leave_deaths_to_the_loader()
        if self._batches_for is not epoch_iterator:
            self._batches_for = self._batches = epoch_iterator
        while True:
            try:
                samples, targets = super().get_batch_samples(self._batches, num_batches, device)
            except (RuntimeError, *LOST) as error:
                self._replace_workers(error)
            else:
                self._batch, self._loss = samples, 0.0
                return samples, targets

    def _replace_workers(self, error: Exception):
        """Once too often, the run is saved and ends. One of several processes cannot save alone, so it fails."""
        if not is_death(error, self.args.dataloader_num_workers) or self.args.world_size > 1:
            raise error
        self.restarts += 1
        if self.restarts > RESTARTS:
            self._save_checkpoint(self.model, None)
            sys.exit(
                f"workers of the data loader have died {self.restarts} times ({error!r}); the run ends after step "
                f"{self.state.global_step:,}, saved; go on with training.resume_from_checkpoint=true and fewer "
                "training.dataloader_num_workers, or more memory"
            )
        died = f"step {self.state.global_step + 1:,}: a worker of the data loader has died ({error!r})"
        tqdm.write(f"{died}; going on with new ones", file=sys.stderr)
        self._batches = from_new_workers(self)

    def training_step(self, *args, **kwargs):
        """As the Trainer's; the loss is added to that of the step, on the device."""
        loss = super().training_step(*args, **kwargs)
        self._loss = self._loss + loss
        return loss

    def _get_grad_norm(self, model, grad_norm=None):
        """The norm to log. The last thing before the optimiser's step, and so the place to leave it nothing to do."""
        grad_norm = super()._get_grad_norm(model, grad_norm)
        loss, norm, self.signals.agreed = self._agree(self._loss, self._norm_to_judge(grad_norm), self.signals.came)
        if why := self.guard.objection(loss, norm):
            self._skip_step(why)
        return grad_norm

    def _skip_step(self, why: str):
        """Leave the optimiser no gradients: it passes over weights that have none, their decay included."""
        self.model.zero_grad(set_to_none=True)
        self.guard.skip(self.state.global_step + 1, why, self._batch, self.args.process_index)

    def _norm_to_judge(self, grad_norm):
        """With float16 the scaler skips steps by itself, until it has found its scale."""
        return 0.0 if self.accelerator.scaler is not None else grad_norm

    def _agree(self, loss, grad_norm, signal: int) -> tuple[float, float, int]:
        """Of all processes: the mean loss, the largest norm, the last signal; with one wait for the device."""
        mine = torch.stack(
            [torch.as_tensor(x, dtype=torch.float32, device=self.args.device) for x in (loss, grad_norm)]
        )
        if self.args.world_size == 1:
            return (*mine.tolist(), 0)
        mine = torch.cat([mine, mine.new_tensor([signal])])
        losses, norms, signals = self.accelerator.gather(mine[None]).T.tolist()
        return sum(losses) / len(losses), max(norms, key=lambda x: (x != x, x)), int(max(signals))

    def log(self, logs, start_time=None):
        """As the Trainer's, with the number of steps that were skipped, if any were."""
        if "loss" in logs:
            self._tr_loss.zero_()  # the Trainer subtracts it from itself, which leaves what is no number as it is
        if self.guard.skipped:
            logs["skipped_steps"] = self.guard.skipped
        super().log(logs, start_time)

    # ---- checkpoints

    def _save_checkpoint(self, model, trial):  # noqa: ARG002
        """Save the run as it is, whole or not at all; where the disk takes it not, training goes on."""
        self.store_flos()
        for phase in (self._begin_checkpoint, self._write_checkpoint, self._commit_checkpoint):
            why = None
            try:
                phase(self.checkpoints.staging(self.state.global_step))
            except Exception as error:
                if not disk_error(error):
                    raise
                why = str(error)
            if self._has_any(why is not None):  # all processes end a phase before any begins the next
                return self.checkpoints.failed(self.state.global_step, why or "by another process")
        self.checkpoints.failures = 0
        self._find_best()

    def _has_any(self, flag: bool) -> bool:
        """Whether the flag of any process is up."""
        return self.accelerator.reduce(torch.tensor(float(flag), device=self.args.device)).item() > 0

    def _begin_checkpoint(self, staging: Path):
        if self.args.should_save:
            self.checkpoints.begin(staging)

    def _write_checkpoint(self, staging: Path):
        self.save_model(str(staging), _internal_call=True)
        if not self.args.save_only_model:
            self._save_optimizer_and_scheduler(str(staging))
            self._save_rng_state(str(staging))

    def _commit_checkpoint(self, staging: Path):
        """Add the Trainer's state, which names no folder: that of the best model follows from its step."""
        if not self.args.should_save:
            return
        for callback in (*self.callback_handler.callbacks, self.control):
            if isinstance(callback, ExportableState):
                name, kept = type(callback).__name__, self.state.stateful_callbacks
                kept[name] = [*kept[name], callback.state()] if isinstance(kept.get(name), list) else callback.state()
        state = dataclasses.replace(self.state, best_model_checkpoint=None)
        state.save_to_json(str(staging / TRAINER_STATE_NAME))
        last = self.checkpoints.commit(self.state.global_step)
        best = self._find_best()
        if not self.guard.verdict:  # then, the one before may be what is wanted
            self.checkpoints.rotate(last, best)

    def _find_best(self) -> Path | None:
        """Tell the Trainer where the best model is, if it is there."""
        best = self.checkpoints.run / f"checkpoint-{self.state.best_global_step}"
        best = best if best.is_dir() else None
        self.state.best_model_checkpoint = best and str(best)
        return best

    def _finalize_training(self, *args):
        """As the Trainer's, which would remove the last checkpoint where one is kept and another is the best."""
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        output = super()._finalize_training(*args)
        self.args.save_total_limit = limit
        return output

    def _init_training_state(self, max_steps, steps_an_epoch, epochs, *args):
        counts = super()._init_training_state(max_steps, steps_an_epoch, epochs, *args)
        self.state.compute_steps(self.args, max_steps)  # else a resumed run would save and evaluate when it did before
        self._find_best()
        return (epochs, 0) if self._is_finished() else counts  # the Trainer would make one step more

    def _is_finished(self) -> bool:
        """Whether a run that was resumed has made all its steps."""
        return self.state.global_step >= self.state.max_steps

    @property
    def _is_sharded(self) -> bool:
        """Whether the weights are split up over processes, whose library saves the optimiser in its own way."""
        return self.is_fsdp_enabled or self.is_deepspeed_enabled

    def _stateful(self) -> dict:
        parts = {"optimizer": self.optimizer, "scheduler": self.lr_scheduler, "scaler": self.accelerator.scaler}
        return {f"{name}.safetensors": part for name, part in parts.items() if part is not None}

    def _save_optimizer_and_scheduler(self, output_dir):
        if self._is_sharded:
            super()._save_optimizer_and_scheduler(output_dir)
            super()._save_scaler(output_dir)
        elif self.args.should_save:
            for name, part in self._stateful().items():
                write_state(Path(output_dir, name), part.state_dict())

    def _load_optimizer_and_scheduler(self, checkpoint):
        """The state of both; rates, decays and so on are those that this run asks for."""
        if self._is_sharded:
            return super()._load_optimizer_and_scheduler(checkpoint)
        asked = [{key: group[key] for key in group.keys() - {"params", "lr"}} for group in self.optimizer.param_groups]
        rates = getattr(self.lr_scheduler, "base_lrs", None)
        for name, part in self._stateful().items() if checkpoint else ():
            if Path(checkpoint, name).exists():  # no scaler in bf16; none of them with training.save_only_model
                part.load_state_dict(read_state(Path(checkpoint, name)))
        for group, settings in zip(self.optimizer.param_groups, asked, strict=True):
            group.update(settings)
        if isinstance(self.lr_scheduler, LambdaLR):
            _follow(self.lr_scheduler, rates)

    def _issue_warnings_after_load(self, load_result):
        """`ConfigError` if weights are missing or left over; one that is another's by another name is not."""
        tied = self.accelerator.unwrap_model(self.model).all_tied_weights_keys
        if wrong := sorted({*load_result.missing_keys, *load_result.unexpected_keys} - {*tied}):
            raise ConfigError(
                f"the checkpoint is not one of this model: only one of them has {wrong[0]}, the first of {len(wrong)} "
                "such weights; resume the run with the model that it had"
            )

    def _random_state_file(self, checkpoint) -> Path:
        """Each process has its own."""
        process = f"_{self.args.process_index}" if self.args.world_size > 1 else ""
        return Path(checkpoint, f"rng_state{process}.safetensors")

    def _save_rng_state(self, output_dir):
        kind, keys, *counters = np.random.get_state()
        states = {"python": random.getstate(), "numpy": (kind, torch.from_numpy(keys), *counters)}
        states["torch"] = torch.get_rng_state()
        if (device := self.args.device.type) != "cpu":
            states[device] = torch.get_device_module(device).get_rng_state()
        write_state(self._random_state_file(output_dir), states)

    def _load_rng_state(self, checkpoint):
        """Resumed in another number of processes, they go on from their seeds."""
        if checkpoint is None or not (path := self._random_state_file(checkpoint)).exists():
            return
        states = read_state(path)
        kind, keys, *counters = states["numpy"]
        random.setstate(states["python"])
        np.random.set_state((kind, keys.numpy(), *counters))
        torch.set_rng_state(states["torch"])
        if (device := self.args.device.type) in states:
            torch.get_device_module(device).set_rng_state(states[device])


def _follow(scheduler: LambdaLR, rates: list[float]):
    """Set the rates of a schedule's step as of these base rates; the same to the bit if they were the same."""
    scheduler.base_lrs = rates
    groups, step = scheduler.optimizer.param_groups, scheduler.last_epoch
    for group, rate, share in zip(groups, rates, scheduler.lr_lambdas, strict=True):
        group["lr"] = rate * share(step)
    scheduler._last_lr = [group["lr"] for group in groups]
