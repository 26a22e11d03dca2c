"""When a run on equations is evaluated, when it ends early, and what it shows meanwhile."""

import numpy as np
from transformers import ProgressCallback, TrainerCallback

FITTED, GROKKED = 0.999, 0.99
"""Train accuracy at which a model has fitted, test accuracy at which it has generalised."""

EVALUATIONS_TO_STAY = 3
"""Evaluations in a row at `GROKKED` or above that show that a model stays there."""


def log_spaced(per_decade: int, last: int) -> set[int]:
    """Steps 1 to `last` that are evenly spaced on a log axis, `per_decade` a factor of ten, and `last` itself."""
    count = int(per_decade * np.log10(last)) + 1
    return {round(10 ** (i / per_decade)) for i in range(count)} | {last}


class EvaluateLogSpaced(TrainerCallback):
    """Evaluate at log-spaced steps, besides those of `eval_steps`."""

    def __init__(self, per_decade: int, last: int):
        self.steps = log_spaced(per_decade, last)

    def on_step_end(self, args, state, control, **kwargs):  # noqa: ARG002
        if state.global_step in self.steps:
            control.should_evaluate = True


class StopWhenGrokked(TrainerCallback):
    """Stop once every replica had at least 99 % test accuracy at `EVALUATIONS_TO_STAY` evaluations in a row.

    Read from the log, which a resumed run has whole.
    """

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):  # noqa: ARG002
        control.should_training_stop |= self.is_time(state.log_history, len(metrics))

    @staticmethod
    def is_time(history: list[dict], replicas: int) -> bool:
        """Whether the last evaluations of a log say so."""
        last = [row["test_accuracy"] for row in history if "test_accuracy" in row][-EVALUATIONS_TO_STAY * replicas :]
        return len(last) == EVALUATIONS_TO_STAY * replicas and all(accuracy >= GROKKED for accuracy in last)


class AlgorithmicProgress(ProgressCallback):
    """transformers' progress bar with accuracies beside it; a line when a replica fits or reaches 99 % on the test."""

    def __init__(self):
        super().__init__()
        self.reached = set()

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Nothing: evaluations are shown once, whole, by `on_evaluate`."""

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):  # noqa: ARG002
        if self.training_bar is None:
            return
        means = {split: sum(row[f"{split}_accuracy"] for row in metrics) / len(metrics) for split in ("train", "test")}
        self.training_bar.set_postfix_str(f"train {means['train']:.1%}, test {means['test']:.1%}", refresh=False)
        for row in metrics:
            for split, accuracy, event in (("train", FITTED, "fits"), ("test", GROKKED, "generalises")):
                key = (row["replica"], event)
                if row[f"{split}_accuracy"] >= accuracy and key not in self.reached:
                    self.reached.add(key)
                    name, step = row["replica"], state.global_step
                    self.training_bar.write(f"step {step:,}: {name} {event} ({split} {accuracy:.1%})")
