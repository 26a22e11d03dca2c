"""What the repository promises about itself: who imports whom, that every configuration builds, that books are kept."""

import ast
import json
import re
import shlex
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from transformers import AutoModelForCausalLM, GPT2Config

import modeling  # noqa: F401
from experiments import cells, plan, report, sweep
from settings.experiment import AlgorithmicExperiment, LanguageExperiment
from settings.loading import load_experiment
from settings.paths import ROOT
from settings.schema import KINDS
from training.model import build_config
from training.preflight.shapes import check_sizes

PYTHON = sorted(
    path
    for room in ROOT.iterdir()
    if not room.name.startswith(".") and room.name not in {"tests", "runs", "prepared", "build"}
    for path in (room.rglob("*.py") if room.is_dir() else [room] if room.suffix == ".py" else [])
)
LIBRARIES = {"torch", "transformers", "huggingface_hub"}
COMMANDS = {"command_line", "settings", "storage"}
MAY_IMPORT = {
    "settings": set(),
    "storage": {"settings"},
    "command_line": {"settings", "storage"},
    "modeling": set(),
    "data_prep": COMMANDS,
    "publishing": COMMANDS | {"modeling"},
    "training": {"settings", "storage", "modeling", "data_prep", "publishing"},
    "experiments": COMMANDS | {"modeling"},
}
"""The rooms, and which others the files of each may import."""


def name_of(path: Path) -> str:
    """The module that a file is."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def module_of(path: str) -> str:
    """A command as `python -m` takes it."""
    return path.removesuffix(".py").removesuffix("/__main__").replace("/", ".")


MODULES = {name_of(path): path for path in PYTHON}


def imports_of(path: Path) -> list[tuple[int, str, list[str]]]:
    """Each import of a file as (level of relativity, module, names)."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(0, alias.name, []) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.level, node.module or "", [alias.name for alias in node.names]))
    return found


def modules_that(path: Path) -> set[str]:
    """Which of our modules a file imports, wherever in it, deferred imports included."""
    package = name_of(path).split(".") if path.name == "__init__.py" else name_of(path).split(".")[:-1]
    found = set()
    for level, module, names in imports_of(path):
        base = ".".join([*package[: len(package) + 1 - level], *filter(None, [module])]) if level else module
        found |= {f"{base}.{name}" if f"{base}.{name}" in MODULES else base for name in names or [""]}
    return found & MODULES.keys() - {name_of(path)}


OF_A_COMMAND = {
    "modeling/native.py": {"command_line", "storage"},
    "experiments/plan.py": {"training"},
    **{f"experiments/planning/{name}.py": {"training", "data_prep"} for name in ("data", "run", "tables")},
}
"""What a command, in one file or several, may import besides: `native` does not go to the Hub, and `plan` measures."""


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_design(path):
    room, file = path.relative_to(ROOT).parts[0], path.relative_to(ROOT).as_posix()
    allowed = MAY_IMPORT.get(room, MAY_IMPORT.keys()) | OF_A_COMMAND.get(file, set()) | {room}
    assert {module.split(".")[0] for module in modules_that(path)} - {"benchmarks"} <= allowed
    for level, module, _ in imports_of(path):
        top = module.split(".")[0]
        if room == "modeling" and top not in OF_A_COMMAND.get(file, set()):
            known = LIBRARIES | set(sys.stdlib_module_names) | ({"gguf"} if path.name == "gguf_file.py" else set())
            assert level == 1 or top in known, f"{path.name} imports {module}"
            assert level == 0 or "." not in module, "the Hub export follows `from .x import y` only"
        if room == "experiments":
            assert top != "torch", "experiments never touch tensors"


def test_no_files_import_each_other_in_a_circle():
    """Nor by imports inside functions. `TopologicalSorter` names the files of a circle."""
    TopologicalSorter({name: modules_that(path) for name, path in MODULES.items()}).prepare()


def test_rooms_are_small_and_say_what_belongs_there():
    for path in (path for path in PYTHON if path.name == "__init__.py"):
        belongs, _, elsewhere = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))).partition("\n\n")
        assert belongs, f"{path}: say what belongs here"
        assert elsewhere, f"{path}: say, in a second paragraph, what does not"
        assert len([*path.parent.glob("*.py")]) <= 15, f"{path.parent} has too many files"


def test_training_uses_models_by_configuration_accounting_loading_and_releases_alone():
    allowed = {"modeling"} | {
        f"modeling.{name}" for name in ("accounting", "configuration_kindling", "loading", "memory", "releases")
    }
    for path in (ROOT / "training").rglob("*.py"):
        used = {module for module in modules_that(path) if module.split(".")[0] == "modeling"}
        assert used <= allowed | ({"modeling.conversion"} if path.name == "pretrained.py" else set()), path.name


SCRIPTS = {"lm": "train_lm.py", "algorithmic": "train_algorithmic.py"}
CONFIGS = sorted(path for folder in SCRIPTS for path in (ROOT / "configs" / folder).glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_configuration_builds_and_says_how_to_run_it(path, tmp_path):
    script = SCRIPTS[path.parent.name]
    experiment = load_experiment(str(path), [], KINDS[script])
    start = None
    if "path" in experiment.model:
        start = str(tmp_path)  # in the place of one on the Hub
        GPT2Config().save_pretrained(start)
    if script == "train_lm.py":
        check_sizes(experiment, start)
    with torch.device("meta"):
        AutoModelForCausalLM.from_config(build_config(experiment.model, {"vocab_size": 1000}, start))
    assert path.read_text().startswith(f"# python {script} {path.relative_to(ROOT)}")


def test_there_are_configurations():
    assert len(CONFIGS) >= 11


def test_files_and_functions_stay_readable():
    for path in PYTHON:
        text = path.read_text(encoding="utf-8")
        assert text.count("\n") <= 300 or path.name == "fables.py", f"{path.name} has over 300 lines"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 60, f"{path.name}: {node.name} has over 60 lines"


def test_each_file_says_what_it_is():
    for path in PYTHON:
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{path} has no docstring"


def test_scripts_stay_thin():
    for script in (*SCRIPTS.values(), "generate.py"):
        assert (ROOT / script).read_text().count("\n") <= 100


def test_pins_meet_floors():
    pins = dict(re.findall(r"^([\w.-]+)==([\d.]+)", (ROOT / "constraints.txt").read_text().lower(), re.M))
    floors = re.findall(r'"([\w.-]+)>=([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert len(floors) > 8

    def version(text):
        return tuple(map(int, text.split(".")))

    for name, floor in floors:
        if name != "setuptools":
            assert version(pins[name]) >= version(floor), name


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
GUIDES = ["architecture", "corpora", "experiments", "grokking", "models", "publishing", "reliability", "training"]


def named_page(path):
    return path.name


def test_the_readme_is_short_and_leads_to_every_guide():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme.count("\n") <= 150
    for guide in GUIDES:
        assert f"](docs/{guide}.md)" in readme, guide


@pytest.mark.parametrize("page", PAGES, ids=named_page)
def test_links_and_files_of_a_page_are_there(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    for link, heading in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([\w-]+))?\)", text):
        target = page.parent / link if link else page
        assert target.exists(), f"{page.name} links to {link}"
        if heading:
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.M)
            assert heading in {re.sub(r"[^\w -]", "", one).lower().replace(" ", "-") for one in headings}, heading
    for name in re.findall(r"`([\w./-]+/(?:[\w-]+\.(?:py|yaml|md|json))?)`", text):
        if name.split("/")[0] in {path.name for path in ROOT.iterdir()} and "/test_" not in name:
            assert (ROOT / name).exists(), f"{page.name} names {name}"
    for name in re.findall(r"`([\w/]*test_\w+\.py)(?=[`:])", text):
        assert (ROOT / "tests" / name.removeprefix("tests/")).exists(), f"{page.name} names {name}"


def commands_of(page: Path) -> list[str]:
    """The commands of ours in a page's shell examples."""
    examples = "\n".join(re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.S))
    return re.findall(r"^(?:python|make|accelerate) .*$", examples, re.M)


def test_guides_show_commands():
    assert all(
        commands_of(ROOT / "docs" / f"{guide}.md") for guide in GUIDES if guide not in ("reliability", "architecture")
    )
    assert len(commands_of(ROOT / "README.md")) > 15


@pytest.mark.parametrize(("page", "command"), [(page, command) for page in PAGES for command in commands_of(page)])
def test_the_pages_commands_are_real(page, command):  # noqa: ARG001
    words = shlex.split(re.sub(r"--push-to-hub \S+", "", command), comments=True)
    if words[0] == "accelerate":
        words = as_one_process(words)
    if words[0] == "make":
        assert words[1] in re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
        return
    module, rest = (words[2], words[3:]) if words[1] == "-m" else (words[1].removesuffix(".py"), words[2:])
    assert module in MODULES
    check_options(module, [word.partition("=")[0] for word in rest if word.startswith("--")])
    check_settings(module, rest)


def check_options(module: str, options: list[str]):
    """Check that a command knows its options: its file, or its package's, writes each of them."""
    folder = MODULES[module].parent if MODULES[module].name == "__init__.py" else None
    sources = [folder / "__main__.py"] if folder else [MODULES[module]]
    for option in options:
        assert any(f'"{option}"' in source.read_text(encoding="utf-8") for source in sources), f"{module} {option}"


def as_one_process(words: list[str]) -> list[str]:
    """A command without the launcher, whose own file is read as the launcher reads it."""
    script = next(index for index, word in enumerate(words) if word.endswith(".py"))
    options = launch_command_parser().parse_args(words[2:])
    launcher = load_config_from_file(str(ROOT / options.config_file))
    assert launcher.distributed_type == "MULTI_GPU", "accelerate would start one process"
    assert (options.num_processes or launcher.num_processes) > 1
    return ["python", *words[script:]]


def check_settings(module: str, rest: list[str]):
    """Check the configuration that a command names, and its overrides, as the command would read them."""
    if module == "experiments.sweep":
        given = sweep.parse_arguments(rest)
        read = cells.read_sweep(str(ROOT / given.sweep), given.overrides)
        cells.check(read)
        sweep.select_cells(read.cells, given.only or ["*"])
    elif module == "experiments.report":
        cells.check(cells.read_sweep(str(ROOT / report.parse_arguments(rest).sweep)))
    elif module == "experiments.plan":
        given = plan.parse_arguments([str(ROOT / word) if word.endswith(".yaml") else word for word in rest])
        plan.check_options(given)
        for path in given.configs:
            load_experiment(path, given.overrides)
    elif config := [word for word in rest if word.endswith(".yaml")]:
        settings = [word for word in rest[rest.index(config[0]) + 1 :] if not word.startswith("--")]
        kind = (
            AlgorithmicExperiment
            if module == "data_prep.algorithmic"
            else KINDS.get(f"{module}.py", LanguageExperiment)
        )
        load_experiment(str(ROOT / config[0]), settings, kind)


def test_the_file_map_is_the_tree():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").partition("<!-- files -->")[2]
    listed = re.findall(r"^\| `([\w./]+\.py)` \| \S", text, re.M)
    assert sorted(listed) == sorted(path.relative_to(ROOT).as_posix() for path in PYTHON if path.name != "__init__.py")


def test_the_map_of_the_rooms_is_who_may_import_whom():
    text = (
        (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").partition("```mermaid")[2].partition("```")[0]
    )
    arrows = {room: set(others.split(" & ")) for room, others in re.findall(r"^ *(\w+) --> (.*)$", text, re.M)}
    scripts = (*SCRIPTS.values(), "generate.py")
    used = {module.split(".")[0] for script in scripts for module in modules_that(ROOT / script)}
    assert arrows.pop("scripts") == used
    assert arrows == {room: others for room, others in MAY_IMPORT.items() if others}
    assert all(script in text for script in scripts)


FAULT = re.compile(r"^- \*\*(.+?)\.\*\*", re.M)


def test_the_faults_name_tests_that_exist():
    """Each fault has its tests in the list beside it, which says of each whether it is one of the nightly ones."""
    faults = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8").partition("## The faults")[2]
    listed = (ROOT / "docs" / "reliability_tests.md").read_text(encoding="utf-8")
    titles = FAULT.findall(faults.partition("## What it costs")[0])
    assert len(titles) > 40
    assert FAULT.findall(listed) == titles
    for title, tests in zip(titles, FAULT.split(listed)[2::2], strict=True):
        assert "  - `" in tests, f"{title} has no test"
    named = re.findall(r"`([\w/]+\.py)(?:::(\w+))?`( \*nightly\*)?", listed)
    assert len(named) > 60
    for path, name, nightly in named:
        tests = {
            node.name: [ast.unparse(one) for one in node.decorator_list]
            for node in ast.walk(ast.parse((ROOT / "tests" / path).read_text(encoding="utf-8")))
            if isinstance(node, ast.FunctionDef)
        }
        assert not name or name in tests, (path, name)
        assert bool(nightly) == ("pytest.mark.slow" in tests.get(name, [])), (path, name)


def test_what_reliability_costs_is_what_was_measured():
    text = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8").partition("## What it costs")[2]
    found = json.loads((ROOT / "experiments" / "results" / "reliability.json").read_text(encoding="utf-8"))
    saves = found["100 MB"]
    for number, unit in (
        (found["added_microseconds_a_step"], " microseconds"),
        (saves["saved_megabytes"], " MB"),
        (saves["save_seconds"]["ours"], " s"),
        (saves["save_seconds"]["stock"], " s"),
        (saves["check_seconds"], " s"),
        *((found[name]["step_ratio"], " ({} to {})".format(*found[name]["interval"])) for name in ("tiny", "demo")),
    ):
        assert f" {number}{unit}" in " ".join(text.split())


def test_a_command_is_called_as_it_is_started():
    """In its usage, its help and before its errors; `run_script` takes the name from the usage."""
    named = {}
    for path in PYTHON:
        text, module = path.read_text(encoding="utf-8"), module_of(path.relative_to(ROOT).as_posix())
        is_script = path.parent == ROOT
        name, started = (path.name, path.name) if is_script else (module, f"-m {module}")
        found = re.findall(r'exit_on_user_error\("([^"]+)"', text) + re.findall(r'prog="python (?:-m )?([^"]+)"', text)
        if "run_script(__doc__" in text:
            assert f"\nusage: python {started}" in ast.get_docstring(ast.parse(text))
            found.append(name)
        named |= dict.fromkeys([name] * bool(found), found)
        assert set(found) <= {name}
    assert {"data_prep.tokens", "data_prep.tokenizer", "experiments.sweep", "modeling.native", "train_lm.py"} <= set(
        named
    )
