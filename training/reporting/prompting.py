"""What a prompt is answered with, checked without torch: the place of the model, the options of sampling, the seeds."""

import math
import shlex
from dataclasses import dataclass
from pathlib import Path

from settings.checks import ConfigError
from settings.sections import MIN_TEMPERATURE, SEED_LIMIT
from storage.hub import check_has_model, check_repository, is_hub_name

TEMPERATURE = 0.8
"""The default of `generate.py`."""
CONFIGS = ("config.json", "adapter_config.json")


@dataclass(frozen=True)
class Sampling:
    """Sampling options: `temperature` 0 is greedy, `top_k` 0 and `top_p` 1 mean no truncation.

    `max_new_tokens` None means up to the model's maximum length. `ConfigError` if a value is out of range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    max_new_tokens: int | None = None
    stop_at_end: bool = True

    def __post_init__(self):
        if self.temperature != 0 and not MIN_TEMPERATURE <= self.temperature < math.inf:
            raise ConfigError(
                f"temperature={self.temperature} is not 0, which is greedy, nor {MIN_TEMPERATURE} or more; 1 is the "
                "model's own distribution"
            )
        if self.top_k < 0:
            raise ConfigError(f"top-k={self.top_k} is negative; 0 means all tokens")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top-p={self.top_p} must be above 0 and at most 1")
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise ConfigError(f"max-new-tokens={self.max_new_tokens} must be at least 1")

    def arguments(self) -> dict:
        """Keyword arguments for transformers' `generate`, except for the length."""
        drawing = {"do_sample": True, "temperature": float(self.temperature), "top_k": self.top_k}
        drawing |= {"top_p": float(self.top_p)}
        return (drawing if self.temperature > 0 else {"do_sample": False}) | (
            {} if self.stop_at_end else {"eos_token_id": -1}  # an id that is never sampled
        )


def prompt_command(folder: Path, prompt: str, temperature: float, seed: int = 0, max_new_tokens: int | None = None):
    """The `generate.py` command that prints this text again; options with default values are left out."""
    words = ["python", "generate.py", str(folder)]
    if prompt:  # with `=`, or a prompt that begins with a dash would be parsed as an option
        words += [f"--prompt={prompt}"] if prompt.startswith("-") else ["--prompt", prompt]
    words += [] if temperature == TEMPERATURE else ["--temperature", f"{temperature:g}"]
    words += [] if max_new_tokens is None else ["--max-new-tokens", str(max_new_tokens)]
    words += [] if seed == 0 else ["--seed", str(seed)]
    return shlex.join(words)


def seeds_of(first: int, samples: int) -> range:
    """The seed of each sample. `ConfigError` if there are no samples or a seed is out of range."""
    if samples < 1:
        raise ConfigError(f"samples={samples} must be at least 1")
    seeds = range(first, first + samples)
    if seeds[0] < 0 or seeds[-1] >= SEED_LIMIT:
        raise ConfigError(f"seed={first} with samples={samples} is out of range; seeds are at least 0 and below 2^32")
    return seeds


def decoded(prompt: str) -> str:
    """A prompt from the command line, decoded as UTF-8; `ConfigError` if it is not UTF-8.

    Python represents bytes outside the terminal's encoding, which may be ASCII, as lone surrogates.
    """
    try:
        return prompt.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeError:
        raise ConfigError(f"the prompt {prompt!r} is not UTF-8; give it in a file, saved as UTF-8 text") from None


def path_of_model(name: str) -> str:
    """The folder of a run or checkpoint as a path, or a Hub id as it is. `ConfigError` if it is neither."""
    folder = Path(name).expanduser()
    if name.startswith((".", "/", "~", "runs/")) and not folder.is_dir():
        raise ConfigError(f"there is no folder {name}; give a run folder, a checkpoint folder or a Hub id")
    check_has_model(folder)
    if not any((folder / config).exists() for config in CONFIGS) if folder.exists() else not is_hub_name(name):
        raise ConfigError(f"{name} is not a run, checkpoint or Hub id: it has no config.json; give one that has")
    if folder.is_dir():
        return str(folder)
    check_repository(name)
    return name
