"""The wheel, installed apart: every command runs from another folder, with nothing of the checkout in reach."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from settings.paths import ROOT
from tests.command_line.test_terminal import COMMANDS, WITHOUT, module_of

PACKAGES = Path(torch.__file__).parents[1]
TINY = [
    "training.max_steps=1", "training.use_cpu=true", "training.bf16=false", "training.output_dir=run",
    "model.hidden_size=32", "model.intermediate_size=32", "model.num_hidden_layers=1",
]  # fmt: skip
WORDS = {"PYTHONDONTWRITEBYTECODE": "1", "HF_HUB_OFFLINE": "1"}
IN_TURN = """
import contextlib, io, json, runpy, sys
said = {}
for module, *words in json.loads(sys.argv[1]):
    sys.argv = [module, *words]
    with contextlib.redirect_stdout(io.StringIO()) as output:
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            assert not end.code, (module, end.code)
    said[module] = output.getvalue()
own = [str(module.__file__) for module in sys.modules.values() if getattr(module, "__file__", None)]
print(json.dumps([said, own]))
"""


def build(folder: Path) -> Path:
    """The wheel, from a copy of the sources, for a build leaves its own files among them."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        check=True,
    ).stdout
    for name in listed.splitlines():
        if (ROOT / name).is_file():
            (folder / "sources" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "sources" / name).write_bytes((ROOT / name).read_bytes())
    words = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(folder), "./sources"]
    done = subprocess.run([sys.executable, "-m", "pip", *words], cwd=folder, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A folder with Kindling as it is installed."""
    folder = tmp_path_factory.mktemp("wheel")
    zipfile.ZipFile(build(folder)).extractall(folder / "site")
    return folder / "site"


def run(site: Path, place: Path, *commands: list[str]) -> dict[str, str]:
    """What commands print one after the other in a folder, in one process that sees the installed Kindling alone."""
    path = os.pathsep.join([str(site), str(PACKAGES)])
    done = subprocess.run(
        [sys.executable, "-S", "-c", IN_TURN, json.dumps(commands)],  # without editable installs
        cwd=place, env=os.environ | WORDS | {"PYTHONPATH": path}, capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    said, own = json.loads(done.stdout.splitlines()[-1])
    assert not [name for name in own if Path(name).is_relative_to(ROOT) and not Path(name).is_relative_to(PACKAGES)]
    return said


def test_what_is_installed(site):
    names = {path.name for path in site.iterdir()}
    assert not names & {"tests", "benchmarks", "docs", "setup.py", "conftest.py"}
    for path in {*ROOT.glob("configs/**/*.*"), *(ROOT / name for name in COMMANDS)}:
        assert (site / path.relative_to(ROOT)).exists(), path


def test_every_command_has_its_help_from_another_folder(site, tmp_path):
    commands = [module_of(path) for path in sorted(COMMANDS - WITHOUT)]
    said = run(site, tmp_path, *([command, "--help"] for command in commands))
    assert set(said) == set(commands)
    assert all("usage" in help_text for help_text in said.values())
    assert not list(tmp_path.iterdir())


def test_a_model_is_trained_prompted_and_exported_from_another_folder(site, tmp_path):
    """By a configuration that comes with Kindling, whose text does too."""
    train = ["train_lm", "configs/lm/memorize.yaml", *TINY]
    said = run(
        site, tmp_path, train, ["generate", "run", "--max-new-tokens", "1"], ["modeling.native", "run", "native"],
        ["experiments.sweep", "configs/sweeps/bars.yaml", "--status"],
    )  # fmt: skip
    assert "prompt it   python " in said["train_lm"]
    assert "LlamaForCausalLM" in said["modeling.native"]
    assert "pending" in said["experiments.sweep"]
    assert (tmp_path / "native/model.safetensors").exists()
    assert not (site / "runs").exists()
