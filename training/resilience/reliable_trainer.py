"""A Trainer that skips bad steps, saves and exits on signals, and restarts dead data loader workers."""

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from signal import Signals as Number

import torch
from tqdm import tqdm

from settings.sections import GuardSection
from training.checkpoints.saving_trainer import SavingTrainer

from .guard import Guard
from .signals import EvaluationCutOff, Signals, origin, silence_broken_pipes
from .watchdog import AGREEMENT, BATCH
from .workers import MAX_RESTARTS, is_worker_death, restarted_batches, restore_default_sigchld


class ReliableTrainer(SavingTrainer):
    """A Trainer that keeps its weights finite, and saves a checkpoint before it exits on a signal.

    `guard` is the experiment's section of that name. `train` raises `SystemExit` after saving, if a signal has stopped
    it (128 + the signal's number) or the guard has (1).
    """

    def __init__(self, *args, guard: GuardSection | None = None, names: Sequence[str] = ("",), **kwargs):
        """`names` are the names of the models that are trained together, if there are several."""
        super().__init__(*args, **kwargs)
        self.args.logging_nan_inf_filter = False  # the Trainer would leave a non-finite loss out of its logs
        self.signals = Signals()
        self.guard = Guard(guard or GuardSection(), Path(self.args.output_dir), names)
        self.add_callback(self.signals)
        self.add_callback(self.guard)
        self.restarts = 0
        self._resumed_from = self._batches_for = self._batches = None
        self.step_batches, self._loss = [], 0.0
        """The batches of the present step, and the sum of their losses so far."""

    # ---- how training ends

    def train(self, resume_from_checkpoint: str | None = None, **kwargs):
        """As the Trainer's; exits if a signal or the guard has stopped it. A finished run makes no further step."""
        output, self._resumed_from = None, resume_from_checkpoint
        with (
            self.watch,
            self.signals.handle_signals(),
            suppress(EvaluationCutOff),
        ):  # of an evaluation before the first step
            output = super().train(resume_from_checkpoint, **kwargs)
        if self.guard.end_reason:
            sys.exit(f"{self.guard.end_reason}; {self._save_status()}" if self.args.should_save else 1)
        if self.signals.agreed_signal or self.signals.agree(self.args):  # or one received since
            self._exit_by_signal()
        return output

    def _exit_by_signal(self):
        """Print how to resume the run, and exit with the signal's exit code."""
        silence_broken_pipes()
        if self.args.should_save:
            name, step = Number(self.signals.agreed_signal).name, self.state.global_step
            name += f" to {self.signals.origin}" if self.signals.origin else ""
            print(
                f"{name}: the run ends after step {step:,} of {self.state.max_steps:,}; {self._save_status()}",
                file=sys.stderr,
            )
        sys.exit(128 + self.signals.agreed_signal)

    def _save_if_new(self):
        """Save, unless no step was made yet: then nothing is new, and the checkpoint may not be fully restored."""
        if self.state.global_step > self._first_step:
            self.save_checkpoint()

    def _save_status(self) -> str:
        told = "it is saved" if self._saved == self.state.global_step else "that step could not be saved"
        if self.state.global_step == 0:
            told = "nothing is lost"
        return f"{told}, resume with training.resume_from_checkpoint=true"

    def log_save_evaluate(self, default: Callable[[], None]):
        """As the Trainer's; a run that is ending is saved at once and not evaluated, which might take too long."""
        if self._is_ending:
            self._end_without_evaluation()
        try:
            default()
        except EvaluationCutOff:
            self._end_without_evaluation()
            default()

    @property
    def _is_ending(self) -> bool:
        return bool(self.signals.agreed_signal or self.guard.end_reason)

    def _end_without_evaluation(self):
        is_new = self._saved != self.state.global_step
        ends_epoch = self.args.eval_strategy == "epoch" and self.state.global_step >= self.state.max_steps
        self.signals.evaluation_pending |= is_new and (self.control.should_evaluate or ends_epoch)
        self.control.should_save, self.control.should_evaluate = is_new, False
        self.control.should_training_stop = True

    def _make_up_evaluation(self):
        """Run the evaluation that a signal has cut off: the schedule or the best model may depend on it."""
        if self.signals.evaluation_pending and not self._is_ending:
            self.load_random_state(self._resumed_from)  # before the Trainer does: a save may follow
            self.signals.evaluation_pending, self.control.should_evaluate = False, True
            self.log_save_evaluate_now()

    def before_epoch(self) -> bool:
        """Run a pending evaluation first, which may end the run."""
        if not self._was_finished:
            self._make_up_evaluation()
        return super().before_epoch()

    def before_finalizing(self):
        """Run a pending evaluation, and save if a signal was received since the last step."""
        self._make_up_evaluation()  # the last step's, if all steps are made
        if not self.signals.agreed_signal and self.signals.agree(self.args):
            self._save_if_new()  # before the best model takes the place of the last one

    # ---- which steps are skipped

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """As the Trainer's, from new workers if some have died; the batch is kept until the optimiser's step."""
        restore_default_sigchld()
        if self._batches_for is not epoch_iterator:
            self._batches_for = self._batches = epoch_iterator
        while True:
            try:
                self._batches = self._batches or restarted_batches(self)
                samples, targets = super().get_batch_samples(self._track_arrivals(self._batches), num_batches, device)
            except Exception as error:
                self._batches = None
                self._restart_workers(error)
            else:
                self.step_batches, self._loss = samples, 0.0
                return samples, targets

    def _track_arrivals(self, batches: Iterable) -> Iterator:
        """The batches, each reported to the watchdog when it arrives."""
        for part, batch in enumerate(batches):
            self.watch.arrive(self.state.global_step, BATCH, part)
            yield batch

    def evaluate(self, *args, **kwargs):
        """As the Trainer's, without effect on the random numbers of training. It is pending until it is complete.

        It starts again if workers have died, but not with several processes, which evaluate together.
        """
        pending, self.signals.evaluation_pending = self.signals.evaluation_pending, self.is_in_train
        while True:
            try:
                with self.watch, torch.random.fork_rng(devices=[]):  # each data loader draws one
                    metrics = super().evaluate(*args, **kwargs)
            except Exception as error:
                if self.args.world_size > 1 or not self.is_in_train:
                    raise
                self._restart_workers(error)
                self.drop_eval_dataloaders()  # persistent workers would be reused
            else:
                self.signals.evaluation_pending = pending  # an evaluation at the start makes up for none
                return metrics

    def _restart_workers(self, error: Exception):
        """Report a worker's death and continue; after `MAX_RESTARTS`, or on any other error, save and end the run.

        One of several processes can't save alone: the run then ends with its last checkpoint.
        """
        died = is_worker_death(error, self.args.dataloader_num_workers)
        self.restarts += died
        step, process = self.state.global_step, ""
        if self.args.world_size > 1:
            process = f" of process {self.args.process_index}"
        if died and self.restarts <= MAX_RESTARTS:
            who = f"a worker of the data loader{process} has died ({error!r})"
            return tqdm.write(f"after step {step:,} {who}; continuing with new workers", file=sys.stderr)
        if not process:
            self._save_if_new()
        if not died:
            told = "" if process else f"; {self._save_status()}"
            tqdm.write(f"the run ends after step {step:,}{told}", file=sys.stderr)
            raise error
        sys.exit(
            f"workers of the data loader{process} have died {self.restarts} times ({error!r}); the run ends after "
            f"step {step:,}; {self._save_status()} and fewer training.dataloader_num_workers"
        )

    def training_step(self, *args, **kwargs):
        """As the Trainer's; also sums the loss of the step, on the device."""
        loss = super().training_step(*args, **kwargs)
        self._loss = self._loss + loss
        return loss

    def forget_step(self):
        """Remove what the present step has computed: gradients and loss."""
        self.model.zero_grad(set_to_none=True)
        self._loss = 0.0

    def before_optimizer_step(self):
        """Skip the step if the guard objects to its loss or to its gradient."""
        losses, norm = self._gather_step(self._loss, self._judged_norm(self.grad_norm))
        if why := self.guard.reason_to_skip(sum(losses) / len(losses), norm):
            of = _origin(losses, norm)
            self.skip_step(f"{why}, from {of}" if of else why)

    def skip_step(self, why: str):
        """Remove all gradients: optimisers skip weights without one, including their weight decay."""
        self.model.zero_grad(set_to_none=True)
        self.guard.skip(self.state.global_step + 1, why, self.step_batches, self.args.process_index)
        if self.guard.end_reason:
            self.checkpoints.limit = None  # an earlier checkpoint may be needed

    def _judged_norm(self, grad_norm):
        """The norm that the guard sees. With float16 the scaler skips non-finite gradients by itself; where the Trainer
        clips without `Accelerator.clip_grad_norm_`, as over mixed meshes, the loss alone is judged."""
        return 0.0 if grad_norm is None or self.accelerator.scaler is not None else grad_norm

    def _gather_step(self, loss, grad_norm) -> tuple[list[float], float]:
        """Each process's loss, and the largest norm; also agree on a signal. Synchronises with the device once."""
        mine = torch.stack(
            [torch.as_tensor(x, dtype=torch.float32, device=self.args.device) for x in (loss, grad_norm)]
        )
        if self.args.world_size == 1:
            loss, norm = mine.tolist()
            self.signals.agreed_signal = 0
            return [loss], norm
        self.watch.arrive(self.state.global_step, AGREEMENT)
        mine = torch.cat([mine, mine.new_tensor([self.signals.received])])
        losses, norms, signals = self.accelerator.gather(mine[None]).T.tolist()
        self.signals.agree_on(signals)
        return losses, max(norms, key=lambda x: (x != x, x))

    def log(self, logs, start_time=None):
        """As the Trainer's, with the number of skipped steps, if there are any."""
        if "loss" in logs:
            self.reset_unlogged_loss()
        if self.guard.skipped:
            logs["skipped_steps"] = self.guard.skipped
        super().log(logs, start_time)


def _origin(losses: list[float], norm: float) -> str:
    """The processes whose loss a step is skipped for; empty if it is the gradient, which is averaged over all."""
    wrong = [not math.isfinite(loss) for loss in losses]
    if any(wrong):
        return origin(wrong)
    return origin([loss == max(losses) for loss in losses]) if math.isfinite(norm) else ""
