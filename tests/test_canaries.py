"""No pickle or strange code is run, and none is written: canaries wherever one could be, and what the source says."""

import ast
import contextlib
import io
import json
import shutil
import socket
import sys
import tempfile
import zipfile
from pathlib import Path

import evaluate
import pytest
import torch

import generate
import train_lm
from modeling.native import convert
from publishing.snapshot import published_model, snapshot
from settings.checks import ConfigError
from settings.paths import ROOT
from storage.checkpoint_manifest import write_manifest
from tests.test_repository import PYTHON
from training.reporting.metrics import LanguageModeling

TINY = """
model: {hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, max_position_embeddings: 32}
tokenizer: {kind: characters}
data: {source: fables, train_documents: 20, validation_documents: 4, cache_dir: %s}
training: {max_steps: 4, save_steps: 2, eval_steps: 4, use_cpu: true, bf16: false, disable_tqdm: true}
sample: {max_new_tokens: 4}
"""


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """Train the tiny experiment into a folder, always on the same tokens."""
    here = tmp_path_factory.mktemp("pickles")
    (here / "tiny.yaml").write_text(TINY % (here / "prepared"))

    def train(folder: Path, *overrides: str) -> Path:
        train_lm.main(str(here / "tiny.yaml"), [f"training.output_dir={folder}", *overrides])
        return folder

    return train


@pytest.fixture(scope="module")
def run(train, tmp_path_factory) -> Path:
    """A finished run with two checkpoints."""
    return train(tmp_path_factory.mktemp("run") / "run")


# ---- what is read


class Canary:
    """Unpickled, it leaves a file."""

    def __init__(self, left: Path):
        self.left = left

    def __reduce__(self):
        return Path.touch, (self.left,)


@pytest.fixture
def readers(train, monkeypatch):
    """What reads a run, by name; the last changes it."""

    def prompt(folder: Path):
        monkeypatch.setattr(sys, "argv", ["generate.py", str(folder), "--max-new-tokens", "2"])
        generate.main(generate.parse_arguments())

    def resume(folder: Path):
        shutil.rmtree(folder / "checkpoint-4")
        (folder / "metrics.json").unlink()
        train(folder, "training.resume_from_checkpoint=true")

    return {
        "generate.py": prompt,
        "modeling.native": lambda folder: convert(str(folder), Path(tempfile.mkdtemp(dir=folder.parent))),
        "publishing": lambda folder: shutil.rmtree(snapshot(folder, published_model(folder))),
        "resuming": resume,
    }


LOCATIONS = {
    "optimizer": {"optimizer.pt"},
    "scheduler": {"scheduler.pt"},
    "random numbers": {"rng_state.pth"},
    "beside the weights": {"pytorch_model.bin", "training_args.bin", "model.pkl"},
    "in place of the weights": {"pytorch_model.bin"},
    "by the name of the weights": {"model.safetensors"},
}


@pytest.mark.parametrize("place", LOCATIONS)
def test_no_command_runs_what_a_pickle_says(run, tmp_path, readers, place):
    """Whether it ends with a refusal or goes without the file. Canaries are in the run and in its checkpoint.

    That each command reads a sound run to its end is seen below, where only the code is another.
    """
    left, folder = tmp_path / "left", shutil.copytree(run, tmp_path / "run")
    for where in (folder, folder / "checkpoint-2"):
        if place == "in place of the weights":
            (where / "model.safetensors").unlink()
        for name in LOCATIONS[place]:
            torch.save(Canary(left), where / name)
    write_manifest(folder / "checkpoint-2")  # as whoever plants one would
    with (folder / name).open("rb") as canary:
        torch.load(canary, weights_only=False)
    left.unlink()  # it lives
    for name, read in readers.items():
        with contextlib.suppress(Exception):
            read(folder)
        assert not left.exists(), name


def test_no_command_runs_code_that_lies_beside_the_weights(run, tmp_path, readers, monkeypatch):
    """That of our families is installed; a stranger's model, or tokenizer, is refused, whatever stdin would answer."""
    left, folder = tmp_path / "left", shutil.copytree(run, tmp_path / "run")
    (folder / "custom_generate").mkdir()
    for path in (*folder.rglob("*.py"), folder / "custom_generate" / "generate.py", folder / "own.py"):
        path.write_text(f"import pathlib; pathlib.Path({str(left)!r}).touch()")
    write_manifest(folder / "checkpoint-2")
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 9))
    for name, read in readers.items():
        read(folder)
        assert not left.exists(), name
    edit(folder / "tokenizer_config.json", tokenizer_class="Own", auto_map={"AutoTokenizer": ["own.Own", None]})
    edit(
        folder / "config.json",
        model_type="own",
        auto_map=dict.fromkeys(("AutoConfig", "AutoModelForCausalLM"), "own.Own"),
    )
    for name in ("generate.py", "modeling.native"):
        with pytest.raises((ConfigError, ValueError), match="contains custom code"):
            readers[name](folder)
        assert not left.exists(), name


def edit(path: Path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# ---- what is written


def is_pickle(path: Path) -> bool:
    """Whether `pickle` or torch could have written it."""
    if zipfile.is_zipfile(path):
        return any(name.endswith(".pkl") for name in zipfile.ZipFile(path).namelist())
    return path.read_bytes()[:1] == b"\x80"


def test_a_run_is_written_without_pickles(run, tmp_path):
    files = [path for path in run.rglob("*") if path.is_file()]
    assert len(files) > 30
    assert not [path for path in files if is_pickle(path)]
    assert {path.suffix for path in files} <= {".json", ".jsonl", ".md", ".png", ".py", ".safetensors", ".yaml"}
    torch.save({}, tmp_path / "new")
    torch.save({}, tmp_path / "old", _use_new_zipfile_serialization=False)
    assert is_pickle(tmp_path / "new")
    assert is_pickle(tmp_path / "old")


def test_metrics_need_no_script_of_anybodys(monkeypatch):
    """`evaluate.load` runs what it finds in a folder or on the Hub; the class is ours, and nobody is asked for it."""

    def refuse(*_, **__):
        raise AssertionError("somebody was asked")

    monkeypatch.setattr(evaluate, "load", refuse)
    monkeypatch.setattr(evaluate.loading, "evaluation_module_factory", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert LanguageModeling().compute(nats=[1.0, 2.0], targets=[1, 1])["loss"] == 1.5


# ---- what the source says

PICKLERS = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
CALLS = {
    "torch.load", "torch.save", "torch.hub.load", "evaluate.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load",
    "pandas.read_pickle", "eval", "exec",
}  # fmt: skip
SAFE_VALUES = {"trust_remote_code": False, "allow_pickle": False, "weights_only": True, "use_safetensors": True}


def unsafe_in(source: str) -> list[str]:
    """What a source does that could run another's code: unpickle, or allow what transformers or numpy would refuse."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.partition(".")[0] in PICKLERS]
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found += [name for name in names if name in CALLS or name.partition(".")[0] in PICKLERS]
        elif isinstance(node, ast.Call):
            found += _unsafe_call(node)
        elif isinstance(node, ast.Dict):
            found += _unsafe_values(zip(node.keys, node.values, strict=True))
    return found


def _unsafe_call(node: ast.Call) -> list[str]:
    name = ast.unparse(node.func)
    unsafe = [name] if name in CALLS else []
    given = [(ast.Constant(keyword.arg), keyword.value) for keyword in node.keywords]
    if name.startswith("Auto") and name.endswith(".from_pretrained"):  # asks on stdin, unless it is told
        told = {keyword.arg for keyword in node.keywords} & {"trust_remote_code", None}
        unsafe += [] if told else [name]
    return unsafe + _unsafe_values(given)


def _unsafe_values(given) -> list[str]:
    return [
        f"{key.value}={ast.unparse(value)}"
        for key, value in given
        if isinstance(key, ast.Constant) and key.value in SAFE_VALUES
        if not (isinstance(value, ast.Constant) and value.value is SAFE_VALUES[key.value])
    ]


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_opens_the_door(path):
    assert unsafe_in(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle", "import numpy, dill", "from pickle import loads", "from torch import load",
        "torch.load(path)", "torch.save({}, path)", "evaluate.load('accuracy')", "from evaluate import load",
        "yaml.load(text)", "eval(text)", "np.load(path, allow_pickle=True)", "np.load(path, allow_pickle=given)",
        "Model.from_pretrained(path, trust_remote_code=True)", "Model.from_pretrained(path, use_safetensors=None)",
        "AutoModel.from_pretrained(path)", "read(path, weights_only=False)", "x = {'trust_remote_code': trusted}",
    ],
)  # fmt: skip
def test_a_door_is_seen(source):
    assert unsafe_in(source)


def test_what_is_no_door_is_none():
    assert not unsafe_in(
        "model.eval(); np.load(path, mmap_mode='r'); load_model(path); yaml.safe_load(text)\n"
        "AutoConfig.from_pretrained(path, trust_remote_code=False); text = 'trust_remote_code=True'"
    )
