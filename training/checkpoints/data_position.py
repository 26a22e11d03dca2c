"""A run's position in its data: one integer in each checkpoint, so that it resumes at the very next example."""

import math
from pathlib import Path

from transformers import TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from settings.checks import ConfigError
from settings.horizon import MAX_STEPS
from training.processes import batch_size


def run_positions(
    examples: int | None, about: dict, args: TrainingArguments, checkpoint: str | None, wanted: int | None = None
) -> tuple[int, dict]:
    """The number of steps of a run over so many examples, and the arguments of its `Epochs`, the seed among them.

    `examples` is None where their number is unknown; then `max_steps` must be set, or the number of examples `wanted`
    in the whole run, which ends at the nearest step. `about` holds the settings that
    their order depends on. `ConfigError` if a checkpoint was trained on other data or in another order.
    """
    for name in ("ignore_data_skip", "dataloader_drop_last", "auto_find_batch_size"):
        if getattr(args, name):
            raise ConfigError(f"training.{name} would lose or repeat examples of the run; leave it out")
    seed = data_seed(args)
    about = about | {"training.seed": seed}
    batch, shift, position = batch_size(args), 0, 0
    if checkpoint is not None:
        state = TrainerState.load_from_json(str(Path(checkpoint) / "trainer_state.json"))
        if DataPosition.__name__ not in state.stateful_callbacks:
            raise ConfigError(
                f"{checkpoint} does not record its position in the data; resume one that train_lm.py has written"
            )
        before = state.stateful_callbacks[DataPosition.__name__]["attributes"]
        for name, now in about.items():
            if before[name] != now:
                raise ConfigError(
                    f"{checkpoint} was trained with {name}={before[name]} and is resumed with {now}; "
                    "resume it unchanged, or choose another training.output_dir"
                )
        position = before["position"]
        shift = position - state.global_step * batch
    steps = args.max_steps if wanted is None else max(1, round((wanted - shift) / batch))
    if steps > MAX_STEPS:
        raise ConfigError(f"the budget is that of {steps:,} steps, and a run has at most {MAX_STEPS:,}; lower it")
    stop = steps * batch + shift if steps > 0 else math.ceil(args.num_train_epochs * examples)
    if checkpoint is not None and position > stop:
        raise ConfigError(
            f"{checkpoint} has seen {position:,} examples, more than the {stop:,} requested; raise "
            "training.max_steps, training.num_train_epochs or the budget"
        )
    steps = math.ceil((stop - shift) / batch)
    # accelerate would fill up the last batches of several processes with examples from the run's beginning
    blanks = (shift - stop) % (args.train_batch_size * args.world_size) if args.world_size > 1 else 0
    return steps, {"seed": seed, "stop": stop, "shift": shift, "blanks": blanks, "about": about}


def data_seed(args: TrainingArguments) -> int:
    """The seed of the order of examples."""
    return args.seed if args.data_seed is None else args.data_seed


class DataPosition(TrainerCallback, ExportableState):
    """Counts epochs of the data, which the Trainer sees as one long epoch, and saves the position in checkpoints."""

    def __init__(self, order):
        """`order` is the run's `Epochs`."""
        self.order, self.position = order, 0

    def state(self) -> dict:
        """What the Trainer writes into `trainer_state.json`, together with the step."""
        return {"args": {}, "attributes": self.order.about | {"position": self.position, "stop": self.order.stop}}

    def on_train_begin(self, args, state, control, **kwargs):  # noqa: ARG002
        self.position = min(state.global_step * batch_size(args) + self.order.shift, self.order.stop)

    def on_step_end(self, args, state, control, **kwargs):  # noqa: ARG002
        before, self.position = (
            min(step * batch_size(args) + self.order.shift, self.order.stop)
            for step in (state.global_step - 1, state.global_step)
        )
        state.epoch = self.order.passes(self.position)
        ends_epoch = math.floor(state.epoch) > math.floor(self.order.passes(before))
        if ends_epoch and state.global_step < state.max_steps:  # at the run's end the Trainer does so itself
            control.should_evaluate |= args.eval_strategy == "epoch"
            control.should_save |= args.save_strategy == "epoch"
            control.should_log |= args.logging_strategy == "epoch"
