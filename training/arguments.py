"""transformers' arguments of a run, and what is wrong with them, said before any work.

`TrainingArguments` checks little of what it is given. The Trainer checks the rest when it comes to it, after the data
are prepared or at the first evaluation, or does something else without a word.
"""

import copy
import inspect
import os
import warnings
from pathlib import Path

import torch
from accelerate.utils import DynamoBackend
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments, get_scheduler
from transformers.integrations import get_available_reporting_integrations
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.training_args import trainer_log_levels

from config import build
from experiment import Experiment, LanguageExperiment
from hub import refuse_anonymous, refuse_name
from modeling.configuration_kindling import FAMILIES
from sections import SEEDS, ConfigError

from .hardware import has_bf16
from .processes import refuse_half_launched

INTERVALS = ("logging_steps", "eval_steps", "save_steps")
BACKENDS = tuple(backend.value.lower() for backend in DynamoBackend if backend is not DynamoBackend.NO)
RULES = (
    (
        ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps", "save_total_limit",
         "eval_accumulation_steps", "torch_empty_cache_steps", "dataloader_prefetch_factor", "ddp_bucket_cap_mb",
         "ddp_timeout"),
        lambda value: value >= 1,
        "too small; it must be at least 1",
    ),
    (
        ("learning_rate", "weight_decay", "adam_epsilon", "max_grad_norm", "warmup_steps", "eval_delay",
         "neftune_noise_alpha", "dataloader_num_workers"),
        lambda value: value >= 0,
        "too small; it must be at least 0",
    ),
    (("adam_beta1", "adam_beta2"), lambda value: 0 <= value < 1, "out of range; it must be at least 0, below 1"),
    (("seed", "data_seed"), lambda value: 0 <= value < SEEDS, "out of range; it must be at least 0 and below 2^32"),
    (("num_train_epochs",), lambda value: value > 0, "too small; it must be above 0"),
    (
        ("max_steps",),
        lambda value: value >= 1 or value == -1,
        "too small; it must be at least 1, or -1 for training.num_train_epochs to tell",
    ),
    (INTERVALS, lambda value: value > 0, "too small; it must be above 0, and the strategy `no` is for never"),
    (
        (*INTERVALS, "warmup_steps"),
        lambda value: value <= 1 or value == int(value),
        "neither a number of steps nor a share of them; give a whole number, or one below 1",
    ),
    (
        ("log_level", "log_level_replica"),
        lambda value: value in trainer_log_levels,
        f"no level; there are {', '.join(trainer_log_levels)}",
    ),
    (("torch_compile_backend",), lambda value: value in BACKENDS, f"no backend; there are {', '.join(BACKENDS)}"),
)  # fmt: skip
"""Settings, what each must be by itself, and what is said of it if it is not. null is left to transformers."""

UNSUPPORTED = {
    "accelerator_config": (None, "how batches are shared out is for the run to say"),
    "auto_find_batch_size": (False, "it would lose or repeat examples of the run"),
    "batch_eval_metrics": (False, "validation is measured as a whole"),
    "dataloader_drop_last": (False, "it would lose examples of the run"),
    "deepspeed": (None, "several GPUs are used by `accelerate launch`"),
    "eval_do_concat_batches": (True, "validation is measured as a whole"),
    "enable_jit_checkpoint": (False, "a run that gets SIGTERM is saved in any case"),
    "ignore_data_skip": (False, "a resumed run would repeat examples"),
    "include_num_input_tokens_seen": ("no", "targets are always counted"),
    "label_smoothing_factor": (0, "transformers would smooth other tokens than the targets"),
    "parallelism_config": (None, "several GPUs are used by `accelerate launch`"),
    "remove_unused_columns": (False, "the collator reads columns that no model takes"),
    "restore_callback_states_from_checkpoint": (False, "a resumed run restores its own"),
    "train_sampling_strategy": ("sequential", "it would undo the order of the run, in which each epoch is shuffled"),
    "use_liger_kernel": (False, "it has no kernels for these models"),
}
"""What the Trainer offers and a run cannot do: the value it has, and why."""

METRICS = ("loss", "perplexity", "bits_per_byte")
WAITING = ("reduce_lr_on_plateau", "greedy")
"""The schedules that wait for a metric."""


def training_arguments(experiment: Experiment) -> TrainingArguments:
    """transformers' arguments from the `training` section; bf16 and the CPU are chosen by the hardware."""
    values = dict(experiment.training)
    values.setdefault("use_cpu", not torch.accelerator.is_available())
    if not values.keys() & {"bf16", "fp16"}:
        values["bf16"] = has_bf16(values["use_cpu"])
    values["resume_from_checkpoint"] = None  # read by `resume.py`
    refuse_half_launched(values["use_cpu"])
    _check_each(values, experiment.training_defaults)
    _check_pairs(values)
    _check_compile_mode(values.get("torch_compile_mode"))
    _check_fsdp(values, experiment)
    if isinstance(experiment, LanguageExperiment):
        _check_best(values)
    os.environ.pop("ACCELERATE_MIXED_PRECISION", None)  # the launcher's: here bf16 and fp16 alone say what it is
    args = build(TrainingArguments, "training", values)
    args._n_gpu = min(args.n_gpu, 1)  # for several, the Trainer would take DataParallel, which weights them otherwise
    _check_lengths(args, experiment)
    _check_schedule(args)
    _check_optimizer(args, experiment)
    _check_trackers(args)
    _check_publishing(args)
    return args


def _check_each(values: dict, own: dict):
    """Each setting by itself; `own` are the defaults of a kind of experiment, which it can have in any case."""
    for names, is_right, complaint in RULES:
        for name in names:
            if values.get(name) is not None and not is_right(values[name]):
                raise ConfigError(f"training.{name}={values[name]} is {complaint}")
    for name, (only, why) in UNSUPPORTED.items():
        if (value := values.get(name)) is not None and value not in (only, own.get(name, only)):
            raise ConfigError(f"training.{name}={value} is not supported: {why}; leave it out")


def _check_pairs(values: dict):
    """Settings that need, or forbid, one another."""
    if values.get("fp16") and (values.get("bf16") or values["use_cpu"]):
        other = "bf16" if values.get("bf16") else "use_cpu"
        raise ConfigError(f"training.fp16=True and training.{other}=True exclude each other; leave out one of them")
    if not values.get("dataloader_num_workers"):
        for name in ("dataloader_persistent_workers", "dataloader_prefetch_factor"):
            if values.get(name):
                raise ConfigError(
                    f"training.{name}={values[name]} is for workers; leave it out, or give "
                    "training.dataloader_num_workers"
                )
    known = {*inspect.signature(checkpoint).parameters, "preserve_rng_state"} - {"function", "args", "kwargs"}
    for section in ("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"):
        if unknown := set(values.get(section) or ()) - known:
            raise ConfigError(f"training.{section} has no {min(unknown)}; there are {', '.join(sorted(known))}")


def _check_compile_mode(mode: str | None):
    if mode is not None:
        from torch._inductor import list_mode_options  # which takes a second

        if mode not in (known := list_mode_options()):
            raise ConfigError(f"training.torch_compile_mode={mode} is no mode; there are {', '.join(known)}")


def _check_fsdp(values: dict, experiment: Experiment):
    """On a CPU accelerate would train without it, and say nothing."""
    if values.get("fsdp") and (values["use_cpu"] or int(os.environ.get("WORLD_SIZE", 1)) == 1):
        raise ConfigError(f"training.fsdp={values['fsdp']} needs several GPUs and a process for each; leave it out")
    if values.get("fsdp") and not experiment.optimizer.is_stock:
        raise ConfigError(
            f"training.fsdp={values['fsdp']} cuts the matrices that optimizer.kind={experiment.optimizer.kind} and "
            f"optimizer.grokfast_lambda={experiment.optimizer.grokfast_lambda} need whole; leave out one of them"
        )
    if values.get("fsdp_config") and not values.get("fsdp"):
        raise ConfigError(
            f"training.fsdp_config={values['fsdp_config']} has no effect without training.fsdp; leave it out"
        )


def _check_best(values: dict):
    """What is needed to know the best model, or to wait for a better one. All of our metrics are the better the lower.

    transformers would take the highest perplexity for the best, so it is told.
    """
    save, evaluate, best = values["save_strategy"], values["eval_strategy"], values.get("load_best_model_at_end")
    if save == "best" and (evaluate == "no" or (values.get("metric_for_best_model") is None and not best)):
        raise ConfigError(
            f"training.save_strategy=best needs an evaluation and a metric; give training.eval_strategy=steps (it is "
            f"{evaluate}) and training.metric_for_best_model=loss"
        )
    if best and save != "best":
        _check_saves_at_evaluations(values)
    if not (best or save == "best" or values.get("lr_scheduler_type") in WAITING):
        return
    metric = values.get("metric_for_best_model") or "loss"
    if metric.removeprefix("eval_").partition("/")[0] not in METRICS:
        raise ConfigError(f"training.metric_for_best_model={metric} is not measured; give one of {', '.join(METRICS)}")
    if values.get("greater_is_better"):
        raise ConfigError(f"training.greater_is_better=True would take the worst {metric} for the best; leave it out")
    values["greater_is_better"] = False


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
        raise ConfigError(
            f"training.warmup_steps={warmup} is longer than training.max_steps={args.max_steps}, so that the learning "
            "rate would never be reached; lower it, or give a share below 1"
        )


def _check_schedule(args: TrainingArguments):
    """Build the schedule as the Trainer will."""
    # The Trainer always gives the total, so this would be said of each schedule that gives num_stable_steps.
    warnings.filterwarnings("ignore", message="Both num_training_steps and num_stable_steps")
    try:
        schedule(args, max(args.max_steps, 1))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"training.lr_scheduler_type={args.lr_scheduler_type.value} does not work with "
            f"training.learning_rate={args.learning_rate} and training.lr_scheduler_kwargs={args.lr_scheduler_kwargs}: "
            f"{error}; give kwargs that it has, or null"
        ) from None


def schedule(args: TrainingArguments, steps: int) -> LRScheduler:
    """The schedule of a run of so many steps, on an optimiser of nothing."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=args.learning_rate)
    kind, kwargs = args.lr_scheduler_type, args.lr_scheduler_kwargs
    return get_scheduler(kind, optimizer, args.get_warmup_steps(steps), steps, scheduler_specific_kwargs=kwargs)


def _check_optimizer(args: TrainingArguments, experiment: Experiment):
    """Choose the optimiser as the Trainer will, for the smallest of models: its package may be missing."""
    section, given = experiment.optimizer, experiment.training.keys() & {"optim", "optim_args"}
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
    """What would be refused by the Hub in the end, or must not be written down."""
    if args.hub_token is not None:
        raise ConfigError("training.hub_token would be written into the run; leave it out and run `hf auth login`")
    if args.hub_revision is not None:
        raise ConfigError(
            f"training.hub_revision={args.hub_revision} is not supported; leave it out: main is pushed to"
        )
    if args.push_to_hub:
        refuse_anonymous()
        refuse_name(args.hub_model_id or Path(args.output_dir).resolve().name)
