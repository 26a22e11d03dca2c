"""What follows from `model.depth` and `model.preset`: the rules, what may be given instead, and known sizes."""

import math
from contextlib import suppress

import pytest

from modeling.accounting import parameters
from modeling.configuration_kindling import FAMILIES
from settings.checks import ConfigError
from settings.derivation.depth import describe
from settings.derivation.presets import PRESETS
from settings.loading import load_experiment
from settings.schema import section_fields

DIAL = """
model: {depth: 4, max_position_embeddings: 256}
tokenizer: {vocab_size: 8000}
data: {source: fables}
"""
SIZES = """
model: {hidden_size: 192, num_hidden_layers: 3, num_attention_heads: 6, intermediate_size: 500, mlp: relu}
tokenizer: {vocab_size: 2048}
training: {learning_rate: 0.5, max_steps: 7, gradient_accumulation_steps: 3, adam_beta2: 0.9}
budget: {}
"""
# Published counts: OpenAI's and Meta's weights, and the models of those names on the Hub.
COUNTS = {
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "ts-17m": 22_696_448,
    "llama-124m": 123_551_232,
    "smollm2-135m": 134_515_008,
    "tinyllama-1.1b": 1_100_048_384,
    "llama-7b": 6_738_415_616,
}


@pytest.fixture
def load(tmp_path):
    def read(text, *overrides):
        path = tmp_path / "experiment.yaml"
        path.write_text(text)
        return load_experiment(str(path), list(overrides))

    return read


def values_of(experiment):
    return {one.name: one.value for one in experiment.derived}


# ---- presets


def test_presets_have_the_published_numbers_of_parameters():
    found = {}
    for name, values in PRESETS.items():
        family = FAMILIES[values["type"]]
        found[name] = sum(parameters(family(**{key: value for key, value in values.items() if key != "type"})).values())
    assert found == COUNTS
    assert COUNTS["ts-17m"] - 10_000 * 512 == 17_576_448, "17M without the embedding"


def test_presets_are_settings_of_the_section(load):
    """Each value is one that a file may hold, and `--help` has every name."""
    known = section_fields("model")
    for name, values in PRESETS.items():
        for key, value in values.items():
            assert known[key].check(value) == value, (name, key)
        assert load("data: {source: fables}", f"model.preset={name}").model == {"type": values["type"]} | values
    assert known["preset"].accepts == [tuple(PRESETS), "None"]


def test_what_is_given_replaces_a_value_of_a_preset(load):
    experiment = load("model: {preset: ts-17m, num_hidden_layers: 2, max_position_embeddings: 64}")
    assert experiment.model["num_hidden_layers"] == 2
    assert experiment.model["hidden_size"] == 512
    assert experiment.tokenizer.vocab_size == 10_000
    assert "preset" not in experiment.model
    (line,) = describe(experiment.derived)
    assert line.startswith("tokenizer.vocab_size=10,000, model.type=kindling_llama, ")
    assert line.endswith("model.norm_eps=1e-05: preset ts-17m")


@pytest.mark.parametrize(
    ("tokenizer", "learnt"), [("{vocab_size: 500}", 500), ("{kind: pretrained, path: gpt2}", 4096)]
)
def test_a_tokenizer_of_ones_own_sets_the_vocabulary(load, tokenizer, learnt):
    experiment = load(f"model: {{preset: gpt2}}\ntokenizer: {tokenizer}")
    assert "vocab_size" not in experiment.model
    assert experiment.tokenizer.vocab_size == learnt


def test_a_preset_on_the_command_line_replaces_the_files_shape(load):
    experiment = load(SIZES, "model.preset=llama-124m", "model.num_hidden_layers=5")
    assert experiment.model == PRESETS["llama-124m"] | {"mlp": "relu", "num_hidden_layers": 5}
    assert experiment.tokenizer.vocab_size == 50_257
    assert experiment.training["learning_rate"] == 0.5


# ---- depth


def reference(layers, width, vocabulary, batch=None, length=None, tuned=None):
    """The rules, written out: tokens, batch, rate and decay."""
    count = 12 * layers * width**2 + vocabulary * width
    tokens = length or 20 * count
    usual = 327_680 * (count / 108e6) ** (2 / 3)
    batch = batch or 2 ** round(math.log2(usual * (tokens / (20 * count)) ** 0.383))
    rate = 0.00235 * ((tuned or count) / 108e6) ** (-1 / 3) * math.sqrt(batch / usual)
    return tokens, batch, rate, min(1.0, 0.1 * math.sqrt(batch / usual) * 20 * count / tokens)


@pytest.mark.parametrize("depth", [1, 4, 12, 26])
def test_everything_follows_from_the_depth(load, depth):
    experiment = load(DIAL, f"model.depth={depth}")
    model, training = experiment.model, experiment.training
    assert [model[key] for key in ("num_hidden_layers", "hidden_size", "num_attention_heads")] == [
        depth, 64 * depth, depth,
    ]  # fmt: skip
    found = [experiment.budget.tokens, experiment.budget.batch_tokens]
    found += [training["learning_rate"], training["weight_decay"]]
    assert found == pytest.approx(reference(depth, 64 * depth, 8000), rel=5e-3)
    assert {f"model.{key}" for key in ("num_hidden_layers", "hidden_size", "num_attention_heads")} | {
        "budget.tokens", "budget.batch_tokens", "training.learning_rate", "training.weight_decay"
    } == values_of(experiment).keys()  # fmt: skip
    assert len(describe(experiment.derived)) == 7


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["budget.tokens=1e7"], {"length": 1e7}),
        (["budget.batch_tokens=2048"], {"batch": 2048}),
        (["budget.flops=1e14"], {"length": 1e14 / 6 / (12 * 4 * 256**2 + 8000 * 256)}),
        (["model.hidden_size=320"], {"width": 320}),
        (["model.num_hidden_layers=9"], {"layers": 9}),
        (["training.gradient_accumulation_steps=2"], {"batch": 2 * 32 * 256}),
        (["data.layout=documents", "training.per_device_train_batch_size=4"], {"batch": 4 * 256}),
        (["model.parametrization=mup", "model.mup_base_width=128"], {"tuned": 12 * 2 * 128**2 + 8000 * 128}),
    ],
)
def test_the_rest_follows_from_what_is_given(load, given, expected):
    experiment = load(DIAL, *given)
    _, batch, rate, decay = reference(**{"layers": 4, "width": 256, "vocabulary": 8000} | expected)
    assert experiment.budget.batch_tokens in (batch, None)
    assert experiment.training["learning_rate"] == pytest.approx(rate, rel=5e-3)
    assert experiment.training["weight_decay"] == pytest.approx(decay, rel=5e-3)
    assert not {text.partition("=")[0] for text in given} & values_of(experiment).keys()


@pytest.mark.parametrize("given", ["training.max_steps=9", "training.num_train_epochs=2", "budget.minutes=3"])
def test_a_length_of_ones_own_is_kept(load, given):
    assert load(DIAL, given).budget.tokens is None


def test_a_rate_and_a_decay_of_ones_own_are_kept(load):
    training = load(DIAL, "training.learning_rate=0.7", "training.weight_decay=0.3").training
    assert (training["learning_rate"], training["weight_decay"]) == (0.7, 0.3)


def test_a_depth_on_the_command_line_replaces_what_the_file_gives_of_it(load):
    """Shape, length, batch and rates; nothing else, and not what the command line gives, too."""
    experiment = load(SIZES, "model.depth=2", "training.weight_decay=0.4")
    assert experiment.model == {
        "type": "kindling_llama", "mlp": "relu", "num_hidden_layers": 2, "hidden_size": 128, "num_attention_heads": 2
    }  # fmt: skip
    training = experiment.training
    assert training["weight_decay"] == 0.4
    assert training["adam_beta2"] == 0.9
    assert training["learning_rate"] != 0.5
    assert "max_steps" not in training
    assert experiment.budget.tokens == 20 * (12 * 2 * 128**2 + 2048 * 128)


@pytest.mark.parametrize(("width", "heads"), [(64, 1), (32, 1), (96, 2), (192, 3), (320, 5), (400, 5), (130, 1)])
def test_heads_are_about_64_wide_and_even(load, width, heads):
    assert load(DIAL, f"model.hidden_size={width}").model["num_attention_heads"] == heads


def test_heads_keep_their_size_with_mup(load):
    model = load(DIAL, "model.parametrization=mup", "model.mup_base_width=128").model
    assert model["mup_base_head_dim"] == 64


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["model.depth=0"], "model.depth=0 is out of range; it must be at least 1 and at most 1,000"),
        (["model.depth=2", "model.preset=gpt2"], "model.depth=2 and model.preset=gpt2 each set the shape"),
        (["model.preset=gpt3"], "model.preset='gpt3' is not allowed; it takes gpt2|gpt2-medium|"),
        (["model.depth=deep"], "model.depth='deep' is not allowed; it takes int or null"),
        (["model.path=gpt2"], "model.path=gpt2 brings its own settings, which model.depth=4, model.max_position"),
    ],
)
def test_mistakes_are_one_sentence(load, given, sentence):
    with pytest.raises(ConfigError, match=sentence.replace("|", r"\|")):
        load(DIAL, *given)


@pytest.mark.parametrize(
    ("config", "sizes", "rate"),
    [
        ("configs/lm/transfer.yaml", ("depth=2", "hidden_size=64", "num_attention_heads=4"), 0.00995),
        ("configs/lm/demo.yaml", ("depth=4", "hidden_size=192", "num_attention_heads=6"), 0.00356),
    ],
)
def test_the_rule_of_the_rate_gives_what_the_page_says(config, sizes, rate):
    """For two runs whose rates were tuned by hand, in their batches."""
    batch = ["budget.batch_tokens=1024"] if "transfer" in config else []
    experiment = load_experiment(config, [*(f"model.{size}" for size in sizes), *batch])
    assert experiment.training["learning_rate"] == rate


def test_an_unknown_vocabulary_leaves_out_the_head(load):
    experiment = load("model: {depth: 2}\ntokenizer: {kind: characters}")
    assert experiment.budget.tokens == 20 * 12 * 2 * 128**2


@pytest.mark.parametrize(
    "given",
    [
        "budget.batch_tokens=-5", "budget.tokens=-1e6", "budget.flops=-1e15",
        "model.vocab_size=-500000", "tokenizer.vocab_size=-1000000", "model.num_hidden_layers=-4",
        "training.gradient_accumulation_steps=-4", "data.layout=documents training.per_device_train_batch_size=-8",
        "model.parametrization=mup model.mup_base_width=-64", "model.hidden_size=20000000000",
    ],
)  # fmt: skip
def test_what_no_rule_can_use_is_left_to_the_checks(tmp_path, given):
    """Nothing but a sentence may come of them, here or where the arguments and the model are built."""
    (tmp_path / "one.yaml").write_text("data: {source: fables}\n")
    with suppress(ConfigError):
        load_experiment(str(tmp_path / "one.yaml"), ["model.depth=2", *given.split()])


def test_null_is_a_batch_of_ones_own(tmp_path):
    (tmp_path / "one.yaml").write_text("data: {source: fables}\n")
    found = load_experiment(str(tmp_path / "one.yaml"), ["model.depth=2", "budget.batch_tokens=null"])
    assert found.budget.batch_tokens is None
    assert found.training["learning_rate"] < 0.1
