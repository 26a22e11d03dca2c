"""`transformers serve` answers with an exported model; a `kindling_*` checkpoint is none that it can serve."""

import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="pip install 'kindling-lm[serve]'")


@pytest.fixture(scope="module")
def server(elsewhere):
    """The address of a running server, and the file that it logs to."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = elsewhere["cwd"] / "serve.log"
    command = [Path(sys.executable).with_name("transformers"), "serve", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("w") as out:
        process = subprocess.Popen(
            [*command, "--device", "cpu", "--trust-remote-code"], stdout=out, stderr=out, **elsewhere
        )
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(f"{address}/health", process, log)
        yield address, log
    finally:
        process.terminate()
        process.wait(timeout=30)


def wait_for(url: str, process: subprocess.Popen, log: Path):
    for _ in range(600):
        try:
            urllib.request.urlopen(url, timeout=10)
            return
        except OSError:
            assert process.poll() is None, log.read_text()
            time.sleep(0.2)
    raise TimeoutError(log.read_text())


def complete(address: str, **request) -> dict:
    body = json.dumps({"max_tokens": 12, "temperature": 0} | request).encode()
    post = urllib.request.Request(f"{address}/v1/completions", body, {"content-type": "application/json"})
    with urllib.request.urlopen(post, timeout=300) as answer:
        return json.load(answer)


def test_a_completion_is_what_the_run_says(server, export, greedy, tokenizer):
    answer = complete(server[0], model=str(export), prompt="Once upon")
    assert answer["choices"][0]["text"] == greedy("Once upon")
    assert answer["usage"]["prompt_tokens"] == len(tokenizer("Once upon")["input_ids"])


@pytest.mark.slow
def test_an_architecture_that_is_not_transformers_own_is_not_served(server, run):
    """When this fails, transformers serves them, and the table in docs/publishing.md can say so."""
    with pytest.raises(urllib.error.HTTPError, match="500"):
        complete(server[0], model=str(run), prompt="Once upon")
    for _ in range(100):  # the server answers before it writes
        if "has no attribute KindlingLlamaForCausalLM" in server[1].read_text():
            return
        time.sleep(0.1)
    raise AssertionError(server[1].read_text())
