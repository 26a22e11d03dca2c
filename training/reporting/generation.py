"""Text generation and scoring: load a model, check sampling options, stream a continuation, score a text."""

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import AutoTokenizer, TextStreamer
from transformers.utils.logging import disable_progress_bar

import modeling  # noqa: F401  registers the families, so that no remote code is ever run
from data_prep.sources.splits import parts_of
from data_prep.tokenizer.build import start_token
from modeling.loading import load_causal_lm
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


def load_model(name: str):
    """Load a causal language model, on the best device and in evaluation mode, and its tokenizer."""
    folder = Path(name).expanduser()
    if name.startswith((".", "/", "~", "runs/")) and not folder.is_dir():
        raise ConfigError(f"there is no folder {name}; give a run folder, a checkpoint folder or a Hub id")
    check_has_model(folder)
    if not any((folder / config).exists() for config in CONFIGS) if folder.exists() else not is_hub_name(name):
        raise ConfigError(f"{name} is not a run, checkpoint or Hub id: it has no config.json; give one that has")
    path = str(folder) if folder.is_dir() else name
    if not folder.is_dir():
        check_repository(name)
    disable_progress_bar()
    try:
        # Explicit, since transformers would otherwise ask on stdin whether to run remote code.
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        model = load_causal_lm(path)
    except Exception as error:  # files can fail in many ways, and safetensors raises no narrower class
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(f"{name} cannot be loaded as a language model: {reason}") from None
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    return model.eval().to(device), tokenizer


def stream(model, tokenizer, prompt: str, sampling: Sampling) -> str:
    """Print a prompt's continuation while it is sampled, and return prompt and continuation.

    `ConfigError` if the prompt leaves no room for a continuation, or has text that the tokenizer cannot encode.
    """
    ids, positions = ids_to_continue(model, tokenizer, prompt)
    with torch.no_grad():
        drawn = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_length=min(ids.shape[1] + (sampling.max_new_tokens or positions), positions),
            streamer=TextStreamer(tokenizer, skip_special_tokens=True),
            **sampling.arguments(),
        )
    return tokenizer.decode(drawn[0], skip_special_tokens=True)


def ids_to_continue(model, tokenizer, prompt: str) -> tuple[torch.Tensor, int]:
    """A prompt's ids (1, T), and the model's number of positions. `ConfigError` as from `stream`."""
    ids = encode_prompt(tokenizer, prompt).to(model.device)
    positions = getattr(model.config, "max_position_embeddings", 1024)
    _check_known(tokenizer, ids[0], f"the prompt {prompt!r}")
    if ids.shape[1] >= positions:
        begins = f" that begins with {prompt[:20]!r}" if prompt else ""
        raise ConfigError(
            f"the prompt{begins} has {ids.shape[1]} tokens and the model {positions} positions; shorten it"
        )
    return ids, positions


def check_known_text(tokenizer, texts: Mapping[str, Sequence[dict]]):
    """`ConfigError` if the tokenizer cannot encode some of the documents of the files, given by name."""
    for name, documents in texts.items():
        for document in documents:
            _check_known(tokenizer, document_ids(tokenizer, document)[0], name)


def score(model, tokenizer, documents: Sequence[dict], name: str) -> dict[str, float]:
    """Score documents: loss, perplexity and bits per byte as in `LanguageModeling`, with `targets` and `text_bytes`.

    A document has a `text`, or a `prompt`, which carries no loss, and a `completion`; then bits per byte are left out.
    The end of a document is a target, too. A document longer than the model's maximum length is cut into windows as in
    validation: each token is a target once, predicted from those before it in its window. `ConfigError`, with `name`,
    if the tokenizer cannot encode some of the text.
    """
    from .metrics import LanguageModeling  # whose libraries take a second to import

    nats, targets = [], []
    for document in documents:
        ids, prompt = document_ids(tokenizer, document)
        _check_known(tokenizer, ids, name)
        ids, labels = ids.to(model.device), ids.to(model.device, copy=True)
        labels[:prompt] = -100
        for first in range(0, len(ids) - 1, model.config.max_position_embeddings - 1):
            window = slice(first, first + model.config.max_position_embeddings)
            wanted = labels[window][1:]
            with torch.no_grad():
                logits = model(ids[window][None, :-1], use_cache=False).logits[0]
            nats.append(nn.functional.cross_entropy(logits.float(), wanted, reduction="sum").item())
            targets.append(int((wanted != -100).sum()))
    size = sum(len(part.encode()) for document in documents for part in parts_of(document))
    has_prompts = any("prompt" in document for document in documents)
    measured = LanguageModeling().compute(nats=nats, targets=targets, text_bytes=None if has_prompts else size)
    return measured | {"targets": sum(targets), "text_bytes": size}


def document_ids(tokenizer, document: dict) -> tuple[torch.Tensor, int]:
    """The ids of a document as in training, with start and end tokens, and the length of its prompt."""
    prompt, text = (
        tokenizer(str(part), add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
        for part in parts_of(document)
    )
    start, end = start_token(tokenizer), tokenizer.eos_token_id
    ids = [start, *prompt, *text, *([] if end is None else [end])]
    return torch.tensor(ids), len(prompt) + 1 if "prompt" in document else 0


def describe_score(model, tokenizer, documents: Sequence[dict], name: str) -> str:
    """The result of `score` in a line."""
    found = score(model, tokenizer, documents, name)
    several = f" in {len(documents):,} documents" if len(documents) > 1 else ""
    bits = f", {found['bits_per_byte']:.4f} bits per byte" if "bits_per_byte" in found else ""
    return (
        f"{name}: {found['loss']:.4f} nats per token, perplexity {found['perplexity']:.2f} "
        f"(vocabulary of {len(tokenizer):,}){bits}; {found['targets']:,} tokens, {found['text_bytes']:,} bytes{several}"
    )


def _check_known(tokenizer, ids: torch.Tensor, name: str):
    special = (tokenizer.bos_token_id, tokenizer.eos_token_id)  # GPT-2's unknown token is its end of text
    if tokenizer.unk_token_id not in (None, *special) and tokenizer.unk_token_id in ids:
        known = tokenizer.decode(ids[:100])
        raise ConfigError(f"{name} has text that the tokenizer cannot encode: it reads {known!r}")


def encode_prompt(tokenizer, prompt: str, **options) -> torch.Tensor:
    """Ids (1, T) of a prompt; for an empty prompt the start token."""
    ids = tokenizer(prompt, **options)["input_ids"]
    start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    return torch.tensor([ids or [start]])
