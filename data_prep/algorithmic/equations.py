"""Builds all equations `a o b = c` of an operation, with their exact splits and tokenizer."""

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
from settings.data_sections import EquationsSection

from .operations import MAX_NUMBER_TOKEN, Operation, find_modulus, find_operation

TOKEN_DESCRIPTIONS = {
    "numbers": "one token per number and per symbol",
    "characters": "one token per digit and per symbol, and `<|endoftext|>` ends each answer",
    "padded": "one token per digit and per symbol, with numbers zero-padded to the length of the largest",
}


@dataclass(frozen=True)
class Equations:
    """All equations of an operation, split and tokenized."""

    tokenizer: Any
    """A transformers tokenizer that knows every number of the operation, whatever the split."""
    splits: dict[str, list[dict]]
    """The splits' examples for the collator (`input_ids`, `prompt_length`), without empty splits."""
    texts: dict[str, list[tuple[str, str]]]
    """Prompt and answer of the same equations as text, such as ("91 / 7 =", "13")."""
    length: int
    """Tokens of the longest equation."""
    answer_length: int
    """Number of last positions of a padded row that can hold an answer."""
    beginning_length: int
    """Tokens before the second number; 0 if that differs between equations."""
    operation: Operation
    modulus: int
    seed: int  # the split's

    def identity(self, name: str) -> dict:
        """The identity of the equations, wherever the operation's code is; `name` is the operation's."""
        digest = hashlib.sha256(json.dumps(self.texts).encode()).hexdigest()[:12]
        return {"origin": f"data.operation={name}", "tokens": digest, "settings": {"data.operation": name}}


def prepare_equations(section: EquationsSection, seed: int) -> Equations:
    """Every equation of the section's operation; `seed` is used for the split if the section has none."""
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


@lru_cache(maxsize=1)  # replicas differ only in the split
def _tokenize(operation: Operation, modulus: int, tokens: str):
    """The tokenizer, and all equations in order as texts and as examples."""
    from data_prep.tokenizer.build import equation_tokenizer  # deferred: `--help` does not need transformers

    triples = all_equations(operation, modulus)
    largest = max(map(max, triples))
    if tokens == "numbers" and largest > MAX_NUMBER_TOKEN:
        raise ConfigError(
            f"data.tokens=numbers needs one token per number up to the largest, {largest}, which must be at most "
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
    """The indices of `count` equations per split: consecutive pieces of `numpy.random.default_rng(seed)`'s permutation.

    Sizes are exact for the decimal fractions, rounded down (0.29 of 100 is 29, though 0.29 * 100 < 29); test is the
    rest. `ConfigError` if a requested split would be empty.
    """
    if seed < 0:
        raise ConfigError(f"the seed of the split is {seed} and must be at least 0; give such a data.seed")
    fractions = {"train": section.train_fraction, "validation": section.validation_fraction}
    sizes = {name: math.floor(Fraction(str(fraction)) * count) for name, fraction in fractions.items()}
    for name, size in sizes.items():
        if size == 0 and fractions[name] > 0:
            raise ConfigError(
                f"data.train_fraction={section.train_fraction} and data.validation_fraction="
                f"{section.validation_fraction} of {count} equations leave none for {name}; change them, or use a "
                "larger modulus"
            )
    sizes["test"] = count - sum(sizes.values())  # at least 1, as the fractions add up to less than 1
    shuffled = np.random.default_rng(seed).permutation(count)
    pieces = np.split(shuffled, np.cumsum(list(sizes.values()))[:-1])
    return {name: piece.tolist() for name, piece in zip(sizes, pieces, strict=True) if len(piece)}


def write_data(equations: Equations, section: EquationsSection, folder: Path | str):
    """Write the splits as JSON lines of `prompt` and `completion`, and a README.md that describes them."""
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
