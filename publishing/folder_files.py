"""What lies in a run folder, a line for each file: the part of a run's README.md that explains the folder."""

from collections.abc import Iterable
from pathlib import Path

ALWAYS = {
    "README.md": "this page",
    "experiment.yaml": "every setting; the script that made the run makes it again from this file",
    "provenance.json": "command, commit, versions and hardware",
    "metrics.jsonl": "all logs and evaluations, a line each",
    "metrics.json": "the final numbers, written when the run is finished",
}
OF_A_MODEL = {
    "config.json": "the architecture",
    "generation_config.json": "defaults for generating text",
    "model.safetensors": "the weights (`model-*.safetensors` with an index if they are large)",
    "tokenizer.json": "the tokenizer",
    "tokenizer_config.json": "its class and special tokens",
    "configuration_kindling.py": "code: the settings of the architecture",
    "modeling_kindling.py": "code: the model",
    "layers.py": "code: norms, MLPs and rotary positions",
    "attention.py": "code: attention and its masks",
    "generation.py": "code: checks of prompts before text is generated",
    "loading.py": "code: loading weights, from safetensors only",
    "accounting.py": "code: parameters, FLOPs and memory",
    "releases.py": "code: differences between releases of transformers",
}
WHERE_THERE = {
    "samples.jsonl": "a sample at each evaluation",
    "curves.png": "losses or accuracies against steps",
    "skipped.jsonl": "skipped steps and their batches (in the run folder only)",
    "data": "the equations of each split as JSON lines (in the run folder only)",
    "checkpoint-*": "checkpoints to resume from, with optimiser and random state (in the run folder only)",
}
"""What not every run has."""


def describe_files(folder: Path, is_model: bool = True, replicas: Iterable[str] = ()) -> str:
    """The files of a run folder as rows of a Markdown table; `replicas` are the models with folders of their own.

    Until a run is finished, its model is in its checkpoints alone.
    """
    there = {name: meaning for name, meaning in WHERE_THERE.items() if any(folder.glob(name))}
    models = {f"{name}/": "a model with a folder of its own" for name in replicas}
    rows = ALWAYS | (OF_A_MODEL if is_model and (folder / "config.json").exists() else {}) | there | models
    return "\n".join(["| file | what it is |", "|---|---|", *(f"| `{name}` | {what} |" for name, what in rows.items())])
