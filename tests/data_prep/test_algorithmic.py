"""Equations are all there, right, split exactly, and tokenized as a model can learn them; all against plain Python."""

import itertools
import json
import re
import subprocess
import sys
import typing
from functools import cache

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from data_prep.algorithmic import __main__
from data_prep.algorithmic import equations as algorithmic
from data_prep.algorithmic.equations import TOKEN_DESCRIPTIONS, all_equations, prepare_equations
from data_prep.algorithmic.operations import OPERATIONS, find_modulus, find_operation
from data_prep.collator import CausalLMCollator
from data_prep.tokenizer.build import equation_tokenizer as build_equation_tokenizer
from settings.checks import ConfigError
from settings.data_sections import EquationsSection
from settings.experiment import AlgorithmicExperiment
from settings.paths import ROOT
from settings.schema import section_fields

equation_tokenizer = cache(build_equation_tokenizer)  # hypothesis asks for the same ones hundreds of times

PRIMES = (2, 3, 7, 97, 113)
SPECIALS = ["<|endoftext|>", "<|pad|>", "<|unknown|>"]


def equations_of(name: str, modulus: int | None) -> list[tuple[int, int, int]]:
    operation = find_operation(name)
    return all_equations(operation, find_modulus(operation, EquationsSection(operation=name, modulus=modulus)))


def triple_of(prompt: str, answer: str) -> tuple[int, int, int]:
    """Read an equation's text, by nothing of ours."""
    a, _, b, equals = prompt.split(" ")
    assert equals == "="
    return int(a), int(b), int(answer)


@cache  # tests only read them
def prepare(seed: int = 0, **section):
    return prepare_equations(EquationsSection(**section), seed)


# Operations


@pytest.mark.parametrize("p", PRIMES)
@pytest.mark.parametrize(
    ("name", "holds"),
    [
        ("add", lambda a, b, c: c - b - a),
        ("subtract", lambda a, b, c: c + b - a),
        ("multiply", lambda a, b, c: c - sum(itertools.repeat(a, b))),
        ("divide", lambda a, b, c: c * b - a),
        ("quadratic", lambda a, b, c: c - (a + b) ** 2 + a * b),
    ],
)
def test_modular_equations_hold_and_are_all_there(name, holds, p):
    equations = equations_of(name, p)
    assert all(holds(a, b, c) % p == 0 and 0 <= c < p for a, b, c in equations)
    assert [(a, b) for a, b, _ in equations] == [
        (a, b) for a in range(p) for b in range(p) if (name, b) != ("divide", 0)
    ]


def test_null_means_97():
    assert equations_of("divide", None) == equations_of("divide", 97)
    assert len(equations_of("divide", 97)) == 97 * 96


def test_s5_does_a_and_then_b():
    permutations = list(itertools.permutations("abcde"))
    equations = equations_of("s5", None)
    assert len(equations) == 120**2
    for a, b, c in equations:
        # where a thing comes to lie that a moves, and then b moves
        assert [permutations[c][i] for i in range(5)] == [
            permutations[b]["abcde".index(permutations[a][i])] for i in range(5)
        ]
    table = {(a, b): c for a, b, c in equations}
    assert all(table[0, a] == a == table[a, 0] for a in range(120))
    assert any(table[a, b] != table[b, a] for a, b in table)
    for row in range(120):
        assert {table[row, b] for b in range(120)} == {table[a, row] for a in range(120)} == set(range(120))


def test_a_function_of_ones_own(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("FACTOR = 3\ndef far(a, b):\n    return abs(a - b) * FACTOR\n")
    operation = f"{file}:far"
    assert equations_of(operation, 6) == [(a, b, abs(a - b) * 3) for a in range(6) for b in range(6)]
    equations = prepare(operation=operation, modulus=6)
    assert equations.texts["train"][0][0].split()[1] == "o"
    assert len(equations.tokenizer) == 16 + 2 + 3  # 0 to 15, o and =, special tokens
    assert len(equations_of(operation, None)) == 97**2
    file.write_text("import numpy as np\ndef far(a, b):\n    return np.maximum(a, b)\n")
    assert equations_of(operation, 6) == [(a, b, max(a, b)) for a in range(6) for b in range(6)]


# Splits


@pytest.mark.parametrize(
    ("name", "p", "counts"),
    [
        ("add", 97, (6586, 1411, 1412)),
        ("subtract", 97, (6586, 1411, 1412)),
        ("divide", 97, (6518, 1396, 1398)),
        ("add", 113, (8938, 1915, 1916)),
    ],
)
def test_counts(name, p, counts):
    section = EquationsSection(operation=name, modulus=p, train_fraction=0.7, validation_fraction=0.15)
    places = algorithmic.split_indices(len(equations_of(name, p)), section, 0)
    assert list(places) == ["train", "validation", "test"]
    assert tuple(map(len, places.values())) == counts


def test_fractions_are_exact():
    assert 0.29 * 100 < 29
    places = algorithmic.split_indices(100, EquationsSection(train_fraction=0.29, validation_fraction=0.57), 0)
    assert [len(part) for part in places.values()] == [29, 57, 14]


percents = st.integers(1, 98).flatmap(lambda train: st.tuples(st.just(train), st.integers(0, 99 - train)))


@settings(max_examples=60)
@given(percents, st.sampled_from([5, 7, 11]), st.sampled_from(["add", "divide"]), st.integers(0, 2**32))
def test_splits_are_disjoint_exhaustive_and_exact(shares, p, name, seed):
    train, validation = (share / 100 for share in shares)
    section = {"operation": name, "modulus": p, "train_fraction": train, "validation_fraction": validation}
    count = p * (p - 1 if name == "divide" else p)
    sizes = [count * share // 100 for share in shares]
    if sizes[0] == 0 or (sizes[1] == 0) != (shares[1] == 0):
        with pytest.raises(ConfigError, match="leave none for"):
            prepare(seed, **section)
        return
    equations = prepare(seed, **section)
    assert [len(equations.splits[name]) for name in ("train", "validation", "test") if name in equations.splits] == [
        size for size in [*sizes, count - sum(sizes)] if size
    ]
    texts = [text for split in equations.texts.values() for text in split]
    assert len(set(texts)) == count
    assert sorted(triple_of(*text) for text in texts) == equations_of(name, p)


def test_a_split_is_its_seeds():
    def train(training_seed, **section):
        return prepare_equations(EquationsSection(operation="add", modulus=7, **section), training_seed).texts["train"]

    assert train(0) == train(0) == train(3, seed=0)
    assert train(0) != train(1)
    # of numpy 2; should its generator ever change, published splits have changed
    assert train(0)[:3] == [("3 + 1 =", "4"), ("1 + 4 =", "5"), ("5 + 0 =", "5")]


def test_the_vocabulary_is_the_operations_alone():
    sections = [{"train_fraction": 0.1, "seed": 1}, {"train_fraction": 0.9, "seed": 2}]
    one, other = (prepare(operation="add", modulus=11, **section).tokenizer.get_vocab() for section in sections)
    assert one == other
    assert set(one) == {*map(str, range(11)), "+", "=", *SPECIALS}


# Tokens


def test_each_kind_of_tokens_is_described():
    assert set(TOKEN_DESCRIPTIONS) == set(typing.get_args(typing.get_type_hints(EquationsSection)["tokens"]))


SPELLINGS = ("91 / 7 =", "91/7=", " 91  /7\n= ")


@pytest.mark.parametrize("text", SPELLINGS)
@pytest.mark.parametrize(
    ("kind", "largest", "tokens", "decoded"),
    [
        ("numbers", 96, ["91", "/", "7", "="], "91 / 7 ="),
        ("characters", 96, ["9", "1", "/", "7", "="], "91/7="),
        ("padded", 96, ["9", "1", "/", "0", "7", "="], "91/07="),
        ("padded", 112, ["0", "9", "1", "/", "0", "0", "7", "="], "091/007="),
    ],
)
def test_a_prompt_is_its_own_tokens_however_it_is_spaced(kind, largest, tokens, decoded, text):
    tokenizer = equation_tokenizer(kind, "/", largest)
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == tokens
    assert tokenizer.decode(ids) == decoded
    assert tokenizer(decoded)["input_ids"] == ids


@given(st.integers(0, 10**5), st.integers(0, 10**5), st.sampled_from([0, 9, 10, 96, 112, 4095, 10**5]))
def test_numbers_are_filled_up_to_the_largest(a, b, largest):
    text = equation_tokenizer("padded", "-", largest).backend_tokenizer.normalizer.normalize_str(f"{a}- {b} =")
    width = len(str(largest))
    assert text == f"{a:0{width}}-{b:0{width}}="


@pytest.mark.parametrize("kind", TOKEN_DESCRIPTIONS)
@given(text=st.lists(st.sampled_from([*SPECIALS, "7", "/", "=", " "]) | st.text(max_size=5)).map("".join))
def test_text_never_yields_the_end_or_the_pad(kind, text):
    tokenizer = equation_tokenizer(kind, "/", 9)
    ids = tokenizer(text)["input_ids"]
    assert not {tokenizer.eos_token_id, tokenizer.pad_token_id} & set(ids)


@pytest.mark.parametrize(("kind", "unknown"), [("numbers", ["97", "x", "+"]), ("characters", ["x", "+", "é"])])
def test_what_a_tokenizer_does_not_know_is_unknown(kind, unknown):
    tokenizer = equation_tokenizer(kind, "/", 96)
    for text in unknown:
        assert tokenizer(text)["input_ids"] == [tokenizer.unk_token_id]


@pytest.mark.parametrize("kind", TOKEN_DESCRIPTIONS)
def test_saved_it_loads_as_any_other(kind, tmp_path):
    tokenizer = equation_tokenizer(kind, "/", 96)
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    for text in [*SPELLINGS, "<|endoftext|>7", ""]:
        ids = tokenizer(text)["input_ids"]
        assert again(text)["input_ids"] == ids
        assert again.decode(ids) == tokenizer.decode(ids)
    assert (again.bos_token, again.eos_token, again.pad_token, again.unk_token) == (None, *SPECIALS)


# Examples


@pytest.mark.parametrize(("p", "step"), [(7, 1), (11, 1), (113, 50)])
@pytest.mark.parametrize("kind", TOKEN_DESCRIPTIONS)
def test_the_loss_is_on_the_answer_alone(kind, p, step):
    equations = prepare(operation="add", modulus=p, tokens=kind)
    width = {"numbers": 1, "padded": len(str(p - 1))}.get(kind)
    end = ["<|endoftext|>"] if kind == "characters" else []
    tokenizer = equations.tokenizer
    for split, examples in equations.splits.items():
        batch = CausalLMCollator(tokenizer.pad_token_id)(examples[::step])
        for ids, labels, (prompt, answer) in zip(
            batch["input_ids"].tolist(), batch["labels"].tolist(), equations.texts[split][::step], strict=True
        ):
            a, b, c = triple_of(prompt, answer)
            numbers = [[str(n)] if kind == "numbers" else list(f"{n:0{width or 1}}") for n in (a, b, c)]
            head, tail = [*numbers[0], "+", *numbers[1], "="], [*numbers[2], *end]
            assert len(head) + len(tail) <= equations.length
            filled = len(ids) - len(head) - len(tail)
            assert tokenizer.convert_ids_to_tokens(ids) == head + tail + ["<|pad|>"] * filled
            assert labels == [-100] * len(head) + tokenizer.convert_tokens_to_ids(tail) + [-100] * filled
            assert set(labels[: -equations.answer_length]) == {-100}


@pytest.mark.parametrize(
    ("kind", "p", "length", "answer_length"),
    [
        ("numbers", 11, 5, 1),
        ("padded", 11, 8, 2),
        ("padded", 113, 11, 3),
        ("characters", 11, 8, 4),  # 0+10=10 and the end; the shortest prompt is 0+0=
        ("characters", 113, 12, 8),  # 0+100=100 is shorter than 100+101=88, and that than 111+112=110
    ],
)
def test_lengths(kind, p, length, answer_length):
    equations = prepare(operation="add", modulus=p, tokens=kind)
    assert (equations.length, equations.answer_length) == (length, answer_length)


# Mistakes


def test_every_operation_is_in_the_help():
    meaning = section_fields("data", AlgorithmicExperiment)["operation"].meaning
    missing = [name for name in OPERATIONS if name not in re.findall(r"\w+", meaning)]
    assert not missing, f"EquationsSection.operation (settings/data_sections.py) leaves out {missing} of OPERATIONS"


@pytest.mark.parametrize(
    ("section", "complaint"),
    [
        ({"operation": "divde"}, "data.operation=divde is not an operation; did you mean divide?"),
        (
            {"operation": "xyz"},
            f"data.operation=xyz is not an operation; there are {', '.join(OPERATIONS)} and FILE.py:FUNCTION",
        ),
        (
            {"modulus": 96},
            "data.modulus=96 is not prime, and data.operation=divide needs a prime; the next one is 97",
        ),
        (
            {"operation": "add", "modulus": -1},
            "data.modulus=-1 is not prime, and data.operation=add needs a prime; the next one is 2",
        ),
        ({"operation": "s5", "modulus": 97}, "data.modulus=97 does not apply to data.operation=s5; leave it out"),
        (
            {"modulus": 3, "train_fraction": 0.1},
            "data.train_fraction=0.1 and data.validation_fraction=0.0 of 6 equations leave none for train; "
            "change them, or use a larger modulus",
        ),
        (
            {"modulus": 3, "validation_fraction": 0.1},
            "data.train_fraction=0.5 and data.validation_fraction=0.1 of 6 equations leave none for validation; "
            "change them, or use a larger modulus",
        ),
        ({"seed": -1}, "the seed of the split is -1 and must be at least 0; give such a data.seed"),
        ({"operation": "no.py:f"}, "data.operation=no.py:f: there is no file no.py; write FILE.py:FUNCTION"),
    ],
)
def test_mistakes_are_one_sentence(section, complaint):
    with pytest.raises(ConfigError) as error:
        prepare(**section)
    assert str(error.value) == complaint


@pytest.mark.parametrize(
    ("code", "modulus", "complaint"),
    [
        ("def f(a, b): return a - b", 3, "{f} returns -1 for a=0 and b=1; return an int of at least 0, as in % 97"),
        ("def f(a, b): return a / 2", 3, "{f} returns 0.0 for a=0 and b=0; return an int of at least 0, as in % 97"),
        ("def f(a, b): return b < 9", 3, "{f} returns True for a=0 and b=0; return an int of at least 0, as in % 97"),
        (
            "def f(a, b): return a // b",
            3,
            "{f} fails with ZeroDivisionError('integer division or modulo by zero') for a=0 and b=0; fix it",
        ),
        ("def g(a, b): return 1", 3, "{f}: {file} defines no function f; write FILE.py:FUNCTION"),
        ("raise ValueError('so')", 3, "{f}: {file} fails with ValueError('so'); fix the file"),
        ("import sys; sys.exit(3)", 3, "{f}: {file} fails with SystemExit(3); fix the file"),
        ("def f(a, b): raise SystemExit", 3, "{f} fails with SystemExit() for a=0 and b=0; fix it"),
        ("def f(a, b): return a", 1, "data.modulus=1 is too small; it must be at least 2"),
        (
            "def f(a, b): return 10**9",
            3,
            "data.tokens=numbers needs one token per number up to the largest, 1000000000, which must be at most "
            "1000000; use data.tokens=characters",
        ),
    ],
)
def test_mistakes_in_a_function_of_ones_own(code, modulus, complaint, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(code + "\n")
    with pytest.raises(ConfigError) as error:
        prepare(operation=f"{file}:f", modulus=modulus)
    assert str(error.value) == complaint.format(f=f"data.operation={file}:f", file=file)


# Files and program


def test_written_data_loads_with_datasets_and_is_the_splits(tmp_path):
    section = EquationsSection(operation="divide", modulus=13, validation_fraction=0.2)
    equations = prepare_equations(section, 5)
    folder = tmp_path / "deep" / "data"
    algorithmic.write_data(equations, section, folder)
    files = {path.stem: str(path) for path in folder.glob("*.jsonl")}
    loaded = datasets.load_dataset("json", data_files=files, cache_dir=str(tmp_path / "cache"))
    assert {name: [(row["prompt"], row["completion"]) for row in rows] for name, rows in loaded.items()} == {
        name: [(prompt, f" {answer}") for prompt, answer in texts] for name, texts in equations.texts.items()
    }
    first = json.loads((folder / "train.jsonl").read_text().splitlines()[0])
    assert first == dict(zip(("prompt", "completion"), loaded["train"][0].values(), strict=True))
    about = (folder / "README.md").read_text()
    for fact in (
        "All 156 equations `a / b = c`",
        "c is a times the inverse of b mod p, b not 0, p is 13",
        "| train | 78 | 0.5 |\n| validation | 31 | 0.2 |\n| test | 47 | the rest |",
        "default_rng(5).permutation(156)",
        "Tokens (numbers): one token per number and per symbol.",
        'data_files={"train": "train.jsonl", "validation": "validation.jsonl", "test": "test.jsonl"}',
    ):
        assert fact in about


def test_the_program_shows_counts_and_rows_as_collated(tmp_path, capsys):
    path = tmp_path / "task.yaml"
    path.write_text("data: {operation: add, modulus: 7, tokens: characters}\n")
    __main__.main(str(path), ["data.train_fraction=0.6", "training.seed=3"])
    printed = capsys.readouterr().out
    assert "train: 29 equations, the longest of all 6 tokens" in printed
    assert "test: 20 equations" in printed
    assert "validation" not in printed
    prompt, answer = prepare(3, operation="add", modulus=7, train_fraction=0.6).texts["train"][0]
    assert f"\n{prompt} {answer}\nexample 0: 6 tokens, 2 targets\n" in printed
    lines = printed.split("position")[1].splitlines()[1:7]
    assert [line.split()[-1].strip("'") for line in lines] == [*prompt.replace(" ", ""), answer, "<|endoftext|>"]
    assert [line.split()[2] == "-100" for line in lines] == [True] * 4 + [False] * 2
    assert printed.count("example ") == 6


def test_without_a_seed_the_program_splits_as_training_would(tmp_path, capsys):
    (tmp_path / "task.yaml").write_text("data: {modulus: 7}\n")
    __main__.main(str(tmp_path / "task.yaml"), [])
    prompt, answer = prepare(42, modulus=7).texts["train"][0]  # transformers' default seed
    assert f"\n{prompt} {answer}\nexample 0" in capsys.readouterr().out


def test_help_imports_nothing_heavy():
    code = (
        "import runpy, sys; sys.argv = ['algorithmic', '--help']\n"
        "try: runpy.run_module('data_prep.algorithmic', run_name='__main__')\n"
        "except SystemExit as exit: assert exit.code == 0\n"
        "assert not {'torch', 'transformers', 'datasets'} & set(sys.modules), 'imported'"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "train_fraction  (float, default 0.5)" in run.stdout
