"""Checkpoints by tokens: saved once so many were trained on, named, and kept from rotation."""

from collections.abc import Callable

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from publishing.publisher import saved_by_tokens

from .store import Checkpoints


class TokenCheckpoints(TrainerCallback, ExportableState):
    """Saves after the first step by which a number of tokens was trained on.

    If a step passes several numbers, its checkpoint has the name of the largest.
    """

    def __init__(self, counts: dict[str, float], checkpoints: Checkpoints, tokens: Callable[[], int]):
        """`counts` are the numbers by name; `tokens()` is how many the run has trained on, the present step's too."""
        self.counts, self.checkpoints, self.tokens = counts, checkpoints, tokens
        self.saved: dict[str, dict[str, int]] = {}
        self.before = 0

    def state(self) -> dict:
        """What the Trainer writes into `trainer_state.json`."""
        return {"args": {}, "attributes": self.saved}

    def on_train_begin(self, args, state, control, **kwargs):  # noqa: ARG002
        here = {name: about for name, about in saved_by_tokens(state).items() if self._has(about["step"])}
        self.saved, self.before = here, state.num_input_tokens_seen  # not those of another run that it began from
        self._keep()

    def on_step_end(self, args, state, control, **kwargs):  # noqa: ARG002
        before, self.before = self.before, self.tokens()
        passed = {name: count for name, count in self.counts.items() if before < count <= self.before}
        if passed:
            self.saved[max(passed, key=passed.get)] = {"step": state.global_step, "tokens": self.before}
            self._keep()
            control.should_save = True

    def _has(self, step: int) -> bool:
        return (self.checkpoints.run / f"checkpoint-{step}").is_dir()

    def _keep(self):
        self.checkpoints.kept = {about["step"] for about in self.saved.values()}
