"""Estimates of room against what optimisers keep and checkpoints weigh, and what is said where it is short."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import Dataset
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

import modeling  # noqa: F401
import train_algorithmic
import train_lm
from modeling.configuration_kindling import FAMILIES
from settings.checks import ConfigError
from settings.sections import OptimizerSection
from settings.wording import format_memory, format_seconds
from training.optimization.optimizers import build_optimizer
from training.preflight import resources
from training.preflight.memory import state_floats
from training.trainer import KindlingTrainer

SIZES = {"vocab_size": 3000, "hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4}
SECTIONS = {
    "adamw": OptimizerSection(),
    "muon": OptimizerSection(kind="muon"),
    "grokfast": OptimizerSection(grokfast_lambda=2.0),
    "muon and grokfast": OptimizerSection(kind="muon", grokfast_lambda=2.0),
}


def model_of(family: str, **changes):
    return AutoModelForCausalLM.from_config(FAMILIES[family](**SIZES | {"max_position_embeddings": 32} | changes))


def arguments(folder: Path, **settings) -> TrainingArguments:
    defaults = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "max_steps": 2, "save_steps": 1}
    return TrainingArguments(output_dir=str(folder), **defaults | settings)


class Ids(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        ids = torch.arange(8) + index
        return {"input_ids": ids, "labels": ids}


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_weighs_what_was_foreseen(tmp_path, family, optimizer):
    model, args = model_of(family), arguments(tmp_path, remove_unused_columns=False)
    section = SECTIONS[optimizer]
    foreseen = resources.checkpoint_bytes(args, [(model, args, section)])
    KindlingTrainer(
        model=model, args=args, train_dataset=Ids(), text_bytes=None, peak_flops=1e9, optimizer=section
    ).train()
    weighed = sum(path.stat().st_size for path in (tmp_path / "checkpoint-2").rglob("*") if path.suffix != ".py")
    assert weighed == pytest.approx(foreseen, rel=0.02)
    saved = resources.weight_bytes([(model, args, section)])
    assert (tmp_path / "checkpoint-2" / "model.safetensors").stat().st_size == pytest.approx(saved, rel=0.01)


@pytest.mark.parametrize("section", SECTIONS)
def test_the_state_of_our_optimisers_is_counted_to_the_number(tmp_path, section):
    models = [model_of("kindling_llama"), model_of("kindling_gpt")]
    trained = [(model, arguments(tmp_path), SECTIONS[section]) for model in models]
    assert state_floats(trained) == kept_by(build_optimizer(trained), models)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("adamw_torch", None),
        ("sgd", None),
        ("sgd", "momentum=0.9"),
        ("adagrad", None),
        ("rmsprop", None),
        ("rmsprop", "momentum=0.9,centered=true"),
        ("adafactor", None),
    ],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_state_of_transformers_optimisers_too(tmp_path, family, name, options):
    model, args = model_of(family), arguments(tmp_path, optim=name, optim_args=options)
    kind, settings = Trainer.get_optimizer_cls_and_kwargs(args, model)
    optimizer = kind(model.parameters(), **settings)
    assert state_floats([(model, args, OptimizerSection())]) == kept_by(optimizer, [model])


def kept_by(optimizer: torch.optim.Optimizer, models: list) -> int:
    """Numbers in an optimiser's state after a step; those of no dimension, such as counts of steps, apart."""
    for model in models:
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    states = [one.state for one in getattr(optimizer, "steps", [optimizer])]
    values = [value for state in states for about in state.values() for value in about.values()]
    return sum(value.numel() for value in values if isinstance(value, torch.Tensor) and value.ndim)


def test_an_optimiser_that_is_not_known_counts_as_adamw():
    model = model_of("kindling_llama")
    args = SimpleNamespace(optim=SimpleNamespace(value="lion_8bit"), optim_args=None)
    assert state_floats([(model, args, OptimizerSection())]) == 2 * model.num_parameters()


@pytest.mark.parametrize(
    ("settings", "step", "saves"),
    [
        ({"save_steps": 3}, 10, 4),  # 3, 6, 9 and the last
        ({"save_steps": 3}, 7, 2),
        ({"save_steps": 5}, 10, 2),
        ({"save_steps": 20}, 10, 1),
        ({"save_steps": 0.2}, 10, 5),
        ({"save_steps": 0.25}, 10, 4),  # each 3 steps, as the Trainer rounds
        ({"save_strategy": "no"}, 10, 0),
        ({"save_strategy": "epoch"}, 10, 3),  # of 4 steps each
        ({"save_strategy": "best", "eval_strategy": "steps", "eval_steps": 2, "metric_for_best_model": "loss"}, 10, 5),
    ],
)
def test_how_many_checkpoints_there_will_be(tmp_path, settings, step, saves):
    assert resources.saves_until(step, arguments(tmp_path, max_steps=10, **settings), steps_an_epoch=4) == saves


@pytest.mark.parametrize(
    ("there", "settings", "checkpoints"),
    [
        ([], {"save_total_limit": 2}, 3),  # the oldest goes once the newest is whole
        ([], {"save_total_limit": 8}, 9),
        ([], {"save_total_limit": 20}, 10),
        ([], {"save_total_limit": None}, 10),
        ([], {"save_strategy": "no"}, 0),
        ([3, 4], {"save_total_limit": 2}, 1),
        ([3, 4], {"save_total_limit": None}, 6),
        ([1, 2, 3, 4, 5], {"save_total_limit": 2}, 1),
        ([10], {"save_total_limit": 2}, 0),
        ([], {"save_total_limit": 1, "load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 1}, 3),
    ],
)
def test_what_will_lie_on_the_disk_must_fit(tmp_path, monkeypatch, there, settings, checkpoints):
    for step in there:
        (tmp_path / f"checkpoint-{step}").mkdir()
    (tmp_path / "checkpoint-mine").mkdir()
    model, args = model_of("kindling_llama"), arguments(tmp_path, max_steps=10, **settings)
    trained = [(model, args, OptimizerSection())]
    size, weights = resources.checkpoint_bytes(args, trained), resources.weight_bytes(trained)
    assert (size, weights) == (12 * model.num_parameters(), 4 * model.num_parameters())
    needed = checkpoints * size + weights
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=needed))
    resources.check_disk_space(args, trained, examples=100, done=max(there, default=0))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=needed - 1))
    with pytest.raises(ConfigError) as error:
        resources.check_disk_space(args, trained, examples=100, done=max(there, default=0))
    assert f"needs {format_memory(needed)}, {checkpoints} x {format_memory(size)} for" in str(error.value)


def test_what_broken_saves_have_left_is_no_obstacle(tmp_path, monkeypatch):
    """Left staging is removed; a checkpoint after that which is resumed is damaged, and will be made again."""
    for name in (".staging-checkpoint-10", "checkpoint-5", "checkpoint-10"):
        (tmp_path / name).mkdir()
    model, args = model_of("kindling_llama"), arguments(tmp_path, max_steps=10, save_steps=5)
    needed = resources.checkpoint_bytes(args, [(model, args, OptimizerSection())]) + 4 * model.num_parameters()
    free = needed - 1
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    with pytest.raises(ConfigError, match="the run needs"):
        resources.check_disk_space(args, [(model, args, OptimizerSection())], examples=100, done=5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-5"]
    free = needed
    resources.check_disk_space(args, [(model, args, OptimizerSection())], examples=100, done=5)


RUN = """
model: {hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2}
training: {output_dir: %s, max_steps: 4, save_strategy: steps, save_steps: 2, use_cpu: true, bf16: false}
"""
TEXT = "tokenizer: {kind: characters}\ndata: {train_documents: 20, validation_documents: 5, cache_dir: %s}\n"


@pytest.mark.parametrize("script", [train_lm, train_algorithmic])
def test_a_run_does_not_begin_where_there_is_no_room(tmp_path, monkeypatch, script):
    path = tmp_path / "tiny.yaml"
    text = TEXT % (tmp_path / "prepared") if script is train_lm else "data: {modulus: 7}\n"
    path.write_text(RUN % (tmp_path / "run") + text)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(
        ConfigError, match=r"run has room for 1,000 bytes, and the run needs \d.* .iB, 2 x \d.* .iB for"
    ):
        script.main(str(path), [])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("available", "limit", "settings", "line"),
    [
        (1e12, 1e12, {}, "memory      about "),
        (0, 1e12, {"per_device_train_batch_size": 4096}, "and raise training.gradient_accumulation_steps"),
        (0, 1e12, {"per_device_eval_batch_size": 4096}, "lower training.per_device_eval_batch_size"),
        (-1e12, 1e12, {}, "choose a smaller model"),
        (1e12, 1e6, {}, "of 976.6 KiB: choose a smaller model"),
    ],
)
def test_what_is_said_of_memory(tmp_path, monkeypatch, available, limit, settings, line):
    """Of a machine that has what is there beyond what lasts, and nothing for a step."""
    model, args = model_of("kindling_llama"), arguments(tmp_path, **settings)
    trained = [(model, args, OptimizerSection())]
    lasting = 3 * resources.weight_bytes(trained)  # gradients and optimiser; the weights are there
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=lasting + available))
    monkeypatch.setattr(resources, "memory_limit", lambda: limit)
    assert line in resources.memory_line(args, trained, 32)
    assert ("needs about" in resources.memory_line(args, trained, 32)) == (min(available, limit) < 1e12)


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 bytes"), (1023, "1,023 bytes"), (1024, "1.0 KiB"), (1.5 * 2**20, "1.5 MiB"), (31 * 2**30, "31.0 GiB")],
)
def test_bytes_are_readable(count, words):
    assert format_memory(count) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.0543, "0.0543 seconds"), (42, "42 seconds"), (90, "1.5 minutes"), (7200, "2 hours"), (5.69e8, "6,586 days")],
)
def test_times_are_readable(seconds, words):
    assert format_seconds(seconds) == words
