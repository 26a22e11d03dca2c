"""Parity with transformers' own models: with the same weights, the same numbers.

The weights go through `modeling.conversion`, so the agreement of logits proves the copy, and the copy proves the model.
Tolerances are float32's rounding: transformers orders a few sums otherwise.
"""

import json
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from huggingface_hub.dataclasses import strict
from tokenizers import Tokenizer, models
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from modeling.configuration_kindling import FAMILIES, KindlingConfig, KindlingGPTConfig, KindlingLlamaConfig
from modeling.conversion import from_native, our_config, to_native
from modeling.gpt2 import weights_to_gpt2
from modeling.native import convert, main
from modeling.stock import ACTIVATIONS, NATIVES

CLOSE = {"atol": 1e-5, "rtol": 0}
SHAPE = {
    "vocab_size": 512,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA = {"intermediate_size": 88, "num_key_value_heads": 4, "rms_norm_eps": 1e-5, "rope_theta": 500.0}
GPT2 = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
STOCK = {
    "llama": LlamaConfig(**SHAPE, **LLAMA),
    "llama-grouped": LlamaConfig(**SHAPE, **LLAMA | {"num_key_value_heads": 2}),
    "llama-tied": LlamaConfig(**SHAPE, **LLAMA, tie_word_embeddings=True),
    "llama-biased": LlamaConfig(**SHAPE, **LLAMA, attention_bias=True, mlp_bias=True),
    "llama-wide-heads": LlamaConfig(**SHAPE, **LLAMA, head_dim=16),
    "gpt2": GPT2Config(**SHAPE, **GPT2),
    "gpt2-untied": GPT2Config(**SHAPE, **GPT2, tie_word_embeddings=False, n_inner=40),
    "gpt2-odd-width": GPT2Config(**SHAPE | {"hidden_size": 20}, **GPT2, layer_norm_epsilon=1e-3),
    "gpt2-gelu": GPT2Config(**SHAPE, **GPT2, activation_function="gelu"),
    "gpt2-relu": GPT2Config(**SHAPE, **GPT2, activation_function="relu"),
    "gpt2-silu": GPT2Config(**SHAPE, **GPT2, activation_function="silu"),
}


def stock_model(config):
    """Transformers' model with noise on every weight, biases and norms included."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


@pytest.fixture(params=STOCK)
def native(request):
    return stock_model(STOCK[request.param])


@pytest.fixture
def batch(tokens):
    ids = tokens()
    labels = ids.clone()
    labels[0, :5] = labels[1, 9:] = -100
    return {"input_ids": ids, "labels": labels}


def test_logits_loss_and_gradients(native, batch):
    ours = from_native(native)
    outputs, expected = ours(**batch), native(**batch)
    torch.testing.assert_close(outputs.logits, expected.logits, **CLOSE)
    torch.testing.assert_close(outputs.loss, expected.loss, **CLOSE)

    outputs.loss.backward()
    expected.loss.backward()
    gradients = {name: parameter.grad for name, parameter in ours.named_parameters()}
    if isinstance(native, GPT2LMHeadModel):
        gradients = weights_to_gpt2(gradients, layers=2)
    expected_gradients = {name: parameter.grad for name, parameter in native.named_parameters()}
    torch.testing.assert_close(gradients, expected_gradients, **CLOSE)


def test_greedy_tokens(native, tokens):
    greedy = {"max_new_tokens": 16, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    assert torch.equal(from_native(native).generate(tokens(), **greedy), native.generate(tokens(), **greedy))


def test_there_and_back_is_the_same(native):
    native.generation_config.temperature = 0.7
    back = to_native(from_native(native))
    assert type(back) is type(native)
    assert back.state_dict().keys() == native.state_dict().keys()
    assert all(torch.equal(weight, back.state_dict()[name]) for name, weight in native.state_dict().items())
    # What a native configuration may leave open comes back written out.
    width = {"n_inner": native.config.n_inner or 4 * native.config.n_embd} if native.config.model_type == "gpt2" else {}
    assert back.config.to_dict() == native.config.to_dict() | width | {"dtype": "float32"}
    limit = {"max_length": SHAPE["max_position_embeddings"]}
    assert back.generation_config.to_dict() == native.generation_config.to_dict() | limit


def test_ours_keeps_what_it_says_of_itself(native):
    ours = from_native(native)
    for name in SHAPE:
        assert getattr(ours.config, name) == getattr(native.config, name)
    theirs = native.config.to_dict()
    assert ours.config.norm_eps == (theirs.get("rms_norm_eps") or theirs["layer_norm_epsilon"])
    assert ours.generation_config.eos_token_id == 2
    assert ours.generation_config.max_length == SHAPE["max_position_embeddings"]


def test_dropouts_and_rotary_base_keep_their_places():
    gpt2 = GPT2Config(**SHAPE, resid_pdrop=0.125, embd_pdrop=0.25, attn_pdrop=0)
    ours = from_native(stock_model(gpt2)).config
    assert (ours.hidden_dropout, ours.embedding_dropout, ours.attention_dropout) == (0.125, 0.25, 0.0)
    llama = from_native(stock_model(STOCK["llama"]))
    assert llama.config.rope_theta == to_native(llama).config.rope_parameters["rope_theta"] == 500.0


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_mean_what_they_mean_in_transformers(activation, tokens):
    """A function that has several names comes back under one."""
    theirs = stock_model(GPT2Config(**SHAPE, **GPT2, activation_function=activation))
    ours = from_native(theirs)
    torch.testing.assert_close(ours(tokens()).logits, theirs(tokens()).logits, **CLOSE)
    assert to_native(ours).config.activation_function == ours.config.mlp == ACTIVATIONS[activation]


@pytest.mark.parametrize("training", [False, True])
def test_precision_and_mode_are_kept_and_random_numbers_are_not_spent(native, training):
    native.to(torch.bfloat16).train(training)
    state = torch.random.get_rng_state()
    ours = from_native(native)
    assert ours.dtype == to_native(ours).dtype == torch.bfloat16
    assert ours.training == to_native(ours).training == training
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    ("family", "given"),
    [
        ("kindling_llama", {"norm": "layernorm"}),
        ("kindling_llama", {"norm_placement": "post"}),
        ("kindling_llama", {"position": "none"}),
        ("kindling_llama", {"mlp": "silu"}),
        ("kindling_llama", {"qk_norm": True}),
        ("kindling_llama", {"final_logit_softcapping": 30.0}),
        ("kindling_gpt", {"final_logit_softcapping": 30.0}),
        ("kindling_gpt", {"norm": "none"}),
        ("kindling_gpt", {"norm_placement": "post"}),
        ("kindling_gpt", {"position": "rope"}),
        ("kindling_gpt", {"mlp": "swiglu"}),
        ("kindling_gpt", {"qk_norm": True}),
        ("kindling_gpt", {"bias": False}),
        ("kindling_gpt", {"num_key_value_heads": 2}),
        ("kindling_gpt", {"head_dim": 16}),
        ("kindling_gpt", {"qk_norm": True, "norm": "rmsnorm"}),
    ],
)
def test_what_no_native_model_has_is_refused(start, family, given):
    with pytest.raises(ValueError, match=r"^.* has no place in a stock (Llama|GPT-2), which has .*$") as error:
        to_native(start(family, **given))
    for name, value in given.items():
        assert f"{name}={value}" in str(error.value)


@pytest.mark.parametrize(
    ("config", "given"),
    [
        (LlamaConfig, {"hidden_act": "gelu"}),
        (LlamaConfig, {"attention_bias": True}),
        (LlamaConfig, {"mlp_bias": True}),
        (LlamaConfig, {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}}),
        (GPT2Config, {"activation_function": "tanh"}),
        (GPT2Config, {"scale_attn_weights": False}),
        (GPT2Config, {"scale_attn_by_inverse_layer_idx": True}),
        (GPT2Config, {"reorder_and_upcast_attn": True}),
        (GPT2Config, {"add_cross_attention": True}),
    ],
)
def test_what_our_families_cannot_express_is_refused(config, given):
    model = AutoModelForCausalLM.from_config(config(**SHAPE, **given))
    name, value = next(iter(given.pop("rope_parameters", given).items()))
    with pytest.raises(ValueError, match=rf"\b{name}={value}\b.* has no place in Kindling's (Llama|GPT-2), which has "):
        from_native(model)


@strict
class Windowed(KindlingConfig):
    """An axis that `modeling.conversion` has never heard of."""

    lookback: int | None = None


@strict
class WindowedLlama(Windowed, KindlingLlamaConfig):
    pass


@strict
class WindowedGPT(Windowed, KindlingGPTConfig):
    pass


@strict
class AlwaysWindowedGPT(WindowedGPT):
    """A family that starts from another default than the one which means no window."""

    lookback: int | None = 8


@strict
class WindowedStock(LlamaConfig):
    lookback: int | None = None


@pytest.mark.parametrize(
    ("config", "given", "name"),
    [(WindowedLlama, {"lookback": 4}, "Llama"), (WindowedGPT, {"lookback": 4}, "GPT-2"),
     (AlwaysWindowedGPT, {}, "GPT-2")],
)  # fmt: skip
def test_an_axis_without_a_place_in_the_tables_is_refused(build, configure, config, given, name):
    model = build(config.model_type)
    model.config = config(**configure(config.model_type).to_diff_dict() | given)
    window = model.config.lookback
    with pytest.raises(ValueError, match=f"lookback={window} has no place in a stock {name}, which has .*=None"):
        to_native(model)
    model.config.lookback = None
    assert type(to_native(model)) in (LlamaForCausalLM, GPT2LMHeadModel)


def test_a_field_that_transformers_may_add_is_refused(monkeypatch):
    monkeypatch.setitem(NATIVES, "LlamaForCausalLM", replace(NATIVES["LlamaForCausalLM"], config=WindowedStock))
    with pytest.raises(ValueError, match=r"lookback=4 has no place in Kindling's Llama, which has .*=None"):
        our_config(WindowedStock(**SHAPE, **LLAMA, lookback=4))
    assert our_config(WindowedStock(**SHAPE, **LLAMA)).rope_theta == 500.0


@pytest.mark.parametrize("native", NATIVES.values(), ids=NATIVES)
def test_each_field_of_ours_has_its_place_in_the_tables(native):
    """Mapped, fixed, or without effect in inference: whoever adds an axis says which."""
    told, unseen = {*native.fields.values(), *native.our_axes(native.family())}, {*native.our_ignored}
    own = {field.name for field in fields(native.family)} - {field.name for field in fields(PreTrainedConfig)}
    message = (
        "each field belongs in one of `fields`, `our_axes` and `our_ignored` of LLAMA and GPT2 (modeling/stock.py)"
    )
    assert (told | unseen, told & unseen) == (own, set()), message


@pytest.mark.parametrize("family", FAMILIES)
def test_a_weight_without_a_place_is_refused(build, family):
    model = build(family)
    model.model.layers[0].self_attn.sinks = nn.Parameter(torch.zeros(4))
    with pytest.raises(ValueError, match=r"1 weights, such as model.layers.0.self_attn.sinks, have no place in a "):
        to_native(model)
    native = to_native(build(family))
    native.lm_head.bias = nn.Parameter(torch.ones(512))
    with pytest.raises(ValueError, match=r"1 weights, such as lm_head.bias, have no place in a Kindling"):
        from_native(native)


def test_dropouts_that_llama_lacks_are_told_and_change_no_logits(build, tokens, tmp_path):
    ours = build(hidden_dropout=0.1, embedding_dropout=0.2, attention_dropout=0.3)
    torch.testing.assert_close(to_native(ours)(tokens()).logits, ours(tokens()).logits, **CLOSE)
    assert to_native(ours).config.attention_dropout == 0.3
    ours.save_pretrained(tmp_path / "ours")
    said = convert(str(tmp_path / "ours"), tmp_path / "llama")
    assert said.endswith("no tokenizer, without hidden_dropout=0.1, embedding_dropout=0.2")


def test_models_of_another_kind_are_refused():
    with pytest.raises(ValueError, match=r"GPT2ForSequenceClassification .* LlamaForCausalLM, GPT2LMHeadModel"):
        from_native(GPT2ForSequenceClassification(GPT2Config(**SHAPE)))


# ---- the command


@pytest.fixture
def tokenizer():
    words = {"<pad>": 0, "<s>": 1, "</s>": 2, "once": 3, "upon": 4}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<pad>")))


@pytest.fixture
def restored_logging():
    """The command silences transformers, which here is the test session's too."""
    verbosity = logging.get_verbosity()
    logging.disable_progress_bar()  # that of the models which the test saves
    yield
    logging.set_verbosity(verbosity)
    logging.enable_progress_bar()


def run(*commands):
    """Run `python -m modeling.native` once for each pair of arguments: one process, for its imports take seconds."""
    script = "import sys, runpy\nfor sys.argv in {}: runpy.run_module('modeling.native', run_name='__main__')"
    arguments = [["modeling.native", *map(str, command)] for command in commands]
    root = Path(__file__).parents[2]
    return subprocess.run([sys.executable, "-c", script.format(arguments)], cwd=root, capture_output=True, text=True)


def test_command_in_both_directions(build, tokens, tokenizer, tmp_path):
    ours, native = build(num_key_value_heads=2, tie_word_embeddings=True), stock_model(STOCK["gpt2"])
    for model, name in ((ours, "ours"), (native, "native")):
        model.save_pretrained(tmp_path / name)
    tokenizer.save_pretrained(tmp_path / "ours")
    printed = run((tmp_path / "ours", tmp_path / "new" / "llama"), (tmp_path / "native", tmp_path / "gpt"))
    assert (printed.stdout, printed.stderr) == (
        f"{tmp_path}/new/llama: LlamaForCausalLM, {ours.num_parameters():,} parameters, with its tokenizer\n"
        f"{tmp_path}/gpt: KindlingGPTForCausalLM, {native.num_parameters():,} parameters, no tokenizer\n",
        "",
    )

    llama = AutoModelForCausalLM.from_pretrained(tmp_path / "new" / "llama")
    assert type(llama) is LlamaForCausalLM
    torch.testing.assert_close(llama(tokens()).logits, ours(tokens()).logits, **CLOSE)
    assert AutoTokenizer.from_pretrained(tmp_path / "new" / "llama").encode("once") == [3]
    written = json.loads((tmp_path / "new" / "llama" / "config.json").read_text())
    assert written.keys() <= LlamaConfig().to_dict().keys() | {"architectures", "dtype"}
    assert not list((tmp_path / "new" / "llama").glob("*.py"))

    gpt = AutoModelForCausalLM.from_pretrained(tmp_path / "gpt")
    torch.testing.assert_close(gpt(tokens()).logits, native(tokens()).logits, **CLOSE)


def test_a_name_that_is_nowhere_is_said_to_be(tmp_path):
    with pytest.raises(ValueError, match="there is no folder nowhere, and no checkpoint of that name can be had from"):
        convert("nowhere", tmp_path / "out")


@pytest.mark.usefixtures("restored_logging")
def test_command_refuses_and_leaves_nothing(start, tokenizer, monkeypatch, capsys, tmp_path):
    source = tmp_path / "source"

    def refused(out="out"):
        before = sorted(tmp_path.rglob("*"))
        monkeypatch.setattr(sys, "argv", ["modeling.native", str(source), str(tmp_path / out)])
        with pytest.raises(SystemExit) as stopped:
            main()
        printed = capsys.readouterr()
        assert (stopped.value.code, printed.out, printed.err.count("\n")) == (2, "", 1)
        assert sorted(tmp_path.rglob("*")) == before
        assert printed.err.startswith("modeling.native: ")
        return printed.err

    assert f"there is no folder {source}; give one with a checkpoint, or a Hub id" in refused()
    model = start(qk_norm=True)
    model.save_pretrained(source)
    assert "qk_norm=True" in refused()
    assert f"{source} exists already" in refused("source")
    assert "config.json/x cannot be written to: Not a directory; give another folder" in refused("source/config.json/x")

    model.config.update({"num_hidden_layers": 2})
    model.config.save_pretrained(source)
    assert "11 weights, such as model.layers.1." in refused()
    (source / "model.safetensors").write_bytes(b"not weights")
    assert "does not load" in refused()
    (source / "config.json").write_text('{"model_type": "kindling_llama", "norm": "batchnorm"}')
    assert "batchnorm" in refused()
    (source / "config.json").write_text('{"model_type": "unheard_of"}')
    assert "unheard_of" in refused()

    start().save_pretrained(source)
    tokenizer.save_pretrained(source)
    (source / "tokenizer.json").write_text("{")
    assert "does not load" in refused()
    tokenizer.save_pretrained(source)

    def fill_the_disk(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(PreTrainedTokenizerFast, "save_pretrained", fill_the_disk)
    assert "No space left" in refused()
