"""The model card of a run: what was trained on what, how long, how well, and how to do it again."""

import json
from pathlib import Path

from transformers import SchedulerType
from transformers.training_args import OptimizerNames

from modeling.accounting import embedding_parameters, parameters
from modeling.configuration_kindling import KindlingConfig
from sections import LanguageExperiment

ARCHITECTURE = (
    "num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads", "intermediate_size",
    "max_position_embeddings", "vocab_size", "norm", "norm_placement", "position", "mlp", "qk_norm", "bias",
    "tie_word_embeddings",
)  # fmt: skip

CARD = """---
library_name: transformers
pipeline_tag: text-generation
tags: [kindling, {model_type}]
---

# {name}

A {total:,}-parameter `{model_type}` language model ({embedding:,} of them embeddings), trained from scratch with
Kindling (`kindling-lm`) on `{source}`.

```python
from transformers import pipeline

generator = pipeline("text-generation", model="{folder}", trust_remote_code=True)
print(generator({prompt!r}, do_sample=True)[0]["generated_text"])
```

## How good it is

| | |
|---|---|
{results}

![loss curves](curves.png)

A sample, temperature {temperature}{after_prompt}:

> {sample}

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

The model knows nothing but `{source}`. It is meant for experiments on training, not for use by others without
further evaluation.
"""


def write_card(folder: Path, experiment: LanguageExperiment, config: KindlingConfig, args, metrics: dict, sample: str):
    """Write the run folder's README.md from its settings, its final metrics and a sample of its text."""
    provenance = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
    prompt, temperature = experiment.sample.prompt, experiment.sample.temperature
    (folder / "README.md").write_text(
        CARD.format(
            name=experiment.name,
            folder=folder,
            model_type=config.model_type,
            source=experiment.data.source,
            total=sum(parameters(config).values()),
            embedding=embedding_parameters(config),
            prompt=prompt,
            temperature=temperature,
            after_prompt=f", after the prompt {prompt!r}" if prompt else "",
            sample=sample.replace("\n", "\n> "),
            results=_table(_results(metrics)),
            training=_table(_training(args, metrics, provenance)),
            command=provenance["command"],
            architecture=_table({name: getattr(config, name) for name in ARCHITECTURE}),
        ),
        encoding="utf-8",
    )


def _results(metrics: dict) -> dict:
    rows = {
        "validation loss": f"{metrics['eval_loss']:.4f} ± {metrics['eval_loss_standard_error']:.4f} nats a token",
        "perplexity": f"{metrics['eval_perplexity']:.3f} (vocabulary of {metrics['vocabulary']:,})",
    }
    if "eval_bits_per_byte" in metrics:
        rows["bits per byte"] = f"{metrics['eval_bits_per_byte']:.4f}"
    if metrics["floor_bits_per_byte"] is not None:
        rows["floor"] = f"{metrics['floor_bits_per_byte']:.4f} bits per byte (the source's exact entropy)"
    return rows


def _training(args, metrics: dict, provenance: dict) -> dict:
    return {
        "tokens": f"{metrics['tokens']:,} ({metrics['epochs']:.2f} epochs of {metrics['train_tokens']:,})",
        "steps": f"{metrics['steps']:,}",
        "training FLOPs": f"{metrics['total_flos']:.4g} (3 x the forward matrix products)",
        "time": f"{metrics['seconds'] / 60:.1f} minutes, evaluations included",
        "hardware": "{device}, {precision}, {processes} process(es); {processor}".format(**provenance["hardware"]),
        "optimiser": f"{OptimizerNames(args.optim).value}, learning rate {args.learning_rate}, "
        f"{SchedulerType(args.lr_scheduler_type).value} schedule, weight decay {args.weight_decay}",
        "seed": str(args.seed),
        "software": ", ".join(f"{name} {version}" for name, version in provenance["packages"].items()),
    }


def _table(rows: dict) -> str:
    return "\n".join(f"| {name} | {value} |" for name, value in rows.items())
