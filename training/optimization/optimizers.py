"""Muon for matrices beside AdamW for the rest, and Grokfast's filter; for one model or for many at once."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import AdamW, Optimizer
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_callback import ExportableState

from modeling.accounting import FLOAT32_BYTES
from settings.sections import OptimizerSection

from .width import groups_by_width, hidden_matrices, scale_to_width

NEWTON_SCHULZ_STEPS = 5


class Muon(Optimizer):
    """Momentum, orthogonalised: each update of a matrix is the nearest semi-orthogonal one (Jordan et al., 2024).

    Takes matrices only, `(rows, columns)` as `nn.Linear` has them; `lr` is scaled by `sqrt(max(1, rows / columns))`,
    weight decay is decoupled, momentum is Nesterov's: what `torch.optim.Muon` computes. Matrices of one shape are
    orthogonalised in one batch, of whichever layer or model they are; `dtype` is the precision of that.
    """

    def __init__(self, params, lr: float, weight_decay: float, momentum: float = 0.95, dtype=torch.bfloat16):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self.dtype = dtype
        self.flops = 0
        """FLOPs of the matrix products of all steps made."""

    @torch.no_grad()
    def step(self, closure=None):  # noqa: ARG002
        by_shape = {}
        for group in self.param_groups:
            for weight in _with_gradient(group):
                by_shape.setdefault(weight.shape, []).append((weight, group))
        for (rows, columns), members in by_shape.items():
            updates = torch.stack([self._momentum(weight, group) for weight, group in members])
            self.flops += orthogonalization_flops(*updates.shape)
            updates = orthogonalize(updates, self.dtype).to(members[0][0].dtype)
            for (weight, group), update in zip(members, updates, strict=True):
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(update, alpha=-group["lr"] * math.sqrt(max(1, rows / columns)))

    def _momentum(self, weight, group) -> torch.Tensor:
        state = self.state[weight]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        buffer = state["momentum_buffer"].lerp_(weight.grad, 1 - group["momentum"])
        return weight.grad.lerp(buffer, group["momentum"])


def _with_gradient(group: dict) -> list[torch.Tensor]:
    """The weights of a group that have a gradient; torch's own optimisers skip the others, too."""
    return [weight for weight in group["params"] if weight.grad is not None]


def orthogonalize(matrices: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Move the singular values of matrices (batch, rows, columns) close to 1, by five steps of Newton and Schulz.

    The quintic's coefficients are Jordan's: fast rather than exact, most singular values end between 0.7 and 1.2.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices.to(dtype)
    if tall := x.size(-2) > x.size(-1):
        x = x.mT
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def orthogonalization_flops(count: int, rows: int, columns: int) -> int:
    """FLOPs of the matrix products in `orthogonalize`, for so many matrices."""
    short, long = sorted((rows, columns))
    return count * NEWTON_SCHULZ_STEPS * 2 * (2 * short**2 * long + short**3)


def orthogonalization_bytes(shapes: Mapping[tuple[int, int], int], bytes_of_number: int) -> int:
    """Memory that a step of Muon takes on matrices, given as (rows, columns) and how many have them, in its order.

    For each shape: the updates in float32, and in the precision of training the matrices before and after an iteration,
    their Gram matrix and its polynomial, or at the end the result and its float32 copy. The updates of the shape before
    are still referred to.
    """
    largest = before = 0
    for (rows, columns), count in shapes.items():
        size, square = count * rows * columns, count * min(rows, columns) ** 2
        updates, iteration = FLOAT32_BYTES * size, bytes_of_number * 2 * (size + square)
        copied = (bytes_of_number + FLOAT32_BYTES) * size if bytes_of_number < FLOAT32_BYTES else 0
        largest, before = max(largest, before + updates + max(iteration, copied)), updates
    return largest


@dataclass(frozen=True)
class MatrixOptimizer:
    """An optimiser of the matrices inside the blocks; its settings are `optimizer.KIND_learning_rate` and so on."""

    build: Callable[[list[dict], torch.dtype], Optimizer]
    """Of parameter groups with all their settings, and the precision of training."""
    state_floats: int
    """Numbers that it keeps per parameter."""
    step_flops: Callable[[int, int], int]
    """FLOPs of the matrix products of one step on a matrix, of rows and columns."""
    step_bytes: Callable[[Mapping[tuple[int, int], int], int], int] = lambda _shapes, _bytes: 0
    """Memory that a step takes besides its state, of the numbers of matrices by shape and the bytes of a number."""
    scales_itself: bool = False
    """Whether the spectral norm of its updates follows the shape of a matrix, so that one rate fits every width."""


MATRIX_OPTIMIZERS: dict[str, MatrixOptimizer | None] = {
    "adamw": None,  # the same as for all other parameters
    "muon": MatrixOptimizer(
        lambda groups, dtype: Muon(groups, lr=0.0, weight_decay=0.0, dtype=dtype),
        state_floats=1,
        step_flops=lambda rows, columns: orthogonalization_flops(1, rows, columns),
        step_bytes=orthogonalization_bytes,
        scales_itself=True,
    ),
}
"""By `optimizer.kind`."""


def step_flops(trained: list[tuple[nn.Module, TrainingArguments, OptimizerSection]]) -> int:
    """FLOPs of the matrix products that `build_optimizer`'s makes in a step: Muon's, for AdamW has none."""
    return sum(
        MATRIX_OPTIMIZERS[section.kind].step_flops(*matrix.shape)
        for model, _, section in trained
        for matrix in split_parameters(model, section.kind)[0]
    )


class OptimizerWork(TrainerCallback, ExportableState):
    """FLOPs of the optimiser's matrix products since a run began, kept in its checkpoints: `flops`.

    AdamW has none. A step that several processes make together counts once; skipped steps do not count.
    """

    def __init__(self):
        self.optimizers, self.before = [], 0

    def watch(self, optimizer: Optimizer):
        """Count this optimiser's FLOPs."""
        self.optimizers = getattr(optimizer, "optimizers", [optimizer])

    @property
    def flops(self) -> int:
        return self.before + sum(getattr(one, "flops", 0) for one in self.optimizers)

    def state(self) -> dict:
        """What the Trainer writes into `trainer_state.json`."""
        return {"args": {}, "attributes": {"flops": self.flops}}

    def on_train_begin(self, args, state, control, **kwargs):  # noqa: ARG002
        saved = state.stateful_callbacks.get(type(self).__name__, {}).get("attributes", {})
        self.before += saved.get("flops", 0) - self.flops


class Grokfast(Optimizer):
    """Amplify the slow part of the gradients (Lee et al., 2024): to each gradient add `lamb` x its running mean.

    Changes gradients, not weights: it steps before the optimiser that uses them.
    """

    def __init__(self, params, alpha: float, lamb: float):
        super().__init__(params, {"lr": 0.0, "alpha": alpha, "lamb": lamb})

    @torch.no_grad()
    def step(self, closure=None):  # noqa: ARG002
        for group in self.param_groups:
            for weight in _with_gradient(group):
                state = self.state[weight]
                if "mean" not in state:
                    state["mean"] = weight.grad.clone()
                else:
                    state["mean"].lerp_(weight.grad, 1 - group["alpha"])
                weight.grad.add_(state["mean"], alpha=group["lamb"])


class Chain(Optimizer):
    """Optimisers of different weights, as one: a schedule reaches the groups of all of them.

    `gradient_filter`, if there is one, steps before them; it has no learning rate to schedule.
    """

    def __init__(self, optimizers: list[Optimizer], gradient_filter: Optimizer | None = None):
        self.optimizers = optimizers
        self.steps = [gradient_filter, *optimizers] if gradient_filter else optimizers
        defaults = {"lr": optimizers[-1].param_groups[0]["lr"]}  # schedules with a minimum read it
        super().__init__([group for optimizer in optimizers for group in optimizer.param_groups], defaults)

    def step(self, closure=None):  # noqa: ARG002
        for optimizer in self.steps:
            optimizer.step()

    def state_dict(self) -> dict:
        return {"steps": [optimizer.state_dict() for optimizer in self.steps]}

    def load_state_dict(self, state_dict: dict):
        for optimizer, state in zip(self.steps, state_dict["steps"], strict=True):
            optimizer.load_state_dict(state)
        self.param_groups = [group for optimizer in self.optimizers for group in optimizer.param_groups]


def build_optimizer(trained: list[tuple[nn.Module, TrainingArguments, OptimizerSection]]) -> Optimizer:
    """One optimiser for models that are trained together, each with its own settings.

    AdamW as in the Trainer's arguments, decaying matrices only; with `kind: muon` the matrices inside the blocks are
    Muon's, orthogonalised in the precision of training. With muP each has the rates of the model's width.
    """
    own, adamw, grokfast = [], [], []
    for model, args, section in trained:
        matrices, rest = split_parameters(model, section.kind)
        own += _matrix_groups(matrices, section, model.config.width_multiplier)
        groups = _adamw_groups(rest, decayed_parameters(model, section), args)
        adamw += groups_by_width(groups, model, model.config.width_multiplier)
        if section.grokfast_lambda:
            filtered = {"alpha": section.grokfast_alpha, "lamb": section.grokfast_lambda}
            grokfast.append({"params": list(model.parameters())} | filtered)
    optimizers = [AdamW(adamw, fused=True)]
    if own:
        dtype = torch.bfloat16 if trained[0][1].bf16 else torch.float32
        optimizers.insert(0, MATRIX_OPTIMIZERS[trained[0][2].kind].build(own, dtype))
    return Chain(optimizers, Grokfast(grokfast, alpha=0.0, lamb=0.0) if grokfast else None)


def split_parameters(model: nn.Module, kind: str) -> tuple[list, list]:
    """The matrices inside the blocks, if `kind` has an optimiser for them, and everything else, which is AdamW's."""
    if MATRIX_OPTIMIZERS[kind] is None:
        return [], list(model.parameters())
    matrices = hidden_matrices(model)
    inside = set(map(id, matrices))
    return matrices, [parameter for parameter in model.parameters() if id(parameter) not in inside]


def decayed_parameters(model: nn.Module, section: OptimizerSection) -> dict[str, nn.Parameter]:
    """The parameters with weight decay, by name: matrices, never norms or biases.

    Embeddings are among them unless `decay_embeddings` is off; a tied one is the head, too.
    """
    embeddings = [one.weight for one in model.modules() if isinstance(one, nn.Embedding)]
    spared = set() if section.decay_embeddings else set(map(id, embeddings))
    return {name: one for name, one in model.named_parameters() if one.ndim >= 2 and id(one) not in spared}


def _matrix_groups(matrices: list, section: OptimizerSection, width: float) -> list[dict]:
    if not matrices:
        return []
    group = {"params": matrices} | section.matrix_settings
    return [group if MATRIX_OPTIMIZERS[section.kind].scales_itself else scale_to_width(group, width)]


def _adamw_groups(parameters: list, decayed: dict[str, nn.Parameter], args: TrainingArguments) -> list[dict]:
    settings = {"lr": args.learning_rate, "betas": (args.adam_beta1, args.adam_beta2), "eps": args.adam_epsilon}
    decays = set(map(id, decayed.values()))
    groups = [
        settings | {"params": [one for one in parameters if id(one) in decays], "weight_decay": args.weight_decay},
        settings | {"params": [one for one in parameters if id(one) not in decays], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
