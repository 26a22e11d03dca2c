"""Overrides that would have no effect, said instead of passed over.

What a file says may have none: an override of something else, such as optimizer.kind, may have taken it.
"""

from pathlib import Path

from experiment import Experiment, LanguageExperiment
from sections import ConfigError

NEEDS = (
    (
        ("optimizer.muon_learning_rate", "optimizer.muon_weight_decay", "optimizer.muon_momentum"),
        ("optimizer.kind",),
        ("muon",),
        "optimizer.kind=muon",
    ),
    (("optimizer.grokfast_alpha",), ("optimizer.grokfast_lambda",), None, "optimizer.grokfast_lambda, such as 2"),
    (("tokenizer.vocab_size",), ("tokenizer.kind",), ("bpe",), "tokenizer.kind=bpe"),
    (
        ("tokenizer.train_documents", "tokenizer.train_bytes"),
        ("tokenizer.kind",),
        ("bpe", "characters", "numbers"),
        "tokenizer.kind=bpe",
    ),
    (("data.source",), ("data.mixture",), (None,), "data.mixture=null"),
    (("training.eval_steps",), ("training.eval_strategy",), ("steps",), "training.eval_strategy=steps"),
    (("training.eval_delay",), ("training.eval_strategy",), ("steps", "epoch"), "training.eval_strategy=steps"),
    (("training.save_steps",), ("training.save_strategy",), ("steps",), "training.save_strategy=steps"),
    (
        ("training.hub_strategy", "training.hub_always_push"),
        ("training.push_to_hub",),
        None,
        "training.push_to_hub=true",
    ),
    (
        ("training.gradient_checkpointing_kwargs", "training.activation_checkpointing_kwargs"),
        ("training.gradient_checkpointing", "training.activation_checkpointing"),
        None,
        "training.gradient_checkpointing=true",
    ),
)
"""Settings, each with what it needs: one of these others at one of these values (None: any but false, 0 and null), and
how to give it that."""

OF_SOURCES = {
    "data.subset": {"HubDataset"},
    "data.revision": {"HubDataset"},
    "data.text_field": {"HubDataset", "LocalFiles"},
    "data.group_field": {"HubDataset", "LocalFiles"},
    "data.sample_by": {"HubDataset", "LocalFiles"},
    "data.seed": {"Generated"},
}
"""Settings that only some kinds of sources have."""


def refuse_vain(experiment: Experiment, given: dict):
    """`ConfigError` if one of the overrides, `given` by name, or a list of replicas would change nothing."""
    replicas = getattr(experiment, "replicas", {})
    lists = {f"{section}.{key}": values for section, keys in replicas.items() for key, values in keys.items()}
    for name, value in given.items():
        if name in lists:
            raise ConfigError(
                f"{name}={value} has no effect, for replicas.{name}={lists[name]} are trained side by side; "
                f"give replicas.{name}=[{value}]"
            )
    if isinstance(experiment, LanguageExperiment):
        _refuse_epochs(given, experiment.training)
        _refuse_of_sources(given, experiment)
    for names, others, allowed, remedy in NEEDS:
        for name in names:
            is_list = name in lists
            if not (given.get(name) or is_list) or any(_will_do(experiment, lists, one, allowed) for one in others):
                continue
            said = f"replicas.{name}={lists[name]}" if is_list else f"{name}={given[name]}"
            same = ", and the replicas would be the same" if is_list else ""
            raise ConfigError(
                f"{said} has no effect with {others[0]}={_value(experiment, others[0])}{same}; leave it out, or give "
                f"{remedy}"
            )


def _will_do(experiment: Experiment, lists: dict, name: str, allowed: tuple | None) -> bool:
    values = lists.get(name, [_value(experiment, name)])
    return any(bool(value) if allowed is None else value in allowed for value in values)


def _value(experiment: Experiment, name: str):
    section, _, key = name.partition(".")
    values = getattr(experiment, section, {})
    return values.get(key) if isinstance(values, dict) else getattr(values, key)


def _refuse_epochs(given: dict, training: dict):
    """Epochs asked for in an override, where the file asks for steps: transformers would go by the steps."""
    if "training.num_train_epochs" in given and (training.get("max_steps") or -1) > 0:
        raise ConfigError(
            f"training.num_train_epochs={given['training.num_train_epochs']} has no effect with training.max_steps="
            f"{training['max_steps']}; give training.max_steps=-1 with it"
        )


def _refuse_of_sources(given: dict, experiment: LanguageExperiment):
    data = experiment.data
    for name in OF_SOURCES.keys() & {name for name, value in given.items() if value}:
        from data_prep.sources import find_source  # which may look for files

        kinds = {
            type(find_source(one)).__name__ for one in data.mixture or [data.source, data.validation_source] if one
        }
        if not kinds & OF_SOURCES[name]:
            raise ConfigError(f"{name}={given[name]} has no effect on {data.origin}; leave it out")


def refuse_shared_folder(experiment: LanguageExperiment):
    """`ConfigError` if the run's folder is that of what is prepared, for one holds a run and nothing else."""
    run, cache = Path(experiment.training["output_dir"]), Path(experiment.data.cache_dir)
    if run.resolve() == cache.resolve():
        raise ConfigError(f"training.output_dir={run} is data.cache_dir, which is for prepared data; choose another")
