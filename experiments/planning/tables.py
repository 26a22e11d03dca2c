"""The plan of one run or of several as text of at most `WIDTH` columns."""

from collections.abc import Callable, Mapping, Sequence
from textwrap import wrap

from modeling import accounting
from modeling.memory import by_batch, largest_batch, peak_memory
from settings.derivation.depth import describe
from settings.wording import format_memory, format_seconds
from training.processes import batch_size

from .run import RunPlan

WIDTH, LABEL = 100, 24
UNKNOWN = "unknown"


def count(number: int) -> str:
    """A number with commas, or with four digits if it is large."""
    return f"{number:,}" if number < 10**13 else f"{number:.4g}"


def _forward(part: str) -> Callable[[RunPlan], str]:
    return lambda plan: count(accounting.matmul_flops(plan.config, plan.window)[part])


def _of_length(text: Callable) -> Callable[[RunPlan], str]:
    """What is said of the run's length, if that is known."""
    return lambda plan: UNKNOWN if plan.length is None else text(plan)


def _targets(plan: RunPlan) -> str:
    is_exact = plan.data.is_exact or (plan.args.max_steps > 0 and plan.experiment.data.layout == "packed")
    return ("" if is_exact else "about ") + count(plan.length.whole.targets)


def _passes(plan: RunPlan) -> str:
    passes = plan.length.passes
    return UNKNOWN if passes is None else f"{'' if plan.data.is_exact else 'about '}{passes:.4g}"


def _part_of_peak(part: str) -> Callable[[RunPlan], str]:
    def cell(plan: RunPlan) -> str:
        return format_memory(peak_memory(plan.config, plan.step, plan.optimizer)[1].get(part, 0))

    return cell


def _peak(plan: RunPlan) -> str:
    return format_memory(sum(peak_memory(plan.config, plan.step, plan.optimizer)[1].values()))


def _phase(plan: RunPlan) -> str:
    return peak_memory(plan.config, plan.step, plan.optimizer)[0]


def _by_batch(index: int) -> Callable[[RunPlan], str]:
    """One of the two numbers of `by_batch`."""
    return lambda plan: format_memory(by_batch(plan.config, plan.step, plan.optimizer)[index])


def _largest_batch(plan: RunPlan) -> str:
    largest = largest_batch(plan.config, plan.step, plan.optimizer, plan.memory)
    return f"{largest:,} in {format_memory(plan.memory)}" if largest else f"none in {format_memory(plan.memory)}"


def _checkpoints(plan: RunPlan) -> str:
    number = "" if plan.checkpoints is None else f"{plan.checkpoints} x "
    return number + format_memory(plan.checkpoint_bytes)


def _tokens_on_disk(plan: RunPlan) -> str:
    found = plan.data.disk_bytes
    return UNKNOWN if found is None else ("" if plan.data.is_exact else "about ") + format_memory(found)


SECTIONS: dict[str, dict[str, Callable[[RunPlan], str]]] = {
    "model": {
        "type": lambda plan: plan.config.model_type,
        "layers x width": lambda plan: f"{plan.config.num_hidden_layers} x {plan.config.hidden_size}",
        "vocabulary": lambda plan: count(plan.config.vocab_size),
        "parameters": lambda plan: count(sum(accounting.parameters(plan.config).values())),
        "... of embeddings": lambda plan: count(accounting.embedding_parameters(plan.config)),
    },
    "a step": {
        "tokens of a sequence": lambda plan: count(plan.window),
        "sequences": lambda plan: count(batch_size(plan.args)),
        "... on the device": lambda plan: count(plan.step.batch),
        "precision": lambda plan: "16 bits" if plan.step.half else "float32",
    },
    "forward FLOPs of a sequence": {
        part: _forward(part) for part in ("feedforward", "attention projections", "attention mechanism", "head")
    },
    "training FLOPs": {
        "of a sequence": lambda plan: count(accounting.training_flops(plan.config, plan.window)),
        "of a full step": lambda plan: count(
            accounting.training_flops(plan.config, plan.window, batch_size(plan.args))
        ),
    },
    "the run": {
        "steps": _of_length(lambda plan: count(plan.length.steps)),
        "tokens trained on": _of_length(_targets),
        "passes over the data": _of_length(_passes),
        "training FLOPs": _of_length(lambda plan: f"{plan.length.flops:.4g}"),
        "optimiser's FLOPs": _of_length(lambda plan: f"{plan.length.optimizer_flops:.4g}"),
        "time": _of_length(lambda plan: UNKNOWN if plan.times is None else format_seconds(plan.length.seconds)),
    },
    "memory at the peak": {
        "when": _phase,
        "weights": _part_of_peak("weights"),
        "gradients": _part_of_peak("gradients"),
        "optimiser state": _part_of_peak("optimiser state"),
        "averages": _part_of_peak("averages"),
        "activations": _part_of_peak("activations"),
        "working set": _part_of_peak("working set"),
        "together": _peak,
        "... per sequence": _by_batch(0),
        "... without any": _by_batch(1),
        "largest batch": _largest_batch,
    },
    "disk": {
        "tokens": _tokens_on_disk,
        "checkpoints": _checkpoints,
        "model": lambda plan: format_memory(plan.model_bytes),
    },
}
"""The rows of the table, by section."""


def table(plans: Mapping[str, RunPlan], price: float | None) -> list[str]:
    """The table of plans by name, in blocks of as many columns as fit."""
    sections = SECTIONS
    if price is not None:
        cost = _of_length(lambda plan: f"{plan.length.seconds / 3600 * price:,.2f}")
        sections = SECTIONS | {"the run": SECTIONS["the run"] | {"cost": cost}}
    labels = ["", *(line for title, rows in sections.items() for line in ("", title, *(f"  {row}" for row in rows)))]
    columns = [[name, *_cells(plan, sections)] for name, plan in plans.items()]
    return [line for block in _blocks(columns) for line in ["", *_lines(labels, block)]]


def _cells(plan: RunPlan, sections: Mapping[str, Mapping]) -> list[str]:
    return [cell for rows in sections.values() for cell in ("", "", *(make(plan) for make in rows.values()))]


def _width(column: Sequence[str]) -> int:
    return 2 + max(map(len, column))


def _blocks(columns: Sequence[Sequence[str]]) -> list[list[Sequence[str]]]:
    """The columns, divided so that each block fits into `WIDTH`, if a single one does."""
    blocks = []
    for column in columns:
        if not blocks or LABEL + sum(map(_width, [*blocks[-1], column])) > WIDTH:
            blocks.append([])
        blocks[-1].append(column)
    return blocks


def _lines(labels: Sequence[str], columns: Sequence[Sequence[str]]) -> list[str]:
    widths = [_width(column) for column in columns]
    rows = zip(labels, *columns, strict=True)
    return [
        f"{label:{LABEL}}{''.join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))}".rstrip()
        for label, *cells in rows
    ]


def conditions(plans: Mapping[str, RunPlan], device: str | None) -> list[str]:
    """What the numbers rest on: data, times and memory, as lines."""
    lines = [f"data of {name}: {plan.data.basis}" for name, plan in plans.items()]
    for name, plan in plans.items():
        derived = (f"derived in {name}: {one}" for one in describe(plan.experiment.derived))
        lines += [line for one in derived for line in wrap(one, WIDTH, subsequent_indent="  ")]
    if device is not None:
        lines.append(f"time: on one {device}, for the matrix products of training")
    for name, plan in plans.items() if device is None else ():
        if plan.times is not None:
            lines.append(
                f"time of {name}: {plan.times.step:.3g} s a step here ({plan.times.steps} measured), "
                f"{plan.times.first_step:.3g} s the first, {plan.times.evaluation:.3g} s an evaluation"
            )
    if all(plan.times is None for plan in plans.values()):
        lines.append("time: --calibrate measures it here, --device NAME computes it for a GPU")
    where = "of the device" if device is not None else "free on this machine"
    return [*lines, f"memory: {where}; PyTorch's own, of one process, without the libraries'"]


def details(plan: RunPlan) -> list[str]:
    """The tables of one plan by part: parameters, forward FLOPs, training FLOPs and memory."""
    config, length, batch = plan.config, plan.window, batch_size(plan.args)
    matmul, elementwise = accounting.matmul_flops(config, length), accounting.elementwise_flops(config, length)
    phase, parts = peak_memory(config, plan.step, plan.optimizer)
    return [
        *_parts("parameters", accounting.parameters(config)),
        *_parts(f"forward FLOPs of one sequence of {length} tokens: matrix products", matmul),
        *_parts("forward FLOPs: element-wise work", elementwise),
        *_row("forward, both", sum(accounting.forward_flops(config, length).values())),
        "",
        "training FLOPs (3 x the forward matrix products)",
        *_row("per token", accounting.training_flops(config, length) // length),
        *_row("per sequence", accounting.training_flops(config, length)),
        *_row(f"per batch of {batch}", accounting.training_flops(config, length, batch)),
        *_parts(f"bytes of memory at the peak, {phase}", parts),
    ]


def _parts(title: str, parts: Mapping[str, int]) -> list[str]:
    """A titled table of the parts that are not zero, with shares, and their sum."""
    total = sum(parts.values())
    rows = [f"  {name:24}{number:>26,}{number / total:>9.1%}" for name, number in parts.items() if number]
    return ["", title, *rows, *_row("total", total)]


def _row(name: str, number: int) -> list[str]:
    return [f"  {name:24}{number:>26,}"]
