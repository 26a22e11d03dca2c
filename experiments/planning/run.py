"""The plan of a run: its steps, tokens, FLOPs and time, the memory of a step, and the disk that it takes."""

import copy
import math
from dataclasses import dataclass, replace

import psutil
from transformers.utils.logging import disable_progress_bar

from data_prep.tokens.counts import Tally, tally
from data_prep.tokens.order import Epochs
from modeling.accounting import training_flops_of
from modeling.configuration_kindling import KindlingConfig
from modeling.memory import OptimizerMemory, Step
from settings.checks import ConfigError
from settings.experiment import LanguageExperiment
from training.budgets.batch import split_batch
from training.budgets.calibration import StepTimes, calibrate, random_windows
from training.budgets.length import budgeted_examples
from training.budgets.minutes import occurrences, steps_in_time
from training.checkpoints.data_position import data_seed, run_positions
from training.machine.datasheet import Device
from training.machine.hardware import memory_limit
from training.model import model_shapes
from training.optimization.optimizers import step_flops
from training.preflight.arguments import training_arguments
from training.preflight.memory import Trained, recipe_memory, step_of
from training.preflight.resources import checkpoint_bytes, most_checkpoints, saves_until, token_saves, weight_bytes
from training.processes import batch_size

from .data import PlannedData, model_config, planned_data, prepared_data

APART = {"push_to_hub": False, "report_to": "none", "resume_from_checkpoint": None}
"""Settings that a plan has no use for."""


@dataclass(frozen=True)
class Length:
    """How long a run is."""

    steps: int
    whole: Tally
    flops: int
    optimizer_flops: int
    passes: float | None
    """Passes over the data, if their size is known."""
    seconds: float | None


@dataclass(frozen=True)
class RunPlan:
    """Everything that is known of a run before it starts."""

    experiment: LanguageExperiment
    args: object
    config: KindlingConfig
    window: int
    data: PlannedData
    trained: Trained
    step: Step
    optimizer: OptimizerMemory
    memory: float
    """Bytes of memory of the device, or those free on this machine."""
    times: StepTimes | None
    length: Length | None
    """None if it depends on data that are not prepared."""

    @property
    def checkpoints(self) -> int | None:
        """The most checkpoints at a time; None if that depends on a length that is unknown."""
        if self.length is None:
            return most_checkpoints(self.args, 1000) if self.args.save_total_limit else None
        args = copy.copy(self.args)
        args.max_steps = self.length.steps
        by_tokens = token_saves(
            self.experiment.checkpoints.counts.values(), batch_size(args) * (self.window - 1), args.max_steps, done=0
        )
        return by_tokens + most_checkpoints(args, saves_until(args.max_steps, args, per_epoch(args, self.data)))

    @property
    def checkpoint_bytes(self) -> int:
        """Bytes of one checkpoint."""
        return checkpoint_bytes(self.args, self.trained, self.experiment.averaging.count)

    @property
    def model_bytes(self) -> int:
        """Bytes of the saved model."""
        return weight_bytes(self.trained)


def plan_run(experiment: LanguageExperiment, device: Device | None, utilization: float, measure: bool) -> RunPlan:
    """Plan a run on this machine, or on a `device` that reaches `utilization` of its peak; `measure` trains some steps.

    `ConfigError` for what a run would refuse, and for a budget in minutes without any time.
    """
    prepared = prepared_data(experiment)
    config = model_config(experiment, len(prepared.tokenizer) if prepared else None)
    window = experiment.window(config.max_position_embeddings)
    args = planned_arguments(experiment, device)
    data = planned_data(experiment, prepared, config, window)
    trained = [(model_shapes(config), args, experiment.optimizer)]
    _, step, optimizer = step_of(args, trained, window, **recipe_memory(experiment))
    if device:
        step = replace(step, half_attention=True, explicit_attention=False)
    memory = device.memory if device else min(psutil.virtual_memory().available, memory_limit())
    times = None
    if measure:
        times = measured_times(experiment, args, config, data, window)
    elif device:
        times = computed_times(config, data, trained, utilization * device.peak(step.half))
    length = length_of(experiment, config, data, trained, times)
    return RunPlan(experiment, args, config, window, data, trained, step, optimizer, memory, times, length)


def planned_arguments(experiment: LanguageExperiment, device: Device | None):
    """The run's `TrainingArguments`; on a `device` its precision, as a run there would choose it."""
    training = experiment.training | APART
    if (batch := training["per_device_train_batch_size"]) < 1:
        raise ConfigError(f"training.per_device_train_batch_size={batch} is too small; it must be at least 1")
    if device is not None:
        training["use_cpu"] = True  # here; the device need not be
        if training.get("bf16") and not device.bf16:
            raise ConfigError("that device has no bfloat16, and training.bf16=true is given; give training.fp16=true")
        half = training.get("bf16", device.bf16) or training.get("fp16", False)
        training |= {"bf16": half, "fp16": False}
    args = training_arguments(replace(experiment, training=training))
    split_batch(args, experiment, experiment.model.get("path"))
    return args


def measured_times(experiment, args, config: KindlingConfig, data: PlannedData, window: int) -> StepTimes:
    """Times of a few steps on this machine, on the prepared data or on random ids."""
    disable_progress_bar()  # of the checkpoint that is timed
    examples = data.examples if data.folder else random_windows(config, window, 1000)
    return calibrate(experiment, args, config, examples, data.validation or [], data.collate)


def computed_times(config: KindlingConfig, data: PlannedData, trained: Trained, rate: float) -> StepTimes:
    """Times of a device that computes `rate` FLOP/s; of the matrix products alone, evaluations included if known."""
    batch = batch_size(trained[0][1])
    step = (batch * flops_of_pass(config, data, data.examples) / len(data.examples) + step_flops(trained)) / rate
    evaluation = flops_of_pass(config, data, data.validation) / 3 / rate if data.validation else 0.0
    return StepTimes(step, step, 0.0, evaluation, 0.0, 0.0, steps=0)


def flops_of_pass(config: KindlingConfig, data: PlannedData, examples) -> int:
    """FLOPs of training once on all of the examples."""
    whole = tally(Epochs(examples, seed=0, stop=len(examples)), data.collate)
    return training_flops_of(config, whole.tokens, whole.pairs)


def length_of(
    experiment: LanguageExperiment, config: KindlingConfig, data: PlannedData, trained: Trained, times: StepTimes | None
) -> Length | None:
    """How long the run is, by the same rules as a run; None if it depends on data that are not prepared."""
    args, examples = trained[0][1], data.examples
    if (minutes := experiment.budget.minutes) is None:
        wanted = budgeted_examples(experiment.budget.amounts, examples, data_seed(args), data.collate, config)
    elif times is None:
        raise ConfigError(f"budget.minutes={minutes:g} needs the time of a step; give --calibrate or --device NAME")
    else:
        wanted = batch_size(args) * steps_in_time(times, 60 * minutes, args, len(examples))
    if wanted is None and args.max_steps <= 0 and not data.is_known:
        return None
    steps, positions = run_positions(len(examples), {}, args, None, wanted)
    order = Epochs(examples, **positions)
    whole, each = tally(order, data.collate), per_epoch(args, data)
    evaluations = occurrences(args.eval_strategy, args.eval_steps, steps, each)
    saves = occurrences(args.save_strategy, args.save_steps, steps, each)
    return Length(
        steps,
        whole,
        training_flops_of(config, whole.tokens, whole.pairs),
        steps * step_flops(trained),
        order.passes(order.stop) if data.is_known else None,
        times and times.seconds(steps, evaluations, saves),
    )


def per_epoch(args, data: PlannedData) -> int:
    """Steps of a pass over the data."""
    return math.ceil(len(data.examples) / batch_size(args))
