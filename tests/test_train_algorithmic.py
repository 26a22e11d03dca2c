"""`train_algorithmic.py` end to end: what a user types, what it leaves behind, and that it really learns arithmetic."""

import json
import re
import shlex
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

import generate
import train_algorithmic
from command_line.run import run_script
from experiments.cells import Cell
from experiments.runs import read_runs
from settings.checks import ConfigError
from settings.experiment import AlgorithmicExperiment
from settings.loading import load_experiment
from settings.paths import ROOT

TINY = """
model: {type: kindling_gpt, hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2}
data: {operation: divide, modulus: 7, train_fraction: 0.5, validation_fraction: 0.2}
training: {output_dir: %s, per_device_train_batch_size: 8, max_steps: 12, use_cpu: true, bf16: false, seed: 3}
"""
MODEL_FILES = {
    "README.md", "config.json", "curves.png", "experiment.yaml", "generation_config.json", "metrics.json",
    "metrics.jsonl", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    "accounting.py", "attention.py", "configuration_kindling.py", "generation.py", "layers.py", "loading.py",
    "modeling_kindling.py", "releases.py",
}  # fmt: skip


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    """Train the tiny experiment into `name` below a shared folder and return the run folder."""
    here = tmp_path_factory.mktemp("algorithmic")

    def train(name: str, *overrides: str) -> Path:
        path = here / f"{name}.yaml"
        path.write_text(TINY % (here / name))
        train_algorithmic.main(str(path), list(overrides))
        return here / name

    train.here = here
    return train


def explained(folder: Path) -> list[str]:
    """The files of a run folder that its README names, each by one line."""
    named = re.findall(r"^\| `([^`]+)` \|", (folder / "README.md").read_text().partition("## Files")[2], re.M)
    return sorted(path.name for name in named for path in folder.glob(name))


@pytest.fixture(scope="module")
def single(workshop):
    return workshop("single", "--write-data")


@pytest.fixture(scope="module")
def several(workshop):
    return workshop("several", "replicas.training.seed=[3,4]", "replicas.training.weight_decay=[0.5,1]")


@pytest.mark.parametrize("seeds", [(), (3, 4)])
def test_a_report_knows_where_a_run_has_diverged(workshop, seeds):
    """All replicas of it, with the evaluations up to there."""
    given = ["training.learning_rate=1e38", "training.max_grad_norm=0", "training.warmup_steps=0"]
    given += [f"replicas.training.seed={list(seeds)}"] if seeds else []
    with pytest.raises(SystemExit, match="the last 3 steps were skipped"):
        workshop(f"diverged-{len(seeds)}", *given)
    folder = workshop.here / f"diverged-{len(seeds)}"
    found = read_runs(Cell("diverged", {"cell": "diverged"}, "", {}, folder))
    assert [run.axes.get("seed") for run in found] == [*seeds] or [None]
    (step,) = {run.diverged for run in found}
    first = [json.loads(line)["step"] for line in (folder / "skipped.jsonl").read_text().splitlines()][-3]
    assert step == first
    assert all({row["step"] for row in run.evaluations} == {*range(1, step + 2)} for run in found)


def test_a_run_is_itself_the_model(single):
    assert {path.name for path in single.iterdir()} == MODEL_FILES | {"provenance.json", "data"}
    metrics = json.loads((single / "metrics.json").read_text())
    rows = [json.loads(line) for line in (single / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "test_accuracy" in row]
    assert rows[-1]["step"] == metrics["steps"] == 12
    assert {key: rows[-1][key] for key in ("train_loss", "validation_accuracy", "test_accuracy")} == {
        key: metrics[key] for key in ("train_loss", "validation_accuracy", "test_accuracy")
    }
    assert metrics["tokens"] == 12 * 8
    assert (single / "curves.png").read_bytes().startswith(b"\x89PNG")
    card = (single / "README.md").read_text()
    assert "divide modulo 7" in card
    assert "{" not in card.split("```")[0]
    assert explained(single) == sorted(path.name for path in single.iterdir())


def test_a_run_is_called_after_its_folder(workshop, capsys, monkeypatch):
    """In its table, its card and the command that it ends with, which answers the prompt it names."""
    run = workshop("of a config", f"training.output_dir={workshop.here / 'minus it'}").parent / "minus it"
    told = capsys.readouterr().out
    assert "\nminus it  " in told
    assert "of a config" not in told
    assert "\n# minus it\n" in (run / "README.md").read_text()
    words = shlex.split(told.rstrip("\n").rpartition("\n")[2].removeprefix("prompt it   "))
    monkeypatch.setattr(sys, "argv", words[1:])
    generate.main(generate.parse_arguments())
    assert capsys.readouterr().out.startswith(words[words.index("--prompt") + 1])


def test_replicas_are_models_of_their_own(several, single):
    names = ["seed=3,weight_decay=0.5", "seed=3,weight_decay=1.0", "seed=4,weight_decay=0.5", "seed=4,weight_decay=1.0"]
    assert json.loads((several / "metrics.json").read_text())["replicas"] == names
    assert explained(several) == sorted(path.name for path in several.iterdir())
    losses = set()
    for name in names:
        assert {path.name for path in (several / name).iterdir()} == MODEL_FILES | {"provenance.json"}
        assert explained(several / name) == sorted(path.name for path in (several / name).iterdir())
        AutoModelForCausalLM.from_pretrained(several / name)
        losses.add(json.loads((several / name / "metrics.json").read_text())["train_loss"])
    assert len(losses) == 4
    rows = [json.loads(line) for line in (several / names[1] / "metrics.jsonl").read_text().splitlines()]
    alone = json.loads((single / "metrics.json").read_text())
    same = json.loads((several / names[1] / "metrics.json").read_text())
    assert same["train_loss"] == pytest.approx(alone["train_loss"], rel=1e-5)
    assert same["tokens"] == alone["tokens"] == rows[-1]["tokens"]
    assert same["total_flos"] == alone["total_flos"] == rows[-1]["total_flos"]
    assert "12 of 8 equations" in (several / names[1] / "README.md").read_text()


def test_a_replicas_settings_run_it_alone(several, tmp_path):
    folder = several / "seed=4,weight_decay=0.5"
    train_algorithmic.main(str(folder / "experiment.yaml"), [f"training.output_dir={tmp_path / 'again'}"])
    metrics, again = (json.loads((path / "metrics.json").read_text()) for path in (folder, tmp_path / "again"))
    assert again["train_loss"] == pytest.approx(metrics["train_loss"], rel=1e-5)


def test_written_data_are_the_equations_of_the_run(single):
    counts = {split: len((single / "data" / f"{split}.jsonl").read_text().splitlines()) for split in ("train", "test")}
    assert counts == {"train": 21, "test": 13}
    assert json.loads((single / "data" / "train.jsonl").read_text().splitlines()[0]).keys() == {"prompt", "completion"}


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (["data.operation=divid"], "divide"),
        (["data.modulus=12"], "prime"),
        (["data.train_fraction=1.5"], "train_fraction"),
        (["data.train_fraction=0.9", "data.validation_fraction=0.2"], "sum of both below 1"),
        (["training.gradient_accumulation_steps=2"], "leave it out"),
        (["training.max_steps=0"], "give the number of steps"),
        (["guard.loss_spike=6.0", "replicas.training.seed=[0,1]"], "is not supported with replicas"),
        (["training.optim=sgd"], "optimizer.kind is adamw or muon"),
        (["optimizer.kind=lion"], "it takes adamw|muon"),
        (["optimizer.muon_momentum=1.0"], "below 1"),
        (["replicas.training.seed=3"], "not a list of distinct values"),
        (["replicas.training.seed=[1,1]"], "not a list of distinct values"),
        (["replicas.training.max_steps=[1,2]"], "replicas can differ in"),
        (["replicas.data.operation=[add]"], "replicas can differ in"),
        (["replicas.training.seed=[a]"], "it takes int"),
        (["evaluation.evals_per_decade=0"], "at least 1"),
        (["sample.prompt=x"], "is not a section of train_algorithmic.py"),
        (["model.max_position_embeddings=4"], "too small for equations of 5 tokens"),
        (["training.push_to_hub=true"], "publishing"),
        (["training.num_train_epochs=3"], "training.max_steps sets the length"),
        (["training.load_best_model_at_end=true"], "leave it out"),
        (["training.save_strategy=best"], "the last model is kept"),
        (["training.metric_for_best_model=loss"], "the last model is kept"),
        (
            ["training.lr_scheduler_type=cosine", "training.lr_scheduler_kwargs={power: 2}"],
            "kwargs that it has, or null",
        ),
        (["training.lr_scheduler_type=polynomial", "training.learning_rate=0"], "does not work with training.learning"),
        (["training.lr_scheduler_type=cosine_with_min_lr"], "lr_scheduler_type=cosine_with_min_lr does not work"),
        (["training.seed=-1"], "below 2^32"),
        (["training.weight_decay=-1"], "must be at least 0"),
        (["training.adam_beta2=1.5"], "out of range"),
        (["replicas.training.weight_decay=[1,1.0]"], "not a list of distinct values"),
        (["data.modulus=9973"], "it must be at most 2236"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch, capsys, overrides, complaint):
    path = tmp_path / "bad.yaml"
    path.write_text(TINY % (tmp_path / "run"))
    monkeypatch.setattr(sys, "argv", ["train_algorithmic.py", str(path), *overrides])
    with pytest.raises(SystemExit) as exit_:
        run_script(train_algorithmic.__doc__, train_algorithmic.main, AlgorithmicExperiment)
    assert exit_.value.code == 2
    told = capsys.readouterr().err
    assert complaint in told
    assert told.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_written_over(single):
    with pytest.raises(ConfigError, match="holds a run already"):
        train_algorithmic.main(str(single.parent / "single.yaml"), [])
    with pytest.raises(ConfigError, match="is finished and has no checkpoint to resume from"):
        train_algorithmic.main(
            str(single.parent / "single.yaml"), ["training.resume_from_checkpoint=true", "resume.extend=true"]
        )


def test_a_schedule_with_a_floor(workshop):
    floor = ["training.lr_scheduler_type=cosine_with_min_lr", "training.lr_scheduler_kwargs={min_lr: 1e-5}"]
    run = workshop("floor", *floor, "training.logging_strategy=steps", "training.logging_steps=4")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [4, 8, 12]  # what was logged is kept
    assert rows[-1].get("learning_rate", 1e-5) >= 1e-5


def test_replicas_have_no_model_of_their_own(several):
    from training.reporting.generation import load_model

    with pytest.raises(ConfigError, match=r"no model of its own; give one of the folders in it, such as .*seed=3"):
        load_model(str(several))


def test_names_of_the_optimiser_that_is_used_are_taken(tmp_path):
    """Another name is refused: the optimiser would not be the one that was asked for."""
    from training.preflight.arguments import training_arguments

    def asked(*overrides):
        path = str(ROOT / "configs" / "algorithmic" / "fast.yaml")
        overrides = [f"training.output_dir={tmp_path}", "training.use_cpu=true", *overrides]
        return training_arguments(load_experiment(path, overrides, AlgorithmicExperiment))

    plain = asked()
    for override in ("optim=adamw_torch", "optim=adamw_torch_fused"):
        assert asked(f"training.{override}").optim == plain.optim
    for override in ("optim=sgd", "optim=adafactor"):
        with pytest.raises(ConfigError, match=f"training.{override} is not supported"):
            asked(f"training.{override}")


def test_of_an_interrupted_run_the_newest_checkpoint_is_named(tmp_path, monkeypatch):
    """By whatever takes a model or a tokenizer, before the Hub is asked or a weight read."""
    from modeling import native
    from storage.hub import check_model_path
    from training.reporting.generation import load_model

    for name in ("checkpoint-9", "checkpoint-10", "another"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    (tmp_path / "provenance.json").write_text("{}")
    monkeypatch.setattr("sys.argv", ["native.py", str(tmp_path), str(tmp_path / "out")])
    for read in (lambda: load_model(str(tmp_path)), lambda: check_model_path(str(tmp_path)), native.main):
        with pytest.raises(ConfigError, match=r"give one of the folders in it, such as .*checkpoint-10$"):
            read()
    assert not (tmp_path / "out").exists()
    (tmp_path / "tokenizer.json").write_text("{}")
    assert check_model_path(str(tmp_path)) == str(tmp_path)


@pytest.fixture(scope="module")
def adder(tmp_path_factory):
    """One layer, addition modulo 97 from 70 % of the equations, 400 steps."""
    folder = tmp_path_factory.mktemp("adder") / "run"
    config = ROOT / "configs" / "algorithmic" / "addition.yaml"
    train_algorithmic.main(str(config), [f"training.output_dir={folder}", "evaluation.evals_per_decade=10"])
    return folder


def test_one_layer_learns_addition_in_400_steps(adder):
    metrics = json.loads((adder / "metrics.json").read_text())
    assert metrics["steps"] == 400
    assert metrics["test_accuracy"] == metrics["validation_accuracy"] == 1
    assert metrics["steps_to_grok"] <= 300


def test_a_grokked_model_answers_prompts(adder, monkeypatch, capsys):
    test = AutoTokenizer.from_pretrained(adder)
    assert test("91 + 7 =")["input_ids"] == test("91+7=")["input_ids"]
    monkeypatch.setattr(sys, "argv", ["generate.py", str(adder), "--prompt", "91 + 7 =", "91+8=", "--temperature", "0"])
    generate.main(generate.parse_arguments())
    assert capsys.readouterr().out.split("\n")[:2] == ["91 + 7 = 1", "91 + 8 = 2"]
    tell = pipeline("text-generation", model=str(adder))
    assert tell("50 + 50 =")[0]["generated_text"] == "50 + 50 =3"  # the pipeline joins prompt and answer as they are


def test_a_prompt_beyond_the_vocabulary_is_refused(adder):
    from training.reporting.generation import load_model, stream
    from training.reporting.prompting import Sampling

    model, tokenizer = load_model(str(adder))
    with pytest.raises(ConfigError, match="98"):
        stream(model, tokenizer, "98 + 7 =", Sampling(0))


@pytest.mark.parametrize("option", ["--prompt", "--file", "--score"])
def test_one_bad_prompt_of_several_is_refused_before_any_is_answered(adder, tmp_path, monkeypatch, capsys, option):
    good, bad = "91 + 7 = 1", "98 + 7 = 8"
    for name, text in (("good", good), ("bad", bad), ("both", "91 + 7 =\n98 + 7 =\n")):
        (tmp_path / f"{name}.txt").write_text(text)
    given = {
        "--prompt": ["91 + 7 =", "98 + 7 ="],
        "--file": [str(tmp_path / "both.txt")],
        "--score": [str(tmp_path / "good.txt"), str(tmp_path / "bad.txt")],
    }
    monkeypatch.setattr(sys, "argv", ["generate.py", str(adder), option, *given[option]])
    with pytest.raises(ConfigError, match="has text that the tokenizer cannot encode"):
        generate.main(generate.parse_arguments())
    assert capsys.readouterr().out == ""
