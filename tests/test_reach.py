"""What is not there, or cannot be asked for, is said after one request: retries are for what is under way."""

import json
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from transformers import GPT2Config, GPT2LMHeadModel

from publishing.snapshot import REQUIRED_FILES
from settings import checks
from settings.paths import ROOT
from storage import hub
from tests.hub_client import serving

COUNTING = """
    import contextlib, io, json, runpy, socket, sys, time
    from storage import hub
    requests, resolve = [], socket.getaddrinfo
    def counted(host, *rest, **named):
        requests.append(host)
        return resolve(host, *rest, **named)
    socket.getaddrinfo = counted
    time.sleep = lambda seconds: requests.append(f"waited {seconds}")
    for module, *words in json.loads(sys.argv[1]):
        hub._unreachable_reason, hub.constants.HF_HUB_OFFLINE = "", False
        hub._known_repositories.clear()
        if "datasets.config" in sys.modules:
            sys.modules["datasets.config"].HF_HUB_OFFLINE = False
        requests.clear()
        sys.argv = [module, *words]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as errors:
            code = 0
            try:
                runpy.run_module(module, run_name="__main__")
            except SystemExit as end:
                code = end.code
        print(json.dumps([errors.getvalue().strip().splitlines()[-1:], code, requests]), flush=True)
"""
TINY = """
model: {hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, max_position_embeddings: 64}
data: {source: fables, train_documents: 150, validation_documents: 20, cache_dir: prepared}
training: {output_dir: run, max_steps: 1, use_cpu: true, bf16: false}
"""
COMMANDS = {
    "generate": ("generate", "some/typo"),
    "native": ("modeling.native", "runs/TYPO", "out"),
    "model.path": ("train_lm", "bare.yaml", "model.path=some/typo"),
    "tokenizer.path": ("train_lm", "tiny.yaml", "tokenizer.kind=pretrained", "tokenizer.path=some/typo"),
    "data.source": ("train_lm", "tiny.yaml", "data.source=some/typo"),
    "c4": ("data_prep.tokens", "tiny.yaml", "data.source=c4"),
    "mixture": ("data_prep.show", "tiny.yaml", "data.mixture={c4: 1, pile: 2}"),
    "tokenizer": ("data_prep.tokenizer", "--source", "tinystories"),
    "plan": ("experiments.plan", "bare.yaml", "model.path=some/typo"),
    "publish": ("publishing", "folder"),
    "push": ("data_prep.tokens", "tiny.yaml", "--push-to-hub", "some/tokens"),
}


def run(place: Path, commands: list[tuple], endpoint: str) -> list[tuple[list[str], int, list]]:
    """Of each command the last line of its stderr, its exit code, and what it has looked up and waited for."""
    (place / "tiny.yaml").write_text(TINY)
    (place / "bare.yaml").write_text("training: {output_dir: run, max_steps: 1, use_cpu: true}\n")
    (place / "folder").mkdir()
    for name in (*REQUIRED_FILES, "metrics.json", "model.safetensors"):
        (place / "folder" / name).write_text("{}")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    about = {"HF_ENDPOINT": endpoint, "HF_HOME": str(place / "home"), "HF_TOKEN": "hf_none", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(COUNTING), json.dumps(commands)],
        cwd=place, env=kept | about, capture_output=True, encoding="utf-8", check=False, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def without_network(tmp_path_factory):
    """All commands where a name does not resolve, as on a machine without any network."""
    place = tmp_path_factory.mktemp("place")
    answers = run(place, [*COMMANDS.values()], "http://hub.invalid")
    assert {path.name for path in place.iterdir()} <= {"tiny.yaml", "bare.yaml", "folder", "home"}
    return dict(zip(COMMANDS, answers, strict=True))


@pytest.mark.parametrize("name", COMMANDS)
def test_without_a_network_each_command_asks_for_two_seconds(without_network, name):
    (sentence,), code, requests = without_network[name]
    assert "the Hub cannot be reached (" in sentence
    assert code == 2
    assert requests[0] == "hub.invalid"
    assert len(requests) <= 8  # huggingface_hub's first request asks for something of its own as well
    assert [one for one in requests if "waited" in one] == [f"waited {seconds}" for seconds in hub.CHECK_WAITS]


def test_a_server_that_refuses_is_asked_once_and_what_the_cache_has_is_read(tmp_path):
    """As with HF_HUB_OFFLINE=1."""
    model = GPT2LMHeadModel(GPT2Config(vocab_size=8, n_positions=16, n_embd=8, n_layer=1, n_head=2))
    cached = tmp_path / "home/hub/models--some--model"
    model.save_pretrained(cached / "snapshots" / ("0" * 40))
    (cached / "refs").mkdir()
    (cached / "refs/main").write_text("0" * 40)
    with socket.socket() as bound:  # and listens not
        bound.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{bound.getsockname()[1]}"
        refused, read = run(tmp_path, [COMMANDS["native"], ("modeling.native", "some/model", "out")], address)
    assert refused[0][0].startswith(
        "modeling.native: runs/TYPO cannot be read: it is not in the local cache, and the Hub cannot be "
    )
    assert refused[1] == 2
    assert read[1] == 0
    assert len(refused[2]) <= 8
    assert len(read[2]) <= 8
    assert (tmp_path / "out/model.safetensors").exists()


def test_what_the_hub_does_not_have_is_said_after_one_request(tmp_path):
    (tmp_path / "hub").mkdir()
    with serving(tmp_path, "import json\nfrom settings import checks\nfrom storage import hub\n") as run_there:
        said = run_there("""
            from huggingface_hub import HfApi
            asked, info = [], HfApi.repo_info
            HfApi.repo_info = lambda *given, **named: asked.append(given[1]) or info(*given, **named)
            for kind in ("model", "dataset", "model"):
                try:
                    hub.check_repository("some/typo", kind)
                except checks.ConfigError as error:
                    print(json.dumps([str(error), len(asked)]))
        """)
    sentences, counts = zip(*said, strict=True)
    assert sentences[0] == (
        "some/typo cannot be read: it is neither a local folder nor a model on the Hub; check its name and your rights"
    )
    assert "nor a dataset on the Hub" in sentences[1]
    assert counts == (1, 2, 3)


@pytest.mark.parametrize("failures", [1, 2, 3])
def test_one_failure_of_a_name_server_does_not_put_a_process_offline(monkeypatch, failures):
    """Three do; other errors are the answer, or left to what follows."""
    monkeypatch.setattr(hub, "_unreachable_reason", "")
    monkeypatch.setattr(hub, "_known_repositories", set())
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    no_name = type("ConnectError", (OSError,), {})("Temporary failure in name resolution")
    errors, waited, asked = [no_name] * failures, [], []
    monkeypatch.setattr(hub.time, "sleep", waited.append)

    def answer(*_, **__):
        asked.append(1)
        if errors:
            raise errors.pop()

    monkeypatch.setattr(hub.HfApi, "repo_info", answer)
    hub.check_repository("some/texts", "dataset")
    assert len(asked) == min(failures + 1, 3)
    assert waited == [*hub.CHECK_WAITS[:failures]]
    assert (failures == 3) == hub.constants.HF_HUB_OFFLINE


def test_a_hub_that_answers_late_is_not_taken_for_absent(monkeypatch):
    """One that accepts connections and says nothing: what follows asks it again, with its own patience."""
    monkeypatch.setattr(hub, "CHECK_SECONDS", 0.1)
    monkeypatch.setattr(hub, "_unreachable_reason", "")
    monkeypatch.setattr(hub, "_known_repositories", set())
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(hub.constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        hub.check_repository("some/model")
        hub.check_repository("some/texts", "dataset")
        hub.check_hub_reachable("a push")
        assert not hub.constants.HF_HUB_OFFLINE
    with pytest.raises(checks.ConfigError, match="a push: the Hub cannot be reached"):
        hub.check_hub_reachable("a push")
    assert hub.constants.HF_HUB_OFFLINE
