"""Where a run is in its data: one integer, kept in each checkpoint, from which it goes on at the very next example."""

import json
import math
from pathlib import Path

from transformers import TrainerCallback, TrainerState, TrainingArguments

from sections import ConfigError

from .run import batch_size, write_json

FILE = "data_position.json"


def run_positions(examples: int, args: TrainingArguments, data: str, checkpoint: str | None) -> dict[str, int]:
    """What `Epochs` needs to know of a run over so many examples: `seed`, `stop` and `shift`.

    `data` names the prepared folder. `args.max_steps` is set where it was epochs that were asked for. `ConfigError` if
    a checkpoint was trained on other data or in another order.
    """
    seed = args.seed if args.data_seed is None else args.data_seed
    batch, shift = batch_size(args), 0
    if checkpoint is not None and (Path(checkpoint) / FILE).exists():
        before = json.loads((Path(checkpoint) / FILE).read_text(encoding="utf-8"))
        for name, now in {"data": data, "training.seed": seed, "examples": examples}.items():
            if before[name] != now:
                raise ConfigError(
                    f"{checkpoint} was trained with {name}={before[name]} and is resumed with {now}; "
                    "resume it as it was, or choose another training.output_dir"
                )
        done = TrainerState.load_from_json(str(Path(checkpoint) / "trainer_state.json")).global_step
        shift = before["position"] - done * batch
    stop = math.ceil(args.num_train_epochs * examples)
    if args.max_steps > 0:
        stop = args.max_steps * batch + shift
    args.max_steps = math.ceil((stop - shift) / batch)
    return {"seed": seed, "stop": stop, "shift": shift}


class DataPosition(TrainerCallback):
    """Counts epochs of the data, of which the Trainer knows nothing, and writes the position into each checkpoint."""

    def __init__(self, order, data: str):
        """`order` is the run's `Epochs`."""
        self.order, self.data = order, data

    def position(self, args, state) -> int:
        """Examples of the run that were trained on."""
        return min(state.global_step * batch_size(args) + self.order.shift, self.order.stop)

    def on_step_end(self, args, state, control, **kwargs):  # noqa: ARG002
        size, position = len(self.order.examples), self.position(args, state)
        state.epoch = position / size
        ends_epoch = position // size > (position - batch_size(args)) // size
        if ends_epoch and state.global_step < state.max_steps:  # at the run's end the Trainer sees to it
            control.should_evaluate |= args.eval_strategy == "epoch"
            control.should_save |= args.save_strategy == "epoch"
            control.should_log |= args.logging_strategy == "epoch"

    def on_save(self, args, state, control, **kwargs):  # noqa: ARG002
        if state.is_world_process_zero:
            about = {"data": self.data, "training.seed": self.order.seed, "examples": len(self.order.examples)}
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            write_json(folder / FILE, about | {"position": self.position(args, state)})
