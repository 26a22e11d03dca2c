"""The mean training loss over a whole run, bit-identical however often the run is resumed."""

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from training.trainer_hooks import TrainerHooks


class TrainingLoss(TrainerCallback, ExportableState):
    """Saves the Trainer's loss sums in checkpoints, which would otherwise start at zero after each resume.

    So the first `loss` after a resume covers all steps since the last log, and `train_loss` covers all steps.
    """

    def __init__(self, trainer: TrainerHooks):
        self.trainer, self.kept, self.first = trainer, {}, 0

    def state(self) -> dict:
        """What the Trainer writes into `trainer_state.json`."""
        return {"args": {}, "attributes": self.kept}

    def collect(self):
        """Update the saved sums; called by all processes together."""
        unlogged, logged, step = self.trainer.loss_sums()
        self.kept = {
            "sum": logged,
            "first": self.first,
            "logged": step,
            "since": self.trainer.accelerator.gather(unlogged.view(1)).tolist(),  # of each process
        }

    def on_train_begin(self, args, state, control, **kwargs):  # noqa: ARG002
        kept = state.stateful_callbacks.get(type(self).__name__, {}).get("attributes", {})
        self.first = kept.get("first", state.global_step)  # earlier versions did not record it
        if not kept:
            return
        since = kept["since"]
        mine = since[args.process_index] if len(since) == args.world_size else sum(since) / len(since)
        self.trainer.set_loss_sums(mine, kept["sum"], kept["logged"])

    def mean(self) -> float:
        """The mean over all steps, once the Trainer has added the last ones."""
        return self.trainer.loss_sums()[1] / max(self.trainer.state.global_step - self.first, 1)
