"""The model card of a run: what was trained on what, how long, how well, and how to do it again."""

from collections.abc import Sequence
from pathlib import Path

from transformers import SchedulerType, TrainingArguments
from transformers.training_args import OptimizerNames

from modeling.accounting import embedding_parameters, parameters
from modeling.configuration_kindling import KindlingConfig
from sections import OptimizerSection

ARCHITECTURE = (
    "num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "intermediate_size",
    "max_position_embeddings", "vocab_size", "norm", "norm_placement", "position", "mlp", "qk_norm", "bias",
    "tie_word_embeddings",
)  # fmt: skip

CARD = """---
library_name: transformers
pipeline_tag: text-generation
tags: [kindling, {model_type}]
{metadata}---

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
![curves](curves.png)

{sample}

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

The model knows nothing but {source}{knowledge}. It is meant for experiments on training, not for use by others without
further evaluation.
"""


def write_card(
    folder: Path,
    config: KindlingConfig,
    provenance: dict,
    results: dict,
    training: dict,
    *,
    groups=(),
    start=None,
    **words,
):
    """Write the run folder's README.md; `results` and `training` are rows of its tables.

    `groups` are the rows of a table by group, its head first, or nothing. `start` is the checkpoint that it started
    from, if any. `words` are its `name`, `source` (of what it was trained on), `prompt`, `do_sample` and `sample`.
    """
    hardware = "{device}, {precision}, {processes} process(es); {processor}".format(**provenance["hardware"])
    software = ", ".join(f"{name} {version}" for name, version in provenance["packages"].items())
    (folder / "README.md").write_text(
        CARD.format(
            folder=folder,
            model_type=config.model_type,
            total=sum(parameters(config).values()),
            embedding=embedding_parameters(config),
            results=_table(results),
            groups=_group_table(groups),
            training=_table(training | {"hardware": hardware, "software": software}),
            command=provenance["command"],
            architecture=_table({name: getattr(config, name) for name in ARCHITECTURE}),
            **_origin(start),
            **words,
        ),
        encoding="utf-8",
    )


def _origin(start: str | None) -> dict:
    """What the card says of where the weights come from; of a folder of this machine, the name alone."""
    if start is None:
        return {"metadata": "", "origin": "from scratch", "knowledge": ""}
    local = Path(start).expanduser().exists()
    name = Path(start).name if local else start
    return {
        "metadata": "" if local else f"base_model: {start}\n",
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
