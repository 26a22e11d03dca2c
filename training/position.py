"""Where a run is in its data: one integer, kept in each checkpoint, from which it goes on at the very next example."""

import math
from pathlib import Path

from transformers import TrainerCallback, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from sections import ConfigError

from .run import batch_size


def run_positions(examples: int, args: TrainingArguments, data: str, checkpoint: str | None) -> dict[str, int]:
    """What `Epochs` needs to know of a run over so many examples: `seed`, `stop` and `shift`.

    `data` names the prepared folder. `args.max_steps` is set where it was epochs that were asked for. `ConfigError` if
    a checkpoint was trained on other data or in another order.
    """
    for name in ("ignore_data_skip", "dataloader_drop_last", "auto_find_batch_size"):
        if getattr(args, name):
            raise ConfigError(f"training.{name} would lose or repeat examples of the run; leave it out")
    seed = args.seed if args.data_seed is None else args.data_seed
    batch, shift, position = batch_size(args), 0, 0
    if checkpoint is not None:
        state = TrainerState.load_from_json(str(Path(checkpoint) / "trainer_state.json"))
        if DataPosition.__name__ not in state.stateful_callbacks:
            raise ConfigError(
                f"{checkpoint} does not say where it is in its data; resume one that train_lm.py has written"
            )
        before = state.stateful_callbacks[DataPosition.__name__]["attributes"]
        for name, now in {"data": data, "training.seed": seed, "examples": examples}.items():
            if before[name] != now:
                raise ConfigError(
                    f"{checkpoint} was trained with {name}={before[name]} and is resumed with {now}; "
                    "resume it as it was, or choose another training.output_dir"
                )
        position = before["position"]
        shift = position - state.global_step * batch
    stop = math.ceil(args.num_train_epochs * examples)
    if args.max_steps > 0:
        stop = args.max_steps * batch + shift
    if checkpoint is not None and position >= stop:
        raise ConfigError(
            f"{checkpoint} has seen {position:,} of {stop:,} examples, the run is finished; raise training.max_steps "
            "or training.num_train_epochs to go on"
        )
    args.max_steps = math.ceil((stop - shift) / batch)
    return {"seed": seed, "stop": stop, "shift": shift}


class DataPosition(TrainerCallback, ExportableState):
    """Counts epochs of the data, of which the Trainer knows nothing, and keeps the position in checkpoints' state."""

    def __init__(self, order, data: str):
        """`order` is the run's `Epochs`."""
        self.order, self.data, self.position = order, data, 0

    def state(self) -> dict:
        """What the Trainer writes into `trainer_state.json`, together with the step."""
        about = {"data": self.data, "training.seed": self.order.seed, "examples": len(self.order.examples)}
        return {"args": {}, "attributes": about | {"position": self.position}}

    def on_step_end(self, args, state, control, **kwargs):  # noqa: ARG002
        size = len(self.order.examples)
        self.position = position = min(state.global_step * batch_size(args) + self.order.shift, self.order.stop)
        state.epoch = position / size
        ends_epoch = position // size > (position - batch_size(args)) // size
        if ends_epoch and state.global_step < state.max_steps:  # at the run's end the Trainer sees to it
            control.should_evaluate |= args.eval_strategy == "epoch"
            control.should_save |= args.save_strategy == "epoch"
            control.should_log |= args.logging_strategy == "epoch"
