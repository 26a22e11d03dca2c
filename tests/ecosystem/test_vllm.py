"""What vLLM asks of a model that it runs by its Transformers backend, played here with attention of our own.

vLLM itself needs a GPU. From its documentation ("Writing custom models") and `vllm/model_executor/models/transformers`:
`auto_map.AutoModel` in config.json; `_supports_attention_backend`; the base model is built on the meta device with
`_attn_implementation="vllm"` and called with a flat sequence, its positions and no cache; `attention_instances` go down
to attention functions, which find their layer by `module.layer_idx` and return tokens x width, without a batch; plans
for parallel layers and for stages name what there is, and a later stage is given hidden states as embeddings.
"""

import copy
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
IDS = torch.arange(20)[None]


class PagedAttention:
    """A layer of vLLM's: of flat tokens (T, N x H), causal by itself, no mask given."""

    def __init__(self, head_dim: int):
        self.head_dim, self.calls = head_dim, 0

    def __call__(self, *flat: torch.Tensor, scaling: float) -> torch.Tensor:
        self.calls += 1
        query, key, value = (x.unflatten(1, (-1, self.head_dim)).transpose(0, 1) for x in flat)
        key, value = (x.repeat_interleave(len(query) // len(x), 0) for x in (key, value))
        future = torch.ones(query.shape[1], key.shape[1], dtype=torch.bool).triu(1)
        weights = (query @ key.mT * scaling).masked_fill(future, -torch.inf).softmax(-1)
        return (weights @ value).transpose(0, 1).flatten(1)


def vllm_attention(module, query, key, value, _mask, scaling, attention_instances, **_):
    """As vLLM's own function: it finds the layer's instance, ignores the mask, and returns no batch."""
    flat = (x.transpose(1, 2).flatten(2)[0] for x in (query, key, value))
    return attention_instances[module.layer_idx](*flat, scaling=scaling), None


@pytest.fixture(scope="module", autouse=True)
def registered():
    AttentionInterface.register("vllm", vllm_attention)


@pytest.fixture(params=VARIANTS)
def language_model(request):
    """A model with noise on every weight."""
    family, given = VARIANTS[request.param]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(FAMILIES[family](**SHAPE, **given)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def test_the_base_model_alone_computes_everything_but_the_head(language_model, tmp_path):
    language_model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["auto_map"]["AutoModel"].endswith("Model")
    config = AutoConfig.from_pretrained(tmp_path)
    config._attn_implementation = "vllm"
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    assert model._supports_attention_backend
    assert not list(model.buffers()), "a buffer that is in no checkpoint would be garbage"
    model.to_empty(device="cpu").load_state_dict(language_model.model.state_dict())

    layers = {layer: PagedAttention(config.head_dim) for layer in range(config.num_hidden_layers)}
    given = {"inputs_embeds": None, "use_cache": False, "position_ids": torch.arange(20)[None], "return_dict": False}
    with torch.no_grad():
        states = model(input_ids=IDS, attention_instances=layers, **given)[0]
        logits = states @ language_model.get_output_embeddings().weight.T
        torch.testing.assert_close(logits, language_model(IDS).logits, atol=1e-5, rtol=1e-5)
    assert [layer.calls for layer in layers.values()] == [1, 1]


def test_parallel_plans_name_what_there_is(language_model):
    """Each matrix inside the blocks is split one of the two ways, and no pattern is idle."""
    model = language_model.model
    plan = {pattern.replace("*", r"\d+"): style for pattern, style in model.config.base_model_tp_plan.items()}
    linear = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    for name in linear:
        styles = [style for pattern, style in plan.items() if re.fullmatch(pattern, name)]
        assert styles == ["rowwise" if name.endswith(("o_proj", "down_proj")) else "colwise"], name
    modules = dict(model.named_modules())
    assert all(any(re.fullmatch(pattern, name) for name in modules) for pattern in plan)


def test_a_later_stage_goes_on_from_hidden_states(language_model):
    """Where positions are learned it would add them once more: then there is no plan of stages."""
    model = language_model.model
    assert model.supports_pp_plan == (model.config.position != "learned")
    if not model.supports_pp_plan:
        return
    stages, children = model.config.base_model_pp_plan, dict(model.named_children())
    assert [name for name, module in children.items() if isinstance(module, nn.ModuleList)] == ["layers"]
    assert list(stages) == [name for name in children if name in stages] == ["embed_tokens", "layers", "norm"]
    for (_, (_, given)), (_, (taken, _)) in itertools.pairwise(stages.items()):
        assert given[0].replace("inputs_embeds", "hidden_states") == taken[0]

    first, second = copy.deepcopy(model), copy.deepcopy(model)
    del first.layers[1], second.layers[0]
    first.norm = second.embed_tokens = nn.Identity()
    with torch.no_grad():
        assert torch.equal(second(inputs_embeds=first(IDS)[0])[0], model(IDS)[0])
