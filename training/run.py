"""One run: its arguments, its folder, what is printed at the start, what is kept of how it came about."""

import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import uuid
import warnings
from pathlib import Path

import torch
from omegaconf import OmegaConf
from torch.optim.lr_scheduler import LRScheduler
from transformers import AutoModelForCausalLM, PreTrainedModel, TrainingArguments, get_scheduler

from config import DROPOUTS, ROOT, build, section_fields
from experiment import Experiment
from hub import refuse_anonymous, refuse_name
from modeling.configuration_kindling import FAMILIES, KindlingConfig
from sections import ConfigError

from .attention import attention_implementation
from .hardware import has_bf16
from .processes import command, refuse_half_launched
from .start import check_files, describe_start, refuse_other_tokenizer, start_config, take_weights

PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "accelerate", "evaluate", "numpy")


def training_arguments(experiment: Experiment) -> TrainingArguments:
    """transformers' arguments from the `training` section; bf16 and the CPU are chosen by the hardware."""
    values = dict(experiment.training)
    has_accelerator = torch.accelerator.is_available()
    values.setdefault("use_cpu", not has_accelerator)
    if not values.keys() & {"bf16", "fp16"}:
        values["bf16"] = has_bf16(values["use_cpu"])
    values["resume_from_checkpoint"] = None  # read by `resume.py`
    refuse_half_launched(values["use_cpu"])
    for name in ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"):
        if values.get(name, 1) < 1:
            raise ConfigError(f"training.{name}={values[name]} is too small; it must be at least 1")
    if values.get("include_num_input_tokens_seen", "no") not in ("no", False):
        raise ConfigError(
            "training.include_num_input_tokens_seen is not needed; targets are always counted, leave it out"
        )
    if values["train_sampling_strategy"] != "sequential":
        raise ConfigError(
            f"training.train_sampling_strategy={values['train_sampling_strategy']} would undo the order of the run, in "
            "which each epoch is shuffled already; leave it out"
        )
    if not experiment.optimizer.is_stock and "optim" in values:
        raise ConfigError(
            f"training.optim={values['optim']} has no effect with optimizer.kind={experiment.optimizer.kind} and "
            f"optimizer.grokfast_lambda={experiment.optimizer.grokfast_lambda}; leave it out"
        )
    os.environ.pop("ACCELERATE_MIXED_PRECISION", None)  # the launcher's: here bf16 and fp16 alone say what it is
    args = build(TrainingArguments, "training", values)
    args._n_gpu = min(args.n_gpu, 1)  # for several, the Trainer would take DataParallel, which weights them otherwise
    _check_ranges(args)
    _check_schedule(args)
    _check_publishing(args)
    return args


def _check_ranges(args: TrainingArguments):
    """What TrainingArguments lets through and would end in a traceback or, worse, in another schedule."""
    for name in ("learning_rate", "weight_decay", "adam_epsilon"):
        if getattr(args, name) < 0:
            raise ConfigError(f"training.{name}={getattr(args, name)} is negative; it must be at least 0")
    for name in ("adam_beta1", "adam_beta2"):
        if not 0 <= getattr(args, name) < 1:
            raise ConfigError(f"training.{name}={getattr(args, name)} is out of range; it must be at least 0, below 1")
    if not 0 <= args.seed < 2**32:
        raise ConfigError(f"training.seed={args.seed} is out of range; it must be at least 0 and below 2^32")
    decay = (args.lr_scheduler_kwargs or {}).get("num_decay_steps", 0)
    warmup = args.get_warmup_steps(max(args.max_steps, 0))
    if decay and 0 < args.max_steps < warmup + decay:
        raise ConfigError(
            f"training.lr_scheduler_kwargs.num_decay_steps={decay} and a warm-up of {warmup} steps are longer than "
            f"training.max_steps={args.max_steps}; lower num_decay_steps"
        )


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
    kwargs = args.lr_scheduler_kwargs
    warmup = args.get_warmup_steps(steps)
    return get_scheduler(args.lr_scheduler_type, optimizer, warmup, steps, scheduler_specific_kwargs=kwargs)


def start_of(experiment: Experiment, checkpoint: str | None) -> str | None:
    """The checkpoint that the model is read from: `model.path`, or what such a run is resumed from; or None."""
    path = experiment.model.get("path")
    return path and (checkpoint or path)


def check_shape(experiment: Experiment, start: str | None = None):
    """Build the model's configuration and compare the sections with it, before any data is read."""
    section = experiment.model
    if experiment.data.streaming and experiment.training.get("max_steps", -1) <= 0:
        raise ConfigError("data.streaming=true needs training.max_steps; how long a stream is is not known beforehand")
    config = build_config(section, {}, start)
    window, positions = experiment.data.context_length, config.max_position_embeddings
    if window is not None and window > positions:
        remedy = "; lower the one or raise the other" if start is None else f" of {start}; lower it"
        raise ConfigError(
            f"data.context_length={window} is longer than model.max_position_embeddings={positions}{remedy}"
        )
    if start is not None and start == section["path"]:  # what a run has written itself is right
        check_files(start, experiment.tokenizer.path)
    if experiment.tokenizer.kind == "bpe" and section.get("vocab_size") is not None:
        _refuse_small_vocabulary(config, experiment.tokenizer.vocab_size)


def model_config(experiment: Experiment, tokenizer, start: str | None = None, **derived) -> KindlingConfig:
    """The model's configuration: vocabulary and special ids from the tokenizer, and what else is `derived`.

    That of a checkpoint to `start` from has a row for each token of the tokenizer, and no fewer than it had.
    """
    derived = {"vocab_size": len(tokenizer)} | derived
    if start is not None:
        refuse_other_tokenizer(start, tokenizer)
        derived["vocab_size"] = max(len(tokenizer), build_config(experiment.model, {}, start).vocab_size)
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    config = build_config(experiment.model, ids | derived, start)
    _refuse_small_vocabulary(config, len(tokenizer))
    return config


def build_config(section: dict, derived: dict, start: str | None = None) -> KindlingConfig:
    """A configuration from a `model` section, or from a checkpoint and its dropouts, over values from elsewhere."""
    if start is not None:
        return start_config(start, derived | {key: section[key] for key in DROPOUTS if key in section})
    given = {key: value for key, value in section.items() if key != "type" and (key, value) != ("vocab_size", None)}
    return build(FAMILIES[section["type"]], "model", derived | given)


def build_model(config: KindlingConfig, args: TrainingArguments, start: str | None = None) -> PreTrainedModel:
    """The model to train, in the attention that trains fastest, its weights random or those of a checkpoint."""
    attention = attention_implementation(args)
    # In float32, whatever a checkpoint was saved in: lower precision is autocast's.
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=attention)
    if start is not None:
        take_weights(model, start)
    return model


def _refuse_small_vocabulary(config: KindlingConfig, vocabulary: int):
    if config.vocab_size < vocabulary:
        raise ConfigError(
            f"model.vocab_size={config.vocab_size} is smaller than the tokenizer's {vocabulary}; "
            "leave model.vocab_size out, or raise it"
        )


def folder_of(experiment: Experiment) -> Path:
    """The run folder."""
    return Path(experiment.training["output_dir"])


def batch_size(args: TrainingArguments) -> int:
    """Examples a step, of all devices."""
    return args.train_batch_size * args.gradient_accumulation_steps * args.world_size


def resolve(experiment: Experiment, args: TrainingArguments, config: KindlingConfig) -> dict:
    """Every setting of the run, with what the hardware, the tokenizer and the defaults have decided."""
    settings = experiment.as_dict()
    of_model = DROPOUTS if "path" in experiment.model else section_fields("model")
    settings["model"] |= {name: getattr(config, name) for name in of_model if name not in ("path", "type")}
    settings["training"] |= {name: getattr(args, name) for name in ("bf16", "fp16", "use_cpu", "seed")}
    settings["training"].pop("resume_from_checkpoint", None)
    settings.pop("resume")
    return settings


def write_provenance(settings: dict, folder: Path, hardware: dict, checkpoint: str | None):
    """Before the first step: `experiment.yaml`, and `provenance.json` with what it takes to run it again.

    A resumed run keeps both and adds its command.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if checkpoint is not None and (folder / "experiment.yaml").exists():
        about = read_provenance(folder)
        about.setdefault("resumed_by", []).append(command())
        return write_json(folder / "provenance.json", about)
    OmegaConf.save(OmegaConf.create(settings), folder / "experiment.yaml")
    about = {
        "id": uuid.uuid4().hex,
        "command": command(),
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain")),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "hardware": hardware,
    }
    if path := settings["model"].get("path"):
        about["started_from"] = describe_start(path)
    write_json(folder / "provenance.json", about)


def read_provenance(folder: Path) -> dict:
    """How the run in a folder came about."""
    return json.loads((folder / "provenance.json").read_text(encoding="utf-8"))


def _git(*arguments) -> str | None:
    if shutil.which("git") is None:
        return None
    result = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return result.stdout.strip() if result.returncode == 0 else None


def write_json(path: Path, values: dict):
    """Write values as people can read them."""
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
