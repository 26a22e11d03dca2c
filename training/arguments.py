"""transformers' arguments of a run, and what is wrong with them, said before any work.

`TrainingArguments` checks little of what it is given. The Trainer checks the rest when it comes to it, after the data
are prepared or at the first evaluation, or does something else without a word.
"""

import copy
import math
import warnings
from pathlib import Path

import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments, get_scheduler
from transformers.integrations import get_available_reporting_integrations
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

from checks import warn
from config import build
from experiment import Experiment, LanguageExperiment
from hub import refuse_anonymous, refuse_name
from modeling.configuration_kindling import FAMILIES
from sections import ConfigError

from .best import WAITING, check_best, check_delay
from .hardware import has_bf16
from .launcher import check_launcher, take_from_launcher, tell_what_was_not_taken, wants_cpu
from .processes import refuse_half_launched, warn_of_cpu
from .rules import check_compile_mode, check_each, check_pairs
from .run import read_state_of

LONG = 10**6
"""Steps of a run whose length only its data will tell."""
CONSTANT = ("constant", "constant_with_warmup")
STOCK = ("adamw_torch", "adamw_torch_fused")
"""PyTorch's AdamW, which Muon and Grokfast have beside them or beneath."""


def keep_precision(experiment: Experiment, checkpoint: str | None):
    """Set the precision to that of the checkpoint, where none is given: other hardware would choose another."""
    if checkpoint is None or experiment.training.keys() & {"bf16", "fp16"}:
        return
    contract = read_state_of(checkpoint).stateful_callbacks.get("Contract", {})
    if (bf16 := contract.get("attributes", {}).get("terms", {}).get("training.bf16")) is not None:
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
    _check_schedule(args)
    _check_lengths(args, experiment)
    _check_optimizer(args, experiment)
    _check_trackers(args)
    _check_publishing(args)
    return args


def _check_lengths(args: TrainingArguments, experiment: Experiment):
    """What the schedule is made of fits into the run. A warm-up that nobody has asked for may be cut short."""
    decay = (args.lr_scheduler_kwargs or {}).get("num_decay_steps", 0)
    warmup = args.get_warmup_steps(max(args.max_steps, 0))
    if decay and 0 < args.max_steps < warmup + decay:
        raise ConfigError(
            f"training.lr_scheduler_kwargs.num_decay_steps={decay} and a warm-up of {warmup} steps are longer than "
            f"training.max_steps={args.max_steps}; lower num_decay_steps"
        )
    if 0 < args.max_steps < warmup and args.warmup_steps != experiment.training_defaults["warmup_steps"]:
        warn(
            f"training.warmup_steps={warmup} is longer than training.max_steps={args.max_steps}, so that the learning "
            "rate will not be reached"
        )


def _check_schedule(args: TrainingArguments):
    """Build the schedule as the Trainer will, and follow it."""
    # The Trainer always gives the total, so this would be said of each schedule that gives num_stable_steps.
    warnings.filterwarnings("ignore", message="Both num_training_steps and num_stable_steps")
    try:
        _refuse_odd_numbers(args.lr_scheduler_kwargs or {})
        if args.lr_scheduler_kwargs and args.lr_scheduler_type.value in CONSTANT:
            warn(
                f"training.lr_scheduler_type={args.lr_scheduler_type.value} makes no use of "
                f"training.lr_scheduler_kwargs={args.lr_scheduler_kwargs}"
            )
        steps = args.max_steps if args.max_steps > 0 else LONG
        _follow(schedule(args, steps), args, steps)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise ConfigError(
            f"training.lr_scheduler_type={args.lr_scheduler_type.value} does not work with "
            f"training.learning_rate={args.learning_rate} and training.lr_scheduler_kwargs={args.lr_scheduler_kwargs}: "
            f"{error}; give kwargs that it has, or null"
        ) from None


def _refuse_odd_numbers(kwargs: dict):
    """`ValueError` for a number of steps that is none, and for what is no number at all."""
    for name, value in kwargs.items():
        if name.endswith("_steps") and value is not None and not _is_count(value):
            raise ValueError(f"{name}={value} is no number of steps")
        if isinstance(value, int | float) and not 0 <= value < math.inf:
            raise ValueError(f"{name}={value} is not a number from 0 on")


def _is_count(value) -> bool:
    return type(value) in (int, float) and value >= 0 and value == value // 1


def _follow(schedule: LRScheduler, args: TrainingArguments, steps: int):
    """`ValueError` if the rate is below 0 at the start, after the warm-up, half-way from there or at the end, or
    whatever an option that is none leads to. A rate above its peak is said."""
    warmup = args.get_warmup_steps(steps)
    if args.lr_scheduler_type in WAITING:
        schedule.step(1.0)
        return
    if not isinstance(schedule, LambdaLR):  # of a later release: no function of the step that could be asked
        return
    looks = sorted({0, min(warmup, steps), (warmup + steps) // 2, steps})
    shares = {step: schedule.lr_lambdas[0](step) for step in looks}
    for step, share in shares.items():
        if not share >= -1e-9:
            raise ValueError(f"at step {step} the rate is {share:g} times its peak")
    if (highest := max(shares.values())) > 1 + 1e-9:
        warn(
            f"training.lr_scheduler_kwargs={args.lr_scheduler_kwargs} raises the learning rate to {highest:g} times "
            f"training.learning_rate={args.learning_rate}"
        )


def schedule(args: TrainingArguments, steps: int) -> LRScheduler:
    """The schedule of a run of so many steps, on an optimiser of nothing."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=args.learning_rate)
    kind, kwargs = args.lr_scheduler_type, args.lr_scheduler_kwargs
    return get_scheduler(kind, optimizer, args.get_warmup_steps(steps), steps, scheduler_specific_kwargs=kwargs)


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
        refuse_anonymous()
        refuse_name(args.hub_model_id or Path(args.output_dir).resolve().name)
