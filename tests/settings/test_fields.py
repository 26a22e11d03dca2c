"""Fields read from a source are the fields of the class."""

import dataclasses

import pytest
from transformers import PreTrainedConfig, SchedulerType, TrainingArguments
from transformers.trainer_utils import HubStrategy, IntervalStrategy, SaveStrategy
from transformers.training_args import OptimizerNames

from modeling.configuration_kindling import FAMILIES, KindlingConfig
from settings.data_sections import DataSection, TokenizerSection
from settings.fields import Field
from settings.schema import MODEL_SOURCES, section_fields
from settings.sections import SampleSection


def defaults(cls) -> dict:
    return {field.name: field.default for field in dataclasses.fields(cls) if field.init}


def test_training_fields_are_those_of_the_installed_transformers():
    assert section_fields("training").keys() == defaults(TrainingArguments).keys()


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("optim", OptimizerNames),
        ("lr_scheduler_type", SchedulerType),
        ("eval_strategy", IntervalStrategy),
        ("save_strategy", SaveStrategy),
        ("hub_strategy", HubStrategy),
    ],
)
def test_of_an_enumeration_its_values_are_accepted(name, values):
    assert section_fields("training")[name].accepts == [tuple(value.value for value in values)]


def test_choices_are_accepted_and_nothing_else():
    assert section_fields("training")["ddp_backend"].accepts[0][:2] == ("nccl", "gloo")
    assert section_fields("training")["ddp_backend"].accepts[1:] == ["None"]
    assert section_fields("training")["output_dir"].accepts == ["str", "None"]


def test_model_fields_are_those_of_the_configuration_but_for_the_tokenizers():
    own = set(defaults(KindlingConfig)) - set(defaults(PreTrainedConfig))
    others = {"type", *MODEL_SOURCES}
    assert section_fields("model").keys() == own - {"pad_token_id", "bos_token_id", "eos_token_id"} | others
    assert section_fields("model")["type"].accepts == [tuple(reversed(FAMILIES))]
    for name, field in section_fields("model").items():
        if name not in others | {"vocab_size"}:
            assert field.default == defaults(KindlingConfig)[name]


@pytest.mark.parametrize(
    ("section", "cls"), [("tokenizer", TokenizerSection), ("data", DataSection), ("sample", SampleSection)]
)
def test_our_sections_are_their_dataclasses(section, cls):
    assert {name: field.default for name, field in section_fields(section).items()} == defaults(cls)


@pytest.mark.parametrize(
    ("accepts", "value", "result"),
    [
        (["int"], 3.0, 3),
        (["float"], 3, 3.0),
        (["int", "None"], None, None),
        (["bool"], False, False),
        ([("a", "b")], "b", "b"),
        (["dict", "str", "None"], {"a": 1}, {"a": 1}),
        (["ParallelismConfig", "None"], "anything", "anything"),
        ([("no", "steps")], False, "no"),
    ],
)
def test_check_accepts_and_converts(accepts, value, result):
    checked = Field(accepts, None, "").check(value)
    assert checked == result
    assert type(checked) is type(result)


@pytest.mark.parametrize(
    ("accepts", "value"),
    [
        (["int"], True),
        (["int"], 1.5),
        (["float"], "1"),
        (["float"], float("nan")),
        (["float", "None"], float("-inf")),
        (["float"], 10**400),
        (["int"], float("inf")),
        ([("steps", "epoch")], False),
        (["int"], None),
        ([("a", "b")], "c"),
        (["bool"], 1),
        (["str"], False),
    ],
)
def test_check_refuses(accepts, value):
    with pytest.raises(ValueError, match="it takes"):
        Field(accepts, None, "").check(value)
