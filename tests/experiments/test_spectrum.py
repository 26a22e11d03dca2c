"""Spectra of embeddings made of known waves; a run's folder, written by hand, as a picture and as numbers."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.text import Text
from safetensors.numpy import save_file

from data_prep.algorithmic.operations import OPERATIONS
from data_prep.tokenizer.build import equation_tokenizer
from experiments import fourier, spectrum
from experiments.figures import spectra
from experiments.figures.kinds import TEST, TRAIN
from experiments.figures.panels import PALETTE
from settings.checks import ConfigError
from settings.paths import ROOT

PRIMES = (2, 3, 5, 7, 13, 23, 97, 113)


def waves(n: int, frequencies: dict[int, float], width: int = 16) -> np.ndarray:
    """Embeddings (n, width) of a circle for each frequency, of the radius given, around a mean that is not 0."""
    plane = np.linalg.qr(np.random.default_rng(0).normal(size=(width, width)))[0]  # orthogonal directions
    rows = np.full((n, width), 3.0)
    for i, (frequency, radius) in enumerate(frequencies.items()):
        angles = 2 * np.pi * frequency * np.arange(n) / n
        rows += radius * (np.outer(np.cos(angles), plane[2 * i]) + np.outer(np.sin(angles), plane[2 * i + 1]))
    return rows


@pytest.mark.parametrize("n", [97, 96])
def test_a_wave_has_its_own_frequency(n):
    shares = fourier.spectrum(waves(n, {5: 1.0, 17: 2.0, 42: 3.0}))
    expected = np.zeros(n // 2)
    expected[[4, 16, 41]] = np.array([1, 4, 9]) / 14  # the power of a circle is its radius squared
    np.testing.assert_allclose(shares, expected, atol=1e-12)


def test_the_last_frequency_of_an_even_number_counts_once():
    n = 12
    signs = np.where(np.arange(n) % 2, -1.0, 1.0)  # power 1, as a cosine of radius sqrt 2
    rows = np.stack([signs, np.sqrt(2) * np.cos(2 * np.pi * np.arange(n) / n)], axis=1)
    np.testing.assert_allclose(fourier.spectrum(rows), [0.5, 0, 0, 0, 0, 0.5], atol=1e-12)


@pytest.mark.parametrize("n", [22, 23])
def test_parseval(n):
    rows = np.random.default_rng(1).normal(size=(n, 7)) + 10
    shares = fourier.spectrum(rows)
    assert shares.sum() == pytest.approx(1)
    variance = ((rows - rows.mean(0)) ** 2).sum()  # the power, in space
    first = rows.T @ np.exp(-2j * np.pi * np.arange(n) / n)  # the transform as it is defined
    assert shares[0] == pytest.approx(2 * (np.abs(first) ** 2).sum() / n / variance)


@pytest.mark.parametrize("n", [96, 97])
def test_random_embeddings_have_all_frequencies_alike(n):
    shares = fourier.spectrum(np.random.default_rng(2).normal(size=(n, 20_000)))
    assert np.sort(shares)[-5:].sum() == pytest.approx(5 / (n // 2), rel=0.05)
    assert fourier.gini(shares) < 0.02


def test_gini():
    assert fourier.gini(np.ones(8) / 8) == pytest.approx(0)
    assert fourier.gini(np.eye(8)[3]) == pytest.approx(1 - 1 / 8)
    values = np.random.default_rng(3).random(20)
    differences = sum(abs(a - b) for a, b in itertools.product(values, values))
    assert fourier.gini(values) == pytest.approx(differences / (2 * 20 * values.sum()))


@pytest.mark.parametrize("p", PRIMES)
def test_discrete_logarithms(p):
    order = fourier.by_logarithm(p)
    assert sorted(order) == list(range(1, p))
    root = order[1] if p > 2 else 1
    assert order == [pow(root, exponent, p) for exponent in range(p - 1)]
    smaller = [{pow(g, exponent, p) for exponent in range(p - 1)} for g in range(1, root)]
    assert all(len(powers) < p - 1 for powers in smaller)  # none of them is a primitive root


@pytest.mark.parametrize("operation", fourier.ORDERS)
def test_orders_are_those_of_our_operations(operation):
    """Moving on by one in the order is what the operation does with one and the same number."""
    order = fourier.ORDERS[operation](13)
    answer = OPERATIONS[operation].answer
    backwards = operation in ("subtract", "divide")
    moved = [answer(number, order[1], 13) if order[0] else answer(number, 1, 13) for number in order]
    assert moved == (order[-1:] + order[:-1] if backwards else order[1:] + order[:1])


P = 23
KNOWN = {1: 1.0, 4: 2.0, 5: 3.0, 9: 1.5, 10: 2.5}
STRONGEST = [5, 10, 4, 9, 1]
STEPS, LAST = (10, 20, 50, 100, 200), 230
EVALUATED = [{"step": s, "train_accuracy": min(1, s / 20), "test_accuracy": s / 250} for s in (1, 10, 22, 51, 99, 230)]


def write_weights(folder: Path, table: np.ndarray):
    folder.mkdir(parents=True, exist_ok=True)
    weights = {"model.embed_tokens.weight": table.astype(np.float32), "lm_head.weight": np.zeros((2, 2), np.float32)}
    save_file(weights, folder / "model.safetensors")


def write_run(folder: Path, operation: str = "add", p: int = P, frequencies: dict = KNOWN) -> Path:
    """A run whose embeddings are random at checkpoints, ever less so, and nothing but waves at the end."""
    tokenizer = equation_tokenizer("numbers", OPERATIONS[operation].symbol, p - 1)
    tokenizer.save_pretrained(folder)
    order = fourier.ORDERS[operation](p)
    table = np.random.default_rng(0).normal(size=(len(tokenizer), 16))
    pure = table.copy()
    pure[[tokenizer.convert_tokens_to_ids(str(number)) for number in order]] = waves(len(order), frequencies)
    for step in STEPS:
        write_weights(folder / f"checkpoint-{step}", table + (pure - table) * (step - STEPS[0]) / LAST)
    write_weights(folder, pure)
    lines = [{"step": 5, "loss": 2.0}, *EVALUATED]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "metrics.json").write_text(json.dumps({"steps_to_fit": 22, "steps_to_grok": 230, "steps": LAST}))
    data = f"data:\n  operation: {operation}\n  modulus: null\n  tokens: numbers\n"
    (folder / "experiment.yaml").write_text(data + "replicas: {}\n")
    return folder


def look_at(*words) -> None:
    spectrum.main(spectrum.parse_arguments([str(word) for word in words]))


@pytest.mark.parametrize("operation", ["add", "divide"])
def test_a_run_end_to_end(tmp_path, capsys, operation):
    folder = write_run(tmp_path / "run", operation)
    look_at(folder)
    assert (folder / "spectrum.png").read_bytes().startswith(b"\x89PNG")
    numbers = json.loads((folder / "spectrum.json").read_text())
    order = "by_logarithm" if operation in ("multiply", "divide") else "natural"
    assert (numbers["operation"], numbers["modulus"], numbers["order"]) == (operation, P, order)
    assert numbers["random_share"] == pytest.approx(5 / 11, abs=1e-5)
    (name, model), *others = numbers["models"].items()
    assert (name, others) == ("run", [])
    looks = {one["step"]: one for one in model["looks"]}
    assert list(looks) == [*STEPS, LAST]
    assert looks[LAST]["frequencies"] == STRONGEST
    assert looks[LAST]["top_share"] == 1
    assert looks[10]["top_share"] < 0.8
    assert looks[LAST]["gini"] > looks[100]["gini"] > looks[10]["gini"]
    assert [(one["train_accuracy"], one["test_accuracy"]) for one in looks.values()][1:4] == [
        (1, 22 / 250),
        (1, 51 / 250),
        (1, 99 / 250),
    ]  # of the evaluations at 22, 51 and 99
    assert list(model["shares"]) == ["10", "50", "100", "230"]
    assert all(sum(shares) == pytest.approx(1, abs=1e-4) for shares in model["shares"].values())
    radii = np.array([KNOWN.get(k, 0) for k in range(1, 12)])
    np.testing.assert_allclose(model["shares"]["230"], radii**2 / (radii**2).sum(), atol=1e-5)
    printed = capsys.readouterr().out.splitlines()
    columns = "model | step | train (%) | test (%) | power at the 5 strongest (%) | Gini | frequencies"
    assert printed[0] == f"| {columns} |"
    row = [cell.strip() for cell in printed[7].strip("|").split("|")]
    assert row[:5] + row[6:] == ["run", "230", "100.00", "92.00", "100.0", "5 10 4 9 1"]
    assert "45% of its power at any 5 frequencies" in printed[9]
    assert printed[-3:] == [f"written  {folder / name}" for name in ("spectrum.png", "spectrum.md", "spectrum.json")]
    assert (folder / "spectrum.md").read_text().splitlines() == printed[:10]


def write_replicas(folder: Path) -> Path:
    """A run of two: the second model is random to its end, and its folder has no checkpoints of its own."""
    for name in ("seed=0", "seed=1"):
        write_run(folder / name, frequencies=KNOWN if name == "seed=0" else {})
        for step in STEPS:
            (folder / f"checkpoint-{step}").mkdir(exist_ok=True)
            (folder / name / f"checkpoint-{step}").rename(folder / f"checkpoint-{step}" / name)
    random = np.random.default_rng(4).normal(size=(40, 16))
    write_weights(folder / "seed=1", random)
    (folder / "metrics.json").write_text(json.dumps({"replicas": ["seed=0", "seed=1"], "seconds": 1.0}))
    return folder


def test_replicas_are_looked_at_together(tmp_path, capsys):
    folder = write_replicas(tmp_path / "run")
    look_at(folder)
    numbers = json.loads((folder / "spectrum.json").read_text())["models"]
    assert [one["top_share"] for one in (numbers[name]["looks"][-1] for name in ("seed=0", "seed=1"))] == [
        1,
        pytest.approx(0.55, abs=0.1),
    ]
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| seed=")]
    assert [row.split()[1] for row in rows] == ["seed=0"] * 6 + ["seed=1"] * 6
    figure = spectra.draw(fourier.read_models(folder))
    assert figure.get_suptitle().endswith("add modulo 23 (seed=0; at the bottom 2 models)")
    *panels, history = figure.axes
    assert len(panels) == 4
    shares = [line.get_ydata()[-1] for line in history.get_lines() if line.get_marker() == "o"]
    assert sorted(shares) == [pytest.approx(55, abs=10), 100]
    assert len(figure.legends[0].get_texts()) == 4


def test_numbers_of_a_product_are_no_waves_in_natural_order(tmp_path):
    folder = write_run(tmp_path, "divide")
    settings = (folder / "experiment.yaml").read_text()
    (folder / "experiment.yaml").write_text(settings.replace("divide", "add"))
    run = fourier.read_models(folder)[0]
    assert run.snapshots[-1].top_share < 0.85


def texts_overlap(figure) -> list[tuple[str, str]]:
    """The pairs of texts that overlap; to find each text where it is, the picture is drawn."""
    FigureCanvasAgg(figure).draw()
    texts = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    hidden = []
    for axis in [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]:
        low, high = axis.get_view_interval()
        hidden += [tick.label1 for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high]
        hidden += [tick.label2 for tick in axis.get_major_ticks()]
    hidden += [label for axes in figure.axes[:-2] for label in axes.get_xticklabels()]
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts if text not in hidden]
    return [(a, b) for (a, one), (b, other) in itertools.combinations(boxes, 2) if one.overlaps(other)]


def test_the_picture(tmp_path):
    runs = fourier.read_models(write_run(tmp_path))
    run, figure = runs[0], spectra.draw(runs)
    *panels, history = figure.axes
    assert figure.get_suptitle() == "Fourier spectrum of the number embeddings: add modulo 23"
    assert [axes.get_title(loc="left").split(":")[0] for axes in panels] == [
        "step 10", "step 50", "step 100", "step 230"
    ]  # fmt: skip
    assert panels[-1].get_title(loc="left").endswith("train 100.0%, test 92.0%; 100% of the power at the 5 strongest")
    assert len({axes.get_ylim() for axes in panels}) == len({axes.get_xlim() for axes in panels}) == 1
    for axes, shares in zip(panels, run.shown.values(), strict=True):
        assert [bar.get_height() for bar in axes.patches] == pytest.approx(100 * shares)
        blue = {i + 1 for i, bar in enumerate(axes.patches) if to_hex(bar.get_facecolor()).upper() == PALETTE[0]}
        assert blue == {int(text.get_text()) for text in axes.texts} == set(np.argsort(-shares)[:5] + 1)
        assert all(text.get_position()[0] == int(text.get_text()) for text in axes.texts)
    assert panels[-1].get_xlabel() == "frequency along the numbers 0, 1, 2, 3, ... (modulo 23)"
    lines = {line.get_label(): line for line in history.get_lines() if not line.get_label().startswith("_")}
    assert list(lines) == [text.get_text() for text in figure.legends[0].get_texts()]
    train, test, top, at_random = lines.values()
    assert (train.get_color(), test.get_color(), top.get_color()) == (TRAIN, TEST, PALETTE[0])
    assert list(test.get_xdata()) == [row["step"] for row in EVALUATED]
    assert list(test.get_ydata()) == [100 * row["test_accuracy"] for row in EVALUATED]
    assert list(top.get_xdata()) == [*STEPS, LAST]
    assert list(top.get_ydata()) == [100 * one.top_share for one in run.snapshots]
    assert set(at_random.get_ydata()) == {100 * 5 / 11}
    assert history.get_xscale() == "log"
    assert [line.get_xdata()[0] for line in history.get_lines() if line.get_label().startswith("_")] == [*run.shown]
    assert texts_overlap(figure) == []


def test_names_of_neighbours_stand_clear_of_one_another(tmp_path):
    frequencies = {110: 1.0, 111: 1.0, 112: 1.0, 113: 1.0, 114: 1.0}
    figure = spectra.draw(fourier.read_models(write_run(tmp_path, "multiply", p=241, frequencies=frequencies)))
    assert {text.get_text() for text in figure.axes[3].texts} == {"110", "111", "112", "113", "114"}
    assert texts_overlap(figure) == []


REDUCTIONS = [
    # share of the strongest at each step, fitted at, shown
    ({10: 0.1, 20: 0.1, 30: 0.3, 40: 0.6, 50: 0.9, 60: 0.9}, 15, [10, 20, 40, 60]),  # 0.6 is nearest to 0.5
    ({10: 0.1, 20: 0.5, 30: 0.9, 40: 0.9}, 30, [10, 20, 30, 40]),  # circles before it fits
    ({10: 0.1, 20: 0.5, 30: 0.9}, None, [10, 20, 30]),
    ({10: 0.1, 20: 0.1, 30: 0.2}, 10, [10, 30]),
    ({10: 0.1, 30: 0.9}, 30, [10, 30]),
    ({10: 0.9, 20: 0.5, 30: 0.1, 40: 0.1}, 25, [10, 20, 30, 40]),  # the other way round
]


@pytest.mark.parametrize(("shares", "fit", "shown"), REDUCTIONS)
def test_steps_to_show(shares, fit, shown):
    looks = [fourier.Snapshot(step, 0.0, 0.0, share, 0.0, []) for step, share in shares.items()]
    assert fourier.steps_to_show(looks, fit) == shown


def test_out(tmp_path):
    folder = write_run(tmp_path / "run")
    look_at(folder, "--out", tmp_path / "new" / "add.png")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["add.json", "add.md", "add.png"]
    assert not list(folder.glob("spectrum.*"))


def replace_in(name: str, old: str, new: str):
    def change(folder: Path):
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))

    return change


def remove(name: str):
    return lambda folder: (folder / name).unlink()


def remove_checkpoints(folder: Path):
    for path in folder.glob("checkpoint-*/model.safetensors"):
        path.unlink()


def diverge(folder: Path):
    write_weights(folder / "checkpoint-50", np.full((40, 4), np.nan))


MISTAKES = [
    (remove("experiment.yaml"), "has no experiment.yaml with a data.operation; give a run of train_algorithmic.py"),
    (replace_in("experiment.yaml", "operation: add", "source: fables"), "no experiment.yaml with a data.operation"),
    (
        replace_in("experiment.yaml", "add", "s5"),
        "was trained on data.operation=s5, which is not known to be of a cyclic group; "
        "give a run on add, subtract, multiply, divide",
    ),
    (replace_in("experiment.yaml", "add", "quadratic"), "data.operation=quadratic, which is not known to be of a"),
    (replace_in("experiment.yaml", "add", "mine.py:rule"), "data.operation=mine.py:rule, which is not known to be of"),
    (
        replace_in("experiment.yaml", "tokens: numbers", "tokens: padded"),
        "was trained with data.tokens=padded, so digits have embeddings and not numbers; "
        "give a run with data.tokens=numbers",
    ),
    (remove("metrics.json"), "is not finished: it has no metrics.json; let train_algorithmic.py end its steps"),
    (remove("model.safetensors"), "is not finished: it has no model.safetensors"),
    (
        remove_checkpoints,
        "has weights of step 230 alone; train again with training.save_strategy=steps "
        "training.save_steps=20 training.save_total_limit=null",
    ),
    (diverge, "checkpoint-50/model.safetensors has embeddings that are not finite, so the run diverged"),
]


DAMAGED = [
    ("metrics.json", b"{", "metrics.json is damaged: Expecting property name"),
    (
        "metrics.json",
        b"{}",
        "metrics.json is damaged: it lacks 'steps'; restore the file that the run",
    ),
    ("metrics.jsonl", b"", "metrics.jsonl has no evaluation with train_accuracy and test_accuracy; restore the file"),
    ("metrics.jsonl", b'{"step": 1', "metrics.jsonl is damaged: Expecting"),
    ("experiment.yaml", b"", "experiment.yaml is damaged: it is not a mapping of keys to values"),
    ("experiment.yaml", b"data: [", "experiment.yaml is damaged: while parsing"),
    ("experiment.yaml", b"data:", "has no experiment.yaml with a data.operation"),
    ("tokenizer.json", b"{", "tokenizer.json is damaged: "),
    ("model.safetensors", b"not weights", "model.safetensors is damaged: "),
    ("checkpoint-20/model.safetensors", b"", "checkpoint-20/model.safetensors is damaged: "),
]


@pytest.mark.parametrize(("name", "written", "complaint"), DAMAGED)
def test_a_damaged_run_is_one_sentence(tmp_path, name, written, complaint):
    folder = write_run(tmp_path)
    (folder / name).write_bytes(written)
    with pytest.raises(ConfigError) as error:
        look_at(folder)
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)
    assert not list(folder.glob("spectrum.*"))


def test_a_folder_that_is_no_checkpoint_is_passed_over(tmp_path):
    folder = write_run(tmp_path)
    (folder / "checkpoint-old").mkdir()
    assert list(fourier.weights(folder, ".", LAST)) == [*STEPS, LAST]


def test_a_picture_that_cannot_be_written_is_said_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(spectrum, "read_models", None)
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ConfigError, match=r"--out .*file/x\.png cannot be written to: Not a directory; give another"):
        look_at(tmp_path, "--out", tmp_path / "file" / "x.png")
    with pytest.raises(ConfigError, match=r"--out .*folder\.png is a folder; give another name"):
        look_at(tmp_path, "--out", tmp_path / "folder.png")


@pytest.mark.parametrize(("change", "complaint"), MISTAKES)
def test_mistakes_are_said_before_anything_is_written(tmp_path, change, complaint):
    folder = write_run(tmp_path)
    change(folder)
    with pytest.raises(ConfigError) as error:
        look_at(folder)
    assert complaint in str(error.value)
    assert not list(folder.glob("spectrum.*"))


def test_too_small_a_modulus(tmp_path):
    with pytest.raises(ConfigError, match=r"data\.modulus=11 has only 5 frequencies; use a prime of at least 13"):
        look_at(write_run(tmp_path / "small", p=11, frequencies={1: 1.0}))
    look_at(write_run(tmp_path / "enough", "divide", p=13, frequencies={1: 1.0}))


def test_a_picture_that_is_no_png(tmp_path):
    with pytest.raises(ConfigError, match=r"--out .*a.json is not a PNG; give a name that ends in .png"):
        look_at(tmp_path, "--out", tmp_path / "a.json")


def test_a_mistake_on_the_command_line_is_one_sentence(tmp_path):
    command = [sys.executable, "-m", "experiments.spectrum", str(tmp_path / "none")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr == (
        f"experiments.spectrum: there is no folder {tmp_path / 'none'}; give the folder of a run of "
        "train_algorithmic.py\n"
    )
    with pytest.raises(ConfigError, match=f"^there is no folder {__file__}; give"):  # which is a file
        look_at(Path(__file__))
    with pytest.raises(ConfigError, match="has no experiment"):
        look_at(tmp_path)


def test_nothing_imports_torch():
    code = "import sys, experiments.spectrum; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
