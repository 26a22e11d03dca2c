"""The one place that overrides private methods of transformers' Trainer: each calls a public method of ours.

A subclass extends the public methods and never sees the private ones. `tests/training/test_trainer_hooks.py` names the
hook whose signature a release of transformers has changed. Everything else goes through the Trainer's public methods
and callbacks, and through `Accelerator.clip_grad_norm_`, by which it measures and clips the gradient.
"""

from collections.abc import Callable, Iterable

import torch
from transformers import Trainer, TrainerCallback


class TrainerHooks(Trainer):
    """A Trainer with public methods for the moments that transformers keeps private; by default it does what it did."""

    def __init__(self, *args, **kwargs):
        self.grad_norm: torch.Tensor | float | None = None
        """The gradient's norm before clipping, until the optimiser's step."""
        super().__init__(*args, **kwargs)
        # Before all other callbacks, so that these see the state and the gradients that the step is made with.
        self.callback_handler.callbacks.insert(0, _Moments(self))

    # ---- public methods for subclasses

    def prepare_state(self):
        """Called when `state` is that of the run, new or resumed, and its weights are loaded; before any callback."""

    def before_epoch(self) -> bool:
        """Called before the batches of an epoch of the data loader; whether it is to be trained on."""
        return True

    def clip_gradients(self, parameters: Iterable[torch.Tensor], limit: float, clip: Callable) -> torch.Tensor | float:
        """Clip the step's gradients to `limit`, which may be infinite, and return their norm before; `clip(parameters,
        limit)` does so for all of them together."""
        return clip(parameters, limit)

    def before_optimizer_step(self):
        """Called between clipping and the optimiser's step; `grad_norm` is the norm before clipping.

        The place to veto a step: called once for each step of the optimiser, after accumulation, float16 unscaling and
        reduction over processes, whether or not gradients are clipped.
        """

    def log_save_evaluate(self, default: Callable[[], None]):
        """Called after each step and each epoch; `default` logs, evaluates and saves as `control` says."""
        default()

    def before_finalizing(self):
        """Called after the last step, before the last log and before the best model takes the last one's place."""

    def save_checkpoint(self):
        """Save a checkpoint of the present step."""
        super()._save_checkpoint(self.model, None)

    def on_best_metric(self):
        """Called when an evaluation was the best so far; `control.should_save` is obeyed right after."""

    def load_best_model(self):
        """Load the best model's weights in the place of the last ones."""
        super()._load_best_model()

    def write_model(self, folder: str, state_dict: dict | None):
        """Write the model's files into a folder; `state_dict` has weights that are sharded over processes, gathered."""
        super()._save(folder, state_dict)

    def load_weights(self, checkpoint: str, model: torch.nn.Module | None):
        """Load a checkpoint's weights into the model."""
        super()._load_from_checkpoint(checkpoint, model)

    def check_loaded_weights(self, missing: list[str], unexpected: list[str]):
        """Called with the names of weights that a checkpoint lacks, and of those that the model does not have."""

    def load_optimizer_state(self, checkpoint: str | None):
        """Load the state of optimiser, schedule and scaler."""
        super()._load_optimizer_and_scheduler(checkpoint)

    def load_random_state(self, checkpoint: str | None):
        """Load the state of the random number generators."""
        super()._load_rng_state(checkpoint)

    # ---- what subclasses may use of the Trainer's private parts

    def log_save_evaluate_now(self):
        """Log, evaluate and save as `control` says, outside of a step."""
        self._maybe_log_save_evaluate(self._tr_loss, None, self.model, None, self.state.epoch, None, 0.0)

    def save_sharded_optimizer_state(self, folder: str):
        """The Trainer's own way, for an optimiser whose library splits it up over processes."""
        self._save_optimizer_and_scheduler(folder)
        self._save_scaler(folder)

    def reset_unlogged_loss(self):
        """Start the next log's mean at 0: the Trainer subtracts the sum from itself, which leaves NaN as it is."""
        self._tr_loss.zero_()

    def loss_sums(self) -> tuple[torch.Tensor, float, int]:
        """This process's loss since the last log, the loss of all steps before, and the step of that log."""
        return self._tr_loss.detach(), self._total_loss_scalar, self._globalstep_last_logged

    def set_loss_sums(self, unlogged: float, logged: float, step: int):
        """Set what `loss_sums` returns."""
        self._tr_loss = torch.tensor(unlogged, device=self.args.device)
        self._total_loss_scalar, self._globalstep_last_logged = logged, step

    def prepare_inputs(self, inputs: dict) -> dict:
        """A batch on the device of the model."""
        return self._prepare_inputs(inputs)

    def drop_eval_dataloaders(self):
        """Have the next evaluation start workers of its own."""
        self._eval_dataloaders = {}

    # ---- hooks: overridden parts of the Trainer, each with the reason why nothing public does

    def create_accelerator_and_postprocess(self):
        """Public; `Accelerator.clip_grad_norm_`, public too, is the one place where the norm can be had unclipped."""
        super().create_accelerator_and_postprocess()
        stock = self.accelerator.clip_grad_norm_

        def clip_and_remember(parameters, max_norm, *args, **kwargs):
            clip = lambda some, limit: stock(some, limit, *args, **kwargs)  # noqa: E731
            self.grad_norm = self.clip_gradients(parameters, max_norm, clip)
            return self.grad_norm

        self.accelerator.clip_grad_norm_ = clip_and_remember

    def _run_epoch(self, **kwargs):
        # `on_epoch_begin` can't prevent an epoch: the Trainer makes a step before it looks at `control`
        if self.before_epoch():
            super()._run_epoch(**kwargs)

    def _maybe_log_save_evaluate(self, *args, **kwargs):
        # an evaluation that is cut off has no metrics to return, so it must be left here, by an exception
        self.log_save_evaluate(lambda: super(TrainerHooks, self)._maybe_log_save_evaluate(*args, **kwargs))

    def _determine_best_metric(self, metrics, trial):
        # `on_evaluate` comes before the best metric is known, and `on_save` after the decision to save
        if is_new := super()._determine_best_metric(metrics, trial):
            self.on_best_metric()
        return is_new

    def _finalize_training(self, *args):
        # `on_train_end` comes after the best model has been loaded and checkpoints have been removed
        self.before_finalizing()
        limit, self.args.save_total_limit = self.args.save_total_limit, None  # what is removed is the store's to say
        try:
            return super()._finalize_training(*args)
        finally:
            self.args.save_total_limit = limit

    def _save_checkpoint(self, model, trial):  # noqa: ARG002
        # the stock one writes into the final folder, which a kill leaves half written, and pickles
        self.save_checkpoint()

    def _save(self, output_dir=None, state_dict=None):
        # `save_model` chooses how sharded weights are gathered, and this is what it then writes them by
        self.write_model(output_dir if output_dir is not None else self.args.output_dir, state_dict)

    def _load_best_model(self):
        # no callback comes between the last log and the loading of the best model
        self.load_best_model()

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        # the stock one knows one model a checkpoint
        self.load_weights(resume_from_checkpoint, model)

    def _issue_warnings_after_load(self, load_result):
        # the stock one warns of missing weights and trains on with random ones
        self.check_loaded_weights(load_result.missing_keys, load_result.unexpected_keys)

    def _load_optimizer_and_scheduler(self, checkpoint):
        # the stock one reads pickles, and takes the checkpoint's settings in the place of the run's
        self.load_optimizer_state(checkpoint)

    def _load_rng_state(self, checkpoint):
        # the stock one reads pickles; called when the resumed run's first batch has been fetched
        self.load_random_state(checkpoint)


class _Moments(TrainerCallback):
    """Calls the methods of `TrainerHooks` that a callback suffices for."""

    def __init__(self, trainer: TrainerHooks):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):  # noqa: ARG002
        self.trainer.prepare_state()

    def on_pre_optimizer_step(self, args, state, control, **kwargs):  # noqa: ARG002
        self.trainer.before_optimizer_step()
        self.trainer.grad_norm = None
