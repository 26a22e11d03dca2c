"""Rules for single settings of `training`, and for settings that need or exclude each other."""

import inspect
import json
import os

import torch
from accelerate.utils import DynamoBackend
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.debug_utils import DebugOption
from transformers.training_args import trainer_log_levels

from settings.checks import ConfigError, warn
from settings.experiment import ALWAYS_DONE, Experiment
from settings.horizon import MAX_STEPS
from settings.schema import section_fields
from settings.sections import MAX_ACCUMULATION, SEED_LIMIT

INTERVALS = ("logging", "eval", "save")
NO_STEPS = "neither a number of steps nor a share of them; give a whole number, or one below 1"
BACKENDS = tuple(backend.value.lower() for backend in DynamoBackend if backend is not DynamoBackend.NO)
DEBUGS = tuple(option.value for option in DebugOption)


def _at_most(most: int, *names: str) -> tuple:
    return names, lambda value: value <= most, f"too large; it must be at most {most:,}"


RULES = (
    (
        ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps",
         "eval_accumulation_steps", "torch_empty_cache_steps", "dataloader_prefetch_factor", "ddp_bucket_cap_mb",
         "ddp_timeout"),
        lambda value: value >= 1,
        "too small; it must be at least 1",
    ),
    (
        ("learning_rate", "weight_decay", "adam_epsilon", "warmup_steps", "neftune_noise_alpha",
         "dataloader_num_workers"),
        lambda value: value >= 0,
        "too small; it must be at least 0",
    ),
    (("adam_beta1", "adam_beta2"), lambda value: 0 <= value < 1, "out of range; it must be at least 0, below 1"),
    (
        ("seed", "data_seed"),
        lambda value: 0 <= value < SEED_LIMIT,
        "out of range; it must be at least 0 and below 2^32",
    ),
    (("num_train_epochs",), lambda value: value > 0, "too small; it must be above 0"),
    (
        ("max_steps",),
        lambda value: value >= 1 or value == -1,
        "too small; it must be at least 1, or -1 to use training.num_train_epochs",
    ),
    (("warmup_steps",), lambda value: value <= 1 or value == int(value), NO_STEPS),
    _at_most(MAX_STEPS, "max_steps", "warmup_steps", "ddp_timeout"),
    _at_most(10**6, "num_train_epochs", "per_device_train_batch_size", "per_device_eval_batch_size"),
    _at_most(MAX_ACCUMULATION, "gradient_accumulation_steps"),
    _at_most(1000, "dataloader_num_workers", "dataloader_prefetch_factor"),
    (
        ("log_level", "log_level_replica"),
        lambda value: value in trainer_log_levels,
        f"not a level; there are {', '.join(trainer_log_levels)}",
    ),
    (("torch_compile_backend",), lambda value: value in BACKENDS, f"not a backend; there are {', '.join(BACKENDS)}"),
    (
        ("debug",),
        lambda value: set(value.split() if isinstance(value, str) else map(str, value)) <= {*DEBUGS},
        f"not a debug option; there are {' and '.join(DEBUGS)}",
    ),
    (
        ("report_to",),
        lambda value: isinstance(value, str) or len(value) == 1 or not {"all", "none"} & set(map(str, value)),
        "contradictory; give all or none alone, or the names of trackers",
    ),
    (
        ("optim_args",),
        lambda value: not value or all(key.strip() and equals for key, equals, _ in map(_halves, value.split(","))),
        "not a list of options; write key=value,key=value, or leave it out",
    ),
    (("hub_model_id",), lambda value: value != "", "empty; leave it out, or give a name"),
)  # fmt: skip
"""Settings, the condition that each must meet, and the complaint if not. null is left to transformers."""

MAPPINGS = {
    "lr_scheduler_kwargs": "{num_cycles: 1}",
    "gradient_checkpointing_kwargs": "{use_reentrant: false}",
    "activation_checkpointing_kwargs": "{use_reentrant: false}",
}
"""Settings that transformers also accepts as text, with an example of each."""
SWITCHES = ("use_reentrant", "preserve_rng_state")
"""Options of torch's checkpointing that must be booleans; its signature does not say so."""
FOR_WORKERS = (
    "dataloader_persistent_workers", "dataloader_prefetch_factor", "dataloader_multiprocessing_context",
)  # fmt: skip


def _halves(option: str) -> tuple[str, str, str]:
    return option.partition("=")


def check_each(values: dict, kind: type[Experiment]):
    """`ConfigError` if a setting is wrong by itself. One without effect causes a warning and is dropped."""
    defaults = {name: field.default for name, field in section_fields("training", kind).items()}
    for name, (asked, what) in ALWAYS_DONE.items():
        if name in values and values[name] == asked:
            warn(f"training.{name}={asked} changes nothing: in any case {what}")
            values[name] = defaults[name]
    for name, why in kind.unsupported.items():
        value, default = values.get(name), None if f"training.{name}" in kind.chosen else defaults.get(name)
        if value is not None and (value or None) != (default or None):
            given = name if name.endswith("_token") else f"{name}={value}"  # secrets stay out of logs
            raise ConfigError(f"training.{given} is not supported: {why}; leave it out")
    for names, is_right, complaint in RULES:
        for name in names:
            if values.get(name) is not None and not is_right(values[name]):
                raise ConfigError(f"training.{name}={values[name]} is {complaint}")
    for name, example in MAPPINGS.items():
        if isinstance(values.get(name), str):
            values[name] = _mapping(name, values[name], example)


def _mapping(name: str, text: str, example: str) -> dict:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ConfigError(f"training.{name}={text} is not a mapping; write {example}, or leave it out")
    return value


def check_pairs(values: dict):
    """Check settings that need, or exclude, each other."""
    if values.get("fp16") and (values.get("bf16") or values["use_cpu"]):
        other = "bf16" if values.get("bf16") else "use_cpu"
        raise ConfigError(f"training.fp16=True and training.{other}=True exclude each other; leave out one of them")
    for name in FOR_WORKERS if not values.get("dataloader_num_workers") else ():
        if values.get(name):
            raise ConfigError(
                f"training.{name}={values[name]} needs workers; leave it out, or give training.dataloader_num_workers"
            )
    if values.get("ddp_backend") and "RANK" not in os.environ:
        warn(f"training.ddp_backend={values['ddp_backend']} has no effect with one process")
        values["ddp_backend"] = None
    for kind in INTERVALS:
        _check_interval(f"{kind}_steps", values, values.get(f"{kind}_strategy", "steps"))
    for section in ("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"):
        _check_checkpointing(section, values.get(section) or {})


def _check_interval(name: str, values: dict, strategy: str):
    """Check an interval, if its strategy uses it."""
    if (value := values.get(name)) is None or strategy != "steps":
        return
    if value <= 0:
        raise ConfigError(
            f"training.{name}={value} is too small; it must be above 0; for never, give the strategy `no`"
        )
    if value > 1 and value != int(value):
        raise ConfigError(f"training.{name}={value} is {NO_STEPS}")


def _check_checkpointing(section: str, given: dict):
    """Check transformers' own options, and try the others with torch's checkpointing on one number."""
    enable = getattr(PreTrainedModel, "activation_checkpointing_enable", None)
    own = {name: one for name, one in inspect.signature(enable).parameters.items() if name in given} if enable else {}
    known = {*inspect.signature(checkpoint).parameters, "preserve_rng_state", *own}
    known -= {"function", "args", "kwargs", "context_fn"}  # a function cannot be given in a file
    if unknown := set(given) - known:
        raise ConfigError(f"training.{section} has no {min(unknown)}; there are {', '.join(sorted(known))}")
    for name, value in given.items():
        wanted = own.get(name) or inspect.signature(checkpoint).parameters.get(name)
        if name in SWITCHES or isinstance(wanted.default, bool):
            is_right, allowed = isinstance(value, bool), "it takes true or false"
        elif name in own:
            is_right, allowed = type(value) is int and value >= 1, "it takes a number of layers, 1 for each"
        else:
            continue
        if not is_right:
            raise ConfigError(f"training.{section}.{name}={value!r} is not allowed; {allowed}")
    try:
        tried = {"use_reentrant": False} | {name: value for name, value in given.items() if name not in own}
        checkpoint(torch.cos, torch.ones(1, requires_grad=True), **tried)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(f"training.{section}={given} is not allowed; {' '.join(str(error).split())}") from None


def check_compile_mode(mode: str | None):
    """`ConfigError` if torch does not know the compile mode."""
    if mode is not None:
        from torch._inductor import list_mode_options  # which takes a second

        if mode not in (known := list_mode_options()):
            raise ConfigError(f"training.torch_compile_mode={mode} is not a mode; there are {', '.join(known)}")
