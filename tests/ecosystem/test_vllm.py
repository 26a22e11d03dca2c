"""What vLLM asks of a model that it runs by its Transformers backend, played here by attention of our own.

vLLM itself needs a GPU. From its documentation ("Writing custom models", docs.vllm.ai): `auto_map.AutoModel` in
config.json; `_supports_attention_backend`; the model is built on the meta device with `_attn_implementation="vllm"`,
without its head, called with one flat sequence, positions and no cache, and hands `attention_instances` down to
attention functions, which find their layer by `module.layer_idx`; parallel plans name modules by Llama's styles.
"""

import itertools
import json
import re

import pytest
import torch
from torch import nn
from transformers import AttentionInterface, AutoConfig, AutoModel, AutoModelForCausalLM

from modeling.configuration_kindling import FAMILIES

SHAPE = {"vocab_size": 400, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
VARIANTS = {
    "llama": ("kindling_llama", {"num_key_value_heads": 2}),
    "gpt": ("kindling_gpt", {}),
    "own": ("kindling_llama", {"qk_norm": True, "norm_placement": "post", "mlp": "relu", "tie_word_embeddings": True}),
}


class PagedAttention:
    """A layer of vLLM's, which does all of the attention itself: causal within each sequence, no mask given."""

    def __init__(self, scaling: float):
        self.scaling, self.calls = scaling, 0

    def __call__(self, query_NTH, key_GTH, value_GTH):
        self.calls += 1
        groups, length = query_NTH.shape[0] // key_GTH.shape[0], query_NTH.shape[1]
        key_NTH, value_NTH = (one.repeat_interleave(groups, 0) for one in (key_GTH, value_GTH))
        scores = query_NTH @ key_NTH.mT * self.scaling
        future = torch.ones(length, length, dtype=torch.bool).triu(1)
        return scores.masked_fill(future, -torch.inf).softmax(-1) @ value_NTH


def vllm_attention(module, query, key, value, _mask, scaling, attention_instances, **_):
    """As vLLM's own function of that name: it finds the layer's instance, and ignores the mask."""
    attend = attention_instances[module.layer_idx]
    assert attend.scaling == scaling
    return attend(query[0], key[0], value[0])[None].transpose(1, 2), None


@pytest.fixture(scope="module", autouse=True)
def registered():
    AttentionInterface.register("vllm", vllm_attention)


@pytest.fixture(params=VARIANTS)
def checkpoint(request, tmp_path):
    """A folder of a checkpoint with noise on every weight, and its language model."""
    family, given = VARIANTS[request.param]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(FAMILIES[family](**SHAPE, **given)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(tmp_path)
    return tmp_path, model


def test_the_base_model_alone_computes_everything_but_the_head(checkpoint):
    folder, language_model = checkpoint
    assert json.loads((folder / "config.json").read_text())["auto_map"]["AutoModel"].endswith("Model")
    config = AutoConfig.from_pretrained(folder)
    config._attn_implementation = "vllm"
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    assert model._supports_attention_backend
    assert not list(model.buffers()), "a buffer that is in no checkpoint would be garbage"
    model.to_empty(device="cpu").load_state_dict(language_model.model.state_dict())

    layers = {layer: PagedAttention(config.head_dim**-0.5) for layer in range(config.num_hidden_layers)}
    ids, places = torch.arange(20)[None], torch.arange(20)[None]
    with torch.no_grad():
        states = model(
            input_ids=ids, use_cache=False, position_ids=places, attention_mask=None, attention_instances=layers,
            return_dict=False,
        )[0]  # fmt: skip
        logits = states @ language_model.get_output_embeddings().weight.T
        torch.testing.assert_close(logits, language_model(ids).logits, atol=1e-5, rtol=1e-5)
    assert [layer.calls for layer in layers.values()] == [1, 1]


def test_it_takes_embeddings_in_the_place_of_ids(checkpoint):
    _, language_model = checkpoint
    ids = torch.arange(20)[None]
    embedded = language_model.get_input_embeddings()(ids)
    with torch.no_grad():
        from_ids, from_embedded = (
            language_model.model(**given)[0] for given in ({"input_ids": ids}, {"inputs_embeds": embedded})
        )
    assert torch.equal(from_ids, from_embedded)


def test_parallel_plans_name_what_there_is(checkpoint):
    """Each matrix inside the blocks is split one of the two ways, no pattern is idle, and stages follow the forward."""
    _, language_model = checkpoint
    model = language_model.model
    plan = {pattern.replace("*", r"\d+"): style for pattern, style in model.config.base_model_tp_plan.items()}
    assert set(plan.values()) == {"colwise", "rowwise"}
    linear = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    for name in linear:
        styles = [style for pattern, style in plan.items() if re.fullmatch(pattern, name)]
        inward = name.endswith(("o_proj", "down_proj"))
        assert styles == ["rowwise" if inward else "colwise"], name
    gated = model.config.mlp == "swiglu"
    idle = {pattern for pattern in plan if not any(re.fullmatch(pattern, name) for name in linear)}
    assert idle == (set() if gated else {r"layers.\d+.mlp.gate_proj"})

    stages = model.config.base_model_pp_plan
    children = dict(model.named_children())
    assert [name for name, module in children.items() if isinstance(module, nn.ModuleList)] == ["layers"]
    assert list(stages) == [name for name in children if name in stages] == ["embed_tokens", "layers", "norm"]
    for (_, (_, given)), (_, (taken, _)) in itertools.pairwise(stages.items()):
        assert given[0].replace("inputs_embeds", "hidden_states") == taken[0]
