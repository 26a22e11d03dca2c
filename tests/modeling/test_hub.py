"""A saved checkpoint explains itself: a process without this repository loads it, runs it and saves it again."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

import modeling
from modeling import modeling_kindling

WEIGHTS = {"config.json", "generation_config.json", "model.safetensors"}
CODE = {
    "accounting.py", "attention.py", "configuration_kindling.py", "generation.py", "layers.py", "loading.py",
    "modeling_kindling.py", "releases.py",
}  # fmt: skip

# Loads each folder named on its command line by all three Auto classes, saves it next door, and loads that by its own
# new code; writes the logits and hidden states of both.
STRANGER = """
import sys, torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

for folder in sys.argv[1:]:
    ids, outputs = torch.load(f"{folder}/../ids.pt"), {}
    for name in (folder, f"{folder}-again"):
        config = AutoConfig.from_pretrained(name, trust_remote_code=True)
        model = AutoModelForCausalLM.from_pretrained(name, trust_remote_code=True)
        backbone = AutoModel.from_pretrained(name, trust_remote_code=True)
        assert type(model).__module__.startswith("transformers_modules.")
        assert type(config).__name__ == type(backbone.config).__name__ == type(model.config).__name__
        outputs[name] = model(ids).logits, backbone(ids).last_hidden_state
        model.save_pretrained(f"{folder}-again")
    torch.save(outputs, f"{folder}.pt")
assert "modeling" not in sys.modules
"""


@pytest.fixture(scope="module")
def visited(build, tokens, tmp_path_factory):
    """A folder with a saved model of each family, what a stranger computed with it and saved, and the models."""
    root = tmp_path_factory.mktemp("hub")
    saved = {
        "gpt": build("kindling_gpt", qk_norm=True, num_key_value_heads=2),
        "llama": build("kindling_llama", eos_token_id=3, final_logit_softcapping=0.5),
    }
    torch.save(tokens(), root / "ids.pt")
    for name, model in saved.items():
        model.save_pretrained(root / name)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HOME": str(root / "cache"), "HF_HUB_OFFLINE": "1"}
    arguments = [str(root / name) for name in saved]
    stranger = [sys.executable, "-P", "-c", STRANGER, *arguments]
    subprocess.run(stranger, cwd=root, env=environment, check=True, timeout=600)
    return root, saved


@pytest.mark.parametrize("name", ["gpt", "llama"])
def test_stranger_computes_the_same(visited, tokens, name):
    root, saved = visited
    expected = saved[name](tokens()).logits, saved[name].model(tokens()).last_hidden_state
    outputs = torch.load(root / f"{name}.pt")
    assert outputs.keys() == {str(root / name), str(root / f"{name}-again")}
    for given in outputs.values():
        assert all(torch.equal(one, other) for one, other in zip(given, expected, strict=True))


@pytest.mark.parametrize("name", ["gpt", "llama"])
def test_files_are_the_weights_and_the_code_that_explains_them(visited, name):
    root, _ = visited
    for folder in (root / name, root / f"{name}-again"):
        assert {path.name for path in folder.iterdir()} == WEIGHTS | CODE
        for file in CODE:
            assert (folder / file).read_text() == (Path(modeling_kindling.__file__).parent / file).read_text()


def test_only_the_main_process_writes_code(start, tmp_path):
    start().save_pretrained(tmp_path, is_main_process=False)
    assert not list(tmp_path.glob("*.py"))


def test_a_checkpoint_can_be_saved_over_the_code_it_runs_from(start, tmp_path, monkeypatch):
    """A folder that transformers loads code from in place, such as its cache, is both source and target."""
    model = start()
    model.save_pretrained(tmp_path)
    monkeypatch.setattr(modeling_kindling, "__file__", str(tmp_path / "modeling_kindling.py"))
    model.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == WEIGHTS | CODE


@pytest.mark.parametrize(("module", "count"), [("own.train", 2), ("modeling.native", 0)])
def test_importing_the_models_registers_them_except_for_the_command(monkeypatch, module, count):
    """Also from a package that Python imports while it looks for the module to run, as of `python -m own.train`."""
    registered = []
    for kind in (AutoConfig, AutoModel, AutoModelForCausalLM):
        monkeypatch.setattr(kind, "register", lambda *given: registered.append(given))
    monkeypatch.setattr("sys.argv", ["-m", "--help"])
    monkeypatch.setattr("sys.orig_argv", ["python", "-m", module, "--help"])
    importlib.reload(modeling)
    assert len(registered) == 3 * count
    monkeypatch.setattr("sys.argv", ["main.py"])
    importlib.reload(modeling)  # as it was
    assert modeling.KindlingGPTConfig is modeling_kindling.KindlingGPTConfig
