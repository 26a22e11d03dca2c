"""Builds and checks transformers' `TrainingArguments` before any work.

`TrainingArguments` itself checks little. The Trainer checks the rest late, after the data are prepared or at the first
evaluation, or silently does something else.
"""

import copy
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments
from transformers.integrations import get_available_reporting_integrations
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from modeling.configuration_kindling import FAMILIES
from settings.checks import ConfigError, build, warn
from settings.experiment import Experiment, LanguageExperiment
from settings.sections import BudgetSection, OptimizerSection
from storage.hub import check_model_name, check_push_allowed
from training.checkpoints.fingerprint import fingerprint_in
from training.checkpoints.state import read_state_of
from training.machine.hardware import has_bf16
from training.processes import check_launched, warn_of_cpu

from .best_model import check_best, check_delay
from .launcher import check_launcher, clear_launcher_variables, report_ignored_variables, wants_cpu
from .recipe import check_recipe
from .schedule import check_lengths, check_schedule
from .setting_rules import check_compile_mode, check_each, check_pairs

STOCK = ("adamw_torch", "adamw_torch_fused")
"""PyTorch's AdamW, which Muon and Grokfast are combined with."""


def keep_precision(training: dict, checkpoint: str | None):
    """Add the checkpoint's precision to `training` unless one is given: other hardware would choose another."""
    if checkpoint is None or training.keys() & {"bf16", "fp16"}:
        return
    terms = fingerprint_in(read_state_of(checkpoint)).get("terms", {})
    if (bf16 := terms.get("training.bf16")) is not None:
        training["bf16"] = bf16


def training_arguments(experiment: Experiment) -> TrainingArguments:
    """`TrainingArguments` from the `training` section; precision and device default to what the hardware has."""
    values = dict(experiment.training)
    has_gpu = torch.accelerator.is_available()
    if not (has_gpu or wants_cpu() or "use_cpu" in values):
        warn_of_cpu()
    values.setdefault("use_cpu", wants_cpu() or not has_gpu)
    if not values.keys() & {"bf16", "fp16"}:
        values["bf16"] = has_bf16(values["use_cpu"])
    budget = experiment.budget if isinstance(experiment, LanguageExperiment) else BudgetSection()
    if budget.epochs is not None:
        values["num_train_epochs"] = budget.epochs
    values["report_to"] = values.get("report_to") or "none"  # transformers does not accept null
    values["resume_from_checkpoint"] = None  # read by `resume.py`
    values["run_name"] = experiment.name if values.get("run_name") is None else values["run_name"]
    if "optim" in experiment.unsupported and values.get("optim") in STOCK:
        del values["optim"]  # always PyTorch's AdamW
    check_launched(values["use_cpu"])
    check_each(values, type(experiment))
    check_pairs(values)
    if (limit := values.get("save_total_limit")) is not None and limit < 1:
        warn(f"training.save_total_limit={limit} keeps every checkpoint")
        values["save_total_limit"] = None
    check_compile_mode(values.get("torch_compile_mode"))
    check_launcher(values, experiment.optimizer, experiment.averaging.fractions, budget.fit_memory)
    if isinstance(experiment, LanguageExperiment):
        check_best(values, experiment.averaging.fractions)
    asked = clear_launcher_variables()
    args = build(TrainingArguments, "training", values)
    report_ignored_variables(asked, args)
    # With several GPUs the Trainer would use DataParallel, which weights examples differently.
    args._n_gpu = min(args.n_gpu, 1)
    check_delay(args)
    check_schedule(args)
    check_lengths(args, experiment.training_defaults["warmup_steps"])
    check_recipe(args, experiment)
    _check_optimizer(args, experiment.training, experiment.optimizer)
    _check_trackers(args)
    _check_publishing(args)
    return args


def _check_optimizer(args: TrainingArguments, training: dict, section: OptimizerSection):
    """`ConfigError` if the Trainer cannot build its optimiser, tried on a tiny model: its package may be missing."""
    given = {name for name in ("optim", "optim_args") if training.get(name) not in (None, *STOCK)}
    if given and not section.is_stock:
        name = min(given)
        raise ConfigError(
            f"training.{name}={training[name]} has no effect with optimizer.kind={section.kind} and "
            f"optimizer.grokfast_lambda={section.grokfast_lambda}; leave it out"
        )
    if not given:
        return
    smallest = {"vocab_size": 2, "hidden_size": 2, "num_attention_heads": 1, "num_hidden_layers": 1}
    with torch.random.fork_rng():
        model = AutoModelForCausalLM.from_config(FAMILIES["kindling_llama"](**smallest))
    try:
        kind, settings = Trainer.get_optimizer_cls_and_kwargs(args, model)
        if not settings.keys() & {"params", "model", "optimizer_dict"}:
            kind(model.parameters(), **settings)
            plain = copy.copy(args)
            plain.optim_args = None
            if args.optim_args and Trainer.get_optimizer_cls_and_kwargs(plain, model) == (kind, settings):
                raise ValueError("it does not use them")
    except (ImportError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ConfigError(
            f"training.optim={args.optim.value} does not work with training.optim_args={args.optim_args}: {reason}; "
            "or leave both out"
        ) from None


def _check_trackers(args: TrainingArguments):
    """`ConfigError` if transformers does not know a tracker of `report_to`, or its package is not installed."""
    for name in args.report_to:
        if name not in INTEGRATION_TO_CALLBACK:
            raise ConfigError(
                f"training.report_to={name} is unknown to transformers; available are "
                f"{', '.join(INTEGRATION_TO_CALLBACK)}, all and none"
            )
        if name not in get_available_reporting_integrations():
            raise ConfigError(f"training.report_to={name} is not installed; install its package, or give none")


def _check_publishing(args: TrainingArguments):
    """`ConfigError` for what the Hub would refuse at the end of the run."""
    if args.push_to_hub:
        check_push_allowed()
        check_model_name(args.hub_model_id or Path(args.output_dir).resolve().name)
