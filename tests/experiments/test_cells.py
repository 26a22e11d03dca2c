"""A sweep file becomes cells: their names, settings and folders; what is off in it is said in a sentence."""

import fcntl
import shlex

import pytest
from omegaconf import OmegaConf

from experiments import cells
from experiments.cells import check, differences, lock, read_sweep, require_unchanged
from experiments.saved_results import has_other_settings
from settings.checks import ConfigError
from settings.paths import ROOT

SWEEP = """
title: A title
script: train_algorithmic.py
config: base.yaml
settings: {training.max_steps: 7, "replicas.training.seed": [0, 1]}
grid:
  recipe:
    ours: {}
    paper: {config: paper.yaml, training.max_steps: 60}
  data.train_fraction: [0.3, 5e-1]
cells:
  longest: {training.max_steps: 100}
"""


@pytest.fixture
def sweep_file(tmp_path, monkeypatch):
    """Write a sweep beside two configurations, as if `tmp_path` were the repository."""
    monkeypatch.setattr(cells, "ROOT", tmp_path)
    for name in ("base", "paper"):
        (tmp_path / f"{name}.yaml").write_text("training: {max_steps: 5}  # a comment\n")

    def write(text: str = SWEEP) -> str:
        (tmp_path / "fraction.yaml").write_text(text)
        return str(tmp_path / "fraction.yaml")

    return write


def test_cells_are_those_of_the_grid_and_then_of_the_list(sweep_file, tmp_path):
    sweep = read_sweep(sweep_file())
    assert (sweep.name, sweep.title, sweep.script) == ("fraction", "A title", "train_algorithmic.py")
    assert [(cell.name, cell.config, cell.settings["training.max_steps"]) for cell in sweep.cells] == [
        ("recipe=ours,train_fraction=0.3", "base.yaml", "7"),
        ("recipe=ours,train_fraction=0.5", "base.yaml", "7"),
        ("recipe=paper,train_fraction=0.3", "paper.yaml", "60"),
        ("recipe=paper,train_fraction=0.5", "paper.yaml", "60"),
        ("longest", "base.yaml", "100"),
    ]
    assert sweep.cells[1].axes == {"recipe": "ours", "train_fraction": 0.5}
    assert sweep.cells[4].axes == {"cell": "longest"}
    assert sweep.cells[0].overrides == [
        "training.max_steps=7", "replicas.training.seed=[0, 1]", "data.train_fraction=0.3"
    ]  # fmt: skip
    assert sweep.cells[4].folder == tmp_path / "runs" / "sweeps" / "fraction" / "longest"
    assert read_sweep(sweep_file(), runs=tmp_path / "else").cells[4].folder == tmp_path / "else" / "longest"


def test_long_names_become_short_ones_that_differ(sweep_file):
    """Of twelve axes; what is made of a name fits into the 255 bytes that file systems have room for."""
    axes = "".join(f"  training.a_long_setting_number_{i}: [0.{i}, 1.{i}]\n" for i in range(8))
    text = f"script: train_algorithmic.py\nconfig: base.yaml\ngrid:\n{axes}  model.kürzer: [{'ü' * 90}]\n"
    names = [cell.name for cell in read_sweep(sweep_file(text)).cells]
    assert len(set(names)) == 2**8
    assert max(len(f".{name}.json.new".encode()) for name in names) <= 255
    assert names == [cell.name for cell in read_sweep(sweep_file(text)).cells]
    assert all(name.startswith("a_long_setting_number_0=") for name in names)
    cell = read_sweep(sweep_file(text)).cells[0]
    cell.folder.mkdir(parents=True)
    cell.write_record({"pid": 1})
    assert cell.record == {"pid": 1}


def test_overrides_of_the_command_win(sweep_file):
    sweep = read_sweep(sweep_file(), ["training.max_steps=3", "model.norm=layernorm"])
    assert {cell.settings["training.max_steps"] for cell in sweep.cells} == {"3"}
    assert {cell.settings["model.norm"] for cell in sweep.cells} == {"layernorm"}


@pytest.mark.parametrize("value", [1, 1e-5, 2.5e20, True, None, "layernorm", [0.9, 0.98], {"min_lr": 0.1}, -3])
def test_values_arrive_as_they_were_written(sweep_file, value):
    path = sweep_file(OmegaConf.to_yaml({"config": "base.yaml", "grid": {"training.anything": [value]}}))
    (cell,) = read_sweep(path).cells
    assert OmegaConf.to_container(OmegaConf.from_dotlist(cell.overrides))["training"]["anything"] == value
    assert cell.folder.name == cell.name  # no slash in it


def test_axes_of_the_same_last_part_keep_their_whole_names(sweep_file):
    sweep = read_sweep(sweep_file("config: base.yaml\ngrid: {training.seed: [1, 2], data.seed: [3]}"))
    assert [cell.name for cell in sweep.cells] == ["training.seed=1,data.seed=3", "training.seed=2,data.seed=3"]


MISTAKES = [
    ("config: base.yaml", "no cells"),
    ("- 1", "write keys and values"),
    ("grids: {}", "'grids', which is not a key of a sweep file; the keys are title"),
    ("config: base.yaml\ngrid: {data.seed: 3}", "the axis data.seed holds 3; write a list"),
    ("config: base.yaml\ngrid: [1]", "grid holds [1]; write keys"),
    ("config: base.yaml\ngrid: {recipe: {ours: 1}}", "recipe: ours holds 1; write keys"),
    ("grid: {data.seed: [1]}", "seed=1 has no configuration; write `config: FILE`"),
    ("config: base.yaml\ngrid: {data.seed: [1, 1]}", "more than one cell called seed=1"),
    ("config: base.yaml\ncells: {a/b: {}, a b: {}}", "more than one cell called a_b"),
    ("config: base.yaml\ncells: {a: {training.output_dir: here}}", "the cell a sets training.output_dir, which"),
    ("title: [", "is not valid YAML"),
    ("config: base.yaml\ngrid: {5: [1, 2]}", "grid has the axis 5, which is not a text; write a setting, or a name"),
]


@pytest.mark.parametrize(("text", "complaint"), MISTAKES)
def test_mistakes_are_said_in_a_sentence(sweep_file, text, complaint):
    with pytest.raises(ConfigError) as error:
        read_sweep(sweep_file(text))
    assert complaint in str(error.value)


def test_a_file_that_is_not_there_and_an_override_that_is_none(sweep_file):
    with pytest.raises(ConfigError, match=r"no sweep file nothing\.yaml"):
        read_sweep("nothing.yaml")
    with pytest.raises(ConfigError, match=r"'seed=3' is not an override; write section\.key=value"):
        read_sweep(sweep_file(), ["seed=3"])


def test_every_configuration_is_checked(sweep_file):
    check(read_sweep(sweep_file()))
    with pytest.raises(ConfigError, match=r"script: train\.py is not known; write one of train_lm\.py"):
        check(read_sweep(sweep_file(SWEEP.replace("train_algorithmic.py", "train.py"))))
    with pytest.raises(ConfigError, match=r"there is no script; write one of train_lm\.py"):
        check(read_sweep(sweep_file(SWEEP.replace("script: train_algorithmic.py\n", ""))))
    with pytest.raises(ConfigError, match=r"script: \['a'\] is not known; write one of train_lm\.py"):
        check(read_sweep(sweep_file(SWEEP.replace("script: train_algorithmic.py", "script: [a]"))))
    with pytest.raises(ConfigError, match=r"the cell longest: training\.max_step is not a setting; did you mean"):
        check(read_sweep(sweep_file(SWEEP.replace("max_steps: 100", "max_step: 100"))))
    with pytest.raises(ConfigError, match=r"the cell recipe=paper,train_fraction=0\.3: there is no experiment file"):
        check(read_sweep(sweep_file(SWEEP.replace("paper.yaml", "another.yaml"))))


def make(cell):
    """What starting a cell leaves behind."""
    cell.folder.mkdir(parents=True)
    cell.write_record(cells.describe(cell))


def test_a_cell_that_was_run_otherwise_is_refused(sweep_file, tmp_path):
    make(read_sweep(sweep_file()).cells[0])
    require_unchanged(read_sweep(sweep_file()).cells[0])
    (tmp_path / "base.yaml").write_text("training: {max_steps: 5}  # another comment")
    require_unchanged(read_sweep(sweep_file()).cells[0])

    changed = read_sweep(sweep_file(), ["training.max_steps=8", "data.seed=1"]).cells[0]
    with pytest.raises(
        ConfigError, match=r"max_steps=7 \(now 8\) and data\.seed=\(unset\) \(now 1\); delete or rename"
    ):
        require_unchanged(changed)
    (tmp_path / "base.yaml").write_text("training: {max_steps: 6}")
    with pytest.raises(ConfigError, match=r"base\.yaml as it was"):
        require_unchanged(read_sweep(sweep_file()).cells[0])
    changed.folder.rmdir()
    require_unchanged(changed)


@pytest.mark.parametrize(
    ("was", "now", "are_same"),
    [
        ("data.source=texts/book.txt", "data.source={}/texts/book.txt", True),
        ("data.source=texts/", "data.source=./texts", True),
        ("data.source=texts/book.txt", "data.source=texts/../texts/book.txt", True),
        ("data.source=linked/book.txt", "data.source=texts/book.txt", True),
        ('data.mixture={{"texts/": 1, "c4": 2}}', 'data.mixture={{"{}/texts": 1, "c4": 2}}', True),
        ('data.mixture={{"texts/": 1, "c4": 2}}', 'data.mixture={{"texts/": 1, "c4": 3}}', False),
        ("data.source=texts/book.txt", "data.source=texts/other.txt", False),
        ("data.source=fables", "data.source={}/fables", False),  # a source, and a folder
        ("training.learning_rate=0.1", "training.learning_rate=0.2", False),
    ],
)
def test_a_file_is_the_same_however_its_path_is_written(sweep_file, tmp_path, was, now, are_same):
    """In a cell's record and in what a report has kept of it."""
    (tmp_path / "texts").mkdir()
    (tmp_path / "linked").symlink_to("texts")
    was, now = (text.format(tmp_path) for text in (was, now))
    before, after = (read_sweep(sweep_file(), [text]).cells[0] for text in (was, now))
    make(before)
    origin = {"command": shlex.join(["python", "train_algorithmic.py", before.config, *before.overrides])}
    assert (not differences(after)) is are_same
    assert has_other_settings(after, origin) is not are_same


def test_states(sweep_file):
    cell = read_sweep(sweep_file()).cells[0]
    assert (cell.state, cell.minutes) == ("pending", 0)
    cell.folder.parent.mkdir(parents=True)
    cell.write_record({"exit_code": 2, "seconds": 30})
    assert (cell.state, cell.minutes) == ("failed (2)", 0.5)
    cell.folder.mkdir()
    cell.write_record({"exit_code": None, "started": "2026-01-01T00:00:00"})
    assert cell.state == "interrupted"
    with cell.log.open("a") as log:
        assert lock(log)
        assert cell.state == "running"
        assert cell.minutes > 0
        cell.write_record({"exit_code": None})  # as it is until a process that has the lock has written its own
        assert cell.minutes == 0
    with cell.log.open("a") as log:
        assert lock(log, fcntl.LOCK_SH)  # as one who asks for the state takes it
        assert cell.state == "interrupted"
    assert cell.state == "interrupted"
    cell.write_record({"exit_code": 0})
    assert cell.state == "failed (0)"  # a run that says it is done and has no metrics is not
    (cell.folder / "metrics.json").write_text("{}")
    assert cell.state == "finished"


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "sweeps").glob("*.yaml")), ids=lambda path: path.name)
def test_the_sweeps_that_come_with_kindling(path):
    check(read_sweep(str(path)))
    assert path.read_text().startswith(f"# python -m experiments.sweep {path.relative_to(ROOT)}")
