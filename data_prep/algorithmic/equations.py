"""Equations `a o b = c`: every one that an operation has, split exactly, with the tokenizer that they need."""

import hashlib
import itertools
import json
import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from settings.checks import ConfigError
from settings.sections import EquationsSection

from .operations import MAX_NUMBER_TOKEN, Operation, find_modulus, find_operation

TOKEN_DESCRIPTIONS = {
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
    places = split_indices(modulus * (modulus - operation.smallest_b), section, seed)
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
    from data_prep.tokenizer.build import equation_tokenizer  # imports transformers, which `--help` does without

    triples = all_equations(operation, modulus)
    largest = max(map(max, triples))
    if tokens == "numbers" and largest > MAX_NUMBER_TOKEN:
        raise ConfigError(
            f"data.tokens=numbers takes a token for each number up to the largest, which is {largest} and may be "
            f"{MAX_NUMBER_TOKEN}; use data.tokens=characters"
        )
    tokenizer = equation_tokenizer(tokens, operation.symbol, largest)
    texts = [(f"{a} {operation.symbol} {b} =", str(c)) for a, b, c in triples]
    end = [tokenizer.eos_token_id] if tokens == "characters" else []
    equals = tokenizer.convert_tokens_to_ids("=")
    rows = tokenizer([f"{prompt} {answer}" for prompt, answer in texts])["input_ids"]
    return tokenizer, texts, [{"input_ids": row + end, "prompt_length": row.index(equals) + 1} for row in rows]


def all_equations(operation: Operation, modulus: int) -> list[tuple[int, int, int]]:
    """Every (a, b, c) of the operation, in order of a and then of b."""
    pairs = itertools.product(range(modulus), range(operation.smallest_b, modulus))
    return [(a, b, operation.answer(a, b, modulus)) for a, b in pairs]


def split_indices(count: int, section: EquationsSection, seed: int) -> dict[str, list[int]]:
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

Tokens ({section.tokens}): {TOKEN_DESCRIPTIONS[section.tokens]}.

```python
from datasets import load_dataset

equations = load_dataset("json", data_files={{{files}}})
```
"""
