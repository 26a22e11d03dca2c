"""The z-loss: keeps the logarithm of the softmax's normaliser close to 0."""

import torch
from transformers import TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState


def squared_normalizers(logits_BTV: torch.Tensor, labels_BT: torch.Tensor) -> torch.Tensor:
    """The sum over targets of (log sum_v exp logits_v)^2, in float32; -100 is no target, labels are shifted inside."""
    is_target = labels_BT[:, 1:] != -100
    return torch.logsumexp(logits_BTV[:, :-1].float(), dim=-1).square().where(is_target, 0.0).sum()


class ZLoss(TrainerCallback, ExportableState):
    """`coefficient` x the mean over targets of log^2 Z (Chowdhery et al., 2022), added to the gradient of the loss.

    The value of the loss stays the cross-entropy. The mean of the term over the steps since the last log is `mean`,
    kept in checkpoints, so that a resumed run logs the same.
    """

    def __init__(self, coefficient: float):
        self.coefficient = coefficient
        self.kept: dict = {}
        self.start_again(step=0)

    def start_again(self, step: int):
        """Forget the steps up to `step`."""
        self.unlogged, self.logged_step = torch.zeros(()), step
        self.forget_step()

    def forget_step(self):
        """Forget the step that is being made: it is computed again."""
        self.present = 0.0

    def add(self, loss: torch.Tensor, logits_BTV: torch.Tensor, labels_BT: torch.Tensor, targets) -> torch.Tensor:
        """The loss with the term in its gradient; `targets` is what the sum over this batch's targets is divided by."""
        term = self.coefficient * squared_normalizers(logits_BTV, labels_BT.to(logits_BTV.device)) / targets
        self.present = self.present + term.detach()
        return loss + (term - term.detach())

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control, **kwargs):  # noqa: ARG002
        self.unlogged = self.unlogged.to(args.device) + self.present
        self.forget_step()

    def mean(self, step: int, gather) -> float:
        """The mean over the steps since the last log and over processes."""
        return gather(self.unlogged.view(1)).mean().item() / max(step - self.logged_step, 1)

    def collect(self, gather):
        """Update what checkpoints keep; called by all processes together."""
        self.kept = {"since": gather(self.unlogged.view(1)).tolist(), "logged": self.logged_step}

    def state(self) -> dict:
        """What the Trainer writes into `trainer_state.json`."""
        return {"args": {}, "attributes": self.kept}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control, **kwargs):  # noqa: ARG002
        kept = state.stateful_callbacks.get(type(self).__name__, {}).get("attributes", {})
        self.start_again(kept.get("logged", state.global_step))
        if since := kept.get("since"):
            mine = since[args.process_index] if len(since) == args.world_size else sum(since) / len(since)
            self.unlogged = torch.tensor(mine, device=args.device)
