"""The scripts end to end: what a user types, what it leaves behind."""

import bz2
import codecs
import gzip
import io
import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import generate
import train_lm
from command_line.run import run_script
from data_prep import fables
from data_prep.sources.local_files import documents_of
from data_prep.tokens.prepare import prepare
from settings.checks import ConfigError
from settings.data_sections import DataSection, TokenizerSection
from settings.loading import load_experiment
from settings.paths import ROOT
from storage.checkpoint_manifest import find_damage
from training.checkpoints.store import latest_valid
from training.reporting.generation import document_ids, encode_prompt, load_model, score, stream
from training.reporting.prompting import Sampling

TINY = """
model: {hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, max_position_embeddings: 64}
tokenizer: {vocab_size: 400, train_documents: 100}
data: {source: fables, train_documents: 150, validation_documents: 20, cache_dir: %s}
training:
  output_dir: %s
  per_device_train_batch_size: 8
  learning_rate: 1e-2
  max_steps: 20
  logging_steps: 5
  eval_steps: 10
  save_steps: 10
  use_cpu: true
  bf16: false
sample: {max_new_tokens: 20}
"""
FILES = {
    "README.md", "config.json", "curves.png", "experiment.yaml", "generation_config.json", "metrics.json",
    "metrics.jsonl", "model.safetensors", "provenance.json", "samples.jsonl", "tokenizer.json",
    "tokenizer_config.json", "checkpoint-10", "checkpoint-20",
    "accounting.py", "attention.py", "configuration_kindling.py", "generation.py", "layers.py", "loading.py",
    "modeling_kindling.py", "releases.py",
}  # fmt: skip


def as_announced(run: Path, path: str, overrides: list[str]):
    """Train, and compare what was said before the first step with what the finished run has counted."""
    told = io.StringIO()
    try:
        with redirect_stdout(told):
            train_lm.main(path, overrides)
    finally:
        print(told.getvalue())
    metrics = json.loads((run / "metrics.json").read_text())
    flops = f"{metrics['total_flos']:.4g} FLOPs"
    own = f", and {metrics['optimizer_flops']:.4g} of Muon" if metrics["optimizer_flops"] else ""
    counted = f"training    {metrics['max_steps']:,} steps, {metrics['tokens']:,} targets, {flops}{own}\n"
    assert counted in told.getvalue()


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    """Train the tiny experiment into `name` below a shared folder and return the run folder."""
    here = tmp_path_factory.mktemp("scripts")

    def train(name: str, *overrides: str) -> Path:
        path = here / f"{name}.yaml"
        path.write_text(TINY % (here / "prepared", here / name))
        as_announced(here / name, str(path), list(overrides))
        return here / name

    return train


@pytest.fixture(scope="module")
def tiny(workshop):
    return workshop("tiny")


def explained(run: Path) -> list[str]:
    """The files of a run folder that its README names, each by one line."""
    named = re.findall(r"^\| `([^`]+)` \|", (run / "README.md").read_text().partition("## Files")[2], re.M)
    return sorted(path.name for name in named for path in run.glob(name))


def rows_of(run: Path) -> list[dict]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    clocks = ("seconds", "tokens_per_second", "mfu")
    return [
        {k: v for k, v in row.items() if k not in clocks and "runtime" not in k and "second" not in k} for row in rows
    ]


def test_a_run_leaves_everything_behind(tiny):
    assert {path.name for path in tiny.iterdir()} == FILES
    rows = rows_of(tiny)
    losses = [row["loss"] for row in rows if "loss" in row]
    assert [row["step"] for row in rows if "eval_loss" in row] == [10, 20]
    assert losses[0] == pytest.approx(math.log(400), rel=0.05)
    assert losses[-1] < losses[0] - 0.5
    metrics = json.loads((tiny / "metrics.json").read_text())
    assert metrics["eval_loss"] == next(row["eval_loss"] for row in reversed(rows) if "eval_loss" in row)
    assert metrics["steps"] == 20
    assert metrics["tokens"] == 20 * 8 * 63
    assert (tiny / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert [json.loads(line)["step"] for line in (tiny / "samples.jsonl").read_text().splitlines()] == [10, 20]
    card = (tiny / "README.md").read_text()
    assert f"{metrics['eval_loss']:.4f}" in card
    assert "python" in card
    assert "{" not in card.split("```")[0]
    assert explained(tiny) == sorted(FILES)


def test_validation_stays_above_the_floor(tiny):
    metrics = json.loads((tiny / "metrics.json").read_text())
    assert metrics["eval_loss"] > metrics["floor_loss"] - 3 * metrics["eval_loss_standard_error"]
    assert metrics["eval_bits_per_byte"] / metrics["floor_bits_per_byte"] == pytest.approx(
        metrics["eval_loss"] / metrics["floor_loss"]
    )
    demo = json.loads((ROOT / "experiments" / "results" / "demo" / "metrics.json").read_text())
    assert demo["floor_loss"] - 3 * demo["eval_loss_standard_error"] < demo["eval_loss"] < 1.3 * demo["floor_loss"]


def test_the_same_seed_is_the_same_run_to_the_bit(tiny, workshop, capsys):
    again = workshop("again")
    told = capsys.readouterr().out
    for words in ("parameters (", "20 steps", "FLOPs", "device      cpu, fp32", "floor", "prompt it   python generate"):
        assert words in told
    assert "\nskipped " not in told  # as nothing is
    assert (again / "model.safetensors").read_bytes() == (tiny / "model.safetensors").read_bytes()
    assert rows_of(again) == rows_of(tiny)
    other = workshop("other", "training.seed=1")
    assert (other / "model.safetensors").read_bytes() != (tiny / "model.safetensors").read_bytes()


def test_what_is_skipped_and_what_is_in_both_splits_is_said(workshop, tmp_path, capsys):
    rows = [json.dumps({"text": fables.fable("0", i)}) for i in range(60)]
    (tmp_path / "train.jsonl").write_text("\n".join([*rows, "bad", '{"text": null}', '{"text": ""}']))
    (tmp_path / "validation.jsonl").write_text("\n".join(rows[:3]))
    run = workshop("skipping", f"data.source={tmp_path}", "data.bad_records=0.05", "training.max_steps=2")
    told, card = capsys.readouterr().out, (run / "README.md").read_text()
    skipped = "training 3 of 63 records (1 x empty, 1 x invalid JSON, 1 x text is null), validation 0 of 3 records"
    assert f"\nskipped     {skipped}: " in told
    (path,) = re.findall(r"^skipped .*: (/.*quarantine.jsonl)$", told, re.M)
    assert len(Path(path).read_text().splitlines()) == 2
    assert f"| skipped | {skipped} |" in card
    assert "tokens; 3 training documents are identical to one in validation\n" in told
    assert "60 documents; 3 training documents are identical to one in validation" in card


def test_a_run_is_the_same_in_a_poor_place(tiny):
    """Without a home, on a terminal of few characters, whose reader is gone after the first line."""
    words = [str(tiny.parent / "tiny.yaml"), f"training.output_dir={tiny.parent / 'poor'}"]
    place = {"HOME": "/dev/null/home", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}
    given = {name: value for name, value in os.environ.items() if not name.startswith(("HF_HOME", "XDG_", "MPL"))}
    with subprocess.Popen(
        [sys.executable, "train_lm.py", *words],
        cwd=ROOT, env=given | place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        assert process.stdout.readline()
        process.stdout.close()
        assert process.wait(500) == 0
    assert rows_of(tiny.parent / "poor") == rows_of(tiny)


def test_prompts_are_read_whatever_the_terminal_is(tiny):
    poor = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    words = [sys.executable, "generate.py", str(tiny), "--max-new-tokens", "1", "--interactive"]
    done = subprocess.run(words, cwd=ROOT, env=poor, input="é\n\n".encode(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"> ")


def test_a_resumed_run_ends_as_the_uninterrupted_one(tiny, workshop):
    stopped = tiny.parent / "stopped"
    shutil.copytree(tiny, stopped)
    shutil.rmtree(stopped / "checkpoint-20")
    for name in ("model.safetensors", "metrics.json"):
        (stopped / name).unlink()
    resumed = workshop("stopped", "training.resume_from_checkpoint=true")
    expected = load_file(tiny / "model.safetensors")
    for name, weight in load_file(resumed / "model.safetensors").items():
        assert weight.equal(expected[name]), name
    assert rows_of(resumed)[:-1] == rows_of(tiny)[:-1]  # but the last, which sums up one call of the Trainer
    assert (resumed / "samples.jsonl").read_text() == (tiny / "samples.jsonl").read_text()


def test_a_finished_run_is_not_trained_on(tiny, capsys):
    before = {path: path.stat().st_mtime_ns for path in tiny.iterdir()}
    with pytest.raises(SystemExit) as end:
        train_lm.main(str(tiny.parent / "tiny.yaml"), ["training.resume_from_checkpoint=true"])
    assert end.value.code == 0
    assert "is finished, nothing is left to do; its results are in" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in tiny.iterdir()} == before


def test_muon_trains_text_and_resumes(tiny, workshop):
    run = workshop("muon", "optimizer.kind=muon", "training.max_steps=10")
    first, muon = ([row["loss"] for row in rows_of(folder) if "loss" in row] for folder in (tiny, run))
    assert muon[0] == first[0]
    assert muon[-1] < first[0] - 0.5
    assert "Muon (learning rate 0.02" in (run / "README.md").read_text()
    shutil.copytree(run, run.parent / "muon-more")
    more = workshop(
        "muon-more",
        "optimizer.kind=muon",
        "training.max_steps=12",
        "training.resume_from_checkpoint=true",
        "resume.extend=true",
    )
    assert json.loads((more / "metrics.json").read_text())["steps"] == 12


def test_epochs_of_masked_documents_are_announced_exactly(workshop):
    """`as_announced` compares: the last step is not full, and ends in the midst of the second epoch."""
    epochs = ["training.max_steps=-1", "training.num_train_epochs=1.3", "training.eval_strategy=no"]
    masks = ["data.layout=documents", "data.mask_up_to=.", "data.mask_first_n=9", "model.max_position_embeddings=512"]
    run = workshop("masked", *epochs, *masks, "training.gradient_accumulation_steps=2", "training.save_strategy=no")
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["steps"] * 16 > 195 == 1.3 * 150


@pytest.mark.parametrize("budget", ["tokens=9000", "flops=1.5e9"])
def test_a_budget_is_spent_to_the_nearest_step_and_the_rate_falls_to_its_minimum(workshop, capsys, budget):
    """In documents, accumulated, resumed half-way: the horizon is the same, and so are the weights."""
    name, amount = budget.split("=")
    settings = [f"budget.{budget}", "data.layout=documents", "training.eval_strategy=no", "training.save_steps=0.5"]
    settings += ["training.lr_scheduler_type=linear", "model.max_position_embeddings=512"]
    run = workshop(f"budget-{name}", *settings)
    metrics = json.loads((run / "metrics.json").read_text())
    spent, steps = metrics[{"tokens": "tokens", "flops": "total_flos"}[name]], metrics["steps"]
    assert abs(spent - float(amount)) < 0.6 * spent / steps  # documents differ in length
    told = capsys.readouterr().out
    assert f"budget      {spent:,} of 9,000 tokens spent" in told or f"{spent:.5g} of 1.5e+09 FLOPs spent" in told
    assert "| budget |" in (run / "README.md").read_text()
    resumed, resume = run.parent / f"{run.name}-resumed", "training.resume_from_checkpoint=true"
    shutil.copytree(run, resumed)
    shutil.rmtree(resumed / f"checkpoint-{steps}")
    for gone in ("model.safetensors", "metrics.json"):
        (resumed / gone).unlink()
    with pytest.raises(ConfigError, match=rf"was to end at budget\.{name}={float(amount)} and is resumed with"):
        workshop(resumed.name, *settings[1:], resume, f"budget.{name}={2 * float(amount)}")
    workshop(resumed.name, *settings, resume)
    weights = load_file(run / "model.safetensors")
    assert all(weights[key].equal(value) for key, value in load_file(resumed / "model.safetensors").items())


def same_weights(*runs: Path) -> bool:
    """Whether the models in run folders are the same to the bit."""
    first, *others = (load_file(run / "model.safetensors") for run in runs)
    return all(value.equal(other[name]) for other in others for name, value in first.items())


@pytest.mark.parametrize(
    ("name", "trunk_schedule", "decay"),
    [
        ("constant", ["training.lr_scheduler_type=constant_with_warmup"], "{decay_type: cosine}"),
        # transformers' warm-up of this kind begins at the minimum, so the trunk has to have it too
        ("stable", ["training.lr_scheduler_type=warmup_stable_decay",
                    "training.lr_scheduler_kwargs={num_decay_steps: 2, min_lr_ratio: 0.1}"], "{min_lr_ratio: 0.1}"),
    ],
)  # fmt: skip
def test_a_branch_decays_as_a_run_that_was_planned_to(workshop, name, trunk_schedule, decay):
    """From step 10 of a trunk, with steps and with a budget; resumed within the decay; and repeated from its yaml."""
    trunk = workshop(f"trunk-{name}", *trunk_schedule, "training.warmup_steps=0.15", "training.save_steps=5",
                     "training.save_total_limit=9")  # fmt: skip
    branch = [*trunk_schedule, f"training.lr_scheduler_kwargs={decay}", "training.save_steps=7"]
    branch += [f"resume.decay_from={trunk / 'checkpoint-10'}"]
    kwargs = yaml.safe_load(decay) | {"num_decay_steps": 6}
    planned = ["training.lr_scheduler_type=warmup_stable_decay", f"training.lr_scheduler_kwargs={json.dumps(kwargs)}"]
    whole = workshop(f"planned-{name}", *planned, "training.max_steps=16", "training.warmup_steps=3")
    found = workshop(f"branch-{name}", *branch, "training.max_steps=16")
    by_budget = workshop(f"budget-{name}", *branch, "budget.tokens=8064")
    assert same_weights(whole, found, by_budget)
    rates = [
        [row["learning_rate"] for row in rows_of(run) if row["step"] > 10 and "loss" in row] for run in (whole, found)
    ]
    assert rates[0] == rates[1]
    assert rates[1][-1] < 0.01
    settings = yaml.safe_load((by_budget / "experiment.yaml").read_text())["training"]
    assert (settings["lr_scheduler_kwargs"], settings["warmup_steps"]) == (kwargs, 3)
    (found / "metrics.json").unlink()
    shutil.rmtree(found / "checkpoint-16")
    workshop(found.name, *branch, "training.max_steps=16", "training.resume_from_checkpoint=true")
    with pytest.raises(ConfigError, match="is of a run that decays itself from another's"):
        workshop("twice", *branch[:-1], f"resume.decay_from={found / 'checkpoint-14'}", "training.max_steps=20")
    train_lm.main(str(found / "experiment.yaml"), [f"training.output_dir={found.parent / f'again-{name}'}"])
    assert same_weights(whole, found, found.parent / f"again-{name}")


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (["resume.decay_from=trunk"], r"resume\.decay_from=.* is not a folder; give a checkpoint's"),
        (["resume.decay_from=%(tiny)s/checkpoint-10"], "has 0.5.* of its peak learning rate left, by its cosine"),
        (["resume.decay_from=%(tiny)s"], r"is damaged: checkpoint\.json is missing"),
        (["resume.decay_from=%(trunk)s/checkpoint-20"], "leaves no step to decay in, since the run has 20"),
        (["resume.decay_from=%(trunk)s/checkpoint-20", "training.output_dir=%(trunk)s"], "stays the trunk's; choose"),
        (["resume.decay_from=%(trunk)s/checkpoint-10", "training.lr_scheduler_type=cosine"],
         r"training\.lr_scheduler_type=cosine has no effect with resume\.decay_from"),
        (["resume.decay_from=%(trunk)s/checkpoint-10", "training.lr_scheduler_kwargs={num_stable_steps: 3}"],
         "has num_stable_steps, which follows from"),
        (["resume.decay_from=%(trunk)s/checkpoint-10", "training.learning_rate=1e-3"],
         r"was trained with training\.learning_rate=0\.01 and is resumed with 0\.001"),
    ],
)  # fmt: skip
def test_a_branch_that_would_not_be_the_planned_run_is_refused(tiny, workshop, overrides, complaint):
    trunk = tiny.parent / "trunk"
    if not trunk.exists():
        workshop("trunk", "training.lr_scheduler_type=constant_with_warmup", "training.warmup_steps=3")
    overrides = [text % {"tiny": tiny, "trunk": trunk} for text in overrides]
    with pytest.raises(ConfigError, match=complaint):
        workshop("refused", *overrides)


def test_a_branch_that_was_killed_before_its_first_checkpoint_begins_again(workshop, monkeypatch):
    """With the trunk's path as the docs give it, relative; also once only the branch's own checkpoint is left."""
    constant = ["training.lr_scheduler_type=constant_with_warmup", "training.warmup_steps=3"]
    trunk = workshop("trunk-killed", *constant, "checkpoints.save_tokens=[2000, 1e5]")
    monkeypatch.chdir(trunk.parent)
    branch = ["resume.decay_from=trunk-killed/checkpoint-10", "training.max_steps=14", "training.save_steps=2"]
    branch += ["checkpoints.save_tokens=[2000, 1e5]"]
    found = workshop("branch-killed", *branch)
    assert "checkpoints" not in json.loads((found / "metrics.json").read_text())  # those by tokens are the trunk's
    expected = load_file(found / "model.safetensors")
    for left in ([], ["checkpoint-12"]):
        for path in (*found.glob("checkpoint-*"), found / "metrics.json", found / "model.safetensors"):
            if path.name not in left:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        if left:
            shutil.rmtree(trunk)
        workshop("branch-killed", *branch, "training.resume_from_checkpoint=true")
        assert all(expected[key].equal(value) for key, value in load_file(found / "model.safetensors").items())


def test_a_run_is_resumed_as_it_was(tiny, workshop):
    other = tiny.parent / "changed"
    shutil.copytree(tiny, other)
    with pytest.raises(ConfigError, match=r"was trained with data\.seed=0 and is resumed with 5"):
        workshop("changed", "training.resume_from_checkpoint=true", "training.max_steps=30", "data.seed=5")
    assert (other / "experiment.yaml").read_text() == (tiny / "experiment.yaml").read_text()


def test_a_run_is_resumed_by_its_own_settings(tiny):
    other = tiny.parent / "by-its-own"
    shutil.copytree(tiny, other)
    settings = [f"training.output_dir={other}", "training.resume_from_checkpoint=true", "resume.extend=true"]
    train_lm.main(str(other / "experiment.yaml"), [*settings, "training.max_steps=22"])
    assert json.loads((other / "metrics.json").read_text())["steps"] == 22


def test_losses_that_are_no_numbers_end_the_run_with_a_checkpoint(workshop, tiny):
    run = tiny.parent / "burst"
    with pytest.raises(SystemExit, match="the last 3 steps were skipped"):
        workshop(run.name, "training.learning_rate=1e12", "training.max_grad_norm=0", "sample.temperature=0")
    assert find_damage(latest_valid(run)) is None
    assert (run / "README.md").exists()
    assert len((run / "skipped.jsonl").read_text().splitlines()) == 3
    assert "NaN" in (run / "metrics.jsonl").read_text()


def test_a_run_prompts_the_same_from_anywhere(tiny, tmp_path):
    code = (
        "import sys; from transformers import pipeline\n"
        "talk = pipeline('text-generation', model=sys.argv[1], trust_remote_code=True)\n"
        "print(repr(talk('Once upon', do_sample=False, max_new_tokens=12)[0]['generated_text']))\n"
        "print(repr(talk('', do_sample=False)[0]['generated_text']))"
    )
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment["HF_HOME"] = str(tmp_path)
    command = [sys.executable, "-c", code, str(tiny)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    model, tokenizer = load_model(str(tiny))
    prompted = stream(model, tokenizer, "Once upon", Sampling(0, max_new_tokens=12))
    assert done.stdout.splitlines() == [repr(prompted), repr(stream(model, tokenizer, "", Sampling(0)))]


def run_generate(monkeypatch, *arguments: str):
    monkeypatch.setattr(sys, "argv", ["generate.py", *arguments])
    generate.main(generate.parse_arguments())


def test_generate_streams_every_prompt(tiny, tmp_path, monkeypatch, capsys):
    (tmp_path / "prompts.txt").write_text("Near the\nLong ago\n")
    common = (str(tiny), "--max-new-tokens", "8", "--seed", "3")
    run_generate(monkeypatch, *common, "--prompt", "Near the", "Long ago")
    several = capsys.readouterr().out
    assert "Near the" in several
    assert "Long ago" in several
    run_generate(monkeypatch, *common, "--file", str(tmp_path / "prompts.txt"))
    assert capsys.readouterr().out == several
    answers = iter(["Near the", "Long ago", ""])
    monkeypatch.setattr("builtins.input", lambda _: next(answers))
    run_generate(monkeypatch, *common, "--interactive")
    assert capsys.readouterr().out == several


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("said", []),
        ("a 'quoted' folder", ['sample.prompt=Once, it\'s "so" $HOME', "sample.temperature=0.5", "sample.seed=3"]),
        ("dash", ["sample.prompt=--no option", "sample.temperature=0", "sample.max_new_tokens=5"]),
    ],
)
def test_the_closing_words_prompt_for_the_very_sample_that_they_show(workshop, capsys, monkeypatch, name, overrides):
    """What a shell makes of the last line prints what stands above it; and a run is called after its folder."""
    once = ["training.max_steps=2", "training.eval_steps=2", "training.save_strategy=no"]
    run = workshop(name, *once, *overrides)
    told = capsys.readouterr().out.rstrip("\n")
    shown, _, command = told[told.index(f"{run / 'curves.png'}\n\n") :].partition("\n\n")[2].rpartition("\n\n")
    assert command.startswith("prompt it   python generate.py ")
    words = shlex.split(command.removeprefix("prompt it   "))
    assert words[2] == str(run)
    run_generate(monkeypatch, *words[2:])
    assert capsys.readouterr().out == shown + "\n"
    card = (run / "README.md").read_text()
    assert f"\n# {name}\n" in card
    assert f"model={json.dumps(str(run))}, trust" in card


def test_tokens_are_shown_as_they_are_drawn(tiny, monkeypatch):
    """Interactive, one prompt of two words and twelve tokens: the terminal is written to many times."""
    written, answers = [], iter(["Near the", ""])
    monkeypatch.setattr("builtins.input", lambda _: next(answers))
    monkeypatch.setattr(sys.stdout, "write", lambda text: written.append(text))
    run_generate(monkeypatch, str(tiny), "--interactive", "--max-new-tokens", "30", "--ignore-end")
    assert len([text for text in written if text.strip()]) > 4


def test_several_samples_are_those_of_their_seeds(tiny, monkeypatch, capsys):
    common = (str(tiny), "--prompt", "Near the", "--max-new-tokens", "12")
    run_generate(monkeypatch, *common, "--seed", "5", "--samples", "3")
    together = capsys.readouterr().out
    apart = ""
    for seed in (5, 6, 7):
        run_generate(monkeypatch, *common, "--seed", str(seed))
        apart += f"--seed {seed}:\n" + capsys.readouterr().out
    assert together == apart
    assert len(set(together.split("--seed"))) == 4


def test_the_score_of_a_text_is_what_validation_says_of_it(tiny, tmp_path, monkeypatch, capsys):
    """A text of thousands of letters is cut into windows, its end is a target: the numbers are a run's own."""
    story = "\n\n".join(fables.fable("a test", index) for index in range(8))
    (tmp_path / "story.txt").write_text(story)
    path = tmp_path / "story.jsonl"
    path.write_text(json.dumps({"text": story}))
    data = DataSection(source=str(path), validation_source=str(path), cache_dir=str(tmp_path))
    prepared = prepare(data, TokenizerSection(kind="pretrained", path=str(tiny)))
    windows = prepared.examples("validation", "packed", 64)
    model, tokenizer = load_model(str(tiny))
    nats = 0.0
    for row in windows:
        ids = torch.as_tensor(row["input_ids"].astype("int64"))[None]
        nats += model(ids, labels=ids).loss.item() * (ids.shape[1] - 1)
    found = score(model, tokenizer, [{"text": story}], "a story")
    assert found["targets"] == windows.targets
    assert found["loss"] == pytest.approx(nats / windows.targets, rel=1e-5)
    assert found["bits_per_byte"] == pytest.approx(nats / math.log(2) / len(story), rel=1e-5)
    run_generate(monkeypatch, str(tiny), "--score", str(tmp_path / "story.txt"))
    said = capsys.readouterr().out
    assert f"{found['loss']:.4f} nats per token, perplexity {math.exp(found['loss']):.2f} (vocabulary of 400)" in said
    assert f"{windows.targets:,} tokens, {len(story):,} bytes" in said


TEXT = "A \u00e9t\u00e9 \x0c day\r\nwith\u2028more\r\n\r\nand <|endoftext|> in it\x85\n"
FILES_OF_TEXT = {
    "plain.txt": TEXT.encode(),
    "a.txt.gz": gzip.compress(TEXT.encode()),
    "no-final-newline.txt": TEXT.rstrip().encode(),
    "byte-order-mark.txt": codecs.BOM_UTF8 + TEXT.encode(),
    "marked.txt": b"One day\r\n<|endoftext|>\r\nLong ago\n<|endoftext|>\n",
    "rows.jsonl": json.dumps({"text": TEXT}).encode() + b"\n\n" + json.dumps({"text": "Once"}).encode() + b"\r\n",
    "rows.jsonl.bz2": bz2.compress(json.dumps({"text": TEXT}).encode()),
    "rows.csv": b'text,more\r\n"A ""day""\r\nwith more",1\r\nOnce,2\r\n',
    "pairs.jsonl": json.dumps({"prompt": "Where? ", "completion": TEXT}).encode(),
}


@pytest.mark.parametrize("name", FILES_OF_TEXT)
@pytest.mark.parametrize("sample_by", [None, "line", "paragraph", "document"])
def test_a_file_is_scored_on_the_ids_that_training_has_of_it(tiny, tmp_path, name, sample_by):
    """Line ends, byte order marks, form feeds, separators of lines and spelt-out special tokens included."""
    (tmp_path / name).write_bytes(FILES_OF_TEXT[name])
    documents = documents_of(tmp_path / name, sample_by)
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    as_trained = "document" if sample_by is None and name != "marked.txt" else sample_by
    data = {"source": str(tmp_path / name), "validation_source": str(tmp_path / name), "sample_by": as_trained}
    data = DataSection(**data, layout="documents", cache_dir=str(tmp_path / "prepared"))
    prepared = prepare(data, TokenizerSection(kind="pretrained", path=str(tiny)))
    examples = prepared.examples("train", "documents", 512)
    found = [document_ids(tokenizer, document) for document in documents]
    assert [ids.tolist() for ids, _ in found] == [example["input_ids"].tolist() for example in examples]
    assert [prompt for _, prompt in found] == [example["prompt_length"] for example in examples]


def test_a_run_cuts_what_it_scores_as_it_was_trained(tiny, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    shutil.copytree(tiny, run, ignore=shutil.ignore_patterns("checkpoint-*"))
    settings = (run / "experiment.yaml").read_text()
    (run / "experiment.yaml").write_text(settings.replace("sample_by: null", "sample_by: line"))
    (tmp_path / "lines.txt").write_bytes(b"Once\r\nLong ago\r\n")
    (tmp_path / "lines.jsonl").write_text('{"text": "Once"}\n{"text": "Long ago"}\n')
    run_generate(monkeypatch, str(run), "--score", str(tmp_path / "lines.txt"), str(tmp_path / "lines.jsonl"))
    first, second = (line.split(": ", 1)[1] for line in capsys.readouterr().out.splitlines())
    assert first == second
    assert first.endswith("12 bytes in 2 documents")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"a\0b", "record 1: a NUL byte at byte 1 of the text; fix it, or give another file"),
        (b"a\xff", "invalid UTF-8"),
        (
            codecs.BOM_UTF16_LE + "a".encode("utf-16-le"),
            "is encoded as UTF-16, by its byte order mark; save it as UTF-8",
        ),
    ],
)
def test_what_training_would_skip_is_not_scored(tmp_path, content, complaint):
    (tmp_path / "text.txt").write_bytes(content)
    with pytest.raises(ConfigError, match=complaint):
        generate.read_documents_to_score([tmp_path / "text.txt"], "runs/none")


def test_completions_alone_are_scored(tiny):
    model, tokenizer = load_model(str(tiny))
    found = score(model, tokenizer, [{"prompt": "Once", "completion": " upon"}], "a pair")
    ids, prompt = document_ids(tokenizer, {"prompt": "Once", "completion": " upon"})
    labels = ids.clone()
    labels[:prompt] = -100
    assert found["targets"] == len(ids) - prompt
    assert found["loss"] == pytest.approx(model(ids[None], labels=labels[None]).loss.item(), rel=1e-5)
    assert "bits_per_byte" not in found


def test_settings_of_generation_change_the_text(tiny):
    model, tokenizer = load_model(str(tiny))

    def text(seed=0, **settings):
        torch.manual_seed(seed)
        return stream(model, tokenizer, "Once", Sampling(max_new_tokens=20, **settings))

    assert text(temperature=0) == text(1, temperature=0) == text(2, temperature=1, top_k=1)
    assert text(3, temperature=2) == text(3, temperature=2) != text(4, temperature=2)
    assert text(5, temperature=1, top_p=1e-6) == text(temperature=0)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nowhere/at-all"], "nowhere/at-all cannot be "),
        (["./nowhere"], "there is no folder"),
        (["RUN", "--file", "missing.txt"], "missing.txt does not exist; give a text file"),
        (["RUN", "--prompt", "word " * 99], "model 64 positions; shorten it"),
        (["RUN", "--temperature", "-1"], "temperature=-1.0 is not 0, which is greedy, nor 0.001 or more"),
        (["RUN", "--temperature", "nan"], "temperature=nan is not 0"),
        (["RUN", "--temperature", "1e400"], "temperature=inf is not 0"),
        (["RUN", "--temperature", "1e-300"], "temperature=1e-300 is not 0"),
        (["RUN", "--seed", "-1"], "seed=-1 with samples=1 is out of range; seeds are at least 0 and below 2^32"),
        (["RUN", "--seed", "4294967296"], "seed=4294967296 with samples=1 is out of range"),
        (["RUN", "--seed", "4294967295", "--samples", "2"], "seed=4294967295 with samples=2 is out of range"),
        (["RUN", "--prompt", "a\udcff"], "the prompt 'a\\udcff' is not UTF-8; give it in a file"),
        (["RUN", "--file", "EMPTY"], "is empty; give some text"),
        (["FOLDER"], "is not a run, checkpoint or Hub id: it has no config.json"),
        (["EMPTY"], "there is no folder"),
        (["not: a name"], "not: a name is not a run, checkpoint or Hub id"),
        (["RUN", "--top-p", "0"], "must be above 0"),
        (["RUN", "--max-new-tokens", "0"], "must be at least 1"),
        (["RUN", "--samples", "0"], "samples=0 must be at least 1"),
        (["RUN", "--score", "."], ". is a folder; give a text file"),
        (["RUN", "--score", "EMPTY"], "is empty; give some text"),
    ],
)
def test_generate_refuses_in_one_sentence(tiny, tmp_path, monkeypatch, arguments, complaint):
    (tmp_path / "empty.txt").touch()
    places = {"RUN": str(tiny), "EMPTY": str(tmp_path / "empty.txt"), "FOLDER": str(tmp_path)}
    with pytest.raises(ConfigError) as error:
        run_generate(monkeypatch, *(places.get(argument, argument) for argument in arguments))
    assert complaint in str(error.value)


def test_a_text_that_may_not_be_read_is_said_to_be(tmp_path, monkeypatch):
    def forbidden(*_, **__):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "text.txt").write_text("a text")
    monkeypatch.setattr(Path, "open", forbidden)  # root may read everything
    with pytest.raises(ConfigError, match=r"text\.txt cannot be read: Permission denied; allow it, or give another"):
        generate.read_documents_to_score([tmp_path / "text.txt"], "runs/none")


def test_prepared_tokens_that_are_none_are_refused_by_id_and_place(tmp_path, monkeypatch, capsys):
    """A shard has rotted: it is as long as before, and its ids are above the vocabulary. Seen by a loader's worker."""
    (tmp_path / "tiny.yaml").write_text(TINY % (tmp_path / "prepared", tmp_path / "run"))
    experiment = load_experiment(str(tmp_path / "tiny.yaml"), [])
    shard = prepare(experiment.data, experiment.tokenizer).folder / "train" / "00000.npy"
    np.load(shard, mmap_mode="r+")[:] = 60_000
    given = ["training.disable_tqdm=true", "training.dataloader_num_workers=1"]
    monkeypatch.setattr(sys, "argv", ["train_lm.py", str(tmp_path / "tiny.yaml"), *given])
    with pytest.raises(SystemExit) as stopped:
        run_script("", train_lm.main)
    *_, sentence = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2
    assert sentence.startswith(
        "train_lm.py: token id 60000 (row 0, position 0 of its batch) is outside the model's vocabulary of 400 tokens;"
    )


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (["training.max_stesp=1"], "did you mean max_steps?"),
        (["training.max_steps=many"], "it takes int"),
        (["model.num_attention_heads=3"], "does not divide hidden_size=32"),
        (["model.vocab_size=300"], "smaller than the tokenizer's 400"),
        (["model.vocab_size=10", "tokenizer.kind=characters"], "smaller than the tokenizer's"),
        (["data.context_length=65"], "longer than model.max_position_embeddings=64"),
        (["data.source=missing.jsonl"], "neither a known source nor an existing file"),
        (["data.source=fabels"], "did you mean fables?"),
        (
            ["data.source=EMPTY"],
            "the only document is held out; give data.validation_documents=null for a tenth in the place of ",
        ),
        (["data.layout=documents"], "raise it and model.max_position_embeddings"),
        (["tokenizer.vocab_size=100"], "must be at least 258"),
        (["data.source=PAIRS"], "use data.layout=documents"),
        ([f"sample.prompt={'word ' * 99}"], "shorten it"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch, capsys, overrides, complaint):
    (tmp_path / "empty.jsonl").write_text('{"text": "only one"}\n')
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 40)
    overrides = [override.replace("EMPTY", str(tmp_path / "empty.jsonl")) for override in overrides]
    overrides = [override.replace("PAIRS", str(tmp_path / "pairs.jsonl")) for override in overrides]
    config = tmp_path / "bad.yaml"
    config.write_text(TINY % (tmp_path / "prepared", tmp_path / "run"))
    monkeypatch.setattr(sys, "argv", ["train_lm.py", str(config), *overrides])
    with pytest.raises(SystemExit) as stop:
        run_script("usage", train_lm.main)
    assert stop.value.code == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("train_lm.py: ")
    assert complaint in error
    assert not (tmp_path / "run").exists()
    assert {path.name for path in (tmp_path / "prepared").glob(".*")} <= {".locks"}
    assert all(any(folder.iterdir()) for folder in (tmp_path / "prepared").glob("[!.]*"))


def train_config(name: str, folder: Path, *overrides: str) -> dict:
    """Run a configuration that comes with the project, from the repository's root as its header says."""
    where = [f"training.output_dir={folder / name}", f"data.cache_dir={folder / 'prepared'}", "training.use_cpu=true"]
    as_announced(folder / name, f"configs/lm/{name}.yaml", [*where, *overrides])
    return json.loads((folder / name / "metrics.json").read_text())


def test_an_end_of_text_stops_unless_ignored(tiny):
    model, tokenizer = load_model(str(tiny))
    with torch.no_grad():  # a model that always ends
        model.lm_head.weight.zero_()
        model.lm_head.weight[tokenizer.eos_token_id] = model.model(torch.tensor([[5]])).last_hidden_state[0, 0]
        model.model.norm = ConstantNorm(model.model(torch.tensor([[5]])).last_hidden_state[0, 0])
    ids = encode_prompt(tokenizer, "Once")
    stopped = model.generate(ids, max_length=40, **Sampling(0).arguments())
    ignored = model.generate(ids, max_length=40, **Sampling(0, stop_at_end=False).arguments())
    assert stopped.shape[1] == ids.shape[1] + 1
    assert ignored.shape[1] == 40


class ConstantNorm(torch.nn.Module):
    """Says the same at every position."""

    def __init__(self, state):
        super().__init__()
        self.state = state

    def forward(self, x):
        return self.state.expand_as(x)


def greedy(run: Path, prompt: str) -> str:
    model, tokenizer = load_model(str(run))
    return stream(model, tokenizer, prompt, Sampling(0))


@pytest.fixture
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.usefixtures("at_root")
def test_one_layer_memorises_a_string(tmp_path):
    train_config("memorize", tmp_path)
    last = [row for row in rows_of(tmp_path / "memorize") if "loss" in row][-1]
    assert last["loss"] < 0.001
    assert greedy(tmp_path / "memorize", "") == "I love machine learning"


@pytest.mark.usefixtures("at_root")
def test_with_the_first_three_masked_it_completes_the_rest(tmp_path):
    assert train_config("memorize_masked", tmp_path)["tokens"] == 150 * 21  # of "I love machine learning" and its end
    run = tmp_path / "memorize_masked"
    assert [row for row in rows_of(run) if "loss" in row][-1]["loss"] < 0.001
    assert greedy(run, "I l") == "I love machine learning"
    tokenizer = AutoTokenizer.from_pretrained(run)
    model = AutoModelForCausalLM.from_pretrained(run)
    log_p = model(tokenizer("I l", return_tensors="pt").input_ids).logits.log_softmax(-1)
    masked = tokenizer("I l", add_special_tokens=False)["input_ids"]
    assert all(log_p[0, t, token] < -2 for t, token in enumerate(masked)), "the masked tokens were learnt"


@pytest.mark.usefixtures("at_root")
def test_nobody_learns_noise(tmp_path):
    metrics = train_config("unlearnable", tmp_path, "training.max_steps=20", "training.eval_steps=20")
    assert metrics["floor_loss"] == pytest.approx(math.log(8), abs=1e-4)
    assert math.log(8) - 3 * metrics["eval_loss_standard_error"] < metrics["eval_loss"] < math.log(8) + 0.1


@pytest.mark.usefixtures("at_root")
def test_prompted_answers_are_learnt(tmp_path):
    train_config(
        "prompted", tmp_path, "training.max_steps=120", "training.eval_steps=120", "training.learning_rate=5e-3"
    )
    answer = greedy(tmp_path / "prompted", "What is the capital of Japan?")
    assert answer == "What is the capital of Japan? Tokyo."
    metrics = json.loads((tmp_path / "prompted" / "metrics.json").read_text())
    assert "eval_bits_per_byte" not in metrics  # nats of completions over bytes of everything would mean nothing


@pytest.mark.slow
@pytest.mark.usefixtures("at_root")
def test_real_stories_train(samples, tmp_path):
    small = ["model.hidden_size=64", "model.num_hidden_layers=1", "model.num_attention_heads=4"]
    small += ["model.intermediate_size=null", "tokenizer.vocab_size=1000", "tokenizer.train_documents=500"]
    small += ["data.train_documents=200", "data.validation_documents=20", "training.max_steps=15"]
    small += ["training.per_device_train_batch_size=8", "training.learning_rate=1e-2", "training.bf16=false"]
    metrics = train_config("tinystories", tmp_path, f"data.source={samples / 'tinystories'}", *small)
    assert metrics["eval_loss"] < math.log(1000) - 0.5
    assert metrics["floor_loss"] is None
