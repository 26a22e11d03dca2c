"""A training step of several models on division modulo 97: one after the other, as one batch, with what each saves.

usage: python -m benchmarks.replicas [--replicas R] [--rounds N] [--batch B] [--no-keep] [--out FILE]

Prints seed-steps a second (forward, backward and optimiser of one model) of each variant, under AdamW and under Muon,
and milliseconds to evaluate all equations; writes them to experiments/results/replicas.json. Models, data and
optimisers are those of configs/algorithmic/fast.yaml. Variants take turns step by step, so that a busy machine slows
all alike. Shapes: R replicas, B batch, T positions, D width, N heads, G key-value heads, H size of a head.
"""

import argparse
import copy
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from config import ROOT, load_experiment
from data_prep.algorithmic import prepare_equations
from data_prep.collator import CausalLMCollator
from modeling.attention import eager_attention
from modeling.layers import rotate
from modeling.modeling_kindling import KindlingBlock
from sections import AlgorithmicExperiment
from training.algorithmic import Batches, Member, answers, tabulate
from training.hardware import describe_hardware, has_bf16, keep_freed_memory
from training.optimizers import build_optimizer
from training.replicas import Replicas
from training.run import training_arguments, write_json


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
REFERENCE = next(iter(VARIANTS))


class LastPositionBlock(KindlingBlock):
    """A prototype: a block that returns the last position (B, 1, D) alone, the same as KindlingBlock computes for it.

    Keys and values are still of all positions, and the last position sees all of them: there is no mask. For the last
    block of a model with pre-norm and without dropout, where no row is padded.
    """

    def forward(self, hidden_states, rotary=None, past_key_values=None, **_):
        attention, h_BTD = self.self_attn, self.input_layernorm(hidden_states)
        q_BN1H = attention.q_norm(attention._split_heads(attention.q_proj(h_BTD[:, -1:]))).transpose(1, 2)
        k_BGTH = attention.k_norm(attention._split_heads(attention.k_proj(h_BTD))).transpose(1, 2)
        v_BGTH = attention._split_heads(attention.v_proj(h_BTD)).transpose(1, 2)
        if rotary is not None:
            q_BN1H, k_BGTH = rotate(q_BN1H, *(part_B1TH[:, :, -1:] for part_B1TH in rotary)), rotate(k_BGTH, *rotary)
        if past_key_values is not None:
            k_BGTH, v_BGTH = past_key_values.update(k_BGTH, v_BGTH, attention.layer_idx)
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
    """Models that are trained by a variant, from the same start as all others; `kind` is their optimiser's."""

    def __init__(self, variant: Variant, kind: str, members: list[Member], beginnings: torch.LongTensor):
        self.variant = variant
        models = [copy.deepcopy(member.model) for member in members]
        if variant.last_only:
            for model in models:
                keep_last_position(model)
        args = training_arguments(_with(members[0].experiment, bf16=variant.bf16))
        section = replace(members[0].experiment.optimizer, kind=kind)
        trained = [(model, args, section) for model in models]
        if variant.together:
            replicas = Replicas(models, beginnings if variant.shared else None)
            length = members[0].equations.answer_length
            self.parts = [(lambda table: _loss_together(replicas, table, length), build_optimizer(trained))]
        else:
            self.parts = [
                (lambda table, i=i, model=model: _loss_alone(model, table, i), build_optimizer([trained[i]]))
                for i, model in enumerate(models)
            ]

    def step(self, batch: dict[str, torch.Tensor]):
        """A step of each model."""
        for loss_of, optimizer in self.parts:
            with self._autocast():
                loss = loss_of(batch)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    @torch.no_grad()
    def evaluate(self, chunks: list[dict[str, torch.Tensor]]):
        """The losses of each model on all chunks."""
        for chunk in chunks:
            for loss_of, _ in self.parts:
                with self._autocast():
                    loss_of(chunk)

    def _autocast(self):
        return torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.variant.bf16)


def _loss_alone(model, table, i):
    return model(input_ids=table["input_ids"][i], labels=table["labels"][i], use_cache=False).loss


def _loss_together(replicas, table, length):
    nats_RB, _ = answers(replicas, table, length)
    return nats_RB.mean(-1).sum()


def _with(experiment: AlgorithmicExperiment, **training) -> AlgorithmicExperiment:
    return replace(experiment, training=experiment.training | training)


def build_members(replicas: int, batch: int) -> list[Member]:
    """The models and equations of the fast configuration, a seed each."""
    path = str(ROOT / "configs" / "algorithmic" / "fast.yaml")
    seeds = f"replicas.training.seed={list(range(replicas))}"
    given = [seeds, f"training.per_device_train_batch_size={batch}", "training.use_cpu=true"]
    members = []
    for one in load_experiment(path, given, AlgorithmicExperiment).replicated():
        args = training_arguments(one)
        members.append(Member.build(one, args, prepare_equations(one.data, args.seed)))
    return members


def take_turns(contenders: dict, rounds: int, work) -> dict[str, list[float]]:
    """Seconds of `work(contender)`, by name, in each round; a first round that warms up is left out."""
    seconds = {name: [] for name in contenders}
    for _ in range(rounds + 1):
        for name, contender in contenders.items():
            started = time.perf_counter()
            work(contender)
            seconds[name].append(time.perf_counter() - started)
    return {name: taken[1:] for name, taken in seconds.items()}


def step_rows(seconds: dict[str, list[float]], replicas: int) -> list[dict]:
    """A row a variant; `ratio` is the median speed over the reference's."""
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    return [
        {
            "variant": name,
            "precision": VARIANTS[name].precision,
            "median_milliseconds": round(1000 * medians[name], 2),
            "seed_steps_per_second": round(replicas / medians[name], 1),
            "best_seed_steps_per_second": round(replicas / min(taken), 1),
            "ratio": round(medians[REFERENCE] / medians[name], 2),
        }
        for name, taken in seconds.items()
    ]


def evaluation_rows(seconds: dict[str, list[float]], replicas: int) -> list[dict]:
    """A row a variant: milliseconds a replica for all equations."""
    return [
        {
            "variant": name,
            "precision": VARIANTS[name].precision,
            "median_milliseconds_a_replica": round(1000 * statistics.median(taken) / replicas, 2),
            "best_milliseconds_a_replica": round(1000 * min(taken) / replicas, 2),
        }
        for name, taken in seconds.items()
    ]


def print_table(title: str, rows: list[dict]):
    """Rows of the same keys, in columns under their names."""
    print(f"\n{title}")
    names = [key.replace("_", " ") for key in rows[0]]
    cells = [names, *([str(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for first, *others in cells:
        print(first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)))


def main(arguments: list[str] | None = None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.replicas", description=__doc__.splitlines()[0])
    parser.add_argument("--replicas", type=int, default=5, help="models to train (default 5)")
    parser.add_argument("--rounds", type=int, default=20, help="steps of each variant that are timed (default 20)")
    parser.add_argument("--batch", type=int, default=512, help="rows a model and step (default 512)")
    parser.add_argument("--no-keep", action="store_true", help="leave freed memory to the C library's defaults")
    parser.add_argument("--out", type=Path, default=ROOT / "experiments" / "results" / "replicas.json")
    asked = parser.parse_args(arguments)
    if not asked.no_keep:
        keep_freed_memory()

    members = build_members(asked.replicas, asked.batch)
    tables, beginnings = tabulate(members, CausalLMCollator(members[0].equations.tokenizer.pad_token_id))
    batch = Batches(tables["train"], range(asked.replicas)).__getitems__(list(range(asked.batch)))
    size = members[0].args.eval_batch_size
    parts = [{name: tensor.split(size, dim=1) for name, tensor in table.items()} for table in tables.values()]
    chunks = [dict(zip(part, chunk, strict=True)) for part in parts for chunk in zip(*part.values(), strict=True)]

    variants = {name: variant for name, variant in VARIANTS.items() if has_bf16(use_cpu=True) or not variant.bf16}
    report = {
        "replicas": asked.replicas,
        "rounds": asked.rounds,
        "batch": asked.batch,
        "equations": sum(table["input_ids"].shape[1] for table in tables.values()),
        "freed_memory_kept": not asked.no_keep,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "hardware": describe_hardware(members[0].args),
    }
    print(", ".join(f"{name} {value}" for name, value in report.items() if name != "hardware"))
    for kind in ("adamw", "muon"):
        contenders = {name: Contender(variant, kind, members, beginnings) for name, variant in variants.items()}
        seconds = take_turns(contenders, asked.rounds, lambda contender: contender.step(batch))
        report[kind] = step_rows(seconds, asked.replicas)
        print_table(f"training steps, {kind}", report[kind])
    halved = {name: contender for name, contender in contenders.items() if contender.variant.bf16}
    if halved:
        seconds = take_turns(halved, asked.rounds, lambda contender: contender.evaluate(chunks))
        report["evaluation"] = evaluation_rows(seconds, asked.replicas)
        print_table(f"evaluation of all {report['equations']:,} equations", report["evaluation"])
    write_json(asked.out, report)


if __name__ == "__main__":
    main()
