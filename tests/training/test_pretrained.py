"""Training on from a GPT-2, a Llama or a run: its first losses are the stock model's own, and it goes back as one."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedTokenizerFast, TrainingArguments

import train_lm
from data_prep.fables import fable
from data_prep.tokens.order import key, shuffled
from experiments.plan import parse_arguments, plan
from modeling import accounting
from modeling.configuration_kindling import FAMILIES
from modeling.conversion import read_model
from modeling.native import convert
from settings.checks import ConfigError
from settings.loading import load_experiment
from training import model as model_module
from training import pretrained

WINDOW, BATCH = 32, 8
SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64}
EXPERIMENT = f"""
model: {{path: %s, attention_dropout: 0.0, hidden_dropout: 0.0, embedding_dropout: 0.0}}
data: {{source: fables, train_documents: 60, validation_documents: 10, context_length: {WINDOW}, cache_dir: %s}}
training:
  output_dir: %s
  per_device_train_batch_size: {BATCH}
  learning_rate: 1e-2
  max_steps: 4
  logging_steps: 1
  eval_steps: 4
  eval_on_start: true
  save_steps: 2
  use_cpu: true
  bf16: false
sample: {{max_new_tokens: 8}}
"""


def stock(config, folder: Path, special: list[str], **roles: str) -> Path:
    """A model of transformers' own with a tokenizer of 400 tokens, as somebody else would have saved them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    learning = {"vocab_size": 400, "special_tokens": special, "initial_alphabet": alphabet, "show_progress": False}
    tokenizer.train_from_iterator([fable(0, index) for index in range(50)], trainers.BpeTrainer(**learning))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles).save_pretrained(folder)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    return tmp_path_factory.mktemp("start")


@pytest.fixture(scope="module")
def gpt2(here):
    """As the first GPT-2: one special token, and none to pad with."""
    config = GPT2Config(vocab_size=400, initializer_range=0.2, bos_token_id=0, eos_token_id=0, **SHAPE)
    end = "<|endoftext|>"
    return stock(config, here / "gpt2", [end], bos_token=end, eos_token=end, unk_token=end)


@pytest.fixture(scope="module")
def llama(here):
    """As most Llamas: in bfloat16, grouped heads, more rows of embeddings than tokens, ways of its own to generate."""
    config = LlamaConfig(
        vocab_size=448, initializer_range=0.2, num_key_value_heads=2, intermediate_size=88, rope_theta=500.0,
        bos_token_id=1, eos_token_id=2, dtype="bfloat16", **SHAPE,
    )  # fmt: skip
    special = ["<pad>", "<s>", "</s>"]
    folder = stock(config, here / "llama", special, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    (folder / "generation_config.json").write_text('{"do_sample": true, "temperature": 0.6, "eos_token_id": [2, 7]}')
    return folder


@pytest.fixture(scope="module")
def train(here):
    """A function: the checkpoint to start from, a name and overrides, to the run folder."""

    def run(start: Path, name: str, *overrides: str, experiment=EXPERIMENT) -> Path:
        (here / f"{name}.yaml").write_text(experiment % (start, here / "prepared", here / name))
        train_lm.main(str(here / f"{name}.yaml"), list(overrides))
        return here / name

    return run


@pytest.fixture(scope="module")
def from_gpt2(gpt2, train):
    return train(gpt2, "from-gpt2")


@pytest.fixture(scope="module")
def from_llama(llama, train):
    return train(llama, "from-llama")


def stock_logits(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    """What transformers computes with the checkpoint in float32, of one token more than it has if it has no pad token.

    That one's embedding is the mean of the others, and so is its logit.
    """
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        logits = model(ids).logits
    return torch.cat([logits, logits.mean(-1, keepdim=True)], -1) if folder.name == "gpt2" else logits


def windows_of(run: Path, split: str) -> list[np.ndarray]:
    """The windows of the tokens that a run was made with, cut here by hand."""
    state = json.loads((run / "checkpoint-4" / "trainer_state.json").read_text())
    folder = run.parent / "prepared" / state["stateful_callbacks"]["RunFingerprint"]["attributes"]["data"]["folder"]
    ids = np.concatenate([np.load(path) for path in sorted((folder / split).glob("?????.npy"))]).astype(np.int64)
    return [ids[start : start + WINDOW] for start in range(0, len(ids) - 1, WINDOW - 1)]


def stock_loss(folder: Path, windows: list[np.ndarray]) -> float:
    """Mean nats a token by the stock model, each window by itself."""
    nats = targets = 0
    for window in windows:
        ids = torch.from_numpy(window)[None]
        nats += cross_entropy(stock_logits(folder, ids)[0, :-1].double(), ids[0, 1:], reduction="sum").item()
        targets += len(window) - 1
    return nats / targets


def losses(run: Path, name: str) -> list[float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row[name] for row in rows if name in row]


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_the_first_losses_are_those_of_the_stock_model(name, request):
    start, run = request.getfixturevalue(name), request.getfixturevalue(f"from_{name}")
    before, after = losses(run, "eval_loss")
    assert before == pytest.approx(stock_loss(start, windows_of(run, "validation")), abs=1e-5)
    assert after < before - 0.1
    windows = windows_of(run, "train")
    batch = [windows[shuffled(index, len(windows), key(42, 0))] for index in range(BATCH)]
    assert losses(run, "loss")[0] == pytest.approx(stock_loss(start, batch), abs=1e-5)


@pytest.mark.parametrize(("name", "kind", "rows"), [("gpt2", "gpt2", 401), ("llama", "llama", 448)])
def test_it_goes_back_as_what_it_came_from(name, kind, rows, request, here):
    run = request.getfixturevalue(f"from_{name}")
    convert(str(run), here / f"back-{name}")
    back, ours = (AutoModelForCausalLM.from_pretrained(folder) for folder in (here / f"back-{name}", run))
    assert (back.config.model_type, back.config.vocab_size) == (kind, rows)
    ids = torch.arange(40)[None]
    torch.testing.assert_close(back(ids).logits, ours(ids).logits, atol=1e-5, rtol=0)
    assert back.dtype == torch.float32


def test_special_tokens_are_the_tokenizers_and_ways_to_generate_the_checkpoints(from_gpt2, from_llama):
    gpt2, llama = (AutoModelForCausalLM.from_pretrained(run) for run in (from_gpt2, from_llama))
    for model, (pad, bos, eos) in ((gpt2, (400, 0, 0)), (llama, (0, 1, 2))):
        for about in (model.config, model.generation_config):
            assert (about.pad_token_id, about.bos_token_id) == (pad, bos)
            assert about.eos_token_id in (eos, [eos])  # transformers 5.13's Trainer makes it a list
        assert model.generation_config.max_length == 64
    assert llama.generation_config.temperature == 0.6


def test_what_it_started_from_is_written_down(gpt2, from_gpt2):
    section = OmegaConf.to_container(OmegaConf.load(from_gpt2 / "experiment.yaml"))["model"]
    dropouts = dict.fromkeys(("attention_dropout", "hidden_dropout", "embedding_dropout"), 0.0)
    assert section == {"path": str(gpt2)} | dropouts
    assert load_experiment(str(from_gpt2 / "experiment.yaml"), []).tokenizer.path == str(gpt2)
    provenance = json.loads((from_gpt2 / "provenance.json").read_text())
    assert provenance["started_from"] == {"path": str(gpt2), "commit": None}
    card = (from_gpt2 / "README.md").read_text()
    assert "trained from the checkpoint `gpt2` with" in card
    assert "from scratch" not in card
    assert "base_model" not in card, "a folder of this machine is nothing that the Hub could link"


def test_a_dropout_is_the_checkpoints_unless_given(gpt2, train):
    experiment = EXPERIMENT.replace("attention_dropout: 0.0, hidden_dropout: 0.0", "hidden_dropout: 0.5")
    run = train(gpt2, "dropout", "training.max_steps=1", experiment=experiment)
    config = AutoModelForCausalLM.from_pretrained(run).config
    assert (config.attention_dropout, config.hidden_dropout, config.embedding_dropout) == (0.1, 0.5, 0.0)


def test_a_run_is_a_start_too(from_llama, train):
    run = train(from_llama, "from-run", "training.max_steps=1", "training.save_steps=1")
    assert losses(run, "eval_loss")[0] == pytest.approx(losses(from_llama, "eval_loss")[-1], abs=1e-6)


def test_it_resumes_without_what_it_started_from(gpt2, from_gpt2, train, here):
    stopped = shutil.copytree(from_gpt2, here / "stopped")
    shutil.rmtree(stopped / "checkpoint-4")
    (stopped / "metrics.json").unlink()
    gpt2.rename(here / "moved")
    try:
        resumed = train(gpt2, "stopped", "training.resume_from_checkpoint=true", "training.eval_on_start=false")
    finally:
        (here / "moved").rename(gpt2)
    expected = load_file(from_gpt2 / "model.safetensors")
    for name, weight in load_file(resumed / "model.safetensors").items():
        assert weight.equal(expected[name]), name
    for name in ("generation_config.json", "config.json", "experiment.yaml"):
        assert (resumed / name).read_text().replace("stopped", "from-gpt2") == (from_gpt2 / name).read_text()


def test_the_file_layout_of_the_first_gpt2(gpt2, tmp_path):
    """Its names lack the prefix, its head is not written, and its masks are."""
    shutil.copytree(gpt2, tmp_path / "old")
    weights = load_file(gpt2 / "model.safetensors")
    old = {name.removeprefix("transformer."): weight for name, weight in weights.items() if name != "lm_head.weight"}
    masks = {f"h.{layer}.attn.bias": torch.ones(1, 1, 64, 64).tril() for layer in range(2)}
    save_file(old | masks, tmp_path / "old" / "model.safetensors", metadata={"format": "pt"})
    ids = torch.arange(40)[None]
    expected = stock_logits(gpt2, ids)[..., :-1]
    torch.testing.assert_close(read_model(str(tmp_path / "old"))(ids).logits, expected, atol=1e-5, rtol=0)


def test_the_plan_is_of_the_checkpoint(llama, here):
    (here / "plan.yaml").write_text(EXPERIMENT % (llama, here, here / "plan"))
    lines = plan(parse_arguments([str(here / "plan.yaml")]))
    rows = [" ".join(line.split()) for line in lines]
    assert {"type kindling_llama", "layers x width 2 x 32", "tokens of a sequence 32", "vocabulary 448"} <= {*rows}
    total = sum(accounting.parameters(read_model(str(llama)).config).values())
    assert next(line for line in lines if line.strip().startswith("total")).split()[1] == f"{total:,}"


@pytest.fixture(scope="module")
def misfits(gpt2, llama, here):
    """Checkpoints that nothing can start from, by name, and the two that something can."""

    def changed(name: str, **config) -> Path:
        folder = shutil.copytree(gpt2, here / name)
        settings = json.loads((folder / "config.json").read_text()) | config
        (folder / "config.json").write_text(json.dumps(settings))
        return folder

    pickled = changed("pickled")
    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    coded = changed("coded", model_type="own", auto_map={"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"})
    (coded / "own.py").write_text("raise SystemExit('code of a checkpoint was run')")
    without = changed("without")
    for path in without.glob("tokenizer*"):
        path.unlink()
    scaled = changed("scaled", scale_attn_by_inverse_layer_idx=True)
    bert = changed("bert", model_type="bert")
    names = {"PICKLED": pickled, "CODED": coded, "WITHOUT": without, "SCALED": scaled, "BERT": bert}
    return names | {"GPT2": gpt2, "LLAMA": llama}


@pytest.mark.parametrize(
    ("start", "override", "complaint"),
    [
        ("GPT2", "model.hidden_size=64", "brings its own settings, which model.hidden_size=64 would contradict"),
        ("GPT2", "model.type=kindling_gpt", "model.type=kindling_gpt would contradict; leave out all of this"),
        ("GPT2", "tokenizer.vocab_size=100", "tokenizer.vocab_size=100 changes the vocabulary that model.path="),
        ("GPT2", "model.hidden_dropout=1.5", "hidden_dropout=1.5 must be at least 0 and below 1"),
        ("GPT2", "tokenizer.kind=bpe", "tokenizer.kind=bpe changes the vocabulary that model.path="),
        ("GPT2", "tokenizer.path=LLAMA", "learnt '<|endoftext|>' as token 0, which the data's tokenizer has as None"),
        ("GPT2", "tokenizer.path=nowhere/at-all", "tokenizer.path=nowhere/at-all holds no tokenizer; give"),
        ("GPT2", "data.context_length=65", "data.context_length=65 is longer than model.max_position_embeddings=64 of"),
        ("WITHOUT", "data.seed=0", "holds no tokenizer; give the folder or Hub id of one"),
        ("PICKLED", "data.seed=0", "has no model.safetensors, and pickled weights are not read"),
        ("CODED", "data.seed=0", "does not load"),
        ("SCALED", "data.seed=0", "scale_attn_by_inverse_layer_idx=True has no place in Kindling's GPT-2"),
        ("BERT", "data.seed=0", "model_type=bert has no place in Kindling; give a llama or a gpt2"),
        ("nowhere/at-all", "data.seed=0", "model.path: nowhere/at-all does not load"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_before_any_work(misfits, tmp_path, start, override, complaint):
    for name, folder in misfits.items():
        override = override.replace(f"={name}", f"={folder}")
    (tmp_path / "bad.yaml").write_text(
        EXPERIMENT % (misfits.get(start, start), tmp_path / "prepared", tmp_path / "run")
    )
    with pytest.raises(ConfigError) as error:
        train_lm.main(str(tmp_path / "bad.yaml"), [override])
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_vocabulary_too_large_for_a_checkpoint_without_one(llama, tmp_path):
    start = tmp_path / "small"
    config = GPT2Config(vocab_size=100, **SHAPE)
    AutoModelForCausalLM.from_config(config).save_pretrained(start)
    (tmp_path / "bad.yaml").write_text(EXPERIMENT % (start, tmp_path / "prepared", tmp_path / "run"))
    with pytest.raises(ConfigError, match="has 100 rows of embeddings and no tokenizer, and the one given has 400"):
        train_lm.main(str(tmp_path / "bad.yaml"), [f"tokenizer.path={llama}"])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_is_trained_in_float32_whatever_it_was_saved_in(family, tmp_path):
    config = FAMILIES[family](vocab_size=400, **SHAPE)
    saved = AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
    saved.save_pretrained(tmp_path)
    args = TrainingArguments(output_dir=str(tmp_path / "run"), use_cpu=True)
    model = model_module.build_model(pretrained.start_config(str(tmp_path), {}), args, str(tmp_path))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    for name, weight in saved.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight.float())
