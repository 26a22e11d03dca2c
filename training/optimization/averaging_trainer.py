"""A Trainer that keeps averages of the weights, evaluates them beside the raw ones, and saves them."""

from pathlib import Path

from torch import nn

from settings.recipe_sections import AveragingSection
from training.checkpoints.state import read_state
from training.resilience.fitting_trainer import FittingTrainer

from .averaging import WeightAverages

FILE = "averages.safetensors"
"""The file of a checkpoint with the averages of the weights."""


class AveragingTrainer(FittingTrainer):
    """A Trainer with `averages`, those that the experiment's section `averaging` asks for.

    An evaluation measures each of them after the raw weights and has its name in the metrics', as in `eval_ema_loss`.
    The model in the run folder has the weights that the section says; checkpoints have the raw ones, and the averages
    in a file of their own.
    """

    def __init__(self, *args, averaging: AveragingSection | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.averages = WeightAverages(self.trained_models(), averaging or AveragingSection(), self._has_skipped)
        self.add_callback(self.averages)

    def trained_models(self) -> dict[str, nn.Module]:
        """The models that are trained, by the names by which the guard knows them."""
        return dict.fromkeys(self.guard.in_a_row, self.model)

    def _has_skipped(self, name: str) -> bool:
        """Whether a model has skipped the present step, by the guard or by float16's scaler."""
        return self.guard.in_a_row[name] > 0 or self.accelerator.optimizer_step_was_skipped

    def evaluation_loop(self, *args, metric_key_prefix="eval", **kwargs):
        """As the Trainer's, for the raw weights and then for each average that has begun."""
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        for kind in self.averages.begun:
            with self.averages.swapped(kind):
                again = super().evaluation_loop(*args, metric_key_prefix=f"{metric_key_prefix}_{kind}", **kwargs)
            output.metrics.update(again.metrics)
        return output

    def save_model(self, output_dir=None, _internal_call=False):
        """As the Trainer's; the run folder's model has the weights that the run comes to."""
        with self.averages.swapped(self.averages.result if output_dir is None else "raw"):
            super().save_model(output_dir, _internal_call)

    def state_parts(self) -> dict:
        """As the base class's, with the averages."""
        return super().state_parts() | ({FILE: self.averages} if self.averages.fractions else {})

    def on_best_model_loaded(self, checkpoint: Path):
        """Load the averages that the best model had, too."""
        if (saved := checkpoint / FILE).exists():
            self.averages.load_state_dict(read_state(saved))
