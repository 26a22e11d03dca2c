"""Fields read from a source are the fields of the class."""

import dataclasses

import pytest
from transformers import PreTrainedConfig, TrainingArguments

from config import section_fields
from fields import Field
from modeling.configuration_kindling import FAMILIES, KindlingConfig
from sections import DataSection, SampleSection, TokenizerSection


def defaults(cls) -> dict:
    return {field.name: field.default for field in dataclasses.fields(cls) if field.init}


def test_training_fields_are_those_of_the_installed_transformers():
    assert section_fields("training").keys() == defaults(TrainingArguments).keys()


def test_model_fields_are_those_of_the_configuration_but_for_the_tokenizers():
    own = set(defaults(KindlingConfig)) - set(defaults(PreTrainedConfig))
    assert section_fields("model").keys() == own - {"pad_token_id", "bos_token_id", "eos_token_id"} | {"type", "path"}
    assert section_fields("model")["type"].accepts == [tuple(reversed(FAMILIES))]
    for name, field in section_fields("model").items():
        if name not in ("type", "path", "vocab_size"):
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
        (["SchedulerType", "str"], "cosine", "cosine"),
        (["SaveStrategy", "str"], False, "no"),
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
        (["int"], None),
        ([("a", "b")], "c"),
        (["bool"], 1),
        (["str"], False),
    ],
)
def test_check_refuses(accepts, value):
    with pytest.raises(ValueError, match="it takes"):
        Field(accepts, None, "").check(value)
