"""The Trainer for tables of equations: one model or many replicas, with the loss on answers.

Shapes: R replicas, B batch, T tokens of an equation, K positions of the answer.
"""

import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from safetensors.torch import load_model
from torch import nn
from transformers import TrainingArguments
from transformers.utils import SAFE_WEIGHTS_NAME

from data_prep.collator import CausalLMCollator
from modeling.accounting import product_flops
from training.optimization.optimizers import build_optimizer
from training.reporting.callbacks import MetricsFile, show_progress
from training.run import Run
from training.trainer import KindlingTrainer, lengths

from .callbacks import AlgorithmicProgress, EvaluateLogSpaced, StopWhenGrokked
from .members import Member
from .replicas import Replicas
from .tables import Batches, chunks, tabulate


def answers(model: nn.Module, table: dict[str, torch.Tensor], length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of each row's answer in nats, and whether greedy decoding gives all of it: both (R, B).

    The last token is not an input, since nothing is predicted from it; only the last `length` positions have logits.
    """
    labels_RBK = table["labels"][..., -length:]
    logits_RBKV = model(table["input_ids"][..., :-1], table["beginning"], logits_to_keep=length)
    nats = nn.functional.cross_entropy(logits_RBKV.flatten(0, -2).float(), labels_RBK.flatten(), reduction="none")
    right_RBK = (logits_RBKV.argmax(-1) == labels_RBK) | (labels_RBK == -100)
    return nats.view_as(labels_RBK).sum(-1), right_RBK.all(-1)


class AlgorithmicTrainer(KindlingTrainer):
    """A Trainer of `Replicas` on tables of equations; a single model is one replica.

    `data_collator` is applied once, to whole splits; each batch is a selection of rows. An evaluation logs one row per
    replica: loss (nats per target) and accuracy (share of entirely correct answers) of every split, and the norm of all
    weights; and the same for each average of the weights, as in `ema_test_loss`.
    """

    def __init__(self, members: list[Member], args: TrainingArguments, data_collator: Callable, **kwargs):
        self.members = members
        self.answer_length = members[0].equations.answer_length
        self.splits, beginnings = tabulate(members, data_collator)
        train_set = Batches(self.splits["train"], [member.args.seed for member in members])
        args.per_device_train_batch_size = min(args.per_device_train_batch_size, len(train_set))
        super().__init__(
            model=Replicas([member.model for member in members], beginnings),
            args=args,
            train_dataset=train_set,
            eval_dataset=train_set,  # the Trainer requires one for `eval_steps`; `evaluate` measures all splits
            data_collator=dict,
            processing_class=members[0].equations.tokenizer,
            text_bytes=None,
            names=[member.name for member in members],
            **kwargs,
        )

    def trained_models(self) -> dict[str, nn.Module]:
        """Each member's model."""
        return {member.name: member.model for member in self.members}

    def trained(self) -> list[tuple]:
        """What the optimiser is built from: each model with its own arguments and settings."""
        return [(member.model, member.args, member.experiment.optimizer) for member in self.members]

    def create_optimizer(self, model=None):  # noqa: ARG002
        """One optimiser for all members."""
        if self.optimizer is None:
            self.optimizer = build_optimizer(self.trained())
            self.optimizer_work.watch(self.optimizer)
        return self.optimizer

    def _set_dropout_position(self, ids_RBT: torch.Tensor):
        """Do nothing: one process trains all replicas, and `vmap` gives each its own random numbers."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):  # noqa: ARG002
        """The mean over each replica's targets, summed over replicas, so their gradients are independent."""
        nats_RB, _ = answers(model, inputs, self.answer_length)
        targets_R = (inputs["labels"] != -100).sum((-2, -1))
        return (nats_RB.sum(-1) / targets_R).sum()

    def evaluate(self, *args, **kwargs):  # noqa: ARG002
        """Measure all of every split for every replica; log one row per replica, and return the first.

        In the precision of training: in bf16, the accuracy of a model whose answers are uncertain can differ by some
        tenths of a percent from that of its checkpoint in float32.
        """
        started = time.perf_counter()
        rows = self._measure_splits()
        for kind in self.averages.begun:
            with self.averages.swapped(kind):
                again = self._measure_splits()
            for row, of_average in zip(rows, again, strict=True):
                row |= {f"{kind}_{name}": value for name, value in of_average.items() if name != "replica"}
        for row in rows:
            self.log(row)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, rows)
        self._evaluation_seconds += time.perf_counter() - started
        return rows[0]

    def _measure_splits(self) -> list[dict]:
        self.model.eval()
        values = {}
        for name, table in self.splits.items():
            nats, right = zip(*map(self._answers_of, chunks(table, self.args.eval_batch_size)), strict=True)
            targets_R = (table["labels"] != -100).sum((-2, -1))
            values[f"{name}_loss"] = torch.cat(nats, dim=-1).sum(-1) / targets_R
            values[f"{name}_accuracy"] = torch.cat(right, dim=-1).double().mean(-1)
        values["weight_norm"] = torch.stack([_weight_norm(member.model) for member in self.members])
        columns = {name: tensor.tolist() for name, tensor in values.items()}
        return [
            {"replica": member.name} | {name: column[i] for name, column in columns.items()}
            for i, member in enumerate(self.members)
        ]

    def _answers_of(self, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad(), self.compute_loss_context_manager():
            nats, right = answers(self.model, self.prepare_inputs(inputs), self.answer_length)
        return nats.cpu(), right.cpu()

    def write_model(self, folder: str, state_dict: dict | None):  # noqa: ARG002
        """Save each model as a checkpoint of its own, in a subfolder with its name unless it is the only one."""
        for model, own in self._folders(folder):
            model.save_pretrained(own)
            self.processing_class.save_pretrained(own)

    def load_weights(self, checkpoint: str, model: nn.Module | None):  # noqa: ARG002
        """Load each model from the folder that `write_model` has put it into."""
        for one, own in self._folders(checkpoint):
            load_model(one, own / SAFE_WEIGHTS_NAME)

    def is_finished(self) -> bool:
        stops = any(isinstance(one, StopWhenGrokked) for one in self.callback_handler.callbacks)
        grokked = stops and StopWhenGrokked.is_reached(self.state.log_history, len(self.members))
        return super().is_finished() or grokked

    def _folders(self, parent: str) -> list[tuple[nn.Module, Path]]:
        if len(self.members) == 1:
            return [(self.members[0].model, Path(parent))]
        return [(member.model, Path(parent) / member.name) for member in self.members]

    def training_step(self, *args, **kwargs):
        """As the Trainer's, on the sum of the losses; what is logged is their mean."""
        return super().training_step(*args, **kwargs) / len(self.members)

    def flops_of(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """As the base class's; the last token is no input, only targets have logits, beginnings count once."""
        shares = self.model.shares(inputs["input_ids"].shape[1])
        begun = self.model.beginnings.shape[1] if shares else 0
        inputs_RB, new_RB = lengths(inputs["labels"]) - 1, lengths(inputs["labels"]) - 1 - begun
        targets = (inputs["labels"] != -100).sum()
        flops = 3 * sum(
            product_flops(self.model.config, new_RB.sum(), (new_RB * inputs_RB).sum(), logits=targets).values()
        )
        return flops + self.model.beginning_flops() if shares else flops

    def clip_gradients(self, parameters, limit, clip):  # noqa: ARG002
        """Clip each replica's gradient by its own norm, if there is a limit, and return the largest norm.

        The stock method would multiply the gradients of all replicas by NaN where that of one isn't finite.
        """
        self.accelerator.unscale_gradients()
        norm = _grad_norm if limit == math.inf else lambda weights: nn.utils.clip_grad_norm_(weights, limit)
        return torch.stack([norm(member.model.parameters()) for member in self.members]).max()

    def skip_step(self, why: str):
        """Skip the step for the replicas with a non-finite gradient; the others make it as usual."""
        without = [member for member in self.members if not _grad_norm(member.model.parameters()).isfinite()]
        if len(without) in (0, len(self.members)):
            return super().skip_step(why)
        for member in without:
            member.model.zero_grad(set_to_none=True)
        names = [member.name for member in without]
        self.guard.skip(self.state.global_step + 1, why, self.step_batches, self.args.process_index, names)


def _grad_norm(parameters: Iterable[torch.Tensor]) -> torch.Tensor:
    return nn.utils.get_total_norm([weight.grad for weight in parameters if weight.grad is not None])


def _weight_norm(model: nn.Module) -> torch.Tensor:
    return nn.utils.get_total_norm([parameter.detach() for parameter in model.parameters()]).cpu()


def build_trainer(run: Run, members: list[Member]) -> AlgorithmicTrainer:
    """The Trainer of a run on equations."""
    config, evaluation = members[0].model.config, run.experiment.evaluation
    trainer = AlgorithmicTrainer(
        members,
        args=run.args,
        data_collator=CausalLMCollator(
            members[0].equations.tokenizer.pad_token_id,
            vocab_size=config.vocab_size,
            max_position_embeddings=config.max_position_embeddings,
        ),
        callbacks=[
            run.fingerprint,
            MetricsFile(run.folder),
            EvaluateLogSpaced(evaluation.evals_per_decade, run.args.max_steps),
            *([StopWhenGrokked()] if evaluation.stop_when_grokked else []),
        ],
        peak_flops=run.hardware["peak_flops"],
        averaging=run.experiment.averaging,
        schedules=run.experiment.schedules,
        guard=run.experiment.guard,
    )
    show_progress(trainer, AlgorithmicProgress())
    return trainer
