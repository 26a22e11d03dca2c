"""Parity with transformers' own models: with the same weights, the same numbers.

The weights go through `modeling.native`, so the agreement of logits proves the copy, and the copy proves the model.
Tolerances are float32's rounding: transformers orders a few sums otherwise.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from modeling.gpt2 import gpt2_weights
from modeling.native import convert, from_native, main, to_native
from modeling.stock import ACTIVATIONS

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
        gradients = gpt2_weights(gradients, layers=2)
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
        ("kindling_llama", {"hidden_dropout": 0.1}),
        ("kindling_llama", {"embedding_dropout": 0.1}),
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
