"""Models in and out of files, in every precision and place, resized and cut up: more of transformers' common tests.

In both families; resized models against the stock model with the same weights, everything else to the bit.
"""

import copy
import json
import pickle
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, GPT2Config, LlamaConfig

from modeling.conversion import read_model
from modeling.loading import load_causal_lm
from modeling.modeling_kindling import KindlingGPTForCausalLM, KindlingGPTModel

CLOSE = {"atol": 1e-5, "rtol": 0}  # float32's rounding


# ---- loading


@pytest.fixture
def saved(model, tmp_path):
    model.save_pretrained(tmp_path)
    return model, tmp_path


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_precision_is_chosen_when_loading_and_kept_when_saving(saved, tokens, tmp_path, dtype):
    """Weights are rounded once; the configuration says so, and `dtype="auto"`, the default, reads it from there."""
    model, folder = saved
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    expected = copy.deepcopy(model).to(dtype)
    assert {parameter.dtype for parameter in loaded.parameters()} == {loaded.dtype} == {loaded.config.dtype} == {dtype}
    assert torch.equal(loaded(tokens()).logits, expected(tokens()).logits)
    assert loaded(tokens()).logits.dtype == dtype

    loaded.save_pretrained(tmp_path / "again")
    for asked in ({}, {"dtype": "auto"}):
        again = AutoModelForCausalLM.from_pretrained(tmp_path / "again", **asked)
        assert again.dtype == again.config.dtype == dtype
        assert torch.equal(again(tokens()).logits, loaded(tokens()).logits)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "again", dtype=torch.float32).dtype == torch.float32


def test_nothing_but_parameters_needs_loading(saved):
    """A buffer that no checkpoint holds is garbage after a load, which builds the model on the meta device."""
    model, folder = saved
    assert not list(model.buffers())
    loaded, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert {parameter.device.type for parameter in loaded.parameters()} == {"cpu"}
    backbone, report = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert all(torch.equal(weight, model.model.state_dict()[name]) for name, weight in backbone.state_dict().items())


def test_missing_weights_start_as_promised(start, tmp_path):
    """Those that a checkpoint lacks, and no others: a head on a published backbone, say."""
    model = start(hidden_size=128, initializer_range=0.1)
    weights = {name: weight for name, weight in model.state_dict().items() if name != "lm_head.weight"}
    model.save_pretrained(tmp_path, state_dict=weights)
    loaded, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert report["missing_keys"] == {"lm_head.weight"}
    assert loaded.lm_head.weight.std().item() == pytest.approx(0.1, rel=0.02)
    assert all(torch.equal(weight, loaded.state_dict()[name]) for name, weight in weights.items())


def on_disk(model):
    """A device map that leaves the last block on the disk."""
    parts = {name for name, _ in model.model.named_children()} - {"layers"}
    here = [*(f"model.{name}" for name in parts), "model.layers.0", "lm_head"]
    return dict.fromkeys(here, "cpu") | {"model.layers.1": "disk"}


PLACES = {"cpu": lambda _model: "cpu", "auto": lambda _model: "auto", "disk": on_disk}


@pytest.mark.parametrize("place", PLACES)
def test_device_map(saved, tokens, place, tmp_path):
    """Also with a block that stays on the disk, from which it is read when its turn comes."""
    model, folder = saved
    places = {"device_map": PLACES[place](model), "offload_folder": tmp_path / "offload"}
    loaded = AutoModelForCausalLM.from_pretrained(folder, **places)
    elsewhere = {name for name, parameter in loaded.named_parameters() if parameter.device.type == "meta"}
    assert elsewhere == {name for name in model.state_dict() if place == "disk" and ".layers.1." in name}
    assert torch.equal(loaded(tokens()).logits, model(tokens()).logits)
    greedy = {"max_new_tokens": 4, "do_sample": False}
    assert torch.equal(loaded.generate(tokens(), **greedy), model.generate(tokens(), **greedy))


def test_pickled_copied_and_sharded_models_are_the_same(model, tokens, tmp_path):
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    expected = model(tokens()).logits
    for twin in (
        pickle.loads(pickle.dumps(model)),
        copy.deepcopy(model),
        AutoModelForCausalLM.from_pretrained(tmp_path),
    ):
        assert torch.equal(twin(tokens()).logits, expected)
        assert is_tied(twin) == is_tied(model) == model.config.tie_word_embeddings
        assert twin.config.to_dict() | {"_name_or_path": ""} == model.config.to_dict() | {"_name_or_path": ""}
        assert twin.generation_config.max_length == 64


def is_tied(model):
    return model.get_output_embeddings().weight is model.get_input_embeddings().weight


# ---- what is not loaded: another model's weights, pickles, and what lies elsewhere


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


LOADERS = {
    "AutoModelForCausalLM": AutoModelForCausalLM.from_pretrained,
    "AutoModel": AutoModel.from_pretrained,
    "model class": KindlingGPTForCausalLM.from_pretrained,
    "backbone class": KindlingGPTModel.from_pretrained,
    "generate.py": load_causal_lm,
    "model.path": lambda folder: read_model(str(folder)),
}


@pytest.fixture
def shelf(start, tmp_path):
    """A folder with a model of two layers."""
    start("kindling_gpt", num_hidden_layers=2).save_pretrained(tmp_path)
    return tmp_path


def bare(folder):
    """The folder without its weights."""
    (folder / "model.safetensors").unlink()
    return folder


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("layers", [1, 3])
def test_weights_of_another_number_of_layers_are_an_error(shelf, loader, layers):
    """Stock transformers fills in random ones, or leaves some out, and warns."""
    LOADERS[loader](shelf)
    edit(shelf / "config.json", num_hidden_layers=layers)
    with pytest.raises(ValueError, match=r"16 weights, such as \S*layers\.[12]\.\S+, do not match its config.json; "):
        LOADERS[loader](shelf)


def test_who_asks_is_told_of_missing_weights_and_decides(shelf):
    with pytest.raises(ValueError, match="do not match its config"):
        AutoModelForCausalLM.from_pretrained(shelf, num_hidden_layers=3)
    model, report = AutoModelForCausalLM.from_pretrained(shelf, num_hidden_layers=3, output_loading_info=True)
    assert report["missing_keys"] == {name for name in model.state_dict() if ".layers.2." in name}
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        AutoModelForCausalLM.from_pretrained(shelf, vocab_size=99)
    other = AutoModelForCausalLM.from_pretrained(shelf, vocab_size=99, ignore_mismatched_sizes=True)
    assert other.get_input_embeddings().num_embeddings == 99
    edit(shelf / "config.json", vocab_size=99)
    with pytest.raises(ValueError, match=r"1 weights, such as model\.embed_tokens\.weight, do not match its config"):
        load_causal_lm(shelf)


def test_a_head_that_a_backbone_lacks_is_an_error_unless_it_is_tied(start, tmp_path):
    for tied in (True, False):
        start("kindling_llama", tie_word_embeddings=tied).model.save_pretrained(tmp_path)
        if tied:
            assert is_tied(AutoModelForCausalLM.from_pretrained(tmp_path))
    with pytest.raises(ValueError, match=r"1 weights, such as lm_head\.weight, do not match its config"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


def test_weights_in_memory_are_held_to_the_same(start, tokens):
    model = start(num_hidden_layers=2)
    weights = model.state_dict()
    twin = type(model).from_pretrained(None, config=model.config, state_dict=weights)
    assert torch.equal(twin(tokens()).logits, model(tokens()).logits)
    del weights["model.norm.weight"]
    with pytest.raises(ValueError, match=r"1 weights, such as model\.norm\.weight, do not match its config"):
        type(model).from_pretrained(None, config=model.config, state_dict=weights)


class Canary:
    """Unpickled, it leaves a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pkl", "adapter_model.bin"])
@pytest.mark.parametrize("family", [GPT2Config, LlamaConfig, None])
def test_pickled_weights_are_not_read(start, tmp_path, family, name):
    """Neither by default nor on request; under no name, nor one that the configuration gives. Stock models too."""
    if family is None:
        start("kindling_gpt").save_pretrained(tmp_path)
    else:
        shape = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "vocab_size": 9}
        AutoModelForCausalLM.from_config(family(**shape)).save_pretrained(tmp_path)
    left = tmp_path / "left"
    torch.save(Canary(left), bare(tmp_path) / name)
    loaders = LOADERS if family is None else {name: LOADERS[name] for name in ("generate.py", "model.path")}
    for named in (None, name):
        edit(tmp_path / "config.json", transformers_weights=named)
        for load in loaders.values():
            with pytest.raises(ValueError, match=r"has no model\.safetensors, and pickled weights are not read; load"):
                load(tmp_path)
    if family is None:
        for asked in ("use_safetensors", "weights_only"):
            with pytest.raises(
                ValueError, match=rf"{asked}=False would read pickles, which can run code; leave it out"
            ):
                AutoModelForCausalLM.from_pretrained(tmp_path, **{asked: False})
    assert not left.exists()
    torch.load(tmp_path / name, weights_only=False)
    assert left.exists(), "the canary is dead"


@pytest.mark.parametrize("loader", LOADERS)
def test_safetensors_of_something_else_do_not_let_pickles_in(shelf, loader):
    """A folder of an adapter, which has no weights of its own but pickled ones."""
    (shelf / "model.safetensors").rename(shelf / "adapter_model.safetensors")
    torch.save(Canary(shelf / "left"), shelf / "pytorch_model.bin")
    with pytest.raises((OSError, ValueError), match=r"no file named model\.safetensors"):
        LOADERS[loader](shelf)


def test_what_the_refusal_advises_works(shelf, tokens):
    """Pickled weights, loaded where they are trusted and saved again."""
    model = AutoModelForCausalLM.from_pretrained(shelf)
    torch.save(model.state_dict(), bare(shelf) / "pytorch_model.bin")
    again = AutoModelForCausalLM.from_config(model.config)
    again.load_state_dict(torch.load(shelf / "pytorch_model.bin", weights_only=True))
    again.save_pretrained(shelf)
    assert torch.equal(AutoModelForCausalLM.from_pretrained(shelf)(tokens()).logits, model(tokens()).logits)


PLACES_ELSEWHERE = ["../weights.safetensors", "below/../../weights.safetensors", "/weights.safetensors", "..\\w", "C:w"]


@pytest.mark.parametrize("elsewhere", PLACES_ELSEWHERE)
def test_an_index_that_points_elsewhere_is_refused_before_anything_is_read(shelf, elsewhere):
    """The weights inside the folder are no safetensors: whoever reads them says so."""
    (bare(shelf) / "own.safetensors").write_text("not weights")
    weights = {"model.norm.weight": "own.safetensors", "model.norm.bias": elsewhere}
    (shelf / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weights}))
    for load in LOADERS.values():
        with pytest.raises(
            ValueError, match=rf"in {re.escape(elsewhere)}, outside its folder; download the checkpoint again"
        ):
            load(shelf)
    (shelf / "model.safetensors.index.json").unlink()
    edit(shelf / "config.json", transformers_weights=elsewhere)
    with pytest.raises(ValueError, match=r"config\.json looks for weights in .*, outside its folder"):
        load_causal_lm(shelf)


def test_an_index_may_point_below_its_folder(shelf, tokens):
    """In a subfolder of what is named, as well; and a checkpoint of a variant is one too."""
    expected = AutoModelForCausalLM.from_pretrained(shelf)
    (shelf / "below").mkdir()
    (shelf / "model.safetensors").rename(shelf / "below" / "part.safetensors")
    names = load_file(shelf / "below" / "part.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "below/part.safetensors")}
    (shelf / "model.safetensors.index.json").write_text(json.dumps(index))
    for load in (*LOADERS.values(), lambda folder: AutoModel.from_pretrained(folder.parent, subfolder=folder.name)):
        model = load(shelf)
        assert torch.equal(model.get_input_embeddings().weight, expected.get_input_embeddings().weight)
    expected.save_pretrained(shelf, variant="fp16")
    (shelf / "model.safetensors.index.json").unlink()
    loaded = AutoModelForCausalLM.from_pretrained(shelf, variant="fp16")
    assert torch.equal(loaded(tokens()).logits, expected(tokens()).logits)


# ---- the vocabulary


@pytest.mark.parametrize("size", [700, 300])
def test_resized_embeddings_keep_the_old_rows_and_survive_saving(twins, tokens, size, tmp_path):
    """Up and down, tied and not: the logits of the ids that stay are unchanged, as the stock model's are."""
    ids = tokens() % 300
    kept = min(size, 512)
    expected = twins[0](ids).logits[..., :kept]
    for model in twins:
        tied = is_tied(model)
        assert model.resize_token_embeddings(size) is model.get_input_embeddings()
        assert model.config.vocab_size == model.get_input_embeddings().num_embeddings == size
        assert model.get_output_embeddings().out_features == size
        assert is_tied(model) == tied
        torch.testing.assert_close(model(ids).logits[..., :kept], expected, **CLOSE)

    ours, _ = twins
    assert ours(ids, labels=ids).loss.isfinite()
    ours.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(loaded(ids).logits, ours(ids).logits)
    assert is_tied(loaded) == is_tied(ours)
    greedy = {"max_new_tokens": 4, "do_sample": False}
    assert torch.equal(loaded.generate(ids, **greedy), ours.generate(ids, **greedy))


def test_embeddings_are_found_and_replaced(model, tokens):
    assert model.get_input_embeddings() is model.model.get_input_embeddings() is model.model.embed_tokens
    assert model.get_output_embeddings() is model.lm_head
    new = nn.Embedding.from_pretrained(model.model.embed_tokens.weight.flip(0).clone())
    embedded = model(inputs_embeds=new(tokens()), use_cache=False).logits
    model.set_input_embeddings(new)
    assert torch.equal(model(tokens(), use_cache=False).logits, embedded)


# ---- what tools that cut a model up are told


def test_plans_name_modules_that_the_model_has(model):
    """All of them, and every matrix has a place in the plan of tensor parallelism."""
    modules = {re.sub(r"\.\d+\b", ".*", name): module for name, module in model.named_modules()}
    plan = {f"model.{name}" for name in model.config.base_model_tp_plan} | type(model)._tp_plan.keys()
    assert plan <= modules.keys()
    assert {name for name, module in modules.items() if isinstance(module, nn.Linear)} <= plan
    stages = model.config.base_model_pp_plan
    assert (stages is None) == (model.config.position == "learned")
    assert {f"model.{name}" for name in stages or ()} | {"lm_head"} <= modules.keys()
    assert {type(module).__name__ for module in model.model.layers} == set(model._no_split_modules)
    assert not {"base_model_tp_plan", "base_model_pp_plan"} & model.config.to_dict().keys()
