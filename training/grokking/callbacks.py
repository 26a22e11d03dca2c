"""Callbacks of runs on equations: evaluation steps, early stopping, progress."""

import numpy as np
from transformers import ProgressCallback, TrainerCallback

MEMORISED, GROKKED = 0.999, 0.99
"""Training accuracy at which a model has memorised, test accuracy at which it has generalised."""

STABLE_EVALUATIONS = 3
"""Consecutive evaluations at `GROKKED` or above after which generalisation counts as stable."""


def log_spaced(per_decade: int, last: int) -> set[int]:
    """Steps from 1 to `last`, log-spaced, `per_decade` of them per factor of ten, and `last` itself."""
    count = int(per_decade * np.log10(last)) + 1
    return {round(10 ** (i / per_decade)) for i in range(count)} | {last}


class EvaluateLogSpaced(TrainerCallback):
    """Evaluates at log-spaced steps, in addition to those of `eval_steps`."""

    def __init__(self, per_decade: int, last: int):
        self.steps = log_spaced(per_decade, last)

    def on_step_end(self, args, state, control, **kwargs):  # noqa: ARG002
        if state.global_step in self.steps:
            control.should_evaluate = True


class StopWhenGrokked(TrainerCallback):
    """Stops once every replica had at least 99 % test accuracy at `STABLE_EVALUATIONS` evaluations in a row.

    Computed from the log, which a resumed run has in full.
    """

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):  # noqa: ARG002
        control.should_training_stop |= self.is_reached(state.log_history, len(metrics))

    @staticmethod
    def is_reached(history: list[dict], replicas: int) -> bool:
        """Whether the last evaluations of a log meet the condition."""
        last = [row["test_accuracy"] for row in history if "test_accuracy" in row][-STABLE_EVALUATIONS * replicas :]
        return len(last) == STABLE_EVALUATIONS * replicas and all(accuracy >= GROKKED for accuracy in last)


class AlgorithmicProgress(ProgressCallback):
    """transformers' progress bar with accuracies; a line when a replica memorises, and when it generalises."""

    def __init__(self):
        super().__init__()
        self.reached = set()

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Do nothing: `on_evaluate` shows all replicas together."""

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):  # noqa: ARG002
        if self.training_bar is None:
            return
        means = {split: sum(row[f"{split}_accuracy"] for row in metrics) / len(metrics) for split in ("train", "test")}
        self.training_bar.set_postfix_str(f"train {means['train']:.1%}, test {means['test']:.1%}", refresh=False)
        for row in metrics:
            for split, accuracy, event in (("train", MEMORISED, "memorises"), ("test", GROKKED, "generalises")):
                key = (row["replica"], event)
                if row[f"{split}_accuracy"] >= accuracy and key not in self.reached:
                    self.reached.add(key)
                    name, step = row["replica"], state.global_step
                    self.training_bar.write(f"step {step:,}: {name} {event} ({split} {accuracy:.1%})")
