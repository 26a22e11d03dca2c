"""The two kinds of experiment, language models and algorithmic tasks: their sections and training defaults."""

import itertools
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import ClassVar

from .checks import ConfigError
from .data_sections import DataSection, EquationsSection, TokenizerSection
from .derivation.depth import Derived
from .horizon import check_horizon
from .paths import safe_file_name
from .recipe_sections import AveragingSection, CheckpointsSection, LossSection, SchedulesSection
from .sections import (
    BudgetSection,
    CardSection,
    EvaluationSection,
    GuardSection,
    OptimizerSection,
    ResumeSection,
    SampleSection,
)

# Pre-training defaults that differ from transformers', which are meant for fine-tuning.
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
    "train_sampling_strategy": "sequential",  # the data set itself shuffles each epoch
    "remove_unused_columns": False,  # the collator reads `prompt_length`, which is no argument of forward
    "ddp_find_unused_parameters": False,
}

# Small tables and thousands of cheap steps: a constant learning rate, no clipping, full batches, our own evaluations.
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
    "train_sampling_strategy": "sequential",  # the equations are reshuffled each epoch, with their own seed
    "report_to": "none",
    "remove_unused_columns": False,
    "ddp_find_unused_parameters": False,
}

UNSUPPORTED = {
    "accelerator_config": "the run decides how batches are distributed",
    "auto_find_batch_size": "it would lose or repeat examples of the run",
    "batch_eval_metrics": "validation metrics are computed over the whole split",
    "dataloader_drop_last": "it would lose examples of the run",
    "deepspeed": "use `accelerate launch` for several GPUs",
    "eval_do_concat_batches": "validation metrics are computed over the whole split",
    "hub_token": "it would be written into the run; use `hf auth login`",
    "ignore_data_skip": "a resumed run would repeat examples",
    "include_num_input_tokens_seen": "targets are always counted, and input tokens would be added to their count",
    "label_smoothing_factor": "transformers would compute it on other tokens than the targets",
    "parallelism_config": "use `accelerate launch` for several GPUs",
    "remove_unused_columns": "the collator needs columns that the model does not take",
    "train_sampling_strategy": "it would override the order of the run, in which each epoch is shuffled",
    "use_liger_kernel": "it has no kernels for these models",
}
"""Trainer settings that a run does not support, and why; only their defaults are allowed."""

UNSUPPORTED_FOR_EQUATIONS = {
    "activation_checkpointing": "equations are short",
    "fsdp": "one process trains all replicas",
    "gradient_accumulation_steps": "training.per_device_train_batch_size is the whole batch",
    "gradient_checkpointing": "equations are short",
    "hub_revision": "`python -m publishing FOLDER --revision NAME` publishes the result",
    "label_smoothing_factor": "answers are exact",
    "load_best_model_at_end": "the last model is kept",
    "metric_for_best_model": "the last model is kept",
    "neftune_noise_alpha": "replicas do not share embeddings",
    "num_train_epochs": "training.max_steps sets the length of a run",
    "optim": "optimizer.kind is adamw or muon",
    "push_to_hub": "`python -m publishing FOLDER` publishes the result",
    "train_sampling_strategy": "equations are reshuffled each epoch",
}
"""The same, for a run on equations."""

ALWAYS_DONE = {
    "enable_jit_checkpoint": (True, "a run that receives SIGTERM is saved"),
    "restore_callback_states_from_checkpoint": (True, "a resumed run restores its callbacks"),
    "train_sampling_strategy": ("random", "each epoch is shuffled, in an order that a resumed run continues"),
}
"""Trainer settings for things that a run always does: the value that requests it, and what the run does anyway."""

CHOSEN = {
    "training.output_dir": "runs/NAME, where NAME is that of CONFIG",
    "training.bf16": "true if the hardware multiplies bfloat16 matrices faster than float32, unless fp16 is given",
    "training.use_cpu": "true if there is no accelerator",
    "training.do_eval": "true, with eval_strategy=no false",
    "training.dataloader_pin_memory": "true, on the CPU false",
    "training.hub_model_id": "the name of output_dir",
    "training.run_name": "the name of output_dir",
}
"""Defaults that are computed when a run starts, described."""

ALGORITHMIC_MODEL = {
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


NON_SECTION_FIELDS = ("name", "overrides", "derived")
"""Fields of an experiment that are not sections."""


@dataclass(frozen=True)
class Experiment:
    """A checked experiment. `model` and `training` remain dictionaries: importing their classes takes seconds."""

    name: str
    """The last part of `training.output_dir`, used as the name of the run everywhere."""
    model: dict
    data: DataSection | EquationsSection
    training: dict
    optimizer: OptimizerSection
    schedules: SchedulesSection = field(default_factory=SchedulesSection, kw_only=True)
    averaging: AveragingSection = field(default_factory=AveragingSection, kw_only=True)
    guard: GuardSection
    resume: ResumeSection
    card: CardSection
    overrides: dict = field(default_factory=dict, kw_only=True)
    """The command-line overrides, by `section.key`."""
    derived: tuple[Derived, ...] = field(default=(), kw_only=True)
    """The settings that follow from `model.depth` or `model.preset`."""

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
    """An experiment that `train_lm.py` runs."""

    data: DataSection
    tokenizer: TokenizerSection
    budget: BudgetSection
    loss: LossSection = field(default_factory=LossSection, kw_only=True)
    checkpoints: CheckpointsSection = field(default_factory=CheckpointsSection, kw_only=True)
    sample: SampleSection

    script = "train_lm.py"
    training_defaults = LM_TRAINING
    unsupported = UNSUPPORTED
    chosen = CHOSEN | {"training.greater_is_better": "false: for every measured metric, lower is better"}

    def __post_init__(self):
        run, cache = self.folder, Path(self.data.cache_dir)
        if run.resolve() == cache.resolve():  # a run folder holds nothing else
            raise ConfigError(
                f"training.output_dir={run} is also data.cache_dir, which is for prepared data; choose another"
            )
        self._check_budget()

    def _check_budget(self):
        check_horizon(self.training, self.budget.amounts, self.training_defaults["num_train_epochs"])
        accumulated, layout = self.training.get("gradient_accumulation_steps", 1), self.data.layout
        if self.budget.batch_tokens and accumulated != 1:
            raise ConfigError(
                f"training.gradient_accumulation_steps={accumulated} follows from budget.batch_tokens="
                f"{self.budget.batch_tokens}; leave one of them out"
            )
        if self.budget.batch_tokens and layout != "packed":
            raise ConfigError(
                f"budget.batch_tokens={self.budget.batch_tokens} counts the tokens of full windows, and data.layout="
                f"{layout} has none; set training.per_device_train_batch_size instead"
            )

    def window(self, positions: int, start: str | None = None) -> int:
        """Tokens per window, for a model with this many positions (of the checkpoint `start`, if there is one).

        `ConfigError` if there are fewer than 2 positions, or fewer than tokens in a window.
        """
        length = self.data.context_length or positions
        if positions < 2:
            raise ConfigError(f"model.max_position_embeddings={positions} is too small; it must be at least 2")
        if length > positions:
            remedy = "; lower the first or raise the second" if start is None else f" of {start}; lower it"
            raise ConfigError(
                f"data.context_length={length} is longer than model.max_position_embeddings={positions}{remedy}"
            )
        return length


# Settings that the replicas of an algorithmic experiment can differ in: they do not change the shape of any tensor.
REPLICABLE = {
    "training": ("seed", "learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon"),
    "optimizer": (
        "muon_learning_rate", "muon_weight_decay", "muon_momentum", "grokfast_lambda", "grokfast_alpha",
        "decay_embeddings",
    ),
    "model": ("initializer_range", "embedding_init_std", "linear_init", "residual_init"),
    "data": ("seed",),
}  # fmt: skip


@dataclass(frozen=True)
class AlgorithmicExperiment(Experiment):
    """An experiment that `train_algorithmic.py` runs."""

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
        "model.max_position_embeddings": "the length of an equation in tokens",
        "training.num_train_epochs": "computed from training.max_steps",
        "training.per_device_train_batch_size": "512, or the number of training equations if that is smaller",
    }

    def replicated(self) -> list["AlgorithmicExperiment"]:
        """The replicas of this experiment: all combinations of the values that `replicas` lists.

        Each is a complete experiment, named by its values, with a folder of that name below this one's.
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
        return replica.with_value("training", "output_dir", str(self.folder / name))

    def with_value(self, section: str, key: str, value) -> "AlgorithmicExperiment":
        """A copy of the experiment with one setting changed."""
        old = getattr(self, section)
        return replace(self, **{section: old | {key: value} if isinstance(old, dict) else replace(old, **{key: value})})
