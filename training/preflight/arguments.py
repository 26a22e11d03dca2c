"""transformers' arguments of a run, and what is wrong with them, said before any work.

`TrainingArguments` checks little of what it is given. The Trainer checks the rest when it comes to it, after the data
are prepared or at the first evaluation, or does something else without a word.
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
from storage.hub import check_model_name, check_push_allowed
from training.checkpoints.fingerprint import fingerprint_in
from training.checkpoints.state import read_state_of
from training.hardware import has_bf16
from training.processes import refuse_half_launched, warn_of_cpu

from .best_model import check_best, check_delay
from .launcher import check_launcher, take_from_launcher, tell_what_was_not_taken, wants_cpu
from .schedule import check_lengths, check_schedule
from .setting_rules import check_compile_mode, check_each, check_pairs

STOCK = ("adamw_torch", "adamw_torch_fused")
"""PyTorch's AdamW, which Muon and Grokfast have beside them or beneath."""


def keep_precision(experiment: Experiment, checkpoint: str | None):
    """Set the precision to that of the checkpoint, where none is given: other hardware would choose another."""
    if checkpoint is None or experiment.training.keys() & {"bf16", "fp16"}:
        return
    terms = fingerprint_in(read_state_of(checkpoint)).get("terms", {})
    if (bf16 := terms.get("training.bf16")) is not None:
        experiment.training["bf16"] = bf16


def training_arguments(experiment: Experiment) -> TrainingArguments:
    """transformers' arguments from the `training` section; bf16 and the CPU are chosen by the hardware."""
    values = dict(experiment.training)
    has_gpu = torch.accelerator.is_available()
    if not (has_gpu or wants_cpu() or "use_cpu" in values):
        warn_of_cpu()
    values.setdefault("use_cpu", wants_cpu() or not has_gpu)
    if not values.keys() & {"bf16", "fp16"}:
        values["bf16"] = has_bf16(values["use_cpu"])
    values["report_to"] = values.get("report_to") or "none"  # null, for which transformers would look in its list
    values["resume_from_checkpoint"] = None  # read by `resume.py`
    values["run_name"] = experiment.name if values.get("run_name") is None else values["run_name"]
    if "optim" in experiment.unsupported and values.get("optim") in STOCK:
        del values["optim"]  # it is PyTorch's AdamW in any case
    refuse_half_launched(values["use_cpu"])
    check_each(values, experiment)
    check_pairs(values)
    if (limit := values.get("save_total_limit")) is not None and limit < 1:
        warn(f"training.save_total_limit={limit} keeps every checkpoint")
        values["save_total_limit"] = None
    check_compile_mode(values.get("torch_compile_mode"))
    check_launcher(values, experiment)
    if isinstance(experiment, LanguageExperiment):
        check_best(values)
    asked = take_from_launcher()
    args = build(TrainingArguments, "training", values)
    tell_what_was_not_taken(asked, args)
    args._n_gpu = min(args.n_gpu, 1)  # for several, the Trainer would take DataParallel, which weights them otherwise
    check_delay(args)
    check_schedule(args)
    check_lengths(args, experiment)
    _check_optimizer(args, experiment)
    _check_trackers(args)
    _check_publishing(args)
    return args


def _check_optimizer(args: TrainingArguments, experiment: Experiment):
    """Choose the optimiser as the Trainer will, for the smallest of models: its package may be missing."""
    section = experiment.optimizer
    given = {name for name in ("optim", "optim_args") if experiment.training.get(name) not in (None, *STOCK)}
    if given and not section.is_stock:
        name = min(given)
        raise ConfigError(
            f"training.{name}={experiment.training[name]} has no effect with optimizer.kind={section.kind} and "
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
                raise ValueError("it makes no use of them")
    except (ImportError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ConfigError(
            f"training.optim={args.optim.value} does not work with training.optim_args={args.optim_args}: {reason}; "
            "or leave both out"
        ) from None


def _check_trackers(args: TrainingArguments):
    """`ConfigError` if transformers does not know who is to be reported to, or its package is not installed."""
    for name in args.report_to:
        if name not in INTEGRATION_TO_CALLBACK:
            raise ConfigError(
                f"training.report_to={name} is nothing that transformers knows; there are "
                f"{', '.join(INTEGRATION_TO_CALLBACK)}, all and none"
            )
        if name not in get_available_reporting_integrations():
            raise ConfigError(f"training.report_to={name} is not installed; install its package, or give none")


def _check_publishing(args: TrainingArguments):
    """What would be refused by the Hub in the end."""
    if args.push_to_hub:
        check_push_allowed()
        check_model_name(args.hub_model_id or Path(args.output_dir).resolve().name)
