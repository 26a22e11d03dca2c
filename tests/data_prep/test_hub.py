"""The named source and any Hub id stream over the Hub's real protocol, from a Hub on loopback."""

import json
import os
import subprocess
import sys

import pyarrow
import pyarrow.parquet
import pytest

from config import ROOT

READ = """
import sys, json
from sections import DataSection
from data_prep.sources import open_corpus
for source in ("tinystories", "someone/corpus"):
    splits = open_corpus(DataSection(source=source, train_documents=5, validation_documents=2))
    print(json.dumps([[document["text"] for document in split] for split in splits]))
"""


@pytest.fixture
def endpoint(tmp_path):
    stories = tmp_path / "hub" / "roneneldan" / "TinyStories" / "data"
    stories.mkdir(parents=True)
    for name, texts in {"train-00000-of-00001": list("abcdefgh"), "validation-00000-of-00001": list("xyz")}.items():
        pyarrow.parquet.write_table(pyarrow.table({"text": texts}), stories / f"{name}.parquet")
    corpus = tmp_path / "hub" / "someone" / "corpus"
    corpus.mkdir(parents=True)
    (corpus / "train.jsonl").write_text("".join(json.dumps({"text": f"row {i}"}) + "\n" for i in range(9)))
    command = [sys.executable, str(ROOT / "tests" / "hub.py"), str(tmp_path / "hub")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as hub:
        yield hub.stdout.readline().strip()
        hub.terminate()


def test_tinystories_and_any_id_stream_from_a_hub(endpoint, tmp_path):
    offline = {"HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"}
    environment = {key: value for key, value in os.environ.items() if key not in offline}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", READ],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    stories, corpus = map(json.loads, done.stdout.splitlines())
    assert stories == [list("abcde"), list("xy")]
    assert corpus == [[f"row {i}" for i in range(2, 7)], ["row 0", "row 1"]]  # no split of its own: held out
