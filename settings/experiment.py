"""The two kinds of experiment, for text and for algorithmic tasks: their sections, and their defaults for training."""

import itertools
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from .checks import ConfigError
from .paths import safe_file_name
from .sections import (
    CardSection,
    DataSection,
    EquationsSection,
    EvaluationSection,
    GuardSection,
    OptimizerSection,
    ResumeSection,
    SampleSection,
    TokenizerSection,
)

# Where pre-training wants something else than transformers' fine-tuning defaults.
LM_TRAINING = {
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 32,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.05,
    "weight_decay": 0.1,
    "adam_beta2": 0.95,
    "num_train_epochs": 1.0,
    "logging_steps": 10,
    "logging_first_step": True,
    "eval_strategy": "steps",
    "eval_steps": 0.1,
    "save_strategy": "steps",
    "save_steps": 0.2,
    "save_total_limit": 2,
    "report_to": "none",
    "train_sampling_strategy": "sequential",  # the examples come in the order of the run, shuffled each epoch
    "remove_unused_columns": False,  # the collator reads `prompt_length`, which no forward takes
    "ddp_find_unused_parameters": False,
}

# Small tables and thousands of cheap steps: a constant rate, no clipping, whole batches, our own evaluations.
ALGORITHMIC_TRAINING = {
    "per_device_train_batch_size": 512,
    "per_device_eval_batch_size": 1024,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "constant_with_warmup",
    "warmup_steps": 10,
    "weight_decay": 1.0,
    "adam_beta2": 0.98,
    "max_grad_norm": 0.0,
    "max_steps": 1000,
    "logging_strategy": "no",
    "eval_strategy": "no",
    "save_strategy": "no",
    "save_total_limit": 1,
    "dataloader_drop_last": True,
    "train_sampling_strategy": "sequential",  # the equations are shuffled anew each epoch, by their own seed
    "report_to": "none",
    "remove_unused_columns": False,
    "ddp_find_unused_parameters": False,
}

UNSUPPORTED = {
    "accelerator_config": "how batches are shared out is for the run to say",
    "auto_find_batch_size": "it would lose or repeat examples of the run",
    "batch_eval_metrics": "validation is measured as a whole",
    "dataloader_drop_last": "it would lose examples of the run",
    "deepspeed": "several GPUs are used by `accelerate launch`",
    "eval_do_concat_batches": "validation is measured as a whole",
    "hub_revision": "main is pushed to",
    "hub_token": "it would be written into the run; use `hf auth login`",
    "ignore_data_skip": "a resumed run would repeat examples",
    "include_num_input_tokens_seen": "targets are always counted, and these would be added to them",
    "label_smoothing_factor": "transformers would smooth other tokens than the targets",
    "parallelism_config": "several GPUs are used by `accelerate launch`",
    "remove_unused_columns": "the collator reads columns that no model takes",
    "train_sampling_strategy": "it would undo the order of the run, in which each epoch is shuffled",
    "use_liger_kernel": "it has no kernels for these models",
}
"""Settings that can only have the default, and why: what the Trainer offers and a run cannot do."""

UNSUPPORTED_FOR_EQUATIONS = {
    "activation_checkpointing": "equations are short",
    "fsdp": "one process trains all replicas",
    "gradient_accumulation_steps": "training.per_device_train_batch_size is the whole batch",
    "gradient_checkpointing": "equations are short",
    "label_smoothing_factor": "answers are exact",
    "load_best_model_at_end": "the last model is kept",
    "metric_for_best_model": "the last model is kept",
    "neftune_noise_alpha": "replicas have no embeddings in common",
    "num_train_epochs": "training.max_steps is the length of a run",
    "optim": "optimizer.kind is adamw or muon",
    "push_to_hub": "`python -m publishing FOLDER` publishes what came out",
    "train_sampling_strategy": "equations are shuffled anew each epoch",
}
"""The same, of a run on equations."""

ALWAYS_DONE = {
    "enable_jit_checkpoint": (True, "a run that gets SIGTERM is saved"),
    "restore_callback_states_from_checkpoint": (True, "a resumed run restores its own"),
    "train_sampling_strategy": ("random", "each epoch is shuffled, in an order that a resumed run goes on with"),
}
"""What the Trainer can be asked for and a run does without: the value that asks for it, and what it does."""

CHOSEN = {
    "training.output_dir": "runs/NAME, after CONFIG",
    "training.bf16": "true where the hardware multiplies bfloat16 matrices faster than float32, unless fp16 is given",
    "training.use_cpu": "true where there is no accelerator",
    "training.do_eval": "true, with eval_strategy=no false",
    "training.dataloader_pin_memory": "true, on the CPU false",
    "training.hub_model_id": "the name of output_dir",
    "training.run_name": "the name of output_dir",
}
"""Defaults that are chosen when a run begins, in words."""

ALGORITHMIC_MODEL = {
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


NON_SECTION_FIELDS = ("name", "overrides")
"""What an experiment has beside its sections."""


@dataclass(frozen=True)
class Experiment:
    """A checked experiment. `model` and `training` stay dictionaries: their classes are too heavy to import here."""

    name: str
    """The last part of `training.output_dir`, which is what a run is called wherever it is named."""
    model: dict
    data: DataSection | EquationsSection
    training: dict
    optimizer: OptimizerSection
    guard: GuardSection
    resume: ResumeSection
    card: CardSection
    overrides: dict = field(default_factory=dict, kw_only=True)
    """What was given after the file, by `section.key`."""

    script: ClassVar[str]
    model_defaults: ClassVar[dict] = {}
    training_defaults: ClassVar[dict]
    unsupported: ClassVar[dict]
    chosen: ClassVar[dict]

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.training["output_dir"])

    def as_dict(self) -> dict:
        """Every setting, defaults included, as plain values."""
        return {key: value for key, value in asdict(self).items() if key not in NON_SECTION_FIELDS}


@dataclass(frozen=True)
class LanguageExperiment(Experiment):
    """What `train_lm.py` runs."""

    data: DataSection
    tokenizer: TokenizerSection
    sample: SampleSection

    script = "train_lm.py"
    training_defaults = LM_TRAINING
    unsupported = UNSUPPORTED
    chosen = CHOSEN | {"training.greater_is_better": "false: of every metric that is measured, lower is better"}

    def __post_init__(self):
        run, cache = Path(self.training["output_dir"]), Path(self.data.cache_dir)
        if run.resolve() == cache.resolve():  # one holds a run and nothing else
            raise ConfigError(
                f"training.output_dir={run} is data.cache_dir, which is for prepared data; choose another"
            )

    def window(self, positions: int, start: str | None = None) -> int:
        """Tokens a window, for a model of so many positions, those of a checkpoint to `start` from if there is one.

        `ConfigError` unless they are enough, and at least 2.
        """
        length = self.data.context_length or positions
        if positions < 2:
            raise ConfigError(f"model.max_position_embeddings={positions} is too small; it must be at least 2")
        if length > positions:
            remedy = "; lower the one or raise the other" if start is None else f" of {start}; lower it"
            raise ConfigError(
                f"data.context_length={length} is longer than model.max_position_embeddings={positions}{remedy}"
            )
        return length


# What the replicas of an algorithmic experiment can differ in: settings that change no tensor's shape.
REPLICABLE = {
    "training": ("seed", "learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon"),
    "optimizer": (
        "muon_learning_rate", "muon_weight_decay", "muon_momentum", "grokfast_lambda", "grokfast_alpha",
    ),
    "model": ("initializer_range", "embedding_init_std", "linear_init", "residual_init"),
    "data": ("seed",),
}  # fmt: skip


@dataclass(frozen=True)
class AlgorithmicExperiment(Experiment):
    """What `train_algorithmic.py` runs."""

    data: EquationsSection
    evaluation: EvaluationSection
    replicas: dict

    script = "train_algorithmic.py"
    model_defaults = ALGORITHMIC_MODEL
    training_defaults = ALGORITHMIC_TRAINING
    unsupported = {
        key: why for key, why in UNSUPPORTED.items() if key != "dataloader_drop_last"
    } | UNSUPPORTED_FOR_EQUATIONS
    chosen = CHOSEN | {
        "model.max_position_embeddings": "the tokens of an equation",
        "training.num_train_epochs": "as many as training.max_steps makes",
        "training.per_device_train_batch_size": "512, or all equations of the training split if those are fewer",
    }

    def replicated(self) -> list["AlgorithmicExperiment"]:
        """The experiments that run side by side as this one: all combinations of what `replicas` lists.

        Each is complete in itself, has its replica's values for a name, and a folder of that name below this one's.
        """
        axes = [(section, key, values) for section, lists in self.replicas.items() for key, values in lists.items()]
        if not axes:
            return [self]
        count = Counter(key for _, key, _ in axes)
        labels = [key if count[key] == 1 else f"{section}.{key}" for section, key, _ in axes]
        combinations = itertools.product(*(values for _, _, values in axes))
        return [self._replica(axes, labels, values) for values in combinations]

    def _replica(self, axes: list[tuple], labels: list[str], values: tuple) -> "AlgorithmicExperiment":
        name = safe_file_name(",".join(f"{label}={value}" for label, value in zip(labels, values, strict=True)))
        replica = replace(self, name=name, replicas={})
        for (section, key, _), value in zip(axes, values, strict=True):
            replica = replica.with_value(section, key, value)
        return replica.with_value("training", "output_dir", str(Path(self.training["output_dir"]) / name))

    def with_value(self, section: str, key: str, value) -> "AlgorithmicExperiment":
        """The same experiment, but for one setting."""
        old = getattr(self, section)
        return replace(self, **{section: old | {key: value} if isinstance(old, dict) else replace(old, **{key: value})})
