"""The cost of an experiment before it runs: parameters, FLOPs and memory, part by part.

usage: python -m experiments.plan CONFIG [section.key=value ...]

    python -m experiments.plan configs/lm/tinystories.yaml model.hidden_size=768

The vocabulary is model.vocab_size if given, else tokenizer.vocab_size; with model.path, the checkpoint's.
"""

from command_line.run import run_script
from settings.checks import ConfigError, build
from settings.derivation.depth import describe
from settings.experiment import LanguageExperiment
from settings.loading import load_experiment
from storage.hub import check_model_path


def main(path: str, overrides: list[str]):
    experiment = load_experiment(path, overrides)
    print("\n".join(plan(experiment)))


def plan(experiment: LanguageExperiment) -> list[str]:
    """The lines of the plan: one table per quantity, one row per part."""
    from modeling import accounting, memory

    config = model_config(experiment)
    length, batch = experiment.window(config.max_position_embeddings), batch_of(experiment)
    phase, parts = memory.peak_memory(config, memory.Step(length, batch), memory.adamw_memory(config))
    matmul, elementwise = accounting.matmul_flops(config, length), accounting.elementwise_flops(config, length)
    return [
        f"{config.model_type}, {config.num_hidden_layers} layers of width {config.hidden_size}, "
        f"{length} tokens, vocabulary {config.vocab_size:,}",
        *(f"  {one}" for one in describe(experiment.derived)),
        *table("parameters", accounting.parameters(config)),
        *table(f"forward FLOPs of one sequence of {length} tokens: matrix products", matmul),
        *table("forward FLOPs: element-wise work", elementwise),
        *row("forward, both", sum(accounting.forward_flops(config, length).values())),
        "",
        "training FLOPs (3 x the forward matrix products)",
        *row("per token", accounting.training_flops(config, length) // length),
        *row("per sequence", accounting.training_flops(config, length)),
        *row(f"per batch of {batch}", accounting.training_flops(config, length, batch)),
        *table(f"bytes of memory per device at the peak, {phase}, float32, AdamW, batch of {batch}", parts),
    ]


def batch_of(experiment: LanguageExperiment) -> int:
    """Examples per device and step."""
    if (batch := experiment.training["per_device_train_batch_size"]) < 1:
        raise ConfigError(f"training.per_device_train_batch_size={batch} is too small; it must be at least 1")
    return batch


def model_config(experiment: LanguageExperiment):
    """The model's configuration, as far as it is known before there is a tokenizer."""
    from modeling.configuration_kindling import FAMILIES
    from modeling.conversion import read_config

    values = {key: value for key, value in experiment.model.items() if value is not None}
    if "path" in values:
        build(check_model_path, "model.path", {"path": values["path"]})
        return build(read_config, "model.path", {"source": values.pop("path"), **values})
    family = FAMILIES[values.pop("type")]
    if experiment.tokenizer.kind == "bpe":
        values.setdefault("vocab_size", experiment.tokenizer.vocab_size)
        check_vocabulary_size(values["vocab_size"], experiment.tokenizer.vocab_size)
    elif "vocab_size" not in values:
        raise ConfigError(
            f"tokenizer.kind={experiment.tokenizer.kind} has no known size before it is trained; give model.vocab_size"
        )
    return build(family, "model", values)


def check_vocabulary_size(rows: int, tokens: int):
    """`ConfigError` if the embedding has fewer rows than the tokenizer will have tokens."""
    if rows < tokens:
        raise ConfigError(f"model.vocab_size={rows} is smaller than the tokenizer's {tokens}; leave it out")


def table(title: str, parts: dict[str, int]) -> list[str]:
    """A titled table of the parts that are not zero, with shares, and their sum."""
    total = sum(parts.values())
    rows = [f"  {name:24}{count:>26,}{count / total:>9.1%}" for name, count in parts.items() if count]
    return ["", title, *rows, *row("total", total)]


def row(name: str, count: int) -> list[str]:
    """One line of a table."""
    return [f"  {name:24}{count:>26,}"]


if __name__ == "__main__":
    run_script(__doc__, main, only_prints=True)
