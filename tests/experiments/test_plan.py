"""What the plan prints, against published numbers, sums by hand and what a run of the same settings resolves to."""

import math
from types import SimpleNamespace

import pytest

from data_prep.tokens.counts import tally
from experiments.plan import column_names, parse_arguments, plan
from experiments.planning import run as planning
from experiments.planning.run import plan_run
from modeling.accounting import training_flops, training_flops_of
from settings.checks import ConfigError
from settings.loading import load_experiment
from settings.paths import ROOT
from training.budgets import calibration
from training.budgets.calibration import StepTimes
from training.machine.datasheet import DEVICES, find_device
from training.model import model_config
from training.preflight.resources import checkpoint_bytes
from training.run import open_run
from training.run_data import open_data, prepare_tokens

SHAPES = [
    ("12 x 768", 12, 768, 12, "350,690,476,032"),
    ("24 x 1024", 24, 1024, 16, "1,035,932,270,592"),
    ("36 x 1280", 36, 1280, 20, "2,263,044,587,520"),
    ("48 x 1600", 48, 1600, 25, "4,522,151,116,800"),
]
TINY = """
model: {hidden_size: 16, num_hidden_layers: 2, num_attention_heads: 2, max_position_embeddings: 32}
tokenizer: {vocab_size: 300}
data: {train_documents: 60, validation_documents: 10, layout: %s, context_length: 32, cache_dir: %s}
training: {output_dir: %s, per_device_train_batch_size: 4, gradient_accumulation_steps: 2, use_cpu: true, bf16: false}
"""
LONG = {"model.max_position_embeddings": 512, "data.context_length": 512}  # a whole document


@pytest.fixture
def tiny(tmp_path):
    """A function: layout and overrides to an experiment on a few fables."""

    def load(layout="packed", **overrides):
        path = tmp_path / "tiny.yaml"
        path.write_text(TINY % (layout, tmp_path / "prepared", tmp_path / "run"))
        given = overrides | (LONG if layout == "documents" else {})
        return load_experiment(str(path), [f"{name}={value}" for name, value in given.items()])

    return load


def lines_of(*words) -> list[str]:
    """The lines of a plan, each with single spaces."""
    return [" ".join(line.split()) for line in plan(parse_arguments(list(map(str, words))))]


@pytest.mark.parametrize(("about", "layers", "width", "heads", "total"), SHAPES)
def test_published_totals(tmp_path, about, layers, width, heads, total):
    path = tmp_path / "shape.yaml"
    path.write_text(
        f"model: {{hidden_size: {width}, num_hidden_layers: {layers}, num_attention_heads: {heads}, "
        f"intermediate_size: {4 * width}, vocab_size: 50257}}\n"
        "data: {source: c4}\n"
    )
    lines = lines_of(path)
    assert f"layers x width {about}" in lines
    assert f"forward, both {total}" in lines


def test_parts_add_up_and_batches_multiply(tmp_path):
    path = tmp_path / "example.yaml"
    path.write_text("training: {per_device_train_batch_size: 3}\n")
    lines = plan(parse_arguments([str(path), "model.type=kindling_gpt"]))
    parts = lines[lines.index("parameters") :]
    numbers = {line[2:26].strip(): int(line[26:52].replace(",", "")) for line in parts if line.startswith("  ")}
    assert numbers["per batch of 3"] == 3 * numbers["per sequence"]
    assert numbers["per sequence"] == numbers["per token"] * 1024
    assert numbers["optimiser state"] == 2 * numbers["weights"]


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        (
            "training.per_device_train_batch_size=-4",
            "training.per_device_train_batch_size=-4 is too small; it must be at",
        ),
        (
            "training.per_device_train_batch_size=0",
            "training.per_device_train_batch_size=0 is too small; it must be at",
        ),
        (
            "data.context_length=1025",
            "data.context_length=1025 is longer than model.max_position_embeddings=1024; lower",
        ),
        ("model.max_position_embeddings=1", "model.max_position_embeddings=1 is too small; it must be at least 2"),
        ("model.vocab_size=4095", "model.vocab_size=4095 is smaller than the tokenizer's 4096; leave it out"),
        ("budget.minutes=3", "budget.minutes=3 needs the time of a step; give --calibrate or --device NAME"),
        ("tokenizer.kind=characters", "tokenizer.kind=characters has no known size before it is trained; give"),
        ("--device=abacus", "--device abacus is not known; known are B200, H200,"),
        ("--utilization=0.3", "--utilization 0.3 has no effect without --device; give it, or leave both out"),
        ("--price-per-hour=2", "--price-per-hour 2.0 needs a time; give --calibrate or --device NAME"),
    ],
)
def test_what_cannot_be_planned_is_refused(tmp_path, override, complaint):
    path = tmp_path / "example.yaml"
    path.write_text("model: {type: kindling_gpt}")
    with pytest.raises(ConfigError) as error:
        lines_of(path, override)
    assert complaint in str(error.value)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--device=h100", "--calibrate"], "--calibrate measures this machine, and --device h100 is another; give one"),
        (["--device=h100", "--utilization=1.5"], "--utilization 1.5 is no share of a device's peak; give a number"),
        (["--device=t4", "training.bf16=true"], "that device has no bfloat16, and training.bf16=true is given; give"),
    ],
)
def test_options_that_contradict_each_other_are_refused(words, complaint):
    with pytest.raises(ConfigError, match=complaint):
        lines_of(ROOT / "configs" / "lm" / "demo.yaml", *words)
    with pytest.raises(ConfigError, match="no configuration is given"):
        lines_of("model.hidden_size=64")


def test_several_configurations_are_columns_of_a_table_that_a_terminal_shows(tmp_path):
    names = ["c4", "demo", "pile", "tinystories", "unlearnable", "own"]
    paths = [str(ROOT / "configs" / "lm" / f"{name}.yaml") for name in names]
    given = ["--device=h100", f"data.cache_dir={tmp_path}", "model.vocab_size=20000"]
    lines = plan(parse_arguments([*paths, *given]))
    assert max(map(len, lines)) <= 100
    heads = [line.split() for line in lines if line.startswith(" " * 24)]
    assert [name for head in heads for name in head] == names
    assert len(heads[0]) >= 4
    steps = [cell for line in lines if line.startswith("  steps") for cell in line.split()[1:]]
    assert steps[:4] == ["20,000", "688", "20,000", "40,000"]
    assert "parameters" not in lines  # no tables by part


def test_files_of_one_name_and_settings_that_look_like_files(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.yaml").write_text("model: {hidden_size: 64, num_attention_heads: 2}\n")
    paths = [tmp_path / name / "model.yaml" for name in ("one", "two")]
    options = parse_arguments([*map(str, paths), "data.source=texts.yaml"])
    assert (options.configs, options.overrides) == ([*map(str, paths)], ["data.source=texts.yaml"])
    assert column_names(options.configs) == ["one/model", "two/model"]
    assert column_names(["runs/a/x.yaml", "b.yaml", "b.yaml"]) == ["x", "b (2)", "b (3)"]
    assert ["one/model", "two/model"] in [line.split() for line in plan(options)]


HORIZONS = [
    ("packed", {"training.max_steps": 7}),
    ("packed", {"training.num_train_epochs": 1.5}),
    ("packed", {"budget.tokens": 5000, "budget.batch_tokens": 128, "training.gradient_accumulation_steps": 1}),
    ("documents", {"budget.flops": 3e8}),
    ("documents", {"budget.epochs": 2, "data.mask_first_n": 3}),
]


@pytest.mark.parametrize(("layout", "overrides"), HORIZONS)
def test_on_prepared_data_a_plan_is_what_the_run_will_be(tiny, layout, overrides):
    experiment = tiny(layout, **overrides)
    run = open_run(experiment)
    prepared = prepare_tokens(run)
    config = model_config(experiment.model, prepared.tokenizer, run.start)
    data = open_data(run, prepared, config)
    whole = tally(data.train_set, data.collate)
    found = plan_run(experiment, None, 0.4, measure=False)
    assert found.length.steps == run.args.max_steps
    assert found.length.whole == whole
    assert found.length.flops == training_flops_of(config, whole.tokens, whole.pairs)
    assert found.length.passes == data.train_set.passes(data.train_set.stop)
    assert found.data.is_exact
    assert found.config.vocab_size == config.vocab_size
    assert found.data.disk_bytes > 2 * found.data.tokens


@pytest.mark.parametrize("layout", ["packed", "documents"])
def test_before_that_generated_documents_are_estimated(tiny, layout):
    """At BPE's usual four bytes per token; here the vocabulary is smaller, so that it cannot be as close."""
    experiment = tiny(layout, **{"tokenizer.vocab_size": 2000, "data.train_documents": 400})
    estimate = plan_run(experiment, None, 0.4, measure=False)
    assert not estimate.data.is_exact
    assert "estimated: 400 documents of about " in estimate.data.basis
    prepare_tokens(open_run(experiment))
    exact = plan_run(experiment, None, 0.4, measure=False)
    assert estimate.length.whole.targets == pytest.approx(exact.length.whole.targets, rel=0.15)
    assert (estimate.length.steps == exact.length.steps) == (layout == "documents")


def test_what_depends_on_data_that_are_not_there_is_unknown(tmp_path):
    config = ROOT / "configs" / "lm" / "tinystories.yaml"
    lines = lines_of(config, f"data.cache_dir={tmp_path}", "training.max_steps=-1", "training.num_train_epochs=2")
    assert {"steps unknown", "tokens trained on unknown", "time unknown", "tokens unknown"} <= {*lines}
    lines = lines_of(config, f"data.cache_dir={tmp_path}", "budget.tokens=1e6")
    assert {"passes over the data unknown", f"steps {round(1e6 / 255 / 32)}"} <= {*lines}


def test_the_time_of_a_device_is_that_of_the_products(tmp_path):
    overrides = [f"data.cache_dir={tmp_path}", "optimizer.kind=muon"]
    experiment = load_experiment(str(ROOT / "configs" / "lm" / "tinystories.yaml"), overrides)
    found = plan_run(experiment, DEVICES["H100"], 0.4, measure=False)
    step = training_flops(found.config, 256, 32) + found.length.optimizer_flops // 40_000
    assert found.length.optimizer_flops > 0
    assert found.length.seconds == pytest.approx(40_000 * step / (0.4 * 9.89e14))
    in_float32 = plan_run(
        experiment.__class__(**vars(experiment) | {"training": experiment.training | {"bf16": False}}),
        DEVICES["H100"],
        0.4,
        False,
    )
    assert in_float32.length.seconds / found.length.seconds == pytest.approx(9.89e14 / 6.7e13)
    without_bf16 = plan_run(experiment, DEVICES["V100"], 0.4, measure=False)
    assert (found.step.half, found.step.half_attention, without_bf16.step.half) == (True, True, False)
    assert found.memory == 80e9
    minutes = load_experiment(str(ROOT / "configs" / "lm" / "tinystories.yaml"), [*overrides, "budget.minutes=3"])
    limited = plan_run(minutes, DEVICES["H100"], 0.4, measure=False)
    assert limited.length.steps == math.floor(180 * 0.4 * 9.89e14 / step)


def test_what_follows_from_a_depth_is_said_with_its_rule(tmp_path):
    lines = lines_of(ROOT / "configs" / "lm" / "tinystories.yaml", "model.depth=2", f"data.cache_dir={tmp_path}")
    assert "layers x width 2 x 128" in lines
    assert any(line.startswith("derived in tinystories: model.") for line in lines)


def test_devices_are_found_by_their_names():
    assert find_device("NVIDIA H100 80GB HBM3") is find_device("h100") is DEVICES["H100"]
    assert find_device("NVIDIA GeForce RTX 4090") is find_device("rtx 4090") is DEVICES["RTX 4090"]
    assert find_device("NVIDIA A1000") is None


def test_a_calibration_gives_the_time_and_the_cost(tiny, tmp_path, monkeypatch):
    tiny()
    times = StepTimes(100.0, 60.0, 5.0, 3.0, 2.0, 1.0, steps=4)
    monkeypatch.setattr(planning, "calibrate", lambda *_: times)
    words = [tmp_path / "tiny.yaml", "training.max_steps=100", "--calibrate", "--price-per-hour=12"]
    lines = lines_of(*words, "training.eval_steps=0.25", "training.save_steps=0.5")
    seconds = 100 + 99 * 60 + 5 + 4 * (3 + 2) + 2 * 1
    assert {f"time {seconds / 3600:.3g} hours", f"cost {seconds / 3600 * 12:.2f}"} <= {*lines}
    assert "time of tiny: 60 s a step here (4 measured), 100 s the first, 3 s an evaluation" in lines


def test_a_calibration_of_unprepared_data_writes_nothing(tiny, tmp_path, monkeypatch, capsys):
    tiny()
    monkeypatch.setattr(calibration, "STEPS", range(2, 4))
    lines = lines_of(tmp_path / "tiny.yaml", "training.max_steps=3", "--calibrate")
    assert any(line.startswith("time of tiny: ") and "(3 measured)" in line for line in lines)
    assert "time unknown" not in lines
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]
    assert capsys.readouterr() == ("", "")


def test_the_disk_has_the_checkpoints_that_are_kept_and_one_being_written(tiny):
    found = plan_run(
        tiny(**{"training.max_steps": 10, "training.save_steps": 1, "training.save_total_limit": 3}), None, 0.4, False
    )
    assert found.checkpoints == 4
    few = plan_run(
        tiny(**{"training.max_steps": 10, "training.save_steps": 8, "training.save_total_limit": 3}), None, 0.4, False
    )
    assert few.checkpoints == 2
    assert found.checkpoint_bytes == checkpoint_bytes(found.args, found.trained)


COURSE = SimpleNamespace(layers=48, width=1600, heads=25, length=1024, vocabulary=50_257)


def test_the_accounting_exercise_of_a_course():
    """GPT-2 XL in float32 with AdamW: its memory by the batch, the largest batch in 80 GB, the FLOPs, and the days.

    The course adds up weights, gradients, two moments and a list of activations, attention scores among them.
    """
    c = COURSE
    lines = lines_of(ROOT / "configs" / "plan" / "gpt2_xl.yaml", "--device=a100", "--utilization=0.5")
    weights = (
        2 * c.vocabulary * c.width + c.layers * (4 * c.width**2 + 3 * c.width * 4 * c.width + 2 * c.width) + c.width
    )
    assert f"parameters {weights:,}" in lines
    tokens = c.length
    forward = (
        c.layers * (2 * tokens * (4 * c.width**2 + 3 * c.width * 4 * c.width) + 4 * tokens**2 * c.width)
        + 2 * tokens * c.width * c.vocabulary
    )
    assert f"of a full step {3 * 1024 * forward:.4g}" in lines
    assert 3 * 1024 * forward == 13_864_969_804_185_600
    days = 400_000 * 3 * 1024 * forward / (0.5 * 19.5e12) / 86_400
    assert f"time {days:,.0f} days" in lines
    # ours: a block keeps its norms' inputs and products, q, k, v, output and log-sum-exp, four tensors inside the MLP
    block = 4 * tokens * (2 * (3 * c.width + 1) + 4 * c.width + c.heads + 4 * 4 * c.width)
    logits = 4 * tokens * c.vocabulary
    ends = 4 * tokens * (3 * c.width + 1) + 3 * logits + 16 * tokens
    each, rest = c.layers * block + ends, 16 * weights + 4 * 2 * tokens * c.width // c.heads
    assert f"... per sequence {each / 2**30:.1f} GiB" in lines
    assert f"... without any {rest / 2**30:.1f} GiB" in lines
    assert f"largest batch {int((80e9 - rest) / each)} in 74.5 GiB" in lines
    # the course's
    listed = c.layers * (16 * tokens * c.width + 2 * c.heads * tokens**2) + tokens * c.width + 2 * tokens * c.vocabulary
    largest = [int((80e9 - fixed) / by_batch) for by_batch, fixed in ((each, rest), (4 * listed, 16 * weights))]
    assert largest == [5, 2]
    page = (ROOT / "docs" / "budgets.md").read_text(encoding="utf-8")
    ours, theirs = (f"{one / 1e9:.2f} x batch + {16 * weights / 1e9:.2f}" for one in (each, 4 * listed))
    for row in (
        f"| parameters | {weights:,} | {weights:,} |",
        f"| memory in GB, by the batch | {ours} | {theirs} |",
        "| largest batch in 80 GB | {} | {} |".format(*largest),
        f"| FLOPs of a step of 1,024 sequences | {3 * 1024 * forward:.4g} |",
        f"| 400,000 steps | {days:,.0f} days |",
        f"in GiB, {each / 2**30:.1f} per sequence and {rest / 2**30:.1f} without any",
        f"keep ({4 * c.layers * 2 * c.heads * tokens**2 / 1e9:.1f} of its {4 * listed / 1e9:.1f} GB",
    ):
        assert row in page
