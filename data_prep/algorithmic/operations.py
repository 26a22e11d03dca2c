"""The table of operations `a o b = c`, and operations that a user defines in a file."""

import difflib
import itertools
import math
import runpy
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path

from settings.checks import ConfigError
from settings.data_sections import EquationsSection

SHOWN_EQUATIONS, DEFAULT_MODULUS = 3, 97


MAX_NUMBER_TOKEN = 1_000_000


MAX_EQUATIONS = 5_000_000


PERMUTATIONS = list(itertools.permutations(range(5)))


PERMUTATION_INDEX = {permutation: place for place, permutation in enumerate(PERMUTATIONS)}


@dataclass(frozen=True)
class Operation:
    """Computes c from a and b. Both are 0 to modulus - 1, b at least `smallest_b`."""

    symbol: str
    formula: str
    """A description of c for readers."""
    answer: Callable[[int, int, int], int]
    """Returns c for a, b and the modulus."""
    smallest_b: int = 0
    modulus: int | None = None
    """The modulus, if the operation has a fixed one."""
    needs_prime: bool = True


def _compose(a: int, b: int, modulus: int) -> int:  # noqa: ARG001
    """The index of the permutation that applies a first and then b, as in openai/grok's data."""
    first, then = PERMUTATIONS[a], PERMUTATIONS[b]
    return PERMUTATION_INDEX[tuple(then[i] for i in first)]


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


def find_operation(name: str) -> Operation:
    """The operation of that name, or a user's function given as `FILE.py:FUNCTION`; `ConfigError` if there is none."""
    if name in OPERATIONS:
        return OPERATIONS[name]
    if ":" in name:
        return Operation("o", f"{name}(a, b)", _user_function(name), needs_prime=False)
    nearest = difflib.get_close_matches(name, OPERATIONS, n=1)
    hint = f"did you mean {nearest[0]}?" if nearest else f"there are {', '.join(OPERATIONS)} and FILE.py:FUNCTION"
    raise ConfigError(f"data.operation={name} is not an operation; {hint}")


def _user_function(name: str) -> Callable[[int, int, int], int]:
    """A user's function of two integers, wrapped to return an integer of at least 0 or raise a `ConfigError`."""
    path, _, function = name.rpartition(":")
    if not Path(path).is_file():
        raise ConfigError(f"data.operation={name}: there is no file {path}; write FILE.py:FUNCTION")
    try:
        defined = runpy.run_path(path)
    except (Exception, SystemExit) as error:  # the user's file may raise anything, or exit
        raise ConfigError(f"data.operation={name}: {path} fails with {error!r}; fix the file") from error
    if not callable(defined.get(function)):
        raise ConfigError(f"data.operation={name}: {path} defines no function {function}; write FILE.py:FUNCTION")

    def answer(a: int, b: int, modulus: int) -> int:  # noqa: ARG001
        try:
            value = defined[function](a, b)
        except (Exception, SystemExit) as error:  # as above
            raise ConfigError(f"data.operation={name} fails with {error!r} for a={a} and b={b}; fix it") from error
        if not isinstance(value, Integral) or isinstance(value, bool) or value < 0:  # NumPy integers are allowed too
            raise ConfigError(
                f"data.operation={name} returns {value!r} for a={a} and b={b}; return an int of at least 0, as in % 97"
            )
        return int(value)

    return answer


def find_modulus(operation: Operation, section: EquationsSection) -> int:
    """The number of values of a and b; `ConfigError` if the operation does not allow this modulus."""
    if operation.modulus is not None:
        if section.modulus is not None:
            raise ConfigError(
                f"data.modulus={section.modulus} does not apply to data.operation={section.operation}; leave it out"
            )
        return operation.modulus
    modulus = DEFAULT_MODULUS if section.modulus is None else section.modulus
    if modulus**2 > MAX_EQUATIONS:
        raise ConfigError(
            f"data.modulus={modulus} makes {modulus**2:,} equations; it must be at most {math.isqrt(MAX_EQUATIONS)}"
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
