"""What a run on equations came to: when it fitted, when it generalised and whether that lasted; shown and kept."""

import json

from omegaconf import OmegaConf
from transformers import ProgressCallback, TrainerState

from modeling.accounting import parameters
from sections import AlgorithmicExperiment, ConfigError

from .algorithmic import AlgorithmicTrainer, Member
from .card import describe_optimizer, write_card
from .curves import draw_accuracies
from .run import folder_of, read_provenance, resolve, write_json

FITTED, GROKKED = 0.999, 0.99


def evaluations(history: list[dict], replica: str) -> list[dict]:
    """The rows of a log that are evaluations of a replica."""
    return [row for row in history if row.get("replica") == replica]


def milestones(rows: list[dict]) -> dict:
    """When a model fitted and when it generalised, by its evaluations; None for what it never did.

    `steps_to_grok` is the first evaluation from which on test accuracy never is below 99 %, `first_99` the first that
    reaches it at all. Steps are those of evaluations, so they are late by up to the distance between two of them.
    """
    fitted = _first(row["step"] for row in rows if row["train_accuracy"] >= FITTED)
    first = _first(row["step"] for row in rows if row["test_accuracy"] >= GROKKED)
    below = [i for i, row in enumerate(rows) if row["test_accuracy"] < GROKKED]
    start = below[-1] + 1 if below else 0
    grokked = rows[start]["step"] if start < len(rows) else None
    both = fitted is not None and grokked is not None
    last = rows[-1]["step"]
    return {
        "steps_to_fit": fitted,
        "first_99": first,
        "steps_to_grok": grokked,
        "steps_to_100": _first(row["step"] for row in rows if row["test_accuracy"] == 1),
        "gap": grokked - fitted if both else None,
        "delay_factor": round(grokked / fitted, 2) if both else None,
        "worst_after": min((row["test_accuracy"] for row in rows if first and row["step"] >= first), default=None),
        "worst_last_fifth": min(row["test_accuracy"] for row in rows if row["step"] >= 0.8 * last),
    }


def _first(steps):
    return next(iter(steps), None)


class AlgorithmicProgress(ProgressCallback):
    """transformers' progress bar with accuracies beside it; a line when a replica fits or reaches 99 % on the test."""

    def __init__(self):
        super().__init__()
        self.reached = set()

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Nothing: evaluations are shown once, whole, by `on_evaluate`."""

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):  # noqa: ARG002
        if self.training_bar is None:
            return
        means = {split: sum(row[f"{split}_accuracy"] for row in metrics) / len(metrics) for split in ("train", "test")}
        self.training_bar.set_postfix_str(f"train {means['train']:.1%}, test {means['test']:.1%}", refresh=False)
        for row in metrics:
            for split, accuracy, event in (("train", FITTED, "fits"), ("test", GROKKED, "generalises")):
                key = (row.get("replica"), event)
                if row[f"{split}_accuracy"] >= accuracy and key not in self.reached:
                    self.reached.add(key)
                    who = row.get("replica", "the model")
                    self.training_bar.write(f"step {state.global_step:,}: {who} {event} ({split} {accuracy:.1%})")


def refuse_unsupported(experiment: AlgorithmicExperiment):
    """What a run on equations, or one with replicas, cannot do; checked before any work."""
    training = experiment.training
    if training.get("gradient_accumulation_steps", 1) != 1:
        raise ConfigError(
            f"training.gradient_accumulation_steps={training['gradient_accumulation_steps']} is not needed for "
            "equations; leave it out and set training.per_device_train_batch_size"
        )
    if training["max_steps"] < 1:
        raise ConfigError(f"training.max_steps={training['max_steps']} is too small; give the number of steps")
    if training.get("optim") is not None:
        raise ConfigError(f"training.optim={training['optim']} has no effect; set optimizer.kind to adamw or muon")
    if training.get("push_to_hub"):
        raise ConfigError(
            "training.push_to_hub=true is for train_lm.py; push a finished run by `hf upload USER/NAME RUN`"
        )


def announcement(experiment: AlgorithmicExperiment, trainer: AlgorithmicTrainer, hardware: dict) -> list[str]:
    """What the run is about to do, in lines of numbers."""
    member, args, config = trainer.members[0], trainer.args, trainer.model.config
    counts = {split: f"{len(rows):,} {split}" for split, rows in member.equations.splits.items()}
    example = " ".join(member.equations.texts["train"][0])
    replicas = [f"replicas    {len(trainer.members)}: {'; '.join(m.name for m in trainer.members)}"]
    return [
        f"data        {title(member)}: {', '.join(counts.values())}; such as {example}",
        f"model       {config.model_type}, {config.num_hidden_layers} layers of width {config.hidden_size}, "
        f"{sum(parameters(config).values()):,} parameters, vocabulary {config.vocab_size}",
        *(replicas if experiment.replicas else []),
        f"training    {args.max_steps:,} steps, batch {args.train_batch_size}, {experiment.optimizer.kind}",
        f"device      {hardware['device']}, {hardware['precision']}",
        f"run folder  {folder_of(experiment)}",
    ]


def title(member: Member) -> str:
    """The task in words."""
    data = member.experiment.data
    modulo = "" if data.operation == "s5" else f" modulo {member.equations.modulus}"
    return f"{data.operation}{modulo}, as {data.tokens}"


def keep(experiment: AlgorithmicExperiment, trainer: AlgorithmicTrainer) -> list[str]:
    """Save every model with its metrics, curves and settings; return what came out, in lines."""
    folder, history = folder_of(experiment), trainer.state.log_history
    results = {}
    for member in trainer.members:
        rows = evaluations(history, member.name)
        results[member.name] = final_metrics(rows, trainer.state, len(trainer.members))
        keep_member(experiment, member, rows, results[member.name])
    if experiment.replicas:  # last, for it says that the run is finished
        runs = [evaluations(history, name) for name in results]
        draw_accuracies(runs, folder / "curves.png", title(member))
        write_json(folder / "metrics.json", {"replicas": list(results), "seconds": rows[-1]["seconds"]})
    return [
        "",
        *table(results),
        "",
        f"time        {rows[-1]['seconds'] / 60:.1f} minutes",
        f"curves      {folder / 'curves.png'}",
        f'prompt it   python generate.py {member.folder} --prompt "{member.equations.texts["test"][0][0]}"',
    ]


def keep_member(run: AlgorithmicExperiment, member: Member, rows: list[dict], metrics: dict):
    """A model's folder: checkpoint, tokenizer, settings, evaluations, curves and, last, its final numbers."""
    folder = member.folder
    member.model.save_pretrained(folder)
    member.equations.tokenizer.save_pretrained(folder)
    settings = resolve(member.experiment, member.args, member.model.config)
    OmegaConf.save(OmegaConf.create(settings), folder / "experiment.yaml")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    draw_accuracies([rows], folder / "curves.png", f"{title(member)}: {member.name}")
    prompt, answer = member.equations.texts["test"][0]
    write_card(
        folder,
        member.model.config,
        read_provenance(folder_of(run)),
        results=_results(metrics),
        training=_training(member, metrics),
        name=member.name,
        source=f"equations ({title(member)})",
        prompt=prompt,
        do_sample=False,
        sample=f"The answer to `{prompt}`, which it was not trained on, is {answer}.",
    )
    write_json(folder / "metrics.json", metrics)


def _results(metrics: dict) -> dict:
    splits = [split for split in ("train", "validation", "test") if f"{split}_loss" in metrics]
    accuracies = {
        f"{split} accuracy": f"{metrics[f'{split}_accuracy']:.4%} of answers; loss {metrics[f'{split}_loss']:.4g} nats"
        for split in splits
    }
    return accuracies | {
        "steps to fit": f"{metrics['steps_to_fit']} (99.9 % of the training split)",
        "steps to generalise": f"{metrics['steps_to_grok']} (99 % of the test split, from there on)",
    }


def _training(member: Member, metrics: dict) -> dict:
    counts = ", ".join(f"{len(rows):,} {split}" for split, rows in member.equations.splits.items())
    return {
        "equations": counts,
        "steps": f"{metrics['steps']:,} of {member.args.train_batch_size} equations",
        "training FLOPs": f"{metrics['total_flos']:.4g} (3 x the forward matrix products)",
        "time": f"{metrics['seconds'] / 60:.1f} minutes, evaluations and other replicas included",
        "optimiser": describe_optimizer(member.args, member.experiment.optimizer),
        "seed": str(member.args.seed),
    }


def final_metrics(rows: list[dict], state: TrainerState, replicas: int) -> dict:
    """The final numbers of one replica from its evaluations."""
    last = {key: value for key, value in rows[-1].items() if key not in ("replica", "step", "epoch")}
    share = {"tokens": state.num_input_tokens_seen // replicas, "total_flos": state.total_flos / replicas}
    return last | milestones(rows) | {"steps": state.global_step, "max_steps": state.max_steps} | share


def table(results: dict[str, dict]) -> list[str]:
    """Final numbers as lines of a table, a replica each."""
    head = f"{'':24}{'fits at':>9}{'99 % at':>9}{'to stay':>9}{'100 % at':>9}{'train':>10}{'test':>10}"
    lines = [head]
    for name, metrics in results.items():
        steps = [metrics[key] for key in ("steps_to_fit", "first_99", "steps_to_grok", "steps_to_100")]
        shown = "".join(f"{'never' if step is None else format(step, ','):>9}" for step in steps)
        lines.append(f"{name:24}{shown}{metrics['train_accuracy']:>10.2%}{metrics['test_accuracy']:>10.2%}")
    return lines
