"""The model card of a run: what was trained on what, how long, how well, and how to do it again."""

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData
from transformers import SchedulerType, TrainingArguments
from transformers.training_args import OptimizerNames

from hub import is_hub_name
from modeling.accounting import embedding_parameters, parameters
from modeling.configuration_kindling import KindlingConfig
from sections import CardSection, OptimizerSection

ARCHITECTURE = (
    "num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "intermediate_size",
    "max_position_embeddings", "vocab_size", "norm", "norm_placement", "position", "mlp", "qk_norm", "bias",
    "tie_word_embeddings",
)  # fmt: skip

NO_ORIGINS = {"datasets": [], "licenses": [], "languages": []}

CARD = """---
{metadata}
---

# {name}

A {total:,}-parameter `{model_type}` language model ({embedding:,} of them embeddings), trained {origin} with
Kindling (`kindling-lm`) on {source}.

```python
from transformers import pipeline

generator = pipeline("text-generation", model="{folder}", trust_remote_code=True)
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

Every setting is in `experiment.yaml`; versions and hardware are in `provenance.json`, all logs in `metrics.jsonl`.

## Architecture

| | |
|---|---|
{architecture}

## Limits

The model knows nothing but {source}{knowledge}, and sees {positions:,} tokens at a time. It was made for experiments on
training: nobody has checked it for errors, prejudice or harm in what it says. {licence}
"""


def write_card(
    folder: Path,
    config: KindlingConfig,
    provenance: dict,
    about: CardSection,
    *,
    name: str,
    measured: dict[str, float],
    results: dict,
    training: dict,
    origins: dict[str, list[str]] = NO_ORIGINS,
    groups: Sequence[Sequence[str]] = (),
    start: str | None = None,
    **words,
):
    """Write the run folder's README.md; `results` and `training` are rows of its tables.

    `measured` are the values of metrics on held-out data, by name. `origins` has the `datasets`, `licenses` and
    `languages` of what it was trained on. `groups` are the rows of a table by group, its head first, or nothing.
    `start` is the checkpoint that it started from, if any. `words` are its `source` (of what it was trained on),
    `prompt`, `do_sample` and `sample`.
    """
    hardware = "{device}, {precision}, processes: {processes}; {processor}".format(**provenance["hardware"])
    software = ", ".join(f"{name} {version}" for name, version in provenance["packages"].items())
    metadata = ModelCardData(
        model_name=name,
        library_name="transformers",
        pipeline_tag="text-generation",
        license=about.license or "unknown",
        base_model=start if start and _is_on_hub(start) else None,
        language=about.language or origins["languages"] or None,
        datasets=origins["datasets"] or None,
        tags=["kindling", config.model_type],
        metrics=list(measured) or None,
        eval_results=_eval_results(measured, words["source"], origins["datasets"]) or None,
    )
    (folder / "README.md").write_text(
        CARD.format(
            metadata=metadata.to_yaml(),
            name=name,
            folder=folder,
            model_type=config.model_type,
            total=sum(parameters(config).values()),
            embedding=embedding_parameters(config),
            results=_table(results),
            groups=_group_table(groups),
            curves="![curves](curves.png)\n\n" if (folder / "curves.png").exists() else "",
            training=_table(training | {"hardware": hardware, "software": software}),
            command=provenance["command"],
            architecture=_table({name: getattr(config, name) for name in ARCHITECTURE}),
            positions=config.max_position_embeddings,
            licence=_licence(about.license, origins["licenses"]),
            **_origin(start),
            **words,
        ),
        encoding="utf-8",
    )


def _eval_results(measured: dict[str, float], source: str, datasets: list[str]) -> list[EvalResult]:
    """The same numbers as the Hub shows them beside a model."""
    validation = {"dataset_type": datasets[0] if datasets else "local", "dataset_name": source.replace("`", "")}
    return [
        EvalResult("text-generation", **validation, dataset_split="validation", metric_type=metric, metric_value=value)
        for metric, value in measured.items()
    ]


def _licence(given: str | None, licences: list[str]) -> str:
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
    if section.kind == "muon":
        muon = f"learning rate {section.muon_learning_rate}, weight decay {section.muon_weight_decay}"
        return f"Muon ({muon}) on matrices, AdamW ({adamw}) on the rest, {schedule}"
    return f"{OptimizerNames(args.optim).value}, {adamw}, {schedule}"


def _table(rows: dict) -> str:
    return "\n".join(f"| {name} | {value} |" for name, value in rows.items())


def _group_table(rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    head, *body = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    rule = "|---|" + "---:|" * (len(rows[0]) - 1)
    return "\n".join(["\n### By group\n", head, rule, *body, ""])
