"""The results of a run on equations: when it memorised, when it generalised, and whether that was stable."""

import json

from transformers import TrainerState

from data_prep.algorithmic.equations import write_data
from modeling.accounting import parameters
from publishing.card import (
    Facts,
    describe_averaging,
    describe_flops,
    describe_optimizer,
    describe_recipe,
    write_card,
    write_replicas_card,
)
from settings.experiment import AlgorithmicExperiment
from settings.wording import format_count
from storage.files import write_atomically, write_json
from training.checkpoints.store import atomic_replace, exit_on_disk_error
from training.preflight.resources import memory_line
from training.processes import unused_devices
from training.reporting.averages import of_saved_weights
from training.reporting.curves import draw_accuracies
from training.reporting.prompting import prompt_command
from training.reporting.provenance import read_provenance, record_start, resolve, write_settings
from training.run import Run

from .callbacks import GROKKED, MEMORISED, STABLE_EVALUATIONS
from .members import Member
from .trainer import AlgorithmicTrainer


def evaluations(history: list[dict], replica: str, replicas: int) -> list[dict]:
    """The rows of a log that are evaluations of one replica; counts of all `replicas` are divided among them."""
    shared = ("tokens", "total_flos", "optimizer_flops")
    return [
        row | {name: row[name] // replicas for name in shared if name in row}
        for row in history
        if row.get("replica") == replica or (replicas == 1 and "replica" in row)  # also of a run that was renamed
    ]


def milestones(rows: list[dict]) -> dict:
    """When a model memorised and when it generalised, by its evaluations; None for what never happened.

    `first_99` is the first evaluation with at least 99 % test accuracy; `steps_to_grok` is the first after which none
    is below that, if there are at least `STABLE_EVALUATIONS` of them. The delay from memorising to generalising, `gap`
    and `delay_factor`, is measured to `first_99`: `steps_to_grok` of a run that falls back depends on when it ended.
    Steps are those of evaluations, so they are late by up to one evaluation interval.
    """
    memorised = _first(row["step"] for row in rows if row["train_accuracy"] >= MEMORISED)
    first = _first(row["step"] for row in rows if row["test_accuracy"] >= GROKKED)
    below = [i for i, row in enumerate(rows) if row["test_accuracy"] < GROKKED]
    start = below[-1] + 1 if below else 0
    both = memorised is not None and first is not None
    last = rows[-1]["step"]
    return {
        "steps_to_fit": memorised,
        "first_99": first,
        "steps_to_grok": rows[start]["step"] if start + STABLE_EVALUATIONS <= len(rows) else None,
        "steps_to_100": _first(row["step"] for row in rows if row["test_accuracy"] == 1),
        "gap": first - memorised if both else None,
        "delay_factor": round(first / memorised, 2) if both else None,
        "worst_after": min((row["test_accuracy"] for row in rows if first and row["step"] >= first), default=None),
        "worst_last_fifth": min(row["test_accuracy"] for row in rows if row["step"] >= 0.8 * last),
    }


def _first(steps):
    return next(iter(steps), None)


def begin(run: Run, trainer: AlgorithmicTrainer, write_files: bool):
    """Record how the run is made, write its equations if requested, and print the announcement."""
    if not run.args.should_save:
        return
    record_start(run, trainer.model.config)
    for member in trainer.members if write_files else ():
        write_data(member.equations, member.experiment.data, member.folder / "data")
    print("\n".join(announcement(run, trainer)))


def announcement(run: Run, trainer: AlgorithmicTrainer) -> list[str]:
    """The lines printed before training: data, model, batch, device, memory."""
    experiment, hardware = run.experiment, run.hardware
    member, args, config = trainer.members[0], trainer.args, trainer.model.config
    counts = {split: f"{len(rows):,} {split}" for split, rows in member.equations.splits.items()}
    example = " ".join(member.equations.texts["train"][0])
    replicas = [f"replicas    {len(trainer.members)}: {'; '.join(m.name for m in trainer.members)}"]
    return [
        f"data        {title(member)}: {', '.join(counts.values())}; such as {example}",
        f"model       {config.model_type}, {format_count(config.num_hidden_layers, 'layer')} of width "
        f"{config.hidden_size}, {sum(parameters(config).values()):,} parameters, vocabulary {config.vocab_size}",
        *(replicas if experiment.replicas else []),
        f"training    {format_count(args.max_steps, 'step')}, batch {args.train_batch_size}, "
        f"{experiment.optimizer.kind}",
        f"device      {hardware['device']}, {hardware['precision']}",
        memory_line(args, trainer.trained(), member.equations.length - 1, averages=experiment.averaging.count),
        f"run folder  {run.folder}",
        *unused_devices(args),
    ]


def title(member: Member) -> str:
    """The task as text."""
    data = member.experiment.data
    modulo = f" modulo {member.equations.modulus}" if member.equations.operation.needs_prime else ""
    return f"{data.operation}{modulo}, as {data.tokens}"


def finish(run: Run, trainer: AlgorithmicTrainer):
    """Save the results and print them."""
    if run.args.should_save:
        print("\n".join(save_results(run.experiment, trainer)))


def save_results(experiment: AlgorithmicExperiment, trainer: AlgorithmicTrainer) -> list[str]:
    """Save every model with its metrics, curves and settings; return the lines to print."""
    folder, history = experiment.folder, trainer.state.log_history
    rows, results = {}, {}
    for member in trainer.members:
        rows[member.name] = evaluations(history, member.name, len(trainer.members))
        results[member.name] = final_metrics(rows[member.name], trainer.state)
        if (saved := trainer.averages.result) != "raw":
            results[member.name] = of_saved_weights(results[member.name], saved, "") | {"weights": saved}
        if (step := trainer.guard.diverged(member.name, trainer.state.global_step)) is not None:
            results[member.name]["diverged"] = step
    first = trainer.members[0]
    seconds = results[first.name]["seconds"]
    with exit_on_disk_error():
        for member in trainer.members:
            save_member(experiment, trainer, member, rows[member.name], results[member.name])
        if experiment.replicas:
            draw_accuracies(list(rows.values()), folder / "curves.png", title(first))
            command = read_provenance(folder)["command"]
            write_replicas_card(folder, experiment.name, f"equations ({title(first)})", command, list(results))
            counts = {key: results[first.name][key] for key in ("steps", "max_steps", "seconds")}
            write_json(folder / "metrics.json", {"replicas": list(results)} | counts)  # last: the run is finished
    prompt, _ = first.equations.texts["test"][0]
    return [
        "",
        *table(results),
        "",
        f"time        {seconds / 60:.1f} minutes",
        f"curves      {folder / 'curves.png'}",
        f"prompt it   {prompt_command(first.folder, prompt, temperature=0)}",
    ]


def save_member(experiment: AlgorithmicExperiment, trainer: AlgorithmicTrainer, member: Member, rows, metrics: dict):
    """Write a model's folder: weights, tokenizer, settings, curves, card and, last, its final metrics."""
    folder = member.folder
    with atomic_replace(folder) as staging, trainer.averages.swapped(trainer.averages.result):
        member.model.save_pretrained(staging)
        member.equations.tokenizer.save_pretrained(staging)
    about = read_provenance(experiment.folder)
    if experiment.replicas:  # without replicas the run has written these already
        write_json(folder / "provenance.json", about | {"id": f"{about.get('id', '')}-{member.name}"})
        settings = resolve(member.experiment, member.args, member.model.config)
        write_settings(settings, folder)
        write_atomically(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    draw_accuracies([rows], folder / "curves.png", f"{title(member)}: {member.name}")
    prompt, answer = member.equations.texts["test"][0]
    facts = Facts(
        name=member.name if member.name == experiment.name else f"{experiment.name}, {member.name}",
        source=f"equations ({title(member)})",
        prompt=prompt,
        do_sample=False,
        sample=f"An equation of the test split, not seen in training: `{prompt}`; the right answer is {answer}.",
        results=_results(metrics),
        training=_training(trainer.args.train_batch_size, member, metrics),
        measured={"accuracy": metrics["test_accuracy"], "loss": metrics["test_loss"]},
        split="test",
    )
    write_card(folder, member.model.config, about, experiment.card, facts)
    write_json(folder / "metrics.json", metrics)


def _results(metrics: dict) -> dict:
    splits = [split for split in ("train", "validation", "test") if f"{split}_loss" in metrics]
    accuracies = {
        f"{split} accuracy": f"{metrics[f'{split}_accuracy']:.4%} of answers; loss {metrics[f'{split}_loss']:.4g} nats"
        for split in splits
    }
    return accuracies | {
        "memorised at step": f"{_step(metrics['steps_to_fit'])} ({MEMORISED:.1%} of the training split)",
        "generalised at step": f"{_step(metrics['first_99'])} ({GROKKED:.0%} of the test split), "
        f"stable from: {_step(metrics['steps_to_grok'])}",
    }


def _step(step: int | None) -> str:
    return "never" if step is None else f"{step:,}"


def _training(batch: int, member: Member, metrics: dict) -> dict:
    counts = ", ".join(f"{len(rows):,} {split}" for split, rows in member.equations.splits.items())
    return {
        "equations": counts,
        "steps": f"{metrics['steps']:,} of {batch} equations",
        "training FLOPs": describe_flops(metrics),
        "time": f"{metrics['seconds'] / 60:.1f} minutes, evaluations and other replicas included",
        "optimiser": describe_optimizer(member.args, member.experiment.optimizer),
        **describe_recipe(member.experiment.optimizer, member.experiment.schedules),
        **describe_averaging(member.experiment.averaging, metrics.get("weights", "raw")),
        "seed": str(member.args.seed),
    }


def final_metrics(rows: list[dict], state: TrainerState) -> dict:
    """The final metrics of one replica, from its evaluations."""
    last = {key: value for key, value in rows[-1].items() if key not in ("replica", "step", "epoch")}
    return last | milestones(rows) | {"steps": state.global_step, "max_steps": state.max_steps}


def table(results: dict[str, dict]) -> list[str]:
    """The final metrics as lines of a table, one per replica."""
    head = f"{'':24}{'memorised':>13}{'99 % at':>13}{'stable from':>13}{'100 % at':>13}{'train':>10}{'test':>10}"
    lines = [head]
    for name, metrics in results.items():
        steps = [metrics[key] for key in ("steps_to_fit", "first_99", "steps_to_grok", "steps_to_100")]
        shown = "".join(f"{_step(step):>13}" for step in steps)
        lines.append(f"{name:24}{shown}{metrics['train_accuracy']:>10.2%}{metrics['test_accuracy']:>10.2%}")
    return lines
