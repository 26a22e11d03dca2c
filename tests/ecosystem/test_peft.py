"""PEFT: adapters on a Kindling model are trained, saved, loaded and merged."""

import pytest
import torch
from transformers import AutoModelForCausalLM

peft = pytest.importorskip("peft", reason="pip install peft")


def test_adapters_train_reload_and_merge(run, model, tmp_path):
    torch.manual_seed(0)
    ids = torch.randint(400, (4, 32))
    before = model(ids).logits.detach()
    frozen = {name: weight.clone() for name, weight in model.state_dict().items()}
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert len(trained) == 2 * 2 * 2  # layers, projections, factors
    assert all("q_proj.lora_" in name or "v_proj.lora_" in name for name in trained)
    assert torch.equal(adapted(ids).logits, before), "adapters start as nothing"

    optimizer = torch.optim.AdamW((parameter for parameter in adapted.parameters() if parameter.requires_grad), lr=1e-2)
    losses = []
    for _ in range(5):
        loss = adapted(ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.01
    adapted.eval().save_pretrained(tmp_path / "adapter")
    assert {path.suffix for path in (tmp_path / "adapter").iterdir()} == {".json", ".safetensors", ".md"}

    base = AutoModelForCausalLM.from_pretrained(run)
    assert all(torch.equal(weight, frozen[name]) for name, weight in base.state_dict().items())
    loaded = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    after = loaded(ids).logits
    assert torch.equal(after, adapted(ids).logits)
    assert (after - before).abs().max() > 0.01

    expected = loaded.double()(ids).logits
    merged = loaded.merge_and_unload()
    assert type(merged).__name__ == "KindlingLlamaForCausalLM"
    torch.testing.assert_close(merged(ids).logits, expected, atol=1e-10, rtol=0)
    merged.save_pretrained(tmp_path / "merged")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert again.dtype == torch.float64
    assert torch.equal(again(ids).logits, merged(ids).logits)
