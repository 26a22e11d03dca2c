"""GGUF files in llama.cpp: the tokens and the greedy text that transformers has, or no file."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import AddedToken, Regex, normalizers, processors
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2LMHeadModel

from data_prep.tokenizer.build import train_characters, wrap
from modeling.configuration_kindling import FAMILIES
from modeling.conversion import to_native
from modeling.modeling_kindling import KindlingGPTForCausalLM, KindlingLlamaForCausalLM
from modeling.native import convert, main

pytest.importorskip("gguf", reason="pip install 'kindling-lm[gguf]'")

MODELS = {"kindling_llama": KindlingLlamaForCausalLM, "kindling_gpt": KindlingGPTForCausalLM}
SHAPE = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64,
    "initializer_range": 0.3,
}  # fmt: skip
VARIANTS = {
    "llama": ("kindling_llama", {}),
    "llama-grouped-tied": ("kindling_llama", {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    "llama-biased": ("kindling_llama", {"bias": True, "rope_theta": 500.0}),
    "llama-wide-heads": ("kindling_llama", {"head_dim": 16, "num_key_value_heads": 1, "norm_eps": 1e-2}),
    "llama-more-ids": ("kindling_llama", {"vocab_size": 410}),
    "gpt": ("kindling_gpt", {}),
    "gpt-untied": ("kindling_gpt", {"tie_word_embeddings": False, "intermediate_size": 40, "norm_eps": 1e-3}),
}
PROMPTS = [
    "Once upon", "", " Once", "In 1234, I've  12.5é 漢\U0001f600\n\n\tEnd \n", "\r\n\u00a0 \u3000x", "   \n \n\n  ",
    "it's THEY'RE 'll 've '", "x\u200dy ½²٣ ɐ̀", "\x00\x01\x7f", "a <|endoftext|> b<|pad|>", "[PAD401]",
]  # fmt: skip
# In a process of its own: what llama.cpp says of each file.
ASK = """
import json, sys, urllib.request
import xllamacpp

def ask(server, path, **body):
    post = urllib.request.Request(server.listening_address + path, json.dumps(body).encode())
    return json.load(urllib.request.urlopen(post, timeout=300))

files, prompts, answers = *json.loads(sys.argv[1]), {}
for file in files:
    params = xllamacpp.CommonParams()
    params.model.path = file
    params.n_ctx, params.n_parallel, params.n_gpu_layers, params.warmup, params.verbosity = 64, 1, 0, False, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    server = xllamacpp.Server(params)
    tokens = {"add_special": True, "parse_special": False}
    say = {"n_predict": 12, "temperature": 0, "n_probs": 3, "return_tokens": True, "cache_prompt": False}
    answers[file] = [
        ask(server, "/tokenize", content=prompt, **tokens) | {"said": ask(server, "/completion", prompt=prompt, **say)}
        for prompt in prompts
    ]
json.dump(answers, open("answers.json", "w"))
"""


@pytest.fixture(scope="module")
def folders(tokenizer, tmp_path_factory) -> dict[str, Path]:
    """A model of each variant with noise on every weight, in a folder with its tokenizer; and a GPT-2 of others."""
    here = tmp_path_factory.mktemp("models")
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    for name, (family, given) in VARIANTS.items():
        torch.manual_seed(0)
        model = MODELS[family](FAMILIES[family](**{"vocab_size": len(tokenizer), **SHAPE, **ids, **given}))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
        model.save_pretrained(here / name)
        if name == "gpt":
            to_native(model).save_pretrained(here / "stock-gpt2")
    for folder in here.iterdir():
        tokenizer.save_pretrained(folder)
    return {folder.name: folder for folder in here.iterdir()}


@pytest.fixture(scope="module")
def files(folders, run, tmp_path_factory) -> dict[str, Path]:
    here = tmp_path_factory.mktemp("files")
    for name, folder in (folders | {"run": run}).items():
        convert(str(folder), here / f"{name}.gguf")
    return {path.stem: path for path in here.iterdir()}


@pytest.fixture(scope="module")
def answers(files, elsewhere) -> dict[str, list[dict]]:
    pytest.importorskip("xllamacpp", reason="pip install xllamacpp")
    command = [sys.executable, "-P", "-c", ASK, json.dumps([list(map(str, files.values())), PROMPTS])]
    done = subprocess.run(command, capture_output=True, check=False, timeout=300, **elsewhere)
    assert done.returncode == 0, done.stderr
    found = json.loads((elsewhere["cwd"] / "answers.json").read_text())
    return {Path(file).stem: answer for file, answer in found.items()}


NAMES = [*VARIANTS, "stock-gpt2", "run"]


@pytest.mark.parametrize("name", NAMES)
def test_llama_cpp_has_the_same_tokens(answers, tokenizer, name):
    for prompt, answer in zip(PROMPTS, answers[name], strict=True):
        assert answer["tokens"] == tokenizer(prompt)["input_ids"], prompt


@pytest.mark.parametrize("name", NAMES)
def test_llama_cpp_says_the_same(answers, folders, run, tokenizer, name):
    """The tokens of the greedy text, and the probability of the first to what its half-precision GELU allows."""
    model = AutoModelForCausalLM.from_pretrained(folders.get(name, run)).eval()
    close = 1e-4 if "llama" in name or name == "run" else 5e-3
    compared = 0
    for prompt, answer in zip(PROMPTS[:9], answers[name], strict=False):  # in the others it sees special tokens
        ids = tokenizer(prompt, return_tensors="pt")
        length = ids["input_ids"].shape[1]
        said = model.generate(**ids, max_new_tokens=12, do_sample=False)[0, length:].tolist()
        assert answer["said"]["tokens"] == said, prompt
        assert answer["said"]["content"] == tokenizer.decode(said, skip_special_tokens=True)
        first = answer["said"]["completion_probabilities"][0]
        if first["id"] == said[0]:  # it leaves those out that end within a character
            expected = model(**ids).logits[0, -1].double().log_softmax(-1)
            for token in first["top_logprobs"]:
                assert token["logprob"] == pytest.approx(expected[token["id"]].item(), abs=close)
            compared += 1
    assert compared >= 2


@pytest.mark.parametrize("name", ["llama-grouped-tied", "llama-wide-heads"])  # of a GPT-2 it takes no sizes
def test_transformers_reads_the_file_as_the_model(files, folders, name):
    theirs = AutoModelForCausalLM.from_pretrained(files[name].parent, gguf_file=files[name].name, dtype=torch.float32)
    ids = torch.arange(60)[None]
    ours = AutoModelForCausalLM.from_pretrained(folders[name])
    torch.testing.assert_close(theirs(ids).logits, ours(ids).logits, atol=1e-5, rtol=0)


def test_the_command_writes_a_file_or_a_folder(folders, monkeypatch, capsys, tmp_path):
    for words, file in ((["a.gguf"], "a.gguf"), (["b", "--gguf"], "b/model.gguf")):
        monkeypatch.setattr(sys, "argv", ["native", str(folders["gpt"]), str(tmp_path / words[0]), *words[1:]])
        main()
        assert (tmp_path / file).read_bytes()[:4] == b"GGUF"
        count = GPT2LMHeadModel.from_pretrained(folders["stock-gpt2"]).num_parameters()
        says = f"{tmp_path / words[0]}: GPT2LMHeadModel, {count:,} parameters, with its tokenizer\n"
        assert capsys.readouterr().out == says
    (tmp_path / "c.gguf").mkdir()
    for name in ("a.gguf", "b", "c.gguf"):
        with pytest.raises(ValueError, match=f"{name} exists already"):
            convert(str(folders["gpt"]), tmp_path / name, gguf=True)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.gguf", "b", "c.gguf", "model.gguf"]


def with_spaces(tokenizer):
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace(Regex(r"\s+"), " ")


def with_another_end(tokenizer):
    end = ("<|pad|>", 1)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing("$A <|pad|>", None, [end])


def with_a_whole_word(tokenizer):
    tokenizer.backend_tokenizer.add_tokens([AddedToken("Once", single_word=True)])


REFUSED = [
    ("kindling_gpt", {"mlp": "gelu"}, None, "activation_function=gelu has no place in a GGUF file, which has gelu_new"),
    ("kindling_gpt", {"qk_norm": True}, None, "qk_norm=True has no place in a stock GPT-2"),
    (
        "kindling_llama",
        {"eos_token_id": [0, 5]},
        None,
        "eos_token_id=[0, 5] has no place in a GGUF file, which has the",
    ),
    ("kindling_llama", {"vocab_size": 300}, None, "a tokenizer of 400 tokens has no place beside a model of 300"),
    ("kindling_llama", {}, with_spaces, "a tokenizer with normalizer={"),
    ("kindling_llama", {}, with_another_end, "has no place in a GGUF file, which has a start token or none"),
    ("kindling_llama", {}, with_a_whole_word, "the token 'Once', which takes spaces or whole words, has no place in"),
    (
        "kindling_llama",
        {},
        "characters",
        "a tokenizer with model.type=WordLevel has no place in a GGUF file, which has",
    ),
    ("kindling_llama", {}, "none", "there is no tokenizer, which a GGUF file holds"),
]


@pytest.mark.parametrize(("family", "given", "spoil", "complaint"), REFUSED)
def test_what_llama_cpp_lacks_is_refused_in_a_sentence(run, family, given, spoil, complaint, tmp_path):
    vocabulary = {"vocab_size": 402, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
    MODELS[family](FAMILIES[family](**{**SHAPE, **vocabulary, **given})).save_pretrained(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(run)
    if spoil == "characters":
        tokenizer = wrap(train_characters(["Once upon a time"], 0))
    elif callable(spoil):
        spoil(tokenizer)
    if spoil != "none":
        tokenizer.save_pretrained(tmp_path / "model")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=r"no place|no tokenizer") as error:
        convert(str(tmp_path / "model"), tmp_path / "new" / "out.gguf")
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_without_the_package_it_says_how_to_install_it(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ValueError, match=r"needs the package gguf; pip install 'kindling-lm\[gguf\]'"):
        convert(str(run), tmp_path / "out.gguf")
