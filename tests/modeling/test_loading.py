"""Models in and out of files, in every precision and place, resized and cut up: more of transformers' common tests.

In both families; resized models against the stock model with the same weights, everything else to the bit.
"""

import copy
import pickle
import re

import pytest
import torch
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM

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
    assert not report["missing_keys"]
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
