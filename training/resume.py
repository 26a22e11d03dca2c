"""Going on with a run: from which checkpoint, whether as the run that it was, and how much further."""

import json
import os
import sys
from pathlib import Path

import xxhash
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedTokenizerBase, TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from config import DROPOUTS, build
from experiment import Experiment
from modeling.configuration_kindling import KindlingConfig
from modeling.loading import refuse_unsafe_files
from sections import ConfigError, ResumeSection

from .arguments import WAITING, schedule
from .checkpoint import NAME, named, newest_whole, refuse_damaged, step_of
from .folder import LOCK
from .run import batch_size, folder_of, resolve

SECTIONS = ("data", "tokenizer", "optimizer", "guard", "evaluation", "replicas")
LENGTH = ("training.max_steps", "training.num_train_epochs")
TRAINING = (
    "learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "weight_decay", "adam_beta1",
    "adam_beta2", "adam_epsilon", "max_grad_norm", "optim", "optim_args", "label_smoothing_factor",
    "neftune_noise_alpha", "seed", "data_seed", "bf16", "fp16", "per_device_train_batch_size",
    "gradient_accumulation_steps",
)  # fmt: skip
"""The arguments that decide which numbers come out."""
NO_MATTER = ("data.cache_dir", "data.bad_records")
SHARING = ("training.per_device_train_batch_size", "training.gradient_accumulation_steps", "processes")
"""How a batch is shared out, which changes nothing but rounding, is told; `batch`, their product, is compared."""
SWITCHABLE = ("training.", "optimizer.", "guard.", "evaluation.", "batch", *(f"model.{name}" for name in DROPOUTS))
"""What a run can go on without; its weights and its data are what it is."""


def checkpoint_to_resume(experiment: Experiment) -> str | None:
    """The checkpoint to go on from, which is whole, or None to start; refuses to write into another run's folder."""
    checkpoint = _find_checkpoint(experiment)
    if checkpoint is not None and not getattr(experiment, "replicas", None):  # whose are read from safetensors alone
        build(refuse_unsafe_files, "training.resume_from_checkpoint", {"source": checkpoint})
    return checkpoint


def _find_checkpoint(experiment: Experiment) -> str | None:
    resume, folder = experiment.training.get("resume_from_checkpoint", False), folder_of(experiment)
    if isinstance(resume, str):
        if not Path(resume).is_dir():
            raise ConfigError(f"training.resume_from_checkpoint={resume} is no folder; give a checkpoint's, or true")
        refuse_damaged(Path(resume))
        _refuse_others(Path(resume), folder)
        return resume
    if resume and folder.is_dir():
        checkpoint = newest_whole(folder)
        if checkpoint is None and (folder / "metrics.json").exists():
            _leave_finished(folder, experiment.resume)
        return checkpoint and str(checkpoint)
    if _is_taken(folder):
        raise ConfigError(
            f"{folder} holds a run already; continue it with training.resume_from_checkpoint=true, "
            "or choose another training.output_dir"
        )
    return None


def _is_taken(folder: Path) -> bool:
    return folder.is_dir() and any(path.name != LOCK for path in folder.iterdir())


def _refuse_others(checkpoint: Path, folder: Path):
    """`ConfigError` if the folder has another run, or the same as it went on from the checkpoint before."""
    if checkpoint.resolve().parent != folder.resolve():
        if _is_taken(folder):
            raise ConfigError(f"{folder} holds a run already, not {checkpoint}'s; choose another training.output_dir")
    elif NAME.fullmatch(checkpoint.name):
        later = [path.name for path in named(folder) if step_of(path) > step_of(checkpoint)]
        if later:
            raise ConfigError(
                f"{folder} has later checkpoints than {checkpoint.name}: {', '.join(later)}; move them away, or go on "
                "from it in another training.output_dir"
            )


def _leave_finished(folder: Path, section: ResumeSection):
    if section.extend:
        raise ConfigError(f"{folder} is finished and has no checkpoint to go on from; choose another folder")
    if int(os.environ.get("RANK", 0)) == 0:
        print(f"{folder} is finished, nothing is left to do; what came out is in {folder / 'metrics.json'}")
    sys.exit(0)


def leave_if_finished(experiment: Experiment, args: TrainingArguments, checkpoint: str | None):
    """End with exit code 0, nothing touched, if the run has made all its steps and is written down."""
    path = folder_of(experiment) / "metrics.json"
    if checkpoint is None or not path.exists():
        return
    written = json.loads(path.read_text(encoding="utf-8")).get("steps")  # fewer, if the run was extended since
    if args.max_steps <= read_state_of(checkpoint).global_step == written:
        _leave_finished(folder_of(experiment), ResumeSection())


def read_state_of(checkpoint: str) -> TrainerState:
    """What the Trainer knew when it wrote a checkpoint."""
    return TrainerState.load_from_json(str(Path(checkpoint) / "trainer_state.json"))


class Contract(TrainerCallback, ExportableState):
    """What makes a run the run that it is, kept in each of its checkpoints: model, data, tokenizer, numbers, geometry.

    A run is gone on with as it was. Other numbers must be named in `resume.allow`, another length needs
    `resume.extend`; then `changes` says what is otherwise from now on.
    """

    def __init__(self, experiment: Experiment, args: TrainingArguments, checkpoint: str | None):
        """`ConfigError` if the experiment, as far as it is known before any work, is not that of the checkpoint."""
        self.experiment, self.args, self.checkpoint = experiment, args, checkpoint
        self.allowed = experiment.resume.allow or []
        self.before, self.terms, self.length, self.done = {}, {}, {}, 0
        if checkpoint is not None:
            state = read_state_of(checkpoint)
            self.before = state.stateful_callbacks.get(type(self).__name__, {}).get("attributes", {})
            self.done, self.steps_before = state.global_step, state.max_steps
        self._refuse_unknown_names()
        self._refuse_waiting_schedules()
        self._hold({f"model.{name}": value for name, value in experiment.model.items() if value is not None})
        self._hold(_terms(experiment, args))
        self._hold_length({name: getattr(args, name.removeprefix("training.")) for name in LENGTH})

    def complete(self, config: KindlingConfig, tokenizer: PreTrainedTokenizerBase):
        """Add what is known by now of model and tokenizer; `ConfigError` if that is other than it was."""
        settings = resolve(self.experiment, self.args, config)["model"]
        self._hold({f"model.{name}": value for name, value in settings.items()})
        learnt = tokenizer.backend_tokenizer.to_str()
        self._hold({"tokenizer": xxhash.xxh3_128_hexdigest(learnt.encode())})

    def state(self) -> dict:
        """What the Trainer writes into `trainer_state.json`."""
        return {"args": {}, "attributes": {"terms": self.terms, "length": self.length}}

    def on_train_begin(self, args, state, control, **kwargs):  # noqa: ARG002
        """Say from where the run goes on, and what is otherwise from now on."""
        if self.checkpoint and state.is_world_process_zero:
            lines = [f"resumed     from {self.checkpoint}", *(f"{'':12}{one}" for one in self._changes())]
            print("\n".join(lines))

    def _refuse_unknown_names(self):
        for name in self.allowed:
            if not name.startswith(SWITCHABLE) or name in LENGTH:
                raise ConfigError(
                    f"resume.allow={self.allowed} has {name}, without which a run is another one; name what is refused "
                    "otherwise, such as training.learning_rate"
                )

    def _refuse_waiting_schedules(self):
        """What waits for a metric has lowered the rate by itself, and no other one follows from the settings."""
        if "training.learning_rate" in self.allowed and self.args.lr_scheduler_type in WAITING:
            raise ConfigError(
                f"resume.allow={self.allowed} has training.learning_rate, which {self.args.lr_scheduler_type.value} "
                "has lowered by itself; leave it out, or start another run from the checkpoint by model.path"
            )

    def _hold(self, terms: dict):
        """Add to the terms; `ConfigError` if one is other than it was, and that was not allowed."""
        terms = json.loads(json.dumps(terms, default=str))  # as they come back from a checkpoint
        was = {name: self.before.get("terms", {}).get(name, now) for name, now in terms.items()}
        for name, now in terms.items():
            if was[name] != now and name not in (*self.allowed, *SHARING):
                remedy = f", or with resume.allow=[{name}]" if name.startswith(SWITCHABLE) else ""
                raise ConfigError(
                    f"{self.checkpoint} was trained with {name}={was[name]} and is resumed with {now}; resume it as it "
                    f"was{remedy}, or choose another training.output_dir"
                )
        self.terms |= terms

    def _hold_length(self, length: dict):
        for name, now in length.items():
            was = self.before.get("length", {}).get(name, now)
            if was != now and not self.experiment.resume.extend:
                raise ConfigError(
                    f"{self.checkpoint} was to end at {name}={was} and is resumed with {now}; resume it as it was, or "
                    "with resume.extend=true, by which its schedule becomes that of the new length"
                )
        self.length = length

    def _changes(self) -> list[str]:
        was = self.before.get("terms", {})
        changes = [
            f"{name}={now} from now on, {was[name]} before"
            for name, now in self.terms.items()
            if name in was and now != was[name]
        ]
        if self.steps_before != self.args.max_steps:
            changes.append(f"{self.args.max_steps:,} steps instead of {self.steps_before:,}{self._rates()}")
        return changes

    def _rates(self) -> str:
        """What another length does to the learning rate, where that is a function of the step."""
        schedules = [schedule(self.args, steps) for steps in (self.args.max_steps, self.steps_before)]
        if not all(isinstance(one, LambdaLR) for one in schedules):
            return ""
        now, was = (self.args.learning_rate * one.lr_lambdas[0](self.done) for one in schedules)
        return f": after step {self.done:,} the learning rate is {now:.3g}, as it would have been {was:.3g}"


def _terms(experiment: Experiment, args: TrainingArguments) -> dict:
    """What is known of a run before any data are read."""
    terms = {f"training.{name}": getattr(args, name) for name in TRAINING}
    terms |= {"processes": args.world_size, "batch": batch_size(args)}
    given = experiment.as_dict()
    for section in SECTIONS:
        terms |= {f"{section}.{name}": value for name, value in given.get(section, {}).items()}
    return {name: value for name, value in terms.items() if name not in NO_MATTER}
