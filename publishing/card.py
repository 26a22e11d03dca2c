"""The model card of a run: data, training, evaluation, architecture, and the command to repeat it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData
from transformers import SchedulerType, TrainingArguments
from transformers.training_args import OptimizerNames

from modeling.accounting import embedding_parameters, parameters
from modeling.configuration_kindling import KindlingConfig
from settings.recipe_sections import AveragingSection, SchedulesSection
from settings.sections import CardSection, OptimizerSection
from storage.files import write_atomically
from storage.hub import is_hub_name

from .folder_files import describe_files

REPLICAS = """# {name}

{count} models trained side by side as one batch of models with Kindling (`kindling-lm`) on {source}.
Each has a folder of its own, with a model card.

```sh
{command}
```

## Files

{files}
"""

ARCHITECTURE = (
    "num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "intermediate_size",
    "max_position_embeddings", "vocab_size", "norm", "norm_placement", "position", "mlp", "qk_norm", "bias",
    "final_logit_softcapping", "tie_word_embeddings",
)  # fmt: skip

CARD = """---
{metadata}
---

# {name}

A {total:,}-parameter `{model_type}` language model ({embedding:,} of them embeddings), trained {origin} with
Kindling (`kindling-lm`) on {source}.

```python
from transformers import pipeline

generator = pipeline("text-generation", model={folder}, trust_remote_code=True)
print(generator({prompt!r}, do_sample={do_sample})[0]["generated_text"])
```

## Evaluation

| | |
|---|---|
{results}
{groups}
{curves}{sample}

## Training

| | |
|---|---|
{training}

```sh
{command}
```

## Files

{files}

## Architecture

| | |
|---|---|
{architecture}

## Limitations

The model was trained only on {source}{knowledge}, and has a context of {positions:,} tokens. It was made for
experiments on training: its output has not been checked for errors, bias or harm. {licence}
"""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """The content of a model card besides configuration and provenance."""

    name: str
    source: str
    """The training data, as text."""
    prompt: str
    """The prompt of the example in the card."""
    do_sample: bool
    sample: str
    """A paragraph with sampled text, or empty."""
    results: dict[str, str]
    """Rows of a table."""
    training: dict[str, str]
    """Rows of a table."""
    measured: dict[str, float]
    """The values of metrics, by name."""
    split: str
    """The split they were measured on."""
    groups: Sequence[Sequence[str]] = ()
    """The rows of a table by group, header first."""
    start: str | None = None
    """The checkpoint that it started from."""
    datasets: Sequence[str] = ()
    """The Hub data sets that it was trained on; with `licenses` and `languages`, as far as known."""
    licenses: Sequence[str] = ()
    languages: Sequence[str] = ()


def write_card(folder: Path, config: KindlingConfig, provenance: dict, section: CardSection, facts: Facts):
    """Write the run folder's README.md."""
    hardware = "{device}, {precision}, processes: {processes}; {processor}".format(**provenance["hardware"])
    software = ", ".join(f"{name} {version}" for name, version in provenance["packages"].items())
    text = CARD.format(
        metadata=_metadata(config, section, facts).to_yaml(),
        name=facts.name,
        folder=json.dumps(str(folder), ensure_ascii=False),
        source=facts.source,
        prompt=facts.prompt,
        do_sample=facts.do_sample,
        sample=facts.sample,
        model_type=config.model_type,
        total=sum(parameters(config).values()),
        embedding=embedding_parameters(config),
        results=_table(facts.results),
        groups=_group_table(facts.groups),
        curves="![curves](curves.png)\n\n" if (folder / "curves.png").exists() else "",
        training=_table(facts.training | {"hardware": hardware, "software": software}),
        command=provenance["command"],
        files=describe_files(folder),
        architecture=_table(_architecture(config)),
        positions=config.max_position_embeddings,
        licence=_licence(section.license, facts.licenses),
        **_origin(facts.start),
    )
    write_atomically(folder / "README.md", text)


def _architecture(config: KindlingConfig) -> dict:
    """The settings of the architecture, without what it does not have."""
    values = {name: getattr(config, name) for name in ARCHITECTURE}
    return {name: value for name, value in values.items() if value is not None}


def write_replicas_card(folder: Path, name: str, source: str, command: str, replicas: Sequence[str]):
    """Write the README.md of a folder whose models are in folders of their own."""
    files = describe_files(folder, is_model=False, replicas=replicas)
    text = REPLICAS.format(name=name, count=len(replicas), source=source, command=command, files=files)
    write_atomically(folder / "README.md", text)


def _metadata(config: KindlingConfig, section: CardSection, facts: Facts) -> ModelCardData:
    """The card's metadata, which the Hub shows beside a model."""
    data = {"dataset_type": [*facts.datasets, "local"][0], "dataset_name": facts.source.replace("`", "")}
    found = [
        EvalResult("text-generation", **data, dataset_split=facts.split, metric_type=metric, metric_value=value)
        for metric, value in facts.measured.items()
    ]
    return ModelCardData(
        model_name=facts.name,
        library_name="transformers",
        pipeline_tag="text-generation",
        license=section.license or "unknown",
        base_model=facts.start if facts.start and _is_on_hub(facts.start) else None,
        language=section.language or list(facts.languages) or None,
        datasets=list(facts.datasets) or None,
        tags=["kindling", config.model_type],
        metrics=list(facts.measured) or None,
        eval_results=found or None,
    )


def _licence(given: str | None, licences: Sequence[str]) -> str:
    """The sentence on licences of model and data, as far as known."""
    own = f"Its licence is {given}" if given else "No licence was given"
    return f"{own}; for the data: {', '.join(licences)}." if licences else f"{own}."


def _is_on_hub(start: str) -> bool:
    return not Path(start).expanduser().exists() and is_hub_name(start)


def _origin(start: str | None) -> dict:
    """What the card says of the initial weights; of a local folder, only the name."""
    if start is None:
        return {"origin": "from scratch", "knowledge": ""}
    name = start if _is_on_hub(start) else Path(start).name
    return {
        "origin": f"from the checkpoint `{name}`",
        "knowledge": f" and the training data of `{name}`",
    }


def describe_optimizer(args: TrainingArguments, section: OptimizerSection) -> str:
    """Optimiser, learning rates and schedule in a line."""
    adamw = f"learning rate {args.learning_rate}, weight decay {args.weight_decay}"
    schedule = f"{SchedulerType(args.lr_scheduler_type).value} schedule"
    if section.grokfast_lambda:
        schedule += f", Grokfast (alpha {section.grokfast_alpha}, lambda {section.grokfast_lambda})"
    if own := section.matrix_settings:
        matrices = f"learning rate {own['lr']}, weight decay {own['weight_decay']}"
        return f"{section.kind.capitalize()} ({matrices}) on matrices, AdamW ({adamw}) on the rest, {schedule}"
    return f"{OptimizerNames(args.optim).value}, {adamw}, {schedule}"


WEIGHTS = {
    "raw": "weights after the last step",
    "ema": "exponential moving average of the weights",
    "tail": "mean of the weights over the last steps",
}
"""By the values of `averaging.save`."""


def describe_recipe(optimizer: OptimizerSection, schedules: SchedulesSection, z_loss: float = 0.0) -> dict[str, str]:
    """A row with the parts of a recipe that are set, besides the optimiser itself and averages of the weights."""
    parts = [f"z-loss {z_loss:g}"] if z_loss else []
    parts += [] if optimizer.decay_embeddings else ["embeddings without weight decay"]
    for name, points in schedules.points.items():
        steps = ", ".join(f"{points[at]:g} at {at:.0%}" for at in sorted(points))
        parts.append(f"{name.replace('_', ' ')} times {steps} of the run")
    return {"parts of the recipe": "; ".join(parts)} if parts else {}


def describe_averaging(section: AveragingSection, saved: str) -> dict[str, str]:
    """A row that says which weights the model has, if averages of them were kept."""
    kept = ", ".join(f"{name} over {fraction:g} of the steps" for name, fraction in section.fractions.items())
    return {"saved weights": f"{WEIGHTS[saved]}; averages kept: {kept}"} if kept else {}


def describe_flops(metrics: dict) -> str:
    """A run's FLOPs, as `modeling.accounting` counts them."""
    own = f"; and {metrics['optimizer_flops']:.4g} by Muon" if metrics.get("optimizer_flops") else ""
    return f"{metrics['total_flos']:.4g} (matrix products, forward and backward, padding left out){own}"


def _table(rows: dict) -> str:
    return "\n".join(f"| {name} | {value} |" for name, value in rows.items())


def _group_table(rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    head, *body = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    rule = "|---|" + "---:|" * (len(rows[0]) - 1)
    return "\n".join(["\n### By group\n", head, rule, *body, ""])
