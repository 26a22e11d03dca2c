"""Commands where the terminal lacks characters, is gone or was never there, and where others use the processor."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from command_line.terminal import OPENMP_WAIT, USER_WAIT_VARIABLES
from settings.paths import ROOT
from tests.test_repository import PYTHON, module_of

WORK = "    print('wörk \\udcff 🔥'); print('tölds', file=sys.stderr)"
MANY = "    [print(number) for number in range(100_000)]; Path(sys.argv[1]).write_text('done')"
DESCRIPTORS = """
    file = open(sys.argv[1], "w")
    os.write(1, b"one"), os.write(2, b"two"), print("three"), print("four", file=sys.stderr), tqdm.write("five")
    file.write(repr(sys.stdin.read()))
"""
THREADS = f"    print([os.environ.get(name) for name in {USER_WAIT_VARIABLES}], 'torch' in sys.modules)"


def command(main: str, only_prints: bool = False) -> list[str]:
    """What runs these lines as the commands are run."""
    imports = "import os, sys\nfrom pathlib import Path\nfrom tqdm import tqdm"
    head = f"{imports}\nfrom command_line.terminal import robust_terminal\n"
    return [sys.executable, "-c", f"{head}with robust_terminal(only_prints={only_prints}):\n{main}"]


def run(words: list[str], **options) -> subprocess.CompletedProcess:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.run(words, cwd=ROOT, check=False, timeout=300, **pipes)


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "ascii:strict", "utf-8:strict"])
def test_what_a_terminal_cannot_show_is_replaced(encoding):
    done = run(command(WORK), env=os.environ | {"PYTHONIOENCODING": encoding})
    known = "wörk".encode(encoding.partition(":")[0], "replace")
    assert done.stdout.startswith(known + b" ?")
    assert (done.returncode, len(done.stdout.split())) == (0, 3)
    assert done.stderr.startswith(b"t") and b"Traceback" not in done.stderr  # noqa: PT018


def test_a_handler_that_the_user_has_chosen_stays():
    done = run(command("    print('wörk')"), env=os.environ | {"PYTHONIOENCODING": "ascii:xmlcharrefreplace"})
    assert done.stdout == b"w&#246;rk\n"


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(("only_prints", "code"), [(False, 0), (True, 141)])
def test_work_goes_on_without_its_reader_and_words_end(tmp_path, only_prints, code, unbuffered):
    reader, writer = os.pipe()
    words = [*command(MANY, only_prints), str(tmp_path / "done")]
    with subprocess.Popen(
        words, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, env=os.environ | {"PYTHONUNBUFFERED": unbuffered}
    ) as process:
        os.close(writer)
        os.read(reader, 1)
        os.close(reader)
        assert process.wait(100) == code
        assert process.stderr.read() == b""
    assert (tmp_path / "done").exists() == (not only_prints)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_words_that_a_full_disk_does_not_take(tmp_path):
    """Work is worth more than they are; where they are all there is, it is said that they are lost."""
    with open("/dev/full", "wb") as full:
        work = run([*command(MANY), str(tmp_path / "done")], stdout=full)
        words = run(command("    print('words')", only_prints=True), stdout=full)
        both = run(command("    print('words', flush=True)"), stdout=full, stderr=full)
    assert (work.returncode, work.stderr, (tmp_path / "done").exists()) == (0, b"", True)
    assert words.returncode == 1
    assert words.stderr == b"the output cannot be written: No space left on device\n"
    assert both.returncode == 0


def test_descriptors_that_are_closed_become_no_files(tmp_path):
    code = f"import os, sys; os.closerange(0, 3); os.execv(sys.executable, {[*command(DESCRIPTORS), 'PATH']!r})"
    done = run([sys.executable, "-c", code.replace("PATH", str(tmp_path / "file"))])
    assert done.returncode == 0
    assert (tmp_path / "file").read_text() == "''"


def test_a_terminal_that_hangs_up_costs_nothing(tmp_path):
    """What is written to it then is an input/output error."""
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [*command("    sys.stdin.buffer.raw.readinto(bytearray(1))\n" + MANY), str(tmp_path / "done")],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    os.close(ours)
    process.communicate(b"x", timeout=300)
    assert (process.returncode, (tmp_path / "done").exists()) == (0, True)


@pytest.mark.parametrize("given", [{}, {"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "7"}, {"KMP_BLOCKTIME": "1"}])
def test_how_threads_wait_is_chosen_before_torch_unless_the_user_has(given):
    free = {name: value for name, value in os.environ.items() if name not in USER_WAIT_VARIABLES}
    expected = given or OPENMP_WAIT
    done = run(command(THREADS), env=free | given)
    assert done.stdout.decode().strip() == f"{[expected.get(name) for name in USER_WAIT_VARIABLES]} False", done.stderr


COMMANDS = {
    str(path.relative_to(ROOT))
    for path in PYTHON
    if "__main__" in path.read_text(encoding="utf-8") and path.parent.name != "benchmarks"
}
WITHOUT = {"data_prep/tokens/background_writer.py"}
"""A process that only Kindling starts, without any output."""


@pytest.mark.parametrize("path", sorted(COMMANDS - WITHOUT))
def test_each_command_starts_there_and_before_torch(path):
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert called & {"exit_on_user_error", "run_script"}


HEAVY = ("torch", "transformers", "datasets", "matplotlib", "scipy")
IN_TURN = f"""
import contextlib, io, json, runpy, sys
for module, *words in json.loads(sys.argv[1]):
    sys.argv, sys.orig_argv = ["-m", *words], ["python", "-m", module]  # as Python has it while it looks for the module
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            code = runpy.run_module(module, run_name="__main__", alter_sys=True) and 0
        except SystemExit as end:
            code = end.code
    print(json.dumps([code, out.getvalue(), err.getvalue(), sorted({{*{HEAVY}}} & sys.modules.keys())]))
"""
MISTAKES = {
    "modeling.native": [["/nowhere", "out"], [".", "README.md"], ["nowhere"]],
    "generate": [
        ["some/model", "--temperature", "-1"], ["some/model", "--top-p", "2"], ["some/model", "--samples", "0"],
        ["some/model", "--prompt", "\udcff"], ["some/model", "--file", "nowhere.txt"], ["runs/nowhere"], ["configs"],
    ],
    "experiments.spectrum": [["nowhere"], ["configs", "--out", "a.pdf"]],
    "experiments.report": [["nowhere.yaml"], ["configs/sweeps/bars.yaml", "--runs", "nowhere"]],
    "publishing": [["nowhere"], ["configs", "--timeout", "0"]],
    "benchmarks.threads": [["many"]],
    **{name: [["configs/lm/demo.yaml", "data.path=1"]] for name in ("train_lm", "data_prep.show", "data_prep.tokens")},
    **{name: [["configs/algorithmic/fast.yaml", "data.modulus=x"]] for name in ("train_algorithmic",)},
    "data_prep.algorithmic": [["configs/algorithmic/fast.yaml", "data.oeration=add"]],
}  # fmt: skip
"""Arguments of each command, besides an unknown option, that are refused without any model or data."""


def test_help_and_the_refusal_of_an_argument_wait_for_no_heavy_import():
    benchmarks = {str(path.relative_to(ROOT)) for path in PYTHON if path.parent.name == "benchmarks"}
    modules = sorted(map(module_of, (COMMANDS | benchmarks) - WITHOUT))
    assert {"modeling.native", "benchmarks.flops", "experiments.plan", *MISTAKES} <= {*modules}
    asked = [(module, *words) for module in modules for words in (["--help"], ["--unknown"], *MISTAKES.get(module, []))]
    done = run([sys.executable, "-W", "ignore", "-c", IN_TURN, json.dumps(asked)])
    for words, answer in zip(asked, done.stdout.splitlines(), strict=True):
        code, out, err, heavy = json.loads(answer)
        assert not heavy, words
        is_help = words[1] == "--help"
        assert code == (0 if is_help else 2), (words, err)
        assert ("usage: " in out and not err) if is_help else (": " in err and not out), (words, out, err)


def test_text_is_read_and_written_in_an_encoding_that_is_said():
    """Not in that of the place, in which a file would not be read elsewhere."""
    for path in PYTHON:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and _is_text(node):
                assert any(word.arg == "encoding" for word in node.keywords), f"{path}:{node.lineno}"


def _is_text(node: ast.Call) -> bool:
    """Whether a call opens a file, or the pipes of a process, as text."""
    name = getattr(node.func, "attr", getattr(node.func, "id", None))
    words = {word.arg: getattr(word.value, "value", None) for word in node.keywords}
    if name in ("read_text", "write_text"):
        return True
    if name == "open" and ast.unparse(node.func) not in ("os.open", "gzip.open", "shard.open"):
        places = node.args[0 if isinstance(node.func, ast.Attribute) else 1 :]
        mode = words.get("mode") or next((getattr(place, "value", None) for place in places), "r")
        return isinstance(mode, str) and "b" not in mode  # one that is not written there is not known
    return words.get("text") is True or words.get("universal_newlines") is True
