"""A run's native export, in the hands of someone who has transformers and has never heard of Kindling."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from modeling.native import convert

STRANGER = """
import sys
from transformers import AutoModel, AutoModelForCausalLM, pipeline

for folder in sys.argv[1:]:
    assert type(AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False)).__name__ == "LlamaForCausalLM"
    assert type(AutoModel.from_pretrained(folder, trust_remote_code=False)).__name__ == "LlamaModel"
    tell = pipeline("text-generation", model=folder, trust_remote_code=False)
    print(repr(tell("Once upon", max_new_tokens=12, do_sample=False, return_full_text=False)[0]["generated_text"]))
assert "modeling" not in sys.modules
"""


def test_a_stranger_hears_the_same_without_our_code(export, elsewhere, greedy):
    command = [sys.executable, "-P", "-c", STRANGER, str(export)]
    done = subprocess.run(command, capture_output=True, check=False, timeout=600, **elsewhere)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [repr(greedy("Once upon"))]


def test_the_files_are_a_stock_llamas(export):
    names = {path.name for path in export.iterdir()}
    assert names == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"
    }  # fmt: skip
    config = json.loads((export / "config.json").read_text())
    assert config["model_type"] == "llama"
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert "auto_map" not in config
    assert "kindling" not in json.dumps(config).lower()


@pytest.mark.parametrize("folder", ["", "checkpoint-2"])
def test_training_without_a_cache_is_not_for_ever(run, folder):
    assert AutoModelForCausalLM.from_pretrained(run / folder).config.use_cache


def test_nothing_of_the_training_is_left_in_it(export, tokenizer):
    model = AutoModelForCausalLM.from_pretrained(export)
    assert model.config.use_cache
    assert json.loads((export / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"
    for about in (model.config, model.generation_config):
        for name in ("bos_token_id", "pad_token_id"):
            assert getattr(about, name) == getattr(tokenizer, name) is not None
        end = tokenizer.eos_token_id
        assert end is not None
        assert about.eos_token_id in (end, [end])  # transformers 5.13's Trainer makes it a list
    assert model.generation_config.max_length == model.config.max_position_embeddings == 64
    theirs = AutoTokenizer.from_pretrained(export)
    text = "Once <|endoftext|> upon"
    assert theirs(text)["input_ids"] == tokenizer(text)["input_ids"]


@pytest.mark.parametrize("folder", ["", "checkpoint-2"])
def test_logits_are_the_runs_and_its_checkpoints(run, folder, tmp_path):
    convert(str(run / folder), tmp_path / "out")
    ids = torch.arange(60)[None]
    ours, theirs = (AutoModelForCausalLM.from_pretrained(where) for where in (run / folder, tmp_path / "out"))
    torch.testing.assert_close(theirs(ids).logits, ours(ids).logits, atol=1e-5, rtol=0)


# ---- the start token, as others read it

PROMPTS = ["Once upon", "", " Once", "In 1234, I've  12.5é 漢\U0001f600\n\n\tEnd \n", "\r\n\u00a0 \u3000x"]


@pytest.mark.parametrize("where", ["run", "export"])
def test_the_start_token_is_said_in_each_way_that_others_read(request, where, tokenizer):
    """In the post-processor (transformers, tokenizers, lm-evaluation-harness), and in a field (litgpt, converters)."""
    folder = request.getfixturevalue(where)
    about = json.loads((folder / "tokenizer_config.json").read_text())
    assert (about["add_bos_token"], about["bos_token"]) == (True, tokenizer.bos_token)
    alone = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for prompt in PROMPTS:
        ids = tokenizer(prompt)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id
        assert ids == alone.encode(prompt).ids == AutoTokenizer.from_pretrained(folder)(prompt)["input_ids"]


@pytest.mark.parametrize("where", ["run", "export"])
def test_litgpt_reads_the_same_tokens(request, where, tokenizer):
    litgpt = pytest.importorskip("litgpt.tokenizer", reason="pip install litgpt")
    theirs = litgpt.Tokenizer(request.getfixturevalue(where))
    for prompt in filter(None, PROMPTS):  # of nothing it makes nothing, for our start token is an end as well
        assert theirs.encode(prompt).tolist() == tokenizer(prompt)["input_ids"]
        assert theirs.decode(theirs.encode(prompt)[1:]) == prompt


def test_the_start_token_of_an_earlier_run_is_said_too(run, tokenizer, tmp_path):
    """Its tokenizer has the post-processor alone."""
    old = tmp_path / "old"
    shutil.copytree(run, old)
    about = json.loads((old / "tokenizer_config.json").read_text())
    del about["add_bos_token"]
    (old / "tokenizer_config.json").write_text(json.dumps(about))
    convert(str(old), tmp_path / "export")
    assert json.loads((tmp_path / "export" / "tokenizer_config.json").read_text())["add_bos_token"] is True
    # and none is said to be added where none is
    state = json.loads((old / "tokenizer.json").read_text()) | {"post_processor": None}
    (old / "tokenizer.json").write_text(json.dumps(state))
    convert(str(old), tmp_path / "without")
    assert json.loads((tmp_path / "without" / "tokenizer_config.json").read_text())["add_bos_token"] is False
    theirs = AutoTokenizer.from_pretrained(tmp_path / "without")
    assert theirs("Once")["input_ids"] == tokenizer("Once", add_special_tokens=False)["input_ids"]
