"""Time a training step of several models on division modulo 97: one after the other, as one batch, and variants.

usage: python -m benchmarks.replicas [--replicas R] [--rounds N] [--batch B] [--modulus P] [--no-keep] [--out FILE]

Prints seed-steps per second (forward, backward and optimiser of one model) of each variant, under AdamW and under Muon,
and milliseconds to evaluate all equations; writes them to experiments/results/replicas.json. Models, data and
optimisers are those of configs/algorithmic/fast.yaml. Variants alternate step by step, so that a busy machine slows
all equally. Shapes: R replicas, B batch, T positions, D width, N heads, G key-value heads, H size of a head.
"""

import argparse
import copy
import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from settings.paths import ROOT


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.replicas", description=__doc__.splitlines()[0])
    parser.add_argument("--replicas", type=int, default=5, help="models to train (default 5)")
    parser.add_argument("--rounds", type=int, default=20, help="steps of each variant that are timed (default 20)")
    parser.add_argument("--batch", type=int, default=512, help="rows per model and step (default 512)")
    parser.add_argument("--modulus", type=int, default=97, help="a prime (default 97)")
    parser.add_argument("--no-keep", action="store_true", help="leave freed memory to the C library's defaults")
    parser.add_argument("--out", type=Path, default=ROOT / "experiments" / "results" / "replicas.json")
    return parser.parse_args(arguments)


if __name__ == "__main__":  # before the imports that take seconds
    parse(None)

import torch

from data_prep.collator import CausalLMCollator
from modeling.attention import eager_attention
from modeling.layers import rotate
from modeling.modeling_kindling import KindlingBlock
from modeling.releases import CACHE
from settings.experiment import AlgorithmicExperiment
from settings.loading import load_experiment
from storage.files import write_json
from training.grokking.members import Member
from training.grokking.replicas import Replicas
from training.grokking.tables import Batches, chunks, tabulate
from training.grokking.trainer import answers
from training.machine.hardware import describe_hardware, has_bf16, keep_freed_memory
from training.optimization.optimizers import build_optimizer


@dataclass(frozen=True)
class Variant:
    """A way to train several models; the plain one is transformers': a model at a time, the loss inside the model."""

    bf16: bool
    """Under autocast."""
    together: bool = True
    """By `Replicas`."""
    shared: bool = False
    """Work on shared beginnings is done once."""
    last_only: bool = False
    """The last block computes the last position alone."""

    @property
    def precision(self) -> str:
        return "bf16" if self.bf16 else "fp32"


VARIANTS = {
    "one after the other, fp32": Variant(bf16=False, together=False),
    "one after the other, bf16": Variant(bf16=True, together=False),
    "replicas, fp32": Variant(bf16=False),
    "replicas, shared beginnings, fp32": Variant(bf16=False, shared=True),
    "replicas, bf16": Variant(bf16=True),
    "replicas, shared beginnings, bf16": Variant(bf16=True, shared=True),  # what train_algorithmic.py does
    "replicas, shared, last position only, bf16": Variant(bf16=True, shared=True, last_only=True),
    "replicas, last position only, bf16": Variant(bf16=True, last_only=True),
}


class LastPositionBlock(KindlingBlock):
    """A prototype: a block that returns the last position (B, 1, D) alone, the same as KindlingBlock computes for it.

    Keys and values are still of all positions, and the last position sees all of them: there is no mask. For the last
    block of a model with pre-norm and without dropout, where no row is padded.
    """

    def forward(self, hidden_states, rotary=None, **kwargs):
        attention, h_BTD = self.self_attn, self.input_layernorm(hidden_states)
        h_B1D = h_BTD[:, -1:].contiguous()  # under vmap a product with a view would repeat the weights for each row
        q_BN1H = attention.q_norm(attention._split_heads(attention.q_proj(h_B1D))).transpose(1, 2)
        k_BGTH = attention.k_norm(attention._split_heads(attention.k_proj(h_BTD))).transpose(1, 2)
        v_BGTH = attention._split_heads(attention.v_proj(h_BTD)).transpose(1, 2)
        if rotary is not None:
            q_BN1H, k_BGTH = rotate(q_BN1H, *(part_B1TH[:, :, -1:] for part_B1TH in rotary)), rotate(k_BGTH, *rotary)
        if (cache := kwargs.get(CACHE)) is not None:
            k_BGTH, v_BGTH = cache.update(k_BGTH, v_BGTH, attention.layer_idx)
        attended_B1NH, _ = eager_attention(attention, q_BN1H, k_BGTH, v_BGTH, None, attention.scaling)
        x_B1D = hidden_states[:, -1:] + attention.o_proj(attended_B1NH.flatten(2))
        return x_B1D + self.mlp(self.post_attention_layernorm(x_B1D))


def keep_last_position(model):
    """Make a model compute nothing but the last position from its last block on."""
    last = model.model.layers[-1]
    block = LastPositionBlock(model.config, last.self_attn.layer_idx)
    block.load_state_dict(last.state_dict())
    model.model.layers[-1] = block


class Contender:
    """Models trained by a variant, from the same start as all others; `kind` is their optimiser's."""

    def __init__(self, variant: Variant, kind: str, members: list[Member], beginnings: torch.LongTensor):
        models = [copy.deepcopy(member.model) for member in members]
        if variant.last_only:
            for model in models:
                keep_last_position(model)
        args = replace(members[0].args, bf16=variant.bf16)
        trained = [(model, args, replace(members[0].experiment.optimizer, kind=kind)) for model in models]
        if variant.together:
            replicas = Replicas(models, beginnings if variant.shared else None)
            self.losses = [partial(loss_together, replicas, members[0].equations.answer_length)]
            self.optimizers = [build_optimizer(trained)]
        else:
            self.losses = [partial(loss_alone, model, place) for place, model in enumerate(models)]
            self.optimizers = [build_optimizer([one]) for one in trained]
        self.autocast = partial(torch.autocast, "cpu", dtype=torch.bfloat16, enabled=variant.bf16)

    def step(self, batch: dict[str, torch.Tensor]):
        """A step of each model."""
        for loss_of, optimizer in zip(self.losses, self.optimizers, strict=True):
            with self.autocast():
                loss = loss_of(batch)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    @torch.no_grad()
    def evaluate(self, pieces: list[dict[str, torch.Tensor]]):
        """The losses of each model on all pieces."""
        for loss_of, piece in itertools.product(self.losses, pieces):
            with self.autocast():
                loss_of(piece)


def loss_alone(model, place: int, table: dict[str, torch.Tensor]) -> torch.Tensor:
    """What transformers' Trainer minimises: the model shifts the labels of whole rows."""
    return model(input_ids=table["input_ids"][place], labels=table["labels"][place], use_cache=False).loss


def loss_together(replicas: Replicas, answer_length: int, table: dict[str, torch.Tensor]) -> torch.Tensor:
    """What AlgorithmicTrainer minimises, for answers of one token."""
    nats_RB, _ = answers(replicas, table, answer_length)
    return nats_RB.mean(-1).sum()


def build_members(replicas: int, batch: int, modulus: int) -> list[Member]:
    """The models and equations of the fast configuration, a seed each."""
    given = {
        "replicas.training.seed": list(range(replicas)),
        "training.per_device_train_batch_size": batch,
        "training.use_cpu": True,
        "data.modulus": modulus,
    }
    path, overrides = ROOT / "configs" / "algorithmic" / "fast.yaml", [f"{key}={value}" for key, value in given.items()]
    experiment = load_experiment(str(path), overrides, AlgorithmicExperiment)
    return [Member.build(one) for one in experiment.replicated()]


def take_turns(contenders: dict[str, Contender], rounds: int, work: Callable) -> dict[str, list[float]]:
    """Seconds of `work(contender)` in each round, by name; a first round, which warms up, is left out."""
    seconds = {name: [] for name in contenders}
    for _ in range(rounds + 1):
        for name, contender in contenders.items():
            started = time.perf_counter()
            work(contender)
            seconds[name].append(time.perf_counter() - started)
    return {name: taken[1:] for name, taken in seconds.items()}


def rows_of(seconds: dict[str, list[float]], replicas: int, unit: str) -> list[dict]:
    """One row per variant: medians for all replicas and per replica; best speed; speedup over the first row."""
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    return [
        {
            "variant": name,
            "precision": VARIANTS[name].precision,
            "milliseconds": round(1000 * medians[name], 2),
            "milliseconds_a_seed": round(1000 * medians[name] / replicas, 2),
            f"{unit}_per_second": round(replicas / medians[name], 1),
            f"best_{unit}_per_second": round(replicas / min(taken), 1),
            "ratio": round(next(iter(medians.values())) / medians[name], 2),
        }
        for name, taken in seconds.items()
    ]


def print_table(title: str, rows: list[dict]):
    """Print rows as a table; the names of the variants include the precision."""
    print(f"\n{title}")
    keys = [key for key in rows[0] if key != "precision"]
    names = [key.replace("milliseconds", "ms").replace("_per_second", "/s").replace("_", " ") for key in keys]
    for first, *others in [names, *([row[key] for key in keys] for row in rows)]:
        print(f"{first:42}", *(f"{value:>{max(len(name), 7)}}" for name, value in zip(names[1:], others, strict=True)))


def main(arguments: list[str] | None = None):
    asked = parse(arguments)
    if not asked.no_keep:
        keep_freed_memory()
    members = build_members(asked.replicas, asked.batch, asked.modulus)
    tables, beginnings = tabulate(members, CausalLMCollator(members[0].equations.tokenizer.pad_token_id))
    batch = Batches(tables["train"], range(asked.replicas)).__getitems__(list(range(asked.batch)))
    pieces = [piece for table in tables.values() for piece in chunks(table, members[0].args.eval_batch_size)]
    report = {
        **{name: value for name, value in vars(asked).items() if name != "out"},
        "equations": sum(table["input_ids"].shape[1] for table in tables.values()),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "hardware": describe_hardware(members[0].args),
    }
    print(", ".join(f"{name} {value}" for name, value in report.items() if name != "hardware"))

    possible = {name: variant for name, variant in VARIANTS.items() if has_bf16(use_cpu=True) or not variant.bf16}
    for kind in ("adamw", "muon"):
        contenders = {name: Contender(variant, kind, members, beginnings) for name, variant in possible.items()}
        seconds = take_turns(contenders, asked.rounds, lambda contender: contender.step(batch))
        report[kind] = rows_of(seconds, asked.replicas, "seed_steps")
        print_table(f"training steps, {kind}", report[kind])
    rounded = {name: contenders[name] for name, variant in possible.items() if variant.bf16}
    seconds = take_turns(rounded, asked.rounds, lambda contender: contender.evaluate(pieces))
    if seconds:
        report["evaluation"] = rows_of(seconds, asked.replicas, "seed_evaluations")
        print_table(f"evaluation of all {report['equations']:,} equations", report["evaluation"])
    write_json(asked.out, report)


if __name__ == "__main__":
    main()
