"""Checks of the metric by which the best model is chosen, and of schedules that step on a metric."""

from collections.abc import Iterable, Mapping

from transformers import TrainingArguments

from settings.checks import ConfigError, warn

METRICS = ("loss", "perplexity", "bits_per_byte")
METRIC_SCHEDULES = ("reduce_lr_on_plateau", "greedy")
"""The schedules that step on an evaluation metric."""


def check_best(values: dict, averages: Iterable[str]):
    """Check and complete the settings for choosing the best model. All of our metrics are better when lower.

    transformers would choose the highest perplexity, so `greater_is_better` is set. Of the `averages` of the weights,
    the exponential one is measured from the first step on, as `ema_loss` and so on.
    """
    save, evaluate, best = values["save_strategy"], values["eval_strategy"], values.get("load_best_model_at_end")
    metric = values.get("metric_for_best_model")
    if save == "best" and (evaluate == "no" or (metric is None and not best)):
        raise ConfigError(
            f"training.save_strategy=best needs an evaluation and a metric; give training.eval_strategy=steps (it is "
            f"{evaluate}) and training.metric_for_best_model=loss"
        )
    if best and save != "best":
        _check_saves_at_evaluations(values)
    measured = (*METRICS, *(f"ema_{one}" for one in METRICS if "ema" in averages))
    if metric is not None and _parts(metric)[0] not in measured:
        raise ConfigError(f"training.metric_for_best_model={metric} is not measured; give one of {', '.join(measured)}")
    if values.get("greater_is_better"):
        raise ConfigError(
            f"training.greater_is_better=True would choose the worst {metric or 'loss'} as the best; leave it out"
        )
    values["greater_is_better"] = False


def _parts(metric: str) -> tuple[str, str]:
    """The measure, and the group of documents that it is for; empty for all documents."""
    measure, _, group = metric.removeprefix("eval_").partition("/")
    return measure, group


def _check_saves_at_evaluations(values: dict):
    save, evaluate = values["save_strategy"], values["eval_strategy"]
    if save != evaluate:
        raise ConfigError(
            "training.load_best_model_at_end=True needs evaluations where there are checkpoints, and "
            f"training.eval_strategy={evaluate} is not training.save_strategy={save}; make them the same"
        )
    a_save, an_evaluation = values["save_steps"], values.get("eval_steps") or values["logging_steps"]
    ratio = a_save / an_evaluation
    if save == "steps" and ((a_save < 1) != (an_evaluation < 1) or abs(ratio - round(ratio)) > 1e-6):
        raise ConfigError(
            f"training.load_best_model_at_end=True needs an evaluation at each checkpoint, and training.save_steps="
            f"{a_save} is no multiple of training.eval_steps={an_evaluation}; make it one"
        )


def check_delay(args: TrainingArguments):
    """Warn if the run ends before its first evaluation is due; there is one at its end."""
    if args.eval_strategy == "steps" and 0 < args.max_steps < args.eval_delay:
        warn(
            f"training.eval_delay={args.eval_delay} is longer than training.max_steps={args.max_steps}, so the first "
            "evaluation is that at the end"
        )


def check_measured(args: TrainingArguments, text_bytes: int | None, group_bytes: Mapping[str, int | None]):
    """`ConfigError` if validation does not measure the metric that the best model is chosen by.

    `text_bytes` of the validation text, and of each group `group_bytes`, are None where bits per byte are undefined.
    """
    if (metric := args.metric_for_best_model) is None:
        return
    measure, group = _parts(metric)
    said = f"training.metric_for_best_model={metric} is not measured"
    if "/" in metric and group not in group_bytes:
        groups = f"the groups are {', '.join(group_bytes)}" if group_bytes else "there are no groups"
        raise ConfigError(f"{said}; {groups}")
    if measure.endswith("bits_per_byte") and (group_bytes[group] if group else text_bytes) is None:
        raise ConfigError(f"{said}, because some of the text carries no loss; give loss or perplexity")
