"""Tables and lines of what a run on text came to: for its card, and for the terminal at its end."""

from pathlib import Path

from publishing.card import WEIGHTS
from settings.wording import format_count

from .averages import averaged_losses
from .budget import describe_spending
from .callbacks import Samples

TARGETS = "eval_targets/"


def kept_checkpoints(folder: Path, kept: dict) -> dict[str, str]:
    """A row that names the checkpoints by tokens; those that a full disk has prevented are left out."""
    there = {name: one for name, one in kept.items() if (folder / f"checkpoint-{one['step']}").is_dir()}
    named = (f"`{name}` in `checkpoint-{one['step']}` ({one['tokens']:,} tokens)" for name, one in there.items())
    return {"kept checkpoints": ", ".join(named)} if there else {}


def result_rows(metrics: dict) -> dict:
    """The evaluation as rows of a table."""
    if "eval_loss" not in metrics:
        return {"validation loss": "not evaluated yet"}
    rows = {
        "validation loss": f"{metrics['eval_loss']:.4f} ± {metrics['eval_loss_standard_error']:.4f} nats per token",
        "perplexity": f"{metrics['eval_perplexity']:.3f} (vocabulary of {metrics['vocabulary']:,})",
    }
    if "evaluated_step" in metrics:
        rows["evaluated"] = f"after step {metrics['evaluated_step']:,}, before the last {_since(metrics)}"
    others = {name: loss for name, loss in averaged_losses(metrics).items() if name != metrics.get("weights")}
    for name, loss in others.items():
        rows[f"validation loss, {WEIGHTS[name]}"] = f"{loss:.4f} nats per token"
    if "eval_bits_per_byte" in metrics:
        rows["bits per byte"] = f"{metrics['eval_bits_per_byte']:.4f}"
    if metrics["floor_bits_per_byte"] is not None:
        rows["floor"] = f"{metrics['floor_bits_per_byte']:.4f} bits per byte (the exact -log p of the validation text)"
    return rows


def _since(metrics: dict) -> str:
    return format_count(metrics["steps"] - metrics["evaluated_step"], "step")


def group_rows(metrics: dict) -> list[list[str]]:
    """A table of the groups with targets, header first, then the largest group first; empty if there are none."""
    targets = {key.removeprefix(TARGETS): count for key, count in metrics.items() if key.startswith(TARGETS)}
    rows = []
    for name in sorted(targets, key=targets.get, reverse=True):
        row = {
            "group": name,
            "documents": f"{metrics[f'validation_documents/{name}']:,}",
            "targets": f"{targets[name] / sum(targets.values()):.1%}",
            "loss (nats per token)": f"{metrics[f'eval_loss/{name}']:.4f} ± "
            f"{metrics[f'eval_loss_standard_error/{name}']:.4f}",
        }
        if f"eval_bits_per_byte/{name}" in metrics:
            row["bits per byte"] = f"{metrics[f'eval_bits_per_byte/{name}']:.4f}"
        rows.append(row)
    return [list(rows[0]), *(list(row.values()) for row in rows)] if rows else []


def _aligned(rows: list[list[str]]) -> list[str]:
    """Rows of a table as lines: names aligned left, numbers right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    pads = [str.ljust] + [str.rjust] * len(widths[1:])
    return ["  ".join(pad(cell, w) for pad, cell, w in zip(pads, row, widths, strict=True)) for row in rows]


def passes(is_streamed: bool, metrics: dict) -> str:
    tokens = metrics["train_tokens"]
    if not is_streamed:
        return f"{metrics['epochs']:.2f} epochs of {tokens:,}"
    return f"streamed, {metrics['epochs']:.0f} whole passes" + (f" of {tokens:,}" if tokens else "")


def conclusion(folder: Path, metrics: dict, samples: Samples) -> list[str]:
    """The lines printed at the end: loss, floor, groups, a sample, and the command to prompt the model."""
    lines = ["", f"validation  {metrics['eval_loss']:.4f} nats per token, perplexity {metrics['eval_perplexity']:.2f}"]
    if "eval_bits_per_byte" in metrics:
        floor = metrics["floor_bits_per_byte"]
        against = f", floor {floor:.4f} ({metrics['eval_bits_per_byte'] / floor - 1:.1%} above)" if floor else ""
        lines.append(f"            {metrics['eval_bits_per_byte']:.4f} bits per byte{against}")
    if groups := group_rows(metrics):
        lines += ["", *_aligned(groups), ""]
    return [
        *lines,
        *([f"budget      {spending}"] if (spending := describe_spending(metrics)) else []),
        f"time        {metrics['seconds'] / 60:.1f} minutes",
        f"curves      {folder / 'curves.png'}",
        "",
        samples.last,
        "",
        f"prompt it   {samples.command(folder)}",
    ]
