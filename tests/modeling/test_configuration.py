"""The configuration: what it derives, what it refuses and how it says so, and that it survives JSON."""

import ast
from dataclasses import fields
from pathlib import Path

import pytest
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, GenerationConfig, PreTrainedConfig

from modeling import configuration_kindling
from modeling.configuration_kindling import FAMILIES, KindlingConfig, KindlingGPTConfig
from modeling.layers import ATTENTION_OPTIONS

MODELING = Path(configuration_kindling.__file__).parent
OWN_FIELDS = {field.name for field in fields(KindlingConfig)} - {field.name for field in fields(PreTrainedConfig)}

# Not one of them is any family's default.
UNUSUAL = {
    "vocab_size": 300,
    "hidden_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "intermediate_size": 50,
    "max_position_embeddings": 70,
    "norm": "none",
    "norm_placement": "post",
    "norm_eps": 1e-4,
    "position": "none",
    "rope_theta": 500.0,
    "mlp": "silu",
    "qk_norm": True,
    "final_logit_softcapping": 20.0,
    "attention_dropout": 0.1,
    "hidden_dropout": 0.2,
    "embedding_dropout": 0.3,
    "initializer_range": 0.01,
    "embedding_init_std": 0.5,
    "linear_init": "uniform_fan_in",
    "parametrization": "mup",
    "mup_base_width": 16,
    "mup_base_head_dim": 2,
    "use_cache": False,
    "pad_token_id": 7,
    "bos_token_id": 8,
    "eos_token_id": [9, 10],
}
BY_FAMILY = {
    "kindling_gpt": {"bias": False, "residual_init": "plain", "tie_word_embeddings": False},
    "kindling_llama": {"bias": True, "residual_init": "scaled", "tie_word_embeddings": True},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_field_survives_json(family, all_axes, tmp_path):
    given = UNUSUAL | BY_FAMILY[family] | {name: all_axes[name][1] for name in ATTENTION_OPTIONS}
    assert given.keys() == OWN_FIELDS, "UNUSUAL (this file) has a value for each field"
    config = FAMILIES[family](**given)
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is type(config)
    assert loaded.to_dict() == config.to_dict() | {"_name_or_path": str(tmp_path)}
    for name, value in given.items():
        assert getattr(loaded, name) == value != getattr(FAMILIES[family](), name)


def test_gpt_is_gpt2_and_llama_is_llama():
    """What makes the families differ, and nothing else does."""
    gpt, llama = (FAMILIES[name]() for name in ("kindling_gpt", "kindling_llama"))
    assert {name: getattr(gpt, name) for name in OWN_FIELDS if getattr(gpt, name) != getattr(llama, name)} == {
        "norm": "layernorm",
        "norm_eps": 1e-5,
        "position": "learned",
        "mlp": "gelu_new",
        "bias": True,
        "intermediate_size": 3072,
        "residual_init": "scaled",
        "tie_word_embeddings": True,
    }


@pytest.mark.parametrize(
    ("hidden_size", "mlp", "intermediate_size"),
    [
        (512, "swiglu", 1344),
        (512, "gelu", 2048),
        (512, "silu", 2048),
        (64, "swiglu", 192),
        (64, "gelu", 256),
        (8, "swiglu", 64),
        (8, "gelu", 64),
    ],
)
def test_mlp_width(configure, hidden_size, mlp, intermediate_size):
    assert configure(hidden_size=hidden_size, mlp=mlp).intermediate_size == intermediate_size
    assert configure(hidden_size=hidden_size, mlp=mlp, intermediate_size=10).intermediate_size == 10


def test_heads_fill_the_width_and_are_not_grouped_unless_told(configure):
    config = configure(hidden_size=32, num_attention_heads=4)
    assert (config.head_dim, config.num_key_value_heads) == (8, 4)
    config = configure(hidden_size=32, num_attention_heads=4, head_dim=2, num_key_value_heads=1)
    assert (config.head_dim, config.num_key_value_heads) == (2, 1)


SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
         "intermediate_size", "max_position_embeddings", "mup_base_width", "mup_base_head_dim")  # fmt: skip
DROPOUTS = ("attention_dropout", "hidden_dropout", "embedding_dropout")
SCALES = (
    *("norm_eps", "rope_theta", "initializer_range", "embedding_init_std", "final_logit_softcapping"),
    *ATTENTION_OPTIONS,
)
CHOICES = ("norm", "norm_placement", "position", "mlp", "residual_init", "linear_init", "parametrization")
SWITCHES = ("qk_norm", "bias", "tie_word_embeddings", "use_cache")
IDS = ("pad_token_id", "bos_token_id", "eos_token_id")


def test_every_field_is_of_a_kind_that_is_checked():
    kinds = (SIZES, DROPOUTS, SCALES, CHOICES, SWITCHES, IDS)
    assert sorted(sum(kinds, ())) == sorted(OWN_FIELDS), "SIZES, DROPOUTS, SCALES, ... (this file) have each field once"


WRONG_TYPES = [
    *((name, value) for name in SIZES for value in ("16", 16.0, True)),
    *((name, value) for name in DROPOUTS + SCALES for value in ("0.1", True)),
    *((name, value) for name in CHOICES for value in ("batchnorm", True, 1)),
    *((name, value) for name in SWITCHES for value in ("yes", 1)),
    *((name, value) for name in IDS for value in ("</s>", 0.5)),
]
OUT_OF_RANGE = [
    *((name, value) for name in SIZES for value in (0, -1)),
    *((name, value) for name in DROPOUTS for value in (-0.1, 1.0, float("nan"))),
    *((name, value) for name in SCALES for value in (0.0, -1.0, float("nan"), float("inf"))),
]


@pytest.mark.parametrize(("name", "value"), WRONG_TYPES + OUT_OF_RANGE)
def test_wrong_value_is_refused_by_name(configure, name, value):
    with pytest.raises(StrictDataclassError) as error:
        configure(**{name: value})
    sentence = str(error.value).splitlines()[-1]
    assert name in sentence
    assert str(value) in sentence


@pytest.mark.parametrize(("name", "value"), WRONG_TYPES)
def test_wrong_type_is_refused_at_assignment(configure, name, value):
    config = configure()
    with pytest.raises(StrictDataclassError, match=name):
        setattr(config, name, value)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            {"hidden_size": 12, "num_attention_heads": 5},
            "num_attention_heads=5 does not divide hidden_size=12; choose one of 1, 2, 3, 4, 6, 12",
        ),
        (
            {"num_attention_heads": 4, "num_key_value_heads": 3},
            "num_key_value_heads=3 does not divide num_attention_heads=4; choose one of 1, 2, 4",
        ),
        (
            {"num_attention_heads": 4, "num_key_value_heads": 8},
            "num_key_value_heads=8 does not divide num_attention_heads=4; choose one of 1, 2, 4",
        ),
        (
            {"hidden_size": 12, "num_attention_heads": 4},
            "position=rope rotates pairs and head_dim=3 is odd; choose an even head_dim or position=learned",
        ),
    ],
)
def test_heads_that_do_not_fit_are_refused(configure, given, sentence):
    with pytest.raises(StrictDataclassError) as error:
        configure(**given)
    assert str(error.value).splitlines()[-1].strip() == f"ValueError: {sentence}"


@pytest.mark.parametrize("late", [False, True], ids=["constructed", "assigned"])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_accepted_and_saved_loads(family, late, tmp_path):
    """Whatever its name looks like: other models' settings, later ones of ours, and whole numbers for rates."""
    notes = {"batch_norm_eps": 1, "rms_norm_eps": 1e-6, "hidden_act": "silu", "attention_bias": True, "n_layers": 3,
             "classifier_dropout": 0.1, "num_experts": 8, "hiden_size": 5, "mlps": None, "positions": "rope",
             "norm_eps_": 0.1, "tie_embeddings": False}  # fmt: skip
    ours = {"norm_eps": 1, "rope_theta": 500000, "hidden_dropout": 0, "initializer_range": 1}
    config = FAMILIES[family](**({} if late else notes | ours))
    if late:
        for name, value in (notes | ours).items():
            setattr(config, name, value)
    config.save_pretrained(tmp_path)
    for loaded in (FAMILIES[family].from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert {name: getattr(loaded, name) for name in notes | ours} == notes | ours
        assert loaded.to_dict() | {"_name_or_path": ""} == config.to_dict()


@pytest.mark.parametrize("family", FAMILIES)
def test_what_cannot_be_loaded_is_not_saved(family, tmp_path):
    """Fields that each may have its value and do not fit together: refused when saved, not when it is too late."""
    config = FAMILIES[family]()
    config.num_attention_heads = 7
    with pytest.raises(StrictDataclassError, match="num_attention_heads=7 does not divide"):
        config.save_pretrained(tmp_path)


def test_what_transformers_and_other_tools_note_is_kept():
    """Every attribute and every setting of generation that transformers has ever written into a config.json."""
    known = {"torch_dtype": "float32", "attn_implementation": "eager", "quantization_config": {}, "num_labels": 2}
    known |= {name: None for name in GenerationConfig().to_dict() if not hasattr(KindlingGPTConfig, name)}
    known |= {name: value for name, value in PreTrainedConfig().to_dict().items() if name != "model_type"}
    config = KindlingGPTConfig(**known | {"unsloth_version": "2026.1", "_name_or_path": "somewhere"})
    assert config.unsloth_version == "2026.1"
    assert config == KindlingGPTConfig.from_dict(config.to_dict())


def test_odd_heads_are_fine_without_rotation(configure):
    assert configure("kindling_gpt", hidden_size=12, num_attention_heads=4).head_dim == 3


@pytest.mark.parametrize(("family", "name"), [("kindling_gpt", "KindlingGPT"), ("kindling_llama", "KindlingLlama")])
def test_any_tool_is_told_where_the_code_is(family, name):
    assert FAMILIES[family]().to_dict()["auto_map"] == {
        "AutoConfig": f"configuration_kindling.{name}Config",
        "AutoModel": f"modeling_kindling.{name}Model",
        "AutoModelForCausalLM": f"modeling_kindling.{name}ForCausalLM",
    }


def test_every_field_is_read_by_a_model():
    """No setting without effect: each is an attribute that some part of the model reads, or that transformers does."""
    assert ATTENTION_OPTIONS.keys() <= OWN_FIELDS, "each row of ATTENTION_OPTIONS (layers.py) needs a field of its name"
    assert not any(getattr(KindlingConfig(), name) for name in ATTENTION_OPTIONS), "an option is off by default: null"
    read_by_transformers = {"use_cache", "pad_token_id", "bos_token_id", "eos_token_id", "tie_word_embeddings"}
    read = set()
    for name in ("layers.py", "attention.py", "modeling_kindling.py"):
        nodes = ast.walk(ast.parse((MODELING / name).read_text()))
        read |= {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    unread = OWN_FIELDS - read_by_transformers - read - ATTENTION_OPTIONS.keys()
    assert not unread, f"nothing reads {unread}: use it in a part, or add a row to ATTENTION_OPTIONS (layers.py)"
