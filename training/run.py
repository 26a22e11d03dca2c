"""One run: its model, its folder, what is kept of how it came about."""

import importlib.metadata
import platform
import shutil
import subprocess
import uuid
from pathlib import Path

import psutil
import torch
from omegaconf import OmegaConf
from transformers import AutoModelForCausalLM, PreTrainedModel, TrainerState, TrainingArguments, set_seed

from config import DROPOUTS, ROOT, build, section_fields
from experiment import Experiment
from files import read_mapping, write_json, write_whole
from modeling.accounting import FLOAT32_BYTES, parameters
from modeling.configuration_kindling import FAMILIES, KindlingConfig
from sections import LONGEST, ConfigError
from written import escaped

from .attention import attention_implementation
from .hardware import memory_limit
from .processes import command
from .room import readable
from .start import check_files, describe_start, refuse_other_tokenizer, start_config, take_weights

PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "accelerate", "evaluate", "numpy")


def start_of(experiment: Experiment, checkpoint: str | None) -> str | None:
    """The checkpoint that the model is read from: `model.path`, or what such a run is resumed from; or None."""
    path = experiment.model.get("path")
    return path and (checkpoint or path)


def check_shape(experiment: Experiment, start: str | None = None) -> str | None:
    """Build the model's configuration, of the checkpoint to `start` from if there is one, and compare the sections with
    it, before any data is read; return `start`."""
    section = experiment.model
    if experiment.data.streaming and experiment.training.get("max_steps", -1) <= 0:
        raise ConfigError("data.streaming=true needs training.max_steps; how long a stream is is not known beforehand")
    config = build_config(section, {}, start)
    positions = config.max_position_embeddings
    if positions > LONGEST:
        raise ConfigError(f"model.max_position_embeddings={positions} is too large; it must be at most {LONGEST:,}")
    experiment.window(positions, start)
    if (masked := experiment.data.mask_first_n) >= positions - 1:
        raise ConfigError(
            f"model.max_position_embeddings={positions} and data.mask_first_n={masked} leave nothing to learn; "
            "raise the one or lower the other"
        )
    refuse_huge(config if section.get("vocab_size") or start else build_config(section, {"vocab_size": 1}))
    if start is not None and start == section["path"]:  # what a run has written itself is right
        check_files(start, experiment.tokenizer.path)
    if experiment.tokenizer.kind == "bpe" and section.get("vocab_size") is not None:
        refuse_small_vocabulary(config, experiment.tokenizer.vocab_size)
    return start


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
    refuse_small_vocabulary(config, len(tokenizer))
    refuse_huge(config)
    return config


def refuse_huge(config: KindlingConfig):
    """`ConfigError` if the weights alone are more than the machine has memory, swap included, or than it may use."""
    count = sum(parameters(config).values())
    machine = min(psutil.virtual_memory().total + psutil.swap_memory().total, memory_limit())
    if FLOAT32_BYTES * count > machine:
        raise ConfigError(
            f"the model has {count:,} parameters, which take {readable(FLOAT32_BYTES * count)}, and the machine has "
            f"{readable(machine)} of memory; lower model.hidden_size, model.num_hidden_layers or what else is too large"
        )


def build_config(section: dict, derived: dict, start: str | None = None) -> KindlingConfig:
    """A configuration from a `model` section, or from a checkpoint and its dropouts, over values from elsewhere."""
    if start is not None:
        return start_config(start, derived | {key: section[key] for key in DROPOUTS if key in section})
    given = {key: value for key, value in section.items() if key != "type" and (key, value) != ("vocab_size", None)}
    return build(FAMILIES[section["type"]], "model", derived | given)


def build_model(config: KindlingConfig, args: TrainingArguments, start: str | None = None) -> PreTrainedModel:
    """The model to train, in the attention that trains fastest, its weights a checkpoint's or drawn by the seed."""
    set_seed(args.seed)
    attention = attention_implementation(args, config.attention_dropout)
    # In float32, whatever a checkpoint was saved in: lower precision is autocast's.
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=attention)
    if start is not None:
        take_weights(model, start)
    return model


def refuse_small_vocabulary(config: KindlingConfig, vocabulary: int):
    """`ConfigError` if a tokenizer has more tokens than the model has rows."""
    if config.vocab_size < vocabulary:
        raise ConfigError(
            f"model.vocab_size={config.vocab_size} is smaller than the tokenizer's {vocabulary}; "
            "leave model.vocab_size out, or raise it"
        )


def folder_of(experiment: Experiment) -> Path:
    """The run folder."""
    return Path(experiment.training["output_dir"])


def read_state_of(checkpoint: str) -> TrainerState:
    """What the Trainer knew when it wrote a checkpoint."""
    return TrainerState.load_from_json(str(Path(checkpoint) / "trainer_state.json"))


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
    if checkpoint is not None and all((folder / name).exists() for name in ("experiment.yaml", "provenance.json")):
        about = read_provenance(folder)
        about.setdefault("resumed_by", []).append(command())
        return write_json(folder / "provenance.json", about)
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
    if checkpoint is not None:
        about["resumed_from"] = str(Path(checkpoint).resolve())
    write_json(folder / "provenance.json", about)
    write_settings(settings, folder)


def write_settings(settings: dict, folder: Path):
    """`experiment.yaml`, of which the scripts make the same run."""
    write_whole(folder / "experiment.yaml", OmegaConf.to_yaml(OmegaConf.create(escaped(settings))))


def read_provenance(folder: Path) -> dict:
    """How the run in a folder came about."""
    return read_mapping(folder / "provenance.json", "put back what the run has written, or take it away")


def _git(*arguments) -> str | None:
    if shutil.which("git") is None:
        return None
    result = subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    return result.stdout.strip() if result.returncode == 0 else None
