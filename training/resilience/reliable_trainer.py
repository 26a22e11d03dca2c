"""A Trainer that loses nothing and lets nothing in: steps that are skipped, signals that are heeded, new workers."""

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
from .workers import RESTARTS, from_new_workers, is_death, leave_deaths_to_the_loader


class ReliableTrainer(SavingTrainer):
    """A Trainer whose weights stay numbers, and that ends when it is asked to, saved.

    `guard` is the experiment's section of that name. `train` ends in `SystemExit` if a signal has stopped it (128 and
    the signal's number), or the guard (1): saved, both times.
    """

    def __init__(self, *args, guard: GuardSection | None = None, names: Sequence[str] = ("",), **kwargs):
        """`names` are those of the models that are trained, where there are several."""
        super().__init__(*args, **kwargs)
        self.args.logging_nan_inf_filter = False  # the Trainer would log a loss that is no number as 0
        self.signals = Signals()
        self.guard = Guard(guard or GuardSection(), Path(self.args.output_dir), names)
        self.add_callback(self.signals)
        self.add_callback(self.guard)
        self.restarts = 0
        self._resumed_from = self._batches_for = self._batches = None
        self._batch, self._loss = [], 0.0

    # ---- how a training ends

    def train(self, resume_from_checkpoint: str | None = None, **kwargs):
        """As the Trainer's, unless it was stopped; of a finished run what is in the checkpoint, and no step more."""
        output, self._resumed_from = None, resume_from_checkpoint
        with self.watch, self.signals.heeded(), suppress(EvaluationCutOff):  # of an evaluation before the first step
            output = super().train(resume_from_checkpoint, **kwargs)
        if self.guard.verdict:
            sys.exit(f"{self.guard.verdict}; {self._told_of_save()}" if self.args.should_save else 1)
        if self.signals.agreed or self.signals.agree(self.args):  # or one that came since
            self._leave()
        return output

    def _leave(self):
        """Say where the run can be gone on from, and exit as the signal would have it."""
        silence_broken_pipes()
        if self.args.should_save:
            name, step = Number(self.signals.agreed).name, self.state.global_step
            name += f" to {self.signals.origin}" if self.signals.origin else ""
            print(
                f"{name}: the run ends after step {step:,} of {self.state.max_steps:,}; {self._told_of_save()}",
                file=sys.stderr,
            )
        sys.exit(128 + self.signals.agreed)

    def _save_if_new(self):
        """Before its first step there is nothing new in a run, nor is all of its checkpoint restored."""
        if self.state.global_step > self._begun_at:
            self.save_checkpoint()

    def _told_of_save(self) -> str:
        told = "it is saved" if self._saved == self.state.global_step else "that step could not be saved"
        if self.state.global_step == 0:
            told = "nothing is lost"
        return f"{told}, go on with training.resume_from_checkpoint=true"

    def log_save_evaluate(self, default: Callable[[], None]):
        """As the Trainer's; a run that is to end is saved at once, and not evaluated: that may take its last time."""
        if self._is_to_end:
            self._end_without_evaluation()
        try:
            default()
        except EvaluationCutOff:
            self._end_without_evaluation()
            default()

    @property
    def _is_to_end(self) -> bool:
        return bool(self.signals.agreed or self.guard.verdict)

    def _end_without_evaluation(self):
        is_new = self._saved != self.state.global_step
        ends_epoch = self.args.eval_strategy == "epoch" and self.state.global_step >= self.state.max_steps
        self.signals.owes |= is_new and (self.control.should_evaluate or ends_epoch)
        self.control.should_save, self.control.should_evaluate = is_new, False
        self.control.should_training_stop = True

    def _evaluate_if_owed(self):
        """Make up for the evaluation without which a run was ended: its schedule, or its best model, may need it."""
        if self.signals.owes and not self._is_to_end:
            self.load_random_state(self._resumed_from)  # it may be saved, before the Trainer does so
            self.signals.owes, self.control.should_evaluate = False, True
            self.log_save_evaluate_now()

    def before_epoch(self) -> bool:
        """Make up for a pending evaluation first, which may end the run."""
        if not self._was_finished:
            self._evaluate_if_owed()
        return super().before_epoch()

    def before_finalizing(self):
        """Make up for a pending evaluation, and save if a signal has come since the last step."""
        self._evaluate_if_owed()  # that of the last step, if all are made
        if not self.signals.agreed and self.signals.agree(self.args):
            self._save_if_new()  # before the best model takes the place of the last one

    # ---- which steps are made

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """As the Trainer's, from new workers if some have died; the batch is kept until the step is made."""
        leave_deaths_to_the_loader()
        if self._batches_for is not epoch_iterator:
            self._batches_for = self._batches = epoch_iterator
        while True:
            try:
                self._batches = self._batches or from_new_workers(self)
                samples, targets = super().get_batch_samples(self._arriving(self._batches), num_batches, device)
            except Exception as error:
                self._batches = None
                self._survive(error)
            else:
                self._batch, self._loss = samples, 0.0
                return samples, targets

    def _arriving(self, batches: Iterable) -> Iterator:
        """The batches, each noted when it has come."""
        for part, batch in enumerate(batches):
            self.watch.arrive(self.state.global_step, BATCH, part)
            yield batch

    def evaluate(self, *args, **kwargs):
        """As the Trainer's, without a trace in the training's random numbers. Until it is made, the training owes it.

        It begins again if workers have died; in one of several processes it cannot, for they make it together.
        """
        owed, self.signals.owes = self.signals.owes, self.is_in_train
        while True:
            try:
                with self.watch, torch.random.fork_rng(devices=[]):  # each data loader draws one
                    metrics = super().evaluate(*args, **kwargs)
            except Exception as error:
                if self.args.world_size > 1 or not self.is_in_train:
                    raise
                self._survive(error)
                self.drop_eval_dataloaders()  # with workers that are kept
            else:
                self.signals.owes = owed  # by one at the start, which is no other's
                return metrics

    def _survive(self, error: Exception):
        """Tell of a worker's death, to go on with new ones. The fourth one, or another error, ends the run, saved.

        One of several processes cannot save alone: there the last checkpoint has to do.
        """
        died = is_death(error, self.args.dataloader_num_workers)
        self.restarts += died
        step, process = self.state.global_step, ""
        if self.args.world_size > 1:
            process = f" of process {self.args.process_index}"
        if died and self.restarts <= RESTARTS:
            who = f"a worker of the data loader{process} has died ({error!r})"
            return tqdm.write(f"after step {step:,} {who}; going on with new ones", file=sys.stderr)
        if not process:
            self._save_if_new()
        if not died:
            told = "" if process else f"; {self._told_of_save()}"
            tqdm.write(f"the run ends after step {step:,}{told}", file=sys.stderr)
            raise error
        sys.exit(
            f"workers of the data loader{process} have died {self.restarts} times ({error!r}); the run ends after "
            f"step {step:,}; {self._told_of_save()} and fewer training.dataloader_num_workers"
        )

    def training_step(self, *args, **kwargs):
        """As the Trainer's; the loss is added to that of the step, on the device."""
        loss = super().training_step(*args, **kwargs)
        self._loss = self._loss + loss
        return loss

    def before_optimizer_step(self):
        """Skip the step if the guard objects to its loss or to its gradient."""
        losses, norm = self._agree(self._loss, self._norm_to_judge(self.grad_norm))
        if why := self.guard.objection(sum(losses) / len(losses), norm):
            of = _origin(losses, norm)
            self.skip_step(f"{why}, from {of}" if of else why)

    def skip_step(self, why: str):
        """Leave the optimiser no gradients: it passes over weights that have none, their decay included."""
        self.model.zero_grad(set_to_none=True)
        self.guard.skip(self.state.global_step + 1, why, self._batch, self.args.process_index)
        if self.guard.verdict:
            self.checkpoints.limit = None  # the checkpoint before the last may be what is wanted

    def _norm_to_judge(self, grad_norm):
        """With float16 the scaler skips steps by itself, until it has found its scale."""
        return 0.0 if self.accelerator.scaler is not None else grad_norm

    def _agree(self, loss, grad_norm) -> tuple[list[float], float]:
        """Each process's loss, and the largest norm; also agree on a signal. With one wait for the device."""
        mine = torch.stack(
            [torch.as_tensor(x, dtype=torch.float32, device=self.args.device) for x in (loss, grad_norm)]
        )
        if self.args.world_size == 1:
            loss, norm = mine.tolist()
            self.signals.agreed = 0
            return [loss], norm
        self.watch.arrive(self.state.global_step, AGREEMENT)
        mine = torch.cat([mine, mine.new_tensor([self.signals.came])])
        losses, norms, signals = self.accelerator.gather(mine[None]).T.tolist()
        self.signals.settle(signals)
        return losses, max(norms, key=lambda x: (x != x, x))

    def log(self, logs, start_time=None):
        """As the Trainer's, with the number of steps that were skipped, if any were."""
        if "loss" in logs:
            self.reset_unlogged_loss()
        if self.guard.skipped:
            logs["skipped_steps"] = self.guard.skipped
        super().log(logs, start_time)


def _origin(losses: list[float], norm: float) -> str:
    """Which of several processes a step is skipped for; nothing where that is the gradient, which is a mean of all."""
    wrong = [not math.isfinite(loss) for loss in losses]
    if any(wrong):
        return origin(wrong)
    return origin([loss == max(losses) for loss in losses]) if math.isfinite(norm) else ""
