"""Equations `a o b = c`: every one that an operation has, split exactly, with the tokenizer that they need.

usage: python -m data_prep.algorithmic CONFIG [section.key=value ...]
"""

import difflib
import hashlib
import itertools
import json
import math
import runpy
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np

from config import load_experiment, run_script, section_fields
from experiment import AlgorithmicExperiment
from sections import ConfigError, EquationsSection

from .show import print_row

SHOWN, DEFAULT_MODULUS = 3, 97
LARGEST_TOKEN = 1_000_000
MOST_EQUATIONS = 5_000_000
PERMUTATIONS = list(itertools.permutations(range(5)))
PLACES = {permutation: place for place, permutation in enumerate(PERMUTATIONS)}


@dataclass(frozen=True)
class Operation:
    """What turns a and b into c. Both are 0 to modulus - 1, b from `smallest_b` on."""

    symbol: str
    formula: str
    """What c is, for a reader."""
    answer: Callable[[int, int, int], int]
    """c, of a, b and the modulus."""
    smallest_b: int = 0
    modulus: int | None = None
    """The only one that the operation has, if it has only one."""
    needs_prime: bool = True


def _compose(a: int, b: int, modulus: int) -> int:  # noqa: ARG001
    """The number of the permutation that does a first and then b, as in openai/grok's data."""
    first, then = PERMUTATIONS[a], PERMUTATIONS[b]
    return PLACES[tuple(then[i] for i in first)]


OPERATIONS = {
    "add": Operation("+", "a + b mod p", lambda a, b, p: (a + b) % p),
    "subtract": Operation("-", "a - b mod p", lambda a, b, p: (a - b) % p),
    "multiply": Operation("*", "a times b mod p", lambda a, b, p: a * b % p),
    "divide": Operation(
        "/", "a times the inverse of b mod p, b not 0", lambda a, b, p: a * pow(b, -1, p) % p, smallest_b=1
    ),
    "quadratic": Operation("o", "a^2 + ab + b^2 mod p", lambda a, b, p: (a * a + a * b + b * b) % p),
    "s5": Operation(
        "o",
        "the permutation of five that does a and then b: c(i) = b(a(i)), each numbered by its place in "
        "lexicographic order",
        _compose,
        modulus=len(PERMUTATIONS),
        needs_prime=False,
    ),
}

TOKENS = {
    "numbers": "each number and each symbol is a token",
    "characters": "each digit and each symbol is a token, and `<|endoftext|>` ends each answer",
    "padded": "each digit and each symbol is a token, numbers filled up with zeros to the length of the largest",
}


@dataclass(frozen=True)
class Equations:
    """All equations of an operation, split and tokenized."""

    tokenizer: Any
    """A transformers tokenizer, which knows every number of the operation whatever the split."""
    splits: dict[str, list[dict]]
    """Examples for the collator, `input_ids` and `prompt_length`, of train, validation and test; no empty ones."""
    texts: dict[str, list[tuple[str, str]]]
    """Prompt and answer of the same equations as text, such as ("91 / 7 =", "13")."""
    length: int
    """Tokens of the longest equation."""
    answer_length: int
    """So many of the last positions of a padded row can hold an answer."""
    beginning_length: int
    """Tokens before the second number; 0 where that differs between equations."""
    operation: Operation
    modulus: int
    seed: int  # the split's

    def identity(self, name: str) -> dict:
        """What they are told by, wherever the code of their operation lies; `name` is the operation's."""
        digest = hashlib.sha256(json.dumps(self.texts).encode()).hexdigest()[:12]
        return {"origin": f"data.operation={name}", "tokens": digest, "settings": {"data.operation": name}}


def prepare_equations(section: EquationsSection, seed: int) -> Equations:
    """Every equation of the section's operation; `seed` splits them where the section has none of its own."""
    seed = seed if section.seed is None else section.seed
    operation = find_operation(section.operation)
    modulus = find_modulus(operation, section)
    places = split_places(modulus * (modulus - operation.smallest_b), section, seed)
    tokenizer, texts, examples = _tokenize(operation, modulus, section.tokens)
    length = max(len(example["input_ids"]) for example in examples)
    symbol = tokenizer.convert_tokens_to_ids(operation.symbol)
    beginnings = {example["input_ids"].index(symbol) + 1 for example in examples}
    return Equations(
        tokenizer=tokenizer,
        splits={name: [examples[place] for place in chosen] for name, chosen in places.items()},
        texts={name: [texts[place] for place in chosen] for name, chosen in places.items()},
        length=length,
        answer_length=length - min(example["prompt_length"] for example in examples),
        beginning_length=beginnings.pop() if len(beginnings) == 1 else 0,
        operation=operation,
        modulus=modulus,
        seed=seed,
    )


@lru_cache(maxsize=1)  # replicas differ in the split alone
def _tokenize(operation: Operation, modulus: int, tokens: str):
    """The tokenizer, and all equations in order as texts and as examples."""
    from .tokenizer import equation_tokenizer  # imports transformers, which `--help` does without

    triples = all_equations(operation, modulus)
    largest = max(map(max, triples))
    if tokens == "numbers" and largest > LARGEST_TOKEN:
        raise ConfigError(
            f"data.tokens=numbers takes a token for each number up to the largest, which is {largest} and may be "
            f"{LARGEST_TOKEN}; use data.tokens=characters"
        )
    tokenizer = equation_tokenizer(tokens, operation.symbol, largest)
    texts = [(f"{a} {operation.symbol} {b} =", str(c)) for a, b, c in triples]
    end = [tokenizer.eos_token_id] if tokens == "characters" else []
    equals = tokenizer.convert_tokens_to_ids("=")
    rows = tokenizer([f"{prompt} {answer}" for prompt, answer in texts])["input_ids"]
    return tokenizer, texts, [{"input_ids": row + end, "prompt_length": row.index(equals) + 1} for row in rows]


def find_operation(name: str) -> Operation:
    """The operation of that name, or a user's own by `FILE.py:FUNCTION`; `ConfigError` if there is none."""
    if name in OPERATIONS:
        return OPERATIONS[name]
    if ":" in name:
        return Operation("o", f"{name}(a, b)", _own_function(name), needs_prime=False)
    nearest = difflib.get_close_matches(name, OPERATIONS, n=1)
    hint = f"did you mean {nearest[0]}?" if nearest else f"there are {', '.join(OPERATIONS)} and FILE.py:FUNCTION"
    raise ConfigError(f"data.operation={name} is not an operation; {hint}")


def _own_function(name: str) -> Callable[[int, int, int], int]:
    """A user's function of two integers, made to answer with an integer of at least 0 or a `ConfigError`."""
    path, _, function = name.rpartition(":")
    if not Path(path).is_file():
        raise ConfigError(f"data.operation={name}: there is no file {path}; write FILE.py:FUNCTION")
    try:
        defined = runpy.run_path(path)
    except (Exception, SystemExit) as error:  # whatever the user's file may raise, or end with
        raise ConfigError(f"data.operation={name}: {path} fails with {error!r}; mend the file") from error
    if not callable(defined.get(function)):
        raise ConfigError(f"data.operation={name}: {path} defines no function {function}; write FILE.py:FUNCTION")

    def answer(a: int, b: int, modulus: int) -> int:  # noqa: ARG001
        try:
            value = defined[function](a, b)
        except (Exception, SystemExit) as error:  # as above
            raise ConfigError(f"data.operation={name} fails with {error!r} for a={a} and b={b}; mend it") from error
        if not isinstance(value, Integral) or isinstance(value, bool) or value < 0:  # NumPy's are integral too
            raise ConfigError(
                f"data.operation={name} gives {value!r} for a={a} and b={b}; return an int of at least 0, as in % 97"
            )
        return int(value)

    return answer


def find_modulus(operation: Operation, section: EquationsSection) -> int:
    """How many numbers a and b run over; `ConfigError` if the operation has no such modulus."""
    if operation.modulus is not None:
        if section.modulus is not None:
            raise ConfigError(
                f"data.modulus={section.modulus} is not for data.operation={section.operation}; leave it out"
            )
        return operation.modulus
    modulus = DEFAULT_MODULUS if section.modulus is None else section.modulus
    if modulus**2 > MOST_EQUATIONS:
        raise ConfigError(
            f"data.modulus={modulus} makes {modulus**2:,} equations; it must be at most {math.isqrt(MOST_EQUATIONS)}"
        )
    if operation.needs_prime and not _is_prime(modulus):
        prime = next(number for number in itertools.count(max(modulus, 2)) if _is_prime(number))
        raise ConfigError(
            f"data.modulus={modulus} is not prime, and data.operation={section.operation} needs a prime; "
            f"the next one is {prime}"
        )
    if modulus < 2:
        raise ConfigError(f"data.modulus={modulus} is too small; it must be at least 2")
    return modulus


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, math.isqrt(number) + 1))


def all_equations(operation: Operation, modulus: int) -> list[tuple[int, int, int]]:
    """Every (a, b, c) of the operation, in order of a and then of b."""
    pairs = itertools.product(range(modulus), range(operation.smallest_b, modulus))
    return [(a, b, operation.answer(a, b, modulus)) for a, b in pairs]


def split_places(count: int, section: EquationsSection, seed: int) -> dict[str, list[int]]:
    """Which of `count` equations each split holds: pieces, in order, of `numpy.random.default_rng(seed)`'s permutation.

    Sizes are exact for the fractions as written, rounded down (0.29 of 100 is 29, though 0.29 * 100 < 29); test is
    what is left. `ConfigError` if a split would be empty that was asked for.
    """
    if seed < 0:
        raise ConfigError(f"the equations cannot be split by the seed {seed}; give a data.seed of at least 0")
    fractions = {"train": section.train_fraction, "validation": section.validation_fraction}
    sizes = {name: math.floor(Fraction(str(fraction)) * count) for name, fraction in fractions.items()}
    for name, size in sizes.items():
        if size == 0 and fractions[name] > 0:
            raise ConfigError(
                f"data.train_fraction={section.train_fraction} and data.validation_fraction="
                f"{section.validation_fraction} of {count} equations leave none for {name}; change them, or take a "
                "larger modulus"
            )
    sizes["test"] = count - sum(sizes.values())  # at least 1, as the fractions add up to less than 1
    shuffled = np.random.default_rng(seed).permutation(count)
    pieces = np.split(shuffled, np.cumsum(list(sizes.values()))[:-1])
    return {name: piece.tolist() for name, piece in zip(sizes, pieces, strict=True) if len(piece)}


def write_data(equations: Equations, section: EquationsSection, folder: Path | str):
    """Write the splits as JSON lines of `prompt` and `completion`, and a README.md that says what they are."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, texts in equations.texts.items():
        lines = [json.dumps({"prompt": prompt, "completion": f" {answer}"}) + "\n" for prompt, answer in texts]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    (folder / "README.md").write_text(_describe(equations, section), encoding="utf-8")


def _describe(equations: Equations, section: EquationsSection) -> str:
    operation, modulus = equations.operation, equations.modulus
    total = sum(map(len, equations.texts.values()))
    prompt, answer = equations.texts["train"][0]
    shares = {"train": section.train_fraction, "validation": section.validation_fraction, "test": "the rest"}
    table = "\n".join(f"| {name} | {len(texts):,} | {shares[name]} |" for name, texts in equations.texts.items())
    files = ", ".join(f'"{name}": "{name}.jsonl"' for name in equations.texts)
    return f"""# Equations: {section.operation}

All {total:,} equations `a {operation.symbol} b = c`, such as `{prompt} {answer}`, where c is {operation.formula}, \
{"p is" if operation.needs_prime else "and a and b are below"} {modulus}.

| split | equations | fraction |
|---|---|---|
{table}

Shuffled by `numpy.random.default_rng({equations.seed}).permutation({total})` in order of a and then of b; fractions are
rounded down. A line holds a `prompt`, up to the `=`, and its `completion`, the answer.

Tokens ({section.tokens}): {TOKENS[section.tokens]}.

```python
from datasets import load_dataset

equations = load_dataset("json", data_files={{{files}}})
```
"""


def main(path: str, overrides: list[str]):
    """Print how many equations each split has, and the first of them as the collator hands them to the model."""
    from .collator import CausalLMCollator

    experiment = load_experiment(path, overrides, AlgorithmicExperiment).replicated()[0]
    default_seed = section_fields("training", AlgorithmicExperiment)["seed"].default
    equations = prepare_equations(experiment.data, experiment.training.get("seed", default_seed))
    collate = CausalLMCollator(equations.tokenizer.pad_token_id)
    for split, examples in equations.splits.items():
        print(f"\n{split}: {len(examples):,} equations, the longest of all {equations.length} tokens")
        batch = collate(examples[:SHOWN])
        for row, (prompt, answer) in enumerate(equations.texts[split][:SHOWN]):
            print(f"\n{prompt} {answer}")
            print_row(row, {name: tensor[row].tolist() for name, tensor in batch.items()}, equations.tokenizer)


if __name__ == "__main__":
    run_script(__doc__, main, AlgorithmicExperiment)
