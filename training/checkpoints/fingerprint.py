"""The settings and data that identify a run, compared when it is resumed."""

import json

import xxhash
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedTokenizerBase, TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from modeling.configuration_kindling import KindlingConfig
from modeling.loading import require_safe_files
from settings.checks import ConfigError, build
from settings.experiment import Experiment, LanguageExperiment
from settings.schema import DROPOUTS, section_fields, sections_of
from settings.sections import BUDGETS
from training.dropout import per_process_randomness
from training.model import model_settings
from training.optimization.decay_branch import BRANCHED, begins_branch
from training.preflight.best_model import METRIC_SCHEDULES
from training.preflight.schedule import schedule
from training.processes import batch_size, matching_batch_settings

from .data_identity import (
    COMPARED_EARLY,
    CONTENT_SETTINGS,
    LOCATIONS,
    check_same_data,
    data_before,
    settings_of_prepared_data,
)
from .state import read_state_of

SECTIONS = ("data", "tokenizer", "optimizer", "loss", "schedules", "averaging", "guard", "evaluation")


LENGTH = ("training.max_steps", "training.num_train_epochs")


TRAINING = (
    "learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "weight_decay", "adam_beta1",
    "adam_beta2", "adam_epsilon", "max_grad_norm", "optim", "optim_args", "label_smoothing_factor",
    "neftune_noise_alpha", "seed", "data_seed", "bf16", "fp16", "per_device_train_batch_size",
    "gradient_accumulation_steps", "metric_for_best_model", "load_best_model_at_end",
)  # fmt: skip
"""The arguments that determine the results."""


EVALUATIONS = ("eval_strategy", "eval_steps")
"""These determine the results too if the schedule steps on an evaluation metric."""


IGNORED = ("data.cache_dir", "data.bad_records")


BATCH_SPLIT = ("training.per_device_train_batch_size", "training.gradient_accumulation_steps", "processes")
"""How a batch is split, which only changes rounding: a change is reported. `batch`, their product, is compared."""


SWITCHABLE = (
    *("training.", "optimizer.", "loss.", "schedules.", "averaging.save", "guard.", "evaluation.", "batch"),
    *(f"model.{name}" for name in DROPOUTS),
)
"""Prefixes of the settings that `resume.allow` may name; weights and data define the run."""


FIXED = {
    *(f"training.{name}" for name in ("seed", "data_seed", "optim", "optim_args", "metric_for_best_model")),
    *("optimizer.kind", "optimizer.grokfast_lambda", "optimizer.decay_embeddings", *LENGTH),
}
"""Exceptions: the order of the data, the optimiser's state or the choice of the best model depend on them."""


def fingerprint_in(state: TrainerState) -> dict:
    """The fingerprint that a checkpoint has recorded; earlier versions called it a contract."""
    kept = state.stateful_callbacks
    return (kept.get("RunFingerprint") or kept.get("Contract") or {}).get("attributes", {})


class RunFingerprint(TrainerCallback, ExportableState):
    """The identity of a run, saved in each checkpoint: model, data, tokenizer, hyperparameters, batch.

    A run is resumed unchanged, except for settings named in `resume.allow`; another length needs `resume.extend`. What
    has changed is printed when training begins.
    """

    def __init__(self, experiment: Experiment, args: TrainingArguments, checkpoint: str | None):
        """`ConfigError` if the settings known before any data are read differ from the checkpoint's."""
        self.experiment, self.args, self.checkpoint = experiment, args, checkpoint
        self.allowed = list(experiment.resume.allow or [])
        self.before, self.terms, self.length, self.data, self.position, self.done = {}, {}, {}, {}, {}, 0
        if checkpoint is not None:
            state = read_state_of(checkpoint)
            self.before = fingerprint_in(state)
            self.done, self.steps_before = state.global_step, state.max_steps
            self.position = state.stateful_callbacks.get("DataPosition", {}).get("attributes", {})
        self.begins_branch = begins_branch(experiment, self.done)
        if self.begins_branch:
            self.allowed += BRANCHED
        self.set_by_prepared_data = settings_of_prepared_data(
            self.before.get("terms", {}), experiment.as_dict()["data"]
        )
        self._check_allowed_names()
        self._check_metric_schedules()
        self._check_and_record(
            {f"model.{name}": value for name, value in experiment.model.items() if value is not None}
        )
        self._check_and_record(self._settings())
        length = {name: getattr(args, name.removeprefix("training.")) for name in LENGTH}
        if isinstance(experiment, LanguageExperiment):
            length |= {f"budget.{name}": getattr(experiment.budget, name) for name in BUDGETS}
        self._check_and_record_length(length)
        if checkpoint is not None and not getattr(experiment, "replicas", None):  # those are read one by one
            build(require_safe_files, "training.resume_from_checkpoint", {"source": checkpoint})

    @property
    def data_before(self) -> dict | None:
        """What the checkpoint was trained on, in the form that `data_prep.tokens.prepare.prepare` compares."""
        data = self.before.get("data")
        return data and {"checkpoint": self.checkpoint} | {key: data[key] for key in COMPARED_EARLY}

    def complete(self, config: KindlingConfig, tokenizer: PreTrainedTokenizerBase, data: dict):
        """Add model, tokenizer and data, once they are known; `ConfigError` if they differ from the checkpoint's.

        `data` has a hash of all `tokens`, the `settings` that produced them, and the keys in `COMPARED_EARLY`.
        """
        check_same_data(self.checkpoint, data_before(self.before, self.position) or data, data)
        self.data = data
        settings = self.experiment.model | model_settings(self.experiment.model, config)
        self._check_and_record({f"model.{name}": value for name, value in settings.items()})
        learnt = tokenizer.backend_tokenizer.to_str()
        self._check_and_record({"tokenizer": xxhash.xxh3_128_hexdigest(learnt.encode())})

    def state(self) -> dict:
        """What the Trainer writes into `trainer_state.json`."""
        return {"args": {}, "attributes": {"terms": self.terms, "length": self.length, "data": self.data}}

    def on_train_begin(self, args, state, control, **kwargs):  # noqa: ARG002
        """Print which checkpoint the run resumes from, and which settings have changed."""
        state.stateful_callbacks.pop("Contract", None)  # its name in earlier versions; from now on it is saved as this
        if self.checkpoint and state.is_world_process_zero:
            lines = [f"resumed     from {self.checkpoint}", *(f"{'':12}{one}" for one in self._changes())]
            print("\n".join(lines))

    def _check_allowed_names(self):
        for name in self.allowed:
            if name not in self._names() or not _may_change(name):
                what = "which a resumed run must keep" if name in self._names() else "which is not a setting"
                raise ConfigError(
                    f"resume.allow={self.allowed} has {name}, {what}; name settings that may change, such as "
                    "training.learning_rate"
                )

    def _names(self) -> set[str]:
        """The names of all settings."""
        kind = type(self.experiment)
        return {"batch", *(f"{one}.{key}" for one in sections_of(kind) for key in section_fields(one, kind))}

    def _check_metric_schedules(self):
        """A schedule that steps on a metric sets the rate by itself, so a changed rate would have no defined effect."""
        kinds = {self.args.lr_scheduler_type, self.before.get("terms", {}).get("training.lr_scheduler_type")}
        for name in ("training.learning_rate", "training.lr_scheduler_type"):
            if name in self.allowed and (waiting := kinds & {*METRIC_SCHEDULES}):
                raise ConfigError(
                    f"resume.allow={self.allowed} has {name}, and {min(waiting)} lowers the rate by itself; leave it "
                    "out, or start a new run from the checkpoint with model.path"
                )

    def _settings(self) -> dict:
        """The settings to compare that are known before any data are read."""
        args, given = self.args, self.experiment.as_dict()
        names = TRAINING + EVALUATIONS * (args.lr_scheduler_type in METRIC_SCHEDULES)
        terms = {f"training.{name}": getattr(args, name) for name in names if hasattr(args, name)}
        if self.experiment.resume.decay_from is not None:  # the decay is as long as the run makes it
            kwargs = dict(args.lr_scheduler_kwargs)
            del kwargs["num_decay_steps"]
            terms["training.lr_scheduler_kwargs"] = kwargs
        terms |= {"replicas": given.get("replicas", {}), "processes": args.world_size, "batch": batch_size(args)}
        for section in SECTIONS:
            terms |= {f"{section}.{name}": value for name, value in given.get(section, {}).items()}
        return {name: value for name, value in terms.items() if name not in IGNORED}

    def _check_and_record(self, terms: dict):
        """Record settings; `ConfigError` if one has changed and `resume.allow` does not name it."""
        terms = json.loads(json.dumps(terms, default=str))  # as they come back from a checkpoint
        was = {name: self._recorded(name, now) for name, now in terms.items()}
        for name, now in terms.items():
            if was[name] != now and name not in (*self.allowed, *BATCH_SPLIT, *LOCATIONS, *self.set_by_prepared_data):
                remedy = f", or with resume.allow=[{name}]" if _may_change(name) else ""
                raise ConfigError(
                    f"{self.checkpoint} was trained with {name}={was[name]} and is resumed with {now}; "
                    f"{self._how_to_match(name, was[name])}{remedy}, or choose another training.output_dir"
                )
        self.terms |= terms

    def _recorded(self, name: str, now):
        """The checkpoint's value; of a setting that its version did not have, the default, which changed nothing."""
        section, _, key = name.partition(".")
        if "terms" in self.before and key and section in (*SECTIONS, "model"):
            now = section_fields(section, type(self.experiment))[key].default
        return self.before.get("terms", {}).get(name, now)

    def _how_to_match(self, name: str, was) -> str:
        """How to get the recorded value back; for the batch, with the present number of processes."""
        if name == "batch" and isinstance(self.experiment, LanguageExperiment):  # equations are never accumulated
            return matching_batch_settings(was, self.args)
        return "resume it unchanged"

    def _check_and_record_length(self, length: dict):
        for name, now in length.items():
            # earlier versions recorded no budget, because there was none
            was = self.before.get("length", {}).get(name, None if self.before and name not in LENGTH else now)
            if was != now and not (self.experiment.resume.extend or self.begins_branch):
                raise ConfigError(
                    f"{self.checkpoint} was to end at {name}={was} and is resumed with {now}; resume it unchanged, "
                    "or with resume.extend=true, which computes its schedule for the new length"
                )
        self.length = length

    def _changes(self) -> list[str]:
        was = self.before.get("terms", {})
        changes = [
            f"{name}={now} from now on, {was[name]} before"
            for name, now in self.terms.items()
            if name in was and now != was[name] and name not in CONTENT_SETTINGS
        ]
        if any(was.get(name, self.terms[name]) != self.terms[name] for name in BATCH_SPLIT):
            changes += filter(None, [per_process_randomness(self.args, self.terms.get("model.attention_dropout"))])
        if self.steps_before != self.args.max_steps:
            changes.append(f"{self.args.max_steps:,} steps instead of {self.steps_before:,}{self._rates()}")
        return changes

    def _rates(self) -> str:
        """How another length changes the learning rate, where that is a function of the step."""
        schedules = [schedule(self.args, steps) for steps in (self.args.max_steps, self.steps_before)]
        if not all(isinstance(one, LambdaLR) for one in schedules):
            return ""
        now, was = (self.args.learning_rate * one.lr_lambdas[0](self.done) for one in schedules)
        return f": after step {self.done:,} the learning rate is {now:.3g} instead of {was:.3g}"


def _may_change(name: str) -> bool:
    return name.startswith(SWITCHABLE) and name not in FIXED
