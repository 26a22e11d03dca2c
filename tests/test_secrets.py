"""The Hub's token stays where it is kept: no file, line or exception of ours tells it.

What is pushed is looked through in `publishing/test_publish.py` too; here is all that stays on the machine.
"""

import json
from pathlib import Path

import pytest

from settings.checks import ConfigError
from storage.hub import with_retries
from tests.hub_client import serving

CANARY = "hf_canary0123456789"
BROKEN = "hf_canary\0" + "9"
"""As of a file in another encoding: a client says of it `Illegal header value b'Bearer hf_canary...`."""
TINY = """
model: {hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, max_position_embeddings: 32}
tokenizer: {kind: characters}
data: {source: someone/corpus, validation_documents: 10}
training: {max_steps: 4, save_steps: 2, eval_steps: 4, use_cpu: true, bf16: false}
sample: {max_new_tokens: 4}
"""
START = """
    import json, os, pathlib, sys, traceback

    # From here on, all that this process and its children say goes into a file.
    stdout = os.dup(1)
    said = os.open("said.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(said, 1), os.dup2(said, 2)

    import generate, train_lm
    from command_line.run import exit_on_user_error, run_script
    from modeling import native
    from publishing import __main__ as publish
    from storage import hub

    hub.ATTEMPTS = 1
    commands = {
        "train_lm.py": lambda: run_script("", train_lm.main),
        "generate.py": exit_on_user_error("generate.py")(lambda: generate.main(generate.parse_arguments())),
        "native": native.main,
        "publish": publish.main,
    }

    def typed(name, *words):
        "How a command ends that a person types."
        sys.argv, code = [name, *words], 0
        try:
            commands[name]()
        except SystemExit as stopped:
            code = stopped.code
        except BaseException:  # which Python would tell of in this way
            traceback.print_exc()
            code = "traceback"
        os.write(stdout, (json.dumps(code) + "\\n").encode())

    def train(name, *overrides):
        typed("train_lm.py", "tiny.yaml", f"training.output_dir={name}", f"data.cache_dir={name}-tokens", *overrides)

    def fail(*kinds):
        pathlib.Path("hub/faults.json").write_text(json.dumps({"rate": len(kinds) > 0, "kinds": kinds, "seed": 0}))

    def keep(token):
        os.environ.pop("HF_TOKEN", None)
        pathlib.Path("home/token").write_bytes(token)

"""
LOUD = {"HF_DEBUG": "1", "HF_HUB_VERBOSITY": "debug", "TRANSFORMERS_VERBOSITY": "debug"}


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """A folder of runs beside a Hub that has a corpus; how commands ended, and what was said, as loudly as can be.

    The token is in the environment, then in the file of `hf auth login`, then there in other encodings.
    """
    folder = tmp_path_factory.mktemp("secrets")
    (folder / "home").mkdir()
    (folder / "tiny.yaml").write_text(TINY)
    (folder / "start.yaml").write_text("model: {path: someone/model}")
    corpus = folder / "hub" / "someone" / "corpus"
    corpus.mkdir(parents=True)
    rows = ({"text": f"a story of {number} bears"} for number in range(100))
    (corpus / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with serving(folder, START, HF_HUB_DISABLE_XET="1", HF_TOKEN=CANARY, **LOUD) as run_script:
        codes = run_script(f"""
            train("published", "training.push_to_hub=true")
            train("missing", "data.source=someone/missing")
            train("refused", "training.hub_token={CANARY}")
            fail("403")
            typed("publish", "published")
            train("forbidden")
            fail()
            keep({CANARY!r}.encode())
            train("from-file")

            for broken in ({BROKEN!r}.encode(), {CANARY!r}.encode("utf-16")):
                keep(broken)
                train("broken")
                typed("generate.py", "someone/model")
                typed("publish", "published")
                typed("native", "someone/model", "out")
        """)
    return folder, codes, (folder / "said.txt").read_text()


def told(folder: Path) -> list[Path]:
    """Files that have any part of the token, but for the one in which `hf auth login` keeps it."""
    files = (path for path in folder.rglob("*") if path.is_file() and path != folder / "home" / "token")
    return [path for path in files if b"canary" in path.read_bytes()]


def test_neither_runs_nor_their_failures_tell_the_token(said):
    """A corpus of the Hub, a run, its model there, and what can go wrong with each."""
    folder, codes, text = said
    assert codes == [0, 2, 2, 2, 2, 0] + [2] * 8
    assert "authorization: <TOKEN>" in text, "nobody was loud"
    for sentence in ("someone/missing cannot be read", "published cannot be published", "training.hub_token is not"):
        assert sentence in text
    for name in ("published", "from-file"):
        assert {path.name for path in (folder / name).iterdir()} > {
            "provenance.json",
            "experiment.yaml",
            "checkpoint-4",
        }
    assert (folder / "hub" / "models" / "someone" / "published" / "model.safetensors").exists()
    assert not (folder / "refused").exists()
    assert told(folder) == []


def test_a_token_that_cannot_be_sent_is_refused_before_a_client_quotes_it(said):
    *_, text = said
    refused = "the Hub token contains characters that are not allowed; run `hf auth login`, or set HF_TOKEN again"
    for name in ("train_lm.py", "generate.py", "publishing"):
        assert text.count(f"{name}: {refused}\n") == 2
    assert "someone/model does not load: Illegal header value b'Bearer hf_***'\n" in text


@pytest.mark.parametrize("token", [CANARY, BROKEN, "hf_canary é", None])
def test_what_the_hub_says_is_told_without_the_token(monkeypatch, token):
    """In whichever form it is quoted."""
    monkeypatch.setattr("storage.hub.get_token", lambda: token)
    for quoted in (str(token), str(str(token).encode())):

        def ask(quoted=quoted):
            raise RuntimeError(f"no header {quoted}")

        with pytest.raises(ConfigError) as error:
            with_retries("a model", ask)
        assert "canary" not in str(error.value)
        assert ("hf_***" in str(error.value)) == (token is not None)
