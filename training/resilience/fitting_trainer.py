"""A Trainer that computes a batch in as many parts as memory needs, with the same result as in one."""

import sys
from collections.abc import Callable
from contextlib import nullcontext

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from tqdm import tqdm

from training.dropout import hashed, use_row_dropout

from .reliable_trainer import ReliableTrainer

TRIALS = 2
"""Steps that several processes try without exchanging gradients; the optimiser's state exists from the second on."""


class FittingTrainer(ReliableTrainer):
    """A Trainer whose random numbers depend on the rows of a batch, however it is split.

    With `fit_memory`, a batch that runs out of memory is computed again in halves, and so are all later ones. The
    gradient is summed over the parts before the optimiser's step, as by accumulation, so that examples, steps and,
    but for rounding, losses are those of a batch that fits. Each process splits its own.
    """

    def __init__(self, *args, fit_memory: bool = False, **kwargs):
        super().__init__(*args, **kwargs)
        self.fit_memory = fit_memory
        self.parts = 1
        """In how many parts a batch is computed."""
        self.place = use_row_dropout(self.model)
        self._index = 0
        """The place of the next batch among those that are accumulated."""

    def get_batch_samples(self, *args, **kwargs):
        """As the Trainer's; the next batch is the first of a step."""
        self._index = 0
        return super().get_batch_samples(*args, **kwargs)

    def training_step(self, model, inputs, num_items_in_batch=None):
        """As the Trainer's, with random numbers that are a function of the seed, the step and the rows of its batch."""
        index, self._index = self._index, self._index + 1
        if self._is_trial and index == 0:
            self._try(model, inputs, num_items_in_batch)
        has_failed = False

        def compute(parts: int) -> torch.Tensor:
            nonlocal has_failed
            if has_failed:
                self._repeat(model, index, num_items_in_batch, parts)
            has_failed = True  # if it is called again
            return self._in_parts(model, inputs, num_items_in_batch, index, parts)

        return self._fitted(compute, rows=len(inputs["input_ids"]))

    def predict_rows(self, model, inputs) -> tuple[torch.Tensor, torch.Tensor]:
        """For each row what an evaluation is computed from: predictions and labels."""
        raise NotImplementedError

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):  # noqa: ARG002
        """As the Trainer's, of `predict_rows`, without a loss."""

        def compute(parts: int) -> tuple:
            found = [self.predict_rows(model, part) for part in split(inputs, parts)]
            predictions, labels = zip(*found, strict=True)
            return None, torch.cat(predictions), torch.cat(labels)

        return self._fitted(compute, rows=len(inputs["input_ids"]))

    def _fitted(self, compute: Callable[[int], torch.Tensor], rows: int):
        """`compute(parts)` with the present number of parts, or as many more as memory needs."""
        while True:
            try:
                return compute(min(self.parts, rows))
            except RuntimeError as error:
                if not self.fit_memory or not should_reduce_batch_size(error) or self.parts >= rows:
                    raise
            # Not while the error is handled: its traceback holds the tensors that have to go.
            clear_device_cache(garbage_collection=True)
            self.parts = min(2 * self.parts, rows)
            tqdm.write(
                f"after step {self.state.global_step:,} memory ran out{self._process}; from now on batches of {rows} "
                f"are computed in {self.parts} parts, with the same result",
                file=sys.stderr,
            )

    @property
    def _process(self) -> str:
        return f" in process {self.args.process_index}" if self.args.world_size > 1 else ""

    @property
    def _is_trial(self) -> bool:
        """Whether a batch is to be tried alone: what fails while gradients are exchanged cannot be repeated."""
        is_new = self.state.global_step < self._first_step + TRIALS
        return self.fit_memory and self.args.world_size > 1 and is_new

    def _try(self, model, inputs, num_items_in_batch):
        """Compute the first batch of a step without exchanging gradients, and forget it."""

        def compute(parts: int) -> torch.Tensor:
            return self._in_parts(model, inputs, num_items_in_batch, 0, parts)

        with self.accelerator.no_sync(model):
            self._fitted(compute, rows=len(inputs["input_ids"]))
        self.forget_step()

    def _repeat(self, model, index: int, num_items_in_batch, parts: int):
        """Compute the step's earlier batches again: their gradients cannot be told from those of the failed one."""
        self.forget_step()
        with self.accelerator.no_sync(model):
            for earlier, batch in enumerate(self.step_batches[:index]):
                self._in_parts(model, batch, num_items_in_batch, earlier, parts)

    def _in_parts(self, model, inputs, num_items_in_batch, index: int, parts: int) -> torch.Tensor:
        """The loss of a batch, the sum over its parts; gradients are exchanged with those of the last part."""
        loss, row, pieces = 0.0, 0, split(inputs, parts)
        for number, piece in enumerate(pieces, start=1):
            self._set_random_position(piece["input_ids"], index, row)
            with nullcontext() if number == len(pieces) else self.accelerator.no_sync(model):
                loss = loss + super().training_step(model, piece, num_items_in_batch)
            row += len(piece["input_ids"])
        return loss

    def _set_random_position(self, ids_BT: torch.Tensor, index: int, row: int):
        """Tell dropout which rows these are; other random numbers, as in a GPU's attention, depend on the first row."""
        run, rows = (self.args.seed, self.state.global_step), self.args.train_batch_size
        first = (index * self.args.world_size + self.args.process_index) * rows + row
        self.place.set(ids_BT.to(self.args.device), first, *run)
        torch.manual_seed(hashed(*run, first) % (1 << 32))


def split(inputs: dict[str, torch.Tensor], parts: int) -> list[dict[str, torch.Tensor]]:
    """A batch in parts of nearly equal numbers of rows; at most one part per row."""
    if parts == 1:
        return [inputs]
    columns = {name: values.tensor_split(min(parts, len(values))) for name, values in inputs.items()}
    return [dict(zip(columns, rows, strict=True)) for rows in zip(*columns.values(), strict=True)]
