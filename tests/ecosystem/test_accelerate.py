"""accelerate: a model spread over places and loaded piece by piece, and a training loop of one's own."""

import re

import accelerate
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

IDS = torch.arange(60)[None]


def test_layers_wait_on_the_disk_until_they_are_needed(run, model, tmp_path):
    """As `device_map="auto"` does where a model is larger than the memory: blocks stay whole."""
    places = {"model.embed_tokens": "cpu", "model.rotary": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk"}
    places |= {"model.norm": "cpu", "lm_head": "cpu"}
    spread = AutoModelForCausalLM.from_pretrained(run, device_map=places, offload_folder=tmp_path)
    assert spread.model.layers[1].self_attn.q_proj.weight.device.type == "meta"
    with torch.no_grad():
        torch.testing.assert_close(spread(IDS).logits, model(IDS).logits, atol=1e-6, rtol=0)
        said = [one.generate(IDS, max_length=64, do_sample=False) for one in (spread, model)]
    assert torch.equal(*said)


def test_blocks_are_not_split_over_devices(model):
    whole = accelerate.utils.compute_module_sizes(model)[""]

    def inside_blocks(**classes) -> set[bool]:
        """Whether, with more and more memory on the first device, anything inside a block has a place of its own."""
        memories = ({0: share * whole // 20, "cpu": whole} for share in range(1, 40))
        plans = [accelerate.infer_auto_device_map(model, max_memory=memory, **classes) for memory in memories]
        assert any({0, "cpu"} == set(plan.values()) and "model.layers.0" in plan for plan in plans)
        return {any(re.match(r"model\.layers\.\d\.", place) for place in plan) for plan in plans}

    assert inside_blocks(no_split_module_classes=list(model._no_split_modules)) == {False}
    assert inside_blocks() == {False, True}


def test_an_empty_model_is_filled_from_the_checkpoint(run, model):
    with accelerate.init_empty_weights(include_buffers=True):
        empty = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(run))
    assert all(parameter.is_meta for parameter in empty.parameters())
    filled = accelerate.load_checkpoint_and_dispatch(empty, str(run / "model.safetensors"), device_map={"": "cpu"})
    with torch.no_grad():
        assert torch.equal(filled.eval()(IDS).logits, model(IDS).logits)


def test_a_loop_of_ones_own(model, tmp_path):
    accelerator = accelerate.Accelerator(cpu=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    expected = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    model, optimizer = accelerator.prepare(model.train(), optimizer)
    accelerator.backward(model(IDS, labels=IDS).loss)
    for name, parameter in model.named_parameters():
        expected[name].add_(parameter.grad, alpha=-0.1)
    optimizer.step()
    accelerator.save_model(model, tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert saved.keys() == expected.keys()
    assert all(torch.equal(saved[name], weight) for name, weight in expected.items())
