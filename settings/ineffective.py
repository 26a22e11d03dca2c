"""Rejects overrides that would have no effect.

Settings in the file may have none: an override of another setting, such as optimizer.kind, may have disabled them.
"""

from .checks import ConfigError, warn
from .experiment import Experiment

REQUIREMENTS = (
    (
        ("optimizer.muon_learning_rate", "optimizer.muon_weight_decay", "optimizer.muon_momentum"),
        ("optimizer.kind",),
        ("muon",),
        "optimizer.kind=muon",
    ),
    (("optimizer.grokfast_alpha",), ("optimizer.grokfast_lambda",), None, "optimizer.grokfast_lambda, such as 2"),
    (
        ("model.mup_base_width", "model.mup_base_head_dim"),
        ("model.parametrization",),
        ("mup",),
        "model.parametrization=mup",
    ),
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
)
"""Settings, the other settings that they require, the values that these must have (None: any but false, 0 and null; one
is enough), and how to set them."""
HARMLESS = (
    (
        ("training.hub_strategy", "training.hub_always_push", "training.hub_revision"),
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
"""The same, for settings that do not change any result: a warning is enough."""


def reject_ineffective_overrides(experiment: Experiment):
    """`ConfigError` if an override or a list of replicas would have no effect."""
    given = experiment.overrides
    lists = _by_name(getattr(experiment, "replicas", {}))
    for name in given.keys() & lists.keys():
        raise ConfigError(
            f"{name}={given[name]} has no effect, because replicas.{name}={lists[name]} replaces it; "
            f"give replicas.{name}=[{given[name]}]"
        )
    settings = _by_name(experiment.as_dict())
    values = {name: [value] for name, value in settings.items()} | lists
    said = {name: f"{name}={value}" for name, value in given.items() if value}
    said |= {name: f"replicas.{name}={several}" for name, several in lists.items()}
    for row in (*REQUIREMENTS, *HARMLESS):
        names, others, allowed, remedy = row
        found = [value for other in others for value in values.get(other, [])]
        if any(bool(value) if allowed is None else value in allowed for value in found):
            continue
        for name in (name for name in names if name in said):
            same = ", and the replicas would be identical" if name in lists else ""
            sentence = f"{said[name]} has no effect with {others[0]}={settings.get(others[0])}{same}"
            if row not in HARMLESS:
                raise ConfigError(f"{sentence}; leave it out, or give {remedy}")
            warn(f"{sentence}; it needs {remedy}")


def _by_name(sections: dict[str, dict]) -> dict:
    """The settings of all sections by their override names, `section.key`."""
    return {f"{section}.{key}": value for section, values in sections.items() for key, value in values.items()}
