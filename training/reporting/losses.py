"""The mean training loss of a whole run, however often it was resumed: to the bit what the run in one piece logs."""

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from training.trainer_hooks import TrainerHooks


class TrainingLoss(TrainerCallback, ExportableState):
    """Keeps in checkpoints what the Trainer has added up, which by itself begins anew at each resume.

    With that, the first `loss` after a resume is of all steps since the last log, and `train_loss` of all steps.
    """

    def __init__(self, trainer: TrainerHooks):
        self.trainer, self.kept, self.first = trainer, {}, 0

    def state(self) -> dict:
        """What the Trainer writes into `trainer_state.json`."""
        return {"args": {}, "attributes": self.kept}

    def collect(self):
        """Bring what is kept up to date; to be called by all processes together."""
        unlogged, logged, step = self.trainer.loss_sums()
        self.kept = {
            "sum": logged,
            "first": self.first,
            "logged": step,
            "since": self.trainer.accelerator.gather(unlogged.view(1)).tolist(),  # of each process
        }

    def on_train_begin(self, args, state, control, **kwargs):  # noqa: ARG002
        kept = state.stateful_callbacks.get(type(self).__name__, {}).get("attributes", {})
        self.first = kept.get("first", state.global_step)  # that of a checkpoint which does not say it
        if not kept:
            return
        since = kept["since"]
        mine = since[args.process_index] if len(since) == args.world_size else sum(since) / len(since)
        self.trainer.set_loss_sums(mine, kept["sum"], kept["logged"])

    def mean(self) -> float:
        """Over all steps; to be asked for once the Trainer has added the last ones up."""
        return self.trainer.loss_sums()[1] / max(self.trainer.state.global_step - self.first, 1)
