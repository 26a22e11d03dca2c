"""The model card of a run: what was trained on what, how long, how well, and how to do it again."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData
from transformers import SchedulerType, TrainingArguments
from transformers.training_args import OptimizerNames

from modeling.accounting import embedding_parameters, parameters
from modeling.configuration_kindling import KindlingConfig
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
    "tie_word_embeddings",
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

## How good it is

| | |
|---|---|
{results}
{groups}
{curves}{sample}

## How it was trained

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

## Limits

The model knows nothing but {source}{knowledge}, and sees {positions:,} tokens at a time. It was made for experiments on
training: nobody has checked it for errors, prejudice or harm in what it says. {licence}
"""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What there is to tell of a run besides its configuration and its provenance."""

    name: str
    source: str
    """What it was trained on, in words."""
    prompt: str
    """Of the example in the card."""
    do_sample: bool
    sample: str
    """What it says, in a paragraph; or nothing."""
    results: dict[str, str]
    """Rows of a table."""
    training: dict[str, str]
    """Rows of a table."""
    measured: dict[str, float]
    """The values of metrics, by name."""
    split: str
    """Where they were measured."""
    groups: Sequence[Sequence[str]] = ()
    """The rows of a table by group, its head first."""
    start: str | None = None
    """The checkpoint that it started from."""
    datasets: Sequence[str] = ()
    """The data sets of the Hub that it was trained on; with `licenses` and `languages`, as far as they are known."""
    licenses: Sequence[str] = ()
    languages: Sequence[str] = ()


def write_card(folder: Path, config: KindlingConfig, provenance: dict, section: CardSection, facts: Facts):
    """Write the run folder's README.md."""
    hardware = "{device}, {precision}, processes: {processes}; {processor}".format(**provenance["hardware"])
    software = ", ".join(f"{name} {version}" for name, version in provenance["packages"].items())
    write_atomically(
        folder / "README.md",
        CARD.format(
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
            architecture=_table({name: getattr(config, name) for name in ARCHITECTURE}),
            positions=config.max_position_embeddings,
            licence=_licence(section.license, facts.licenses),
            **_origin(facts.start),
        ),
    )


def write_replicas_card(folder: Path, name: str, source: str, command: str, replicas: Sequence[str]):
    """Write the README.md of a folder whose models are in folders of their own."""
    files = describe_files(folder, is_model=False, replicas=replicas)
    text = REPLICAS.format(name=name, count=len(replicas), source=source, command=command, files=files)
    write_atomically(folder / "README.md", text)


def _metadata(config: KindlingConfig, section: CardSection, facts: Facts) -> ModelCardData:
    """What the Hub reads and shows beside a model."""
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
    """Under which terms it may be used, as far as anybody has said."""
    own = f"Its licence is {given}" if given else "Its author has given it no licence"
    return f"{own}; for the data: {', '.join(licences)}." if licences else f"{own}."


def _is_on_hub(start: str) -> bool:
    return not Path(start).expanduser().exists() and is_hub_name(start)


def _origin(start: str | None) -> dict:
    """What the card says of where the weights come from; of a folder of this machine, the name alone."""
    if start is None:
        return {"origin": "from scratch", "knowledge": ""}
    name = start if _is_on_hub(start) else Path(start).name
    return {
        "origin": f"from the checkpoint `{name}`",
        "knowledge": f" and what `{name}` had learnt",
    }


def describe_optimizer(args: TrainingArguments, section: OptimizerSection) -> str:
    """Optimiser, rates and schedule in a line."""
    adamw = f"learning rate {args.learning_rate}, weight decay {args.weight_decay}"
    schedule = f"{SchedulerType(args.lr_scheduler_type).value} schedule"
    if section.grokfast_lambda:
        schedule += f", Grokfast (alpha {section.grokfast_alpha}, lambda {section.grokfast_lambda})"
    if own := section.matrix_settings:
        matrices = f"learning rate {own['lr']}, weight decay {own['weight_decay']}"
        return f"{section.kind.capitalize()} ({matrices}) on matrices, AdamW ({adamw}) on the rest, {schedule}"
    return f"{OptimizerNames(args.optim).value}, {adamw}, {schedule}"


def describe_flops(metrics: dict) -> str:
    """What a run has computed, as `modeling.accounting` counts it."""
    own = f"; and {metrics['optimizer_flops']:.4g} by Muon" if metrics.get("optimizer_flops") else ""
    return f"{metrics['total_flos']:.4g} (matrix products, forward and backward, padding left out){own}"


def last_logged(history: list[dict], name: str) -> float:
    """The newest value of what a log has, or 0."""
    return next((row[name] for row in reversed(history) if name in row), 0)


def _table(rows: dict) -> str:
    return "\n".join(f"| {name} | {value} |" for name, value in rows.items())


def _group_table(rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    head, *body = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    rule = "|---|" + "---:|" * (len(rows[0]) - 1)
    return "\n".join(["\n### By group\n", head, rule, *body, ""])
