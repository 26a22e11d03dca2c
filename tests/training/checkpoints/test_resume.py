"""A run goes on as the run that it was: what is otherwise is named and refused, or allowed, and then takes effect."""

import json
import os
import re
import shutil
import signal

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainingArguments

import train_algorithmic
import train_lm
from data_prep.tokens import prepare as prepare_module
from settings.checks import ConfigError
from settings.loading import load_experiment
from settings.schema import KINDS
from storage.checkpoint_manifest import write_manifest
from tests.training.checkpoints.test_store import in_a_child
from training.checkpoints import resume
from training.checkpoints.state import read_state_of
from training.grokking import callbacks, trainer
from training.preflight import arguments as arguments_module
from training.preflight.schedule import schedule
from training.trainer import KindlingTrainer

LM = """
model: {hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, max_position_embeddings: 32, hidden_dropout: 0.1}
tokenizer: {vocab_size: 300, train_documents: 20}
data: {source: %s, validation_documents: 5, cache_dir: %s}
training: {max_steps: 10, save_steps: 5, logging_steps: 1, eval_steps: 5, per_device_train_batch_size: 4, use_cpu: true,
           bf16: false}
sample: {max_new_tokens: 4}
"""
EQUATIONS = """
data: {modulus: 5}
model: {hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1}
training: {max_steps: 10, save_strategy: steps, save_steps: 5, save_total_limit: 2, use_cpu: true, bf16: false}
"""
GO_ON = "training.resume_from_checkpoint=true"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with two experiments, and the text that one of them reads."""
    here = tmp_path_factory.mktemp("resume")
    lines = (f"In the year {number} the river rose, and nobody was surprised." for number in range(200))
    (here / "text.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    (here / "lm.yaml").write_text(LM % (here / "text.jsonl", here / "prepared"))
    (here / "equations.yaml").write_text(EQUATIONS)
    return here


def run(script, place, name, *overrides):
    kind = "lm" if script is train_lm else "equations"
    script.main(str(place / f"{kind}.yaml"), [f"training.output_dir={place / name}", *overrides])
    return place / name


@pytest.fixture(scope="module")
def runs(place):
    """Both runs, finished, with a checkpoint half-way."""
    return {script: run(script, place, script.__name__) for script in (train_lm, train_algorithmic)}


@pytest.fixture
def half(place, runs, request):
    """A new copy of a run as it was half-way, by its script and the copy's name."""

    def copy(script, finished=False):
        name = f"{request.node.name}-{script.__name__}"
        folder = shutil.copytree(runs[script], place / name)
        if not finished:
            shutil.rmtree(folder / "checkpoint-10", ignore_errors=True)
            (folder / "metrics.json").unlink()
        return name

    return copy


def rows(folder, key):
    history = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return {row["step"]: row[key] for row in history if key in row}


# ---- from where


LOGS = ("training.logging_strategy=steps", "training.logging_steps=4", "training.logging_first_step=true")


@pytest.mark.parametrize("script", [train_lm, train_algorithmic])
def test_losses_are_those_of_the_whole_run(place, script):
    """To the bit, also where a checkpoint lies between two logs."""
    more = [*LOGS, "replicas.training.seed=[0,1]"] if script is train_algorithmic else LOGS
    whole = run(script, place, f"losses-{script.__name__}", *more)
    copy = shutil.copytree(whole, place / f"losses-half-{script.__name__}")
    shutil.rmtree(copy / "checkpoint-10", ignore_errors=True)
    (copy / "metrics.json").unlink()
    run(script, place, copy.name, *more, GO_ON)
    histories = [
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()] for folder in (whole, copy)
    ]
    found = [[(row.get("step"), row.get("loss"), row.get("train_loss")) for row in rows] for rows in histories]
    assert found[1] == found[0]
    losses = {row["step"]: row["loss"] for row in histories[0] if "loss" in row}
    assert sorted(losses) == [1, 4, 8]
    (end,) = [row for row in histories[1] if "train_runtime" in row]
    assert (losses[1] + 3 * losses[4] + 4 * losses[8]) / 10 < end["train_loss"] < max(losses.values())


def test_a_folder_with_a_run_is_not_written_into(place, tmp_path):
    def found(*overrides):
        overrides = [f"training.output_dir={tmp_path / 'run'}", *overrides]
        return resume.checkpoint_to_resume(load_experiment(str(place / "lm.yaml"), overrides))

    assert found() is None
    (tmp_path / "run").mkdir()
    assert found() is None
    (tmp_path / "run" / "curves.png").write_text("")
    with pytest.raises(ConfigError, match="holds a run already"):
        found()
    assert found(GO_ON) is None
    for step in (7, 12):
        (tmp_path / "run" / f"checkpoint-{step}").mkdir()
        (tmp_path / "run" / f"checkpoint-{step}" / "model.safetensors").write_text("{}")
    write_manifest(tmp_path / "run" / "checkpoint-7")
    assert found(GO_ON) == str(tmp_path / "run" / "checkpoint-7")
    with pytest.raises(ConfigError, match="is not a folder"):
        found("training.resume_from_checkpoint=/nowhere")


# ---- as what it was


@pytest.mark.parametrize("script", [train_lm, train_algorithmic])
def test_the_precision_is_the_checkpoints_on_other_hardware(place, runs, script, monkeypatch):
    """Unless one is given, which is compared as any other setting."""
    monkeypatch.setattr(arguments_module, "has_bf16", lambda _use_cpu: True)
    kind = KINDS[f"{script.__name__}.py"]

    def chosen(checkpoint, **given):
        experiment = load_experiment(str(place / f"{'lm' if script is train_lm else 'equations'}.yaml"), [], kind)
        del experiment.training["bf16"]
        experiment.training.update(given)
        arguments_module.keep_precision(experiment.training, checkpoint)
        return arguments_module.training_arguments(experiment).bf16

    assert chosen(None)
    assert not chosen(str(runs[script] / "checkpoint-5"))
    assert chosen(str(runs[script] / "checkpoint-5"), bf16=True)


@pytest.mark.parametrize(
    ("script", "change", "was", "allowed"),
    [
        (train_lm, "model.num_attention_heads=4", "2", False),
        (train_lm, "model.num_key_value_heads=1", "2", False),
        (train_lm, "model.rope_theta=5000", "10000.0", False),
        (train_lm, "model.hidden_dropout=0.3", "0.1", True),
        (train_lm, "tokenizer.vocab_size=280", "300", False),
        (train_lm, "data.layout=documents", "packed", False),
        (train_lm, "data.validation_documents=7", "5", False),
        (train_lm, "optimizer.kind=muon", "adamw", False),
        (train_lm, "optimizer.decay_embeddings=false", "True", False),
        (train_lm, "guard.loss_spike=6.0", "None", True),
        (train_lm, "training.learning_rate=0.5", "0.001", True),
        (train_lm, "training.adam_beta2=0.9", "0.95", True),
        (train_lm, "training.lr_scheduler_type=linear", "cosine", True),
        (train_lm, "training.bf16=true", "False", True),
        (train_lm, "training.seed=3", "42", False),
        (train_lm, "training.metric_for_best_model=perplexity", "None", False),
        (train_algorithmic, "replicas.training.seed=[0,1]", "{}", False),
        (train_algorithmic, "data.operation=add", "divide", False),
        (train_algorithmic, "model.num_hidden_layers=2", "1", False),
        (train_algorithmic, "training.weight_decay=0.5", "1.0", True),
    ],
)
def test_what_is_otherwise_is_named_with_both_values(place, half, script, change, was, allowed):
    name, folder = half(script), None
    folder = place / name
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with pytest.raises(ConfigError) as error:
        run(script, place, name, GO_ON, change)
    setting, _, value = change.partition("=")
    if setting.startswith("replicas"):  # which are one setting
        setting, value = "replicas", "{'training': {'seed': [0, 1]}}"
    value = {"true": "True", "false": "False"}.get(value, value)
    said = str(error.value)
    assert f"checkpoint-5 was trained with {setting}={was} and is resumed with {value}" in said
    assert (f"or with resume.allow=[{setting}]" in said) == allowed
    assert "\n" not in said
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.parametrize(
    ("change", "now", "accumulation"),
    [("training.per_device_train_batch_size=2", 2, 2), ("training.gradient_accumulation_steps=2", 8, 1)],
)
def test_another_batch_is_named_and_allowed(place, half, change, now, accumulation, capsys):
    name = half(train_lm)
    said = (
        f"with batch=4 and is resumed with {now}; give training.gradient_accumulation_steps={accumulation}, or with "
        "resume.allow=[batch], or choose another training.output_dir"
    )
    with pytest.raises(ConfigError, match=re.escape(said)):
        run(train_lm, place, name, GO_ON, change)
    folder = run(train_lm, place, name, GO_ON, change, "resume.allow=[batch]")
    assert f"            batch={now} from now on, 4 before\n" in capsys.readouterr().out
    tokens = rows(folder, "tokens")
    assert [tokens[step] - tokens[step - 1] for step in (5, 6, 10)] == [4 * 31, now * 31, now * 31]


def test_a_batch_can_be_shared_out_in_another_way(place, half, capsys):
    """Which is told, and changes nothing but rounding, dropout included."""
    name = half(train_lm)
    halves = ("training.per_device_train_batch_size=2", "training.gradient_accumulation_steps=2")
    whole, parts = ((), halves)
    ends = []
    for given in (whole, parts):
        copy = shutil.copytree(place / name, place / f"{name}-{len(given)}").name
        folder = run(train_lm, place, copy, GO_ON, *given)
        ends.append(load_file(folder / "model.safetensors"))
    assert "training.gradient_accumulation_steps=2 from now on, 1 before" in capsys.readouterr().out
    for key, weight in ends[0].items():
        torch.testing.assert_close(ends[1][key], weight, rtol=0, atol=1e-5)


@pytest.mark.parametrize("is_prepared", [True, False])
def test_other_text_in_the_same_file_is_refused(place, half, is_prepared):
    """As long as it was, written when it was, by name; nothing is prepared."""
    file, name = place / "text.jsonl", half(train_lm)
    text, known = file.read_text(), file.stat()
    file.write_text(text.replace("year 150 the river", "year 150 the raver"))
    os.utime(file, ns=(known.st_atime_ns, known.st_mtime_ns))
    cache = place / "prepared" if is_prepared else place / f"{name}-cache"
    before = {path: path.stat().st_mtime_ns for path in (place / name).rglob("*")}
    with pytest.raises(ConfigError, match=rf"than {file.name} holds now: {file} has changed; restore it"):
        run(train_lm, place, name, GO_ON, f"data.cache_dir={cache}")
    assert {path: path.stat().st_mtime_ns for path in (place / name).rglob("*")} == before
    assert not (place / f"{name}-cache").exists()
    file.write_text(text)


@pytest.mark.parametrize("change", ["touched", "copied", "renamed", "cut in two", "prepared", "prepared and renamed"])
def test_the_same_text_is_gone_on_with_wherever_it_lies(place, runs, half, tmp_path, change, capsys):
    """And whenever it was written; tokens that are there are used."""
    name, file, cache = half(train_lm), place / "text.jsonl", place / "prepared"
    prepared = {path.name for path in cache.iterdir()}
    (folder,) = (path for path in cache.iterdir() if (path / "manifest.json").exists())
    given = []
    if change == "touched":
        os.utime(file)
    elif change == "cut in two":  # other files, from which the same tokens are made
        lines = file.read_text().splitlines(keepends=True)
        (tmp_path / "1.jsonl").write_text("".join(lines[:50]))
        (tmp_path / "2.jsonl").write_text("".join(lines[50:]))
        prepare = load_experiment(str(place / "lm.yaml"), [f"data.source={tmp_path}", f"data.cache_dir={tmp_path}/c"])
        given = [f"data.source={prepare_module.prepare(prepare.data, prepare.tokenizer).folder}"]
    elif change.startswith("prepared"):
        source = folder if change == "prepared" else shutil.copytree(folder, tmp_path / "elsewhere")
        given = [f"data.source={source}"]
    else:
        (tmp_path / "far").mkdir()
        copy = shutil.copy(file, tmp_path / "far" / ("text.jsonl" if change == "copied" else "book.jsonl"))
        given = [f"data.source={copy}"]
    run(train_lm, place, name, GO_ON, *given)
    assert (place / name / "model.safetensors").read_bytes() == (runs[train_lm] / "model.safetensors").read_bytes()
    assert {path.name for path in cache.iterdir()} == prepared
    if given:
        assert f"            {given[0]} from now on, {file} before\n" in capsys.readouterr().out


def test_a_prepared_folder_of_other_tokens_is_refused_by_what_it_was_made_with(place, half, tmp_path):
    other = load_experiment(str(place / "lm.yaml"), ["data.validation_documents=7", f"data.cache_dir={tmp_path}"])
    folder = prepare_module.prepare(other.data, other.tokenizer).folder
    given = ("data.validation_documents=7", f"data.source={folder}")
    with pytest.raises(
        ConfigError, match=r"with data.validation_documents=5 and is resumed with 7; resume it unchanged"
    ):
        run(train_lm, place, half(train_lm), GO_ON, *given)


def test_a_run_of_the_former_version_goes_on_with_its_prepared_folder(place, runs, half, tmp_path):
    """Whose name its checkpoints have in the place of what they were trained on."""
    name = half(train_lm)
    path = place / name / "checkpoint-5" / "trainer_state.json"
    state = json.loads(path.read_text())
    folder = state["stateful_callbacks"]["RunFingerprint"]["attributes"].pop("data")["folder"]
    state["stateful_callbacks"]["DataPosition"]["attributes"]["data"] = folder
    state["stateful_callbacks"]["Contract"] = state["stateful_callbacks"].pop("RunFingerprint")  # its former name
    path.write_text(json.dumps(state))
    write_manifest(path.parent)
    other = shutil.copytree(place / "prepared" / folder, tmp_path / "another")
    with pytest.raises(ConfigError, match=rf"trained on different data than another holds now \({folder}, not"):
        run(train_lm, place, name, GO_ON, f"data.source={other}")
    run(train_lm, place, name, GO_ON, f"data.source={place / 'prepared' / folder}")
    saved = read_state_of(str(place / name / "checkpoint-10")).stateful_callbacks
    assert "RunFingerprint" in saved
    assert "Contract" not in saved
    assert (place / name / "model.safetensors").read_bytes() == (runs[train_lm] / "model.safetensors").read_bytes()


def test_an_operation_is_what_it_answers(place, tmp_path):
    """Wherever its file lies, and whatever else stands there."""
    code = "def twice(a, b):\n    return (a + 2 * b) % 5\n"
    (tmp_path / "mine.py").write_text(code)
    name = run(train_algorithmic, place, "own", f"data.operation={tmp_path / 'mine.py'}:twice").name
    weights = (place / name / "model.safetensors").read_bytes()

    def goes_on(written):
        shutil.rmtree(place / name / "checkpoint-10", ignore_errors=True)
        (place / name / "metrics.json").unlink(missing_ok=True)
        (tmp_path / "moved.py").write_text(written)
        run(train_algorithmic, place, name, GO_ON, f"data.operation={tmp_path / 'moved.py'}:twice")
        return (place / name / "model.safetensors").read_bytes() == weights

    assert goes_on(f"# moved\n{code}")
    with pytest.raises(
        ConfigError, match=r"was trained with data.operation=\S+mine.py:twice and is resumed with \S+mov"
    ):
        goes_on(code.replace("2", "3"))


@pytest.mark.parametrize(
    ("name", "what"),
    [
        *((name, "which a resumed run must keep") for name in ("model.hidden_size", "data.seed")),
        *((f"training.{name}", "which a resumed run must keep") for name in ("max_steps", "seed", "optim")),
        *((name, "which is not a setting") for name in ("learning_rate", "training.lerning_rate", "guard.x")),
    ],
)
def test_what_a_run_cannot_do_without_is_not_allowed(place, half, name, what):
    with pytest.raises(ConfigError, match=rf"resume.allow=\['{name}'\] has {name}, {what}"):
        run(train_lm, place, half(train_lm), GO_ON, f"resume.allow=[{name}]")


def test_what_is_allowed_takes_effect(place, runs, half, capsys):
    """Of a state that has the former numbers in it."""
    name = half(train_lm)
    allow = "resume.allow=[training.learning_rate,training.weight_decay,training.adam_beta2]"
    given = ["training.learning_rate=0.0005", "training.weight_decay=0.0", "training.adam_beta2=0.9"]
    folder = run(train_lm, place, name, GO_ON, allow, *given)
    said = capsys.readouterr().out
    assert f"resumed     from {folder / 'checkpoint-5'}\n" in said
    assert "            training.learning_rate=0.0005 from now on, 0.001 before\n" in said
    before, after = rows(runs[train_lm], "learning_rate"), rows(folder, "learning_rate")
    assert [after[step] for step in range(1, 6)] == [before[step] for step in range(1, 6)]
    assert [after[step] for step in range(6, 11)] == pytest.approx([before[step] / 2 for step in range(6, 11)])
    groups = json.dumps(read_state_of(str(folder / "checkpoint-10")).stateful_callbacks["RunFingerprint"])
    assert '"training.weight_decay": 0.0' in groups
    state = folder / "checkpoint-10" / "optimizer.safetensors"
    assert b'[\\"weight_decay\\", 0.0]' in state.read_bytes()
    assert b"0.95]" not in state.read_bytes()


def test_other_intervals_need_no_leave(place, runs, half):
    """And are those of the run from now on; weights come out the same."""
    name = half(train_lm)
    folder = run(
        train_lm, place, name, GO_ON, "training.save_steps=2", "training.eval_steps=3", "training.logging_steps=2"
    )
    assert sorted(rows(folder, "eval_loss")) == [5, 6, 9, 10]
    assert {path.name for path in folder.glob("checkpoint-*")} == {"checkpoint-8", "checkpoint-10"}
    ones, others = (load_file(one / "model.safetensors") for one in (folder, runs[train_lm]))
    assert all(ones[name].equal(others[name]) for name in ones)


def test_a_checkpoint_of_another_run_is_not_gone_on_with_among_this_ones(place, runs, half):
    """Nor one that later ones came from; in a folder of its own it is."""
    name, other = half(train_lm, finished=True), runs[train_lm]
    for given, said in (
        (other / "checkpoint-5", "holds a run already, not"),
        (place / name / "checkpoint-5", "has later checkpoints than checkpoint-5: checkpoint-10; move them away"),
    ):
        with pytest.raises(ConfigError, match=said):
            run(train_lm, place, name, f"training.resume_from_checkpoint={given}")
    folder = run(train_lm, place, f"{name}-new", f"training.resume_from_checkpoint={other / 'checkpoint-5'}")
    assert (folder / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()


@pytest.mark.parametrize("given", ["the same", "true", "moved"])
def test_in_a_new_folder_it_goes_on_from_where_it_came_also_if_killed_before_its_first_save(place, runs, given):
    name, origin = f"killed-early-{given[:3]}", runs[train_lm] / "checkpoint-5"
    folder = run(train_lm, place, name, f"training.resume_from_checkpoint={origin}")
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in ("provenance.json", "experiment.yaml", "metrics.jsonl", "samples.jsonl"):
            path.unlink()
    if given == "moved":  # both of them
        about = (folder / "provenance.json").read_text()
        (folder / "provenance.json").write_text(about.replace(f'"{place.resolve()}/', '"/gone/'))
    run(train_lm, place, name, f"training.resume_from_checkpoint={origin if given == 'the same' else 'true'}")
    assert (folder / "model.safetensors").read_bytes() == (runs[train_lm] / "model.safetensors").read_bytes()
    for path in folder.glob("checkpoint-*"):
        shutil.rmtree(path)
    (folder / "metrics.json").unlink()
    about = json.loads((folder / "provenance.json").read_text())
    (folder / "provenance.json").write_text(json.dumps(about | {"resumed_from": "/gone/checkpoint-5"}))
    with pytest.raises(
        ConfigError, match=r"was resumed from /gone/checkpoint-5, which is damaged \(checkpoint.json is miss"
    ):
        run(train_lm, place, name, GO_ON)


def test_a_checkpoint_of_the_model_alone_is_not_gone_on_from(place, runs):
    folder = run(train_lm, place, "alone", "training.save_only_model=true")
    assert (folder / "model.safetensors").read_bytes() == (runs[train_lm] / "model.safetensors").read_bytes()
    with pytest.raises(SystemExit) as end:  # finished
        run(train_lm, place, "alone", "training.save_only_model=true", GO_ON)
    assert end.value.code == 0
    shutil.rmtree(folder / "checkpoint-10")
    (folder / "metrics.json").unlink()
    with pytest.raises(ConfigError, match=r"checkpoint-5 holds only the model, .* and cannot be resumed"):
        run(train_lm, place, "alone", "training.save_only_model=true", GO_ON)


def test_a_rate_that_waits_for_a_metric_is_not_another(place, half):
    waiting = ("training.lr_scheduler_type=reduce_lr_on_plateau", "training.metric_for_best_model=loss")
    with pytest.raises(ConfigError, match="reduce_lr_on_plateau lowers the rate by itself"):
        run(train_lm, place, half(train_lm), GO_ON, *waiting, "resume.allow=[training.learning_rate]")


# ---- how much further


def test_more_steps_are_a_wish_of_their_own(place, half, capsys):
    name = half(train_lm, finished=True)
    with pytest.raises(
        ConfigError, match=r"to end at training.max_steps=10 and is resumed with 16; .* resume.extend=true"
    ):
        run(train_lm, place, name, GO_ON, "training.max_steps=16")
    folder = run(train_lm, place, name, GO_ON, "training.max_steps=16", "resume.extend=true")
    args = TrainingArguments(output_dir=str(place), learning_rate=1e-3, lr_scheduler_type="cosine", warmup_steps=0.05)
    rates = [1e-3 * schedule(args, 16).lr_lambdas[0](step) for step in range(17)]
    told = f"16 steps instead of 10: after step 10 the learning rate is {rates[10]:.3g} instead of 0"
    assert told in capsys.readouterr().out
    logged = rows(folder, "learning_rate")
    assert [logged[step] for step in range(11, 17)] == pytest.approx(rates[10:16])
    assert json.loads((folder / "metrics.json").read_text())["steps"] == 16


@pytest.mark.parametrize("step", [4, 10])
def test_equations_that_a_signal_has_stopped_have_every_evaluation(place, runs, step):
    """Each is due at a step of its own, on a log axis; one that was left out is made first when the run goes on."""
    name = f"signalled-{step}"

    def work():
        train_step = trainer.AlgorithmicTrainer.training_step

        def training_step(self, *arguments):
            if self.state.global_step == step - 1:
                os.kill(os.getpid(), signal.SIGTERM)
            return train_step(self, *arguments)

        trainer.AlgorithmicTrainer.training_step = training_step
        run(train_algorithmic, place, name)

    assert in_a_child(work) == 143
    folder = run(train_algorithmic, place, name, GO_ON)
    assert rows(folder, "test_loss") == rows(runs[train_algorithmic], "test_loss")
    assert (folder / "metrics.jsonl").read_text().count("test_loss") == 10
    ones, others = (json.loads((one / "metrics.json").read_text()) for one in (folder, runs[train_algorithmic]))
    assert ones | {"seconds": 0} == others | {"seconds": 0}


def test_an_extended_run_that_ends_by_a_signal_is_not_the_former_one(place, half, monkeypatch):
    name, step = half(train_lm, finished=True), KindlingTrainer.training_step

    def signalled(self, *arguments):
        if self.state.global_step == 13:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *arguments)

    monkeypatch.setattr(KindlingTrainer, "training_step", signalled)
    more = (GO_ON, "training.max_steps=14", "resume.extend=true")
    with pytest.raises(SystemExit) as end:
        run(train_lm, place, name, *more)
    assert end.value.code == 143
    monkeypatch.undo()
    folder = run(train_lm, place, name, GO_ON, "training.max_steps=14")
    assert json.loads((folder / "metrics.json").read_text())["steps"] == 14
    final, last = (load_file(one / "model.safetensors") for one in (folder, folder / "checkpoint-14"))
    assert all(final[key].equal(last[key]) for key in final)


@pytest.mark.parametrize("last", ["there", "gone", "damaged"])
@pytest.mark.parametrize("script", [train_lm, train_algorithmic])
def test_a_finished_run_has_nothing_left_to_do(place, half, script, last, capsys):
    """Whatever became of its last checkpoint; it may have had none, as with `save_strategy=best`."""
    name = half(script, finished=True)
    if last == "gone":
        shutil.rmtree(place / name / "checkpoint-10")
    if last == "damaged":
        (place / name / "checkpoint-10" / "trainer_state.json").write_text("")
    before = {path: path.stat().st_mtime_ns for path in (place / name).rglob("*")}
    with pytest.raises(SystemExit) as end:
        run(script, place, name, GO_ON)
    assert end.value.code == 0
    assert "is finished, nothing is left to do" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (place / name).rglob("*")} == before


def test_a_finished_run_needs_no_checkpoint(place, half, capsys):
    """All are damaged; of another length, it is not finished."""
    name = half(train_lm, finished=True)
    for path in (place / name).glob("checkpoint-*"):
        (path / "more.safetensors").touch()
    with pytest.raises(SystemExit) as end:
        run(train_lm, place, name, GO_ON)
    assert end.value.code == 0
    assert "is finished, nothing is left to do" in capsys.readouterr().out
    for given in (("training.max_steps=16",), ("training.max_steps=16", "resume.extend=true"), ("resume.extend=true",)):
        with pytest.raises(ConfigError, match="has no checkpoint to resume from: checkpoint-10 is damaged"):
            run(train_lm, place, name, GO_ON, *given)


@pytest.mark.parametrize("script", [train_lm, train_algorithmic])
def test_a_run_that_was_killed_after_its_last_step_is_completed(place, runs, half, script):
    name = half(script, finished=True)
    for file in ("model.safetensors", "README.md"):
        (place / name / file).unlink()
    (place / name / "metrics.json").write_text("")  # torn
    folder = run(script, place, name, GO_ON)
    assert (folder / "model.safetensors").read_bytes() == (runs[script] / "model.safetensors").read_bytes()
    ones, others = (json.loads((one / "metrics.json").read_text()) for one in (folder, runs[script]))
    assert ones | {"seconds": 0} == others | {"seconds": 0}
    assert (folder / "README.md").exists()
    assert {path.name for path in folder.glob("checkpoint-*")} == {
        path.name for path in runs[script].glob("checkpoint-*")
    }


def test_a_run_that_has_grokked_early_makes_no_step_more(place, monkeypatch):
    monkeypatch.setattr(callbacks, "GROKKED", 0.0)
    given = ("evaluation.stop_when_grokked=true", "training.save_steps=3")
    folder = run(train_algorithmic, place, "grokked", *given)
    assert json.loads((folder / "metrics.json").read_text())["steps"] == 3
    (folder / "metrics.json").unlink()
    run(train_algorithmic, place, "grokked", *given, GO_ON)
    assert json.loads((folder / "metrics.json").read_text())["steps"] == 3
