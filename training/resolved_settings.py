"""All settings of a run with their final values, defaults included."""

from transformers import TrainingArguments

from modeling.configuration_kindling import KindlingConfig
from settings.experiment import Experiment
from settings.schema import DROPOUTS, section_fields


def resolve(experiment: Experiment, args: TrainingArguments, config: KindlingConfig) -> dict:
    """All settings of the run, with the values that hardware, tokenizer and defaults have determined."""
    settings = experiment.as_dict()
    of_model = DROPOUTS if "path" in experiment.model else section_fields("model")
    settings["model"] |= {name: getattr(config, name) for name in of_model if name not in ("path", "type")}
    settings["training"] |= {name: getattr(args, name) for name in ("bf16", "fp16", "use_cpu", "seed")}
    settings["training"].pop("resume_from_checkpoint", None)
    settings.pop("resume")
    return settings
