"""The mean training loss of a whole run, however often it was resumed: to the bit what the run in one piece logs."""

import torch
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import ExportableState


class TrainingLoss(TrainerCallback, ExportableState):
    """Keeps in checkpoints what the Trainer has added up, which by itself begins anew at each resume.

    With that, the first `loss` after a resume is of all steps since the last log, and `train_loss` of all steps.
    """

    def __init__(self, trainer: Trainer):
        self.trainer, self.kept, self.first = trainer, {}, 0

    def state(self) -> dict:
        """What the Trainer writes into `trainer_state.json`."""
        return {"args": {}, "attributes": self.kept}

    def collect(self):
        """Bring what is kept up to date; to be called by all processes together."""
        mine = self.trainer._tr_loss.detach().view(1)
        self.kept = {
            "sum": self.trainer._total_loss_scalar,
            "first": self.first,
            "logged": self.trainer._globalstep_last_logged,
            "since": self.trainer.accelerator.gather(mine).tolist(),  # of each process
        }

    def on_train_begin(self, args, state, control, **kwargs):  # noqa: ARG002
        kept = state.stateful_callbacks.get(type(self).__name__, {}).get("attributes", {})
        self.first = kept.get("first", state.global_step)  # that of a checkpoint which does not say it
        if not kept:
            return
        since, trainer = kept["since"], self.trainer
        mine = since[args.process_index] if len(since) == args.world_size else sum(since) / len(since)
        trainer._tr_loss = torch.tensor(mine, device=args.device)
        trainer._total_loss_scalar, trainer._globalstep_last_logged = kept["sum"], kept["logged"]

    def mean(self) -> float:
        """Over all steps; to be asked for once the Trainer has added the last ones up."""
        return self.trainer._total_loss_scalar / max(self.trainer.state.global_step - self.first, 1)
