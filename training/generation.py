"""Text from a trained model: loading it, checking what was asked, streaming what it says."""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, TextStreamer
from transformers.utils.logging import disable_progress_bar

import modeling  # noqa: F401  registers the families, so that no remote code is ever run
from sections import ConfigError


@dataclass(frozen=True)
class Sampling:
    """How to draw: `temperature` 0 is greedy, `top_k` 0 and `top_p` 1 leave the distribution whole.

    `max_new_tokens` None means as many as the model has positions for. `ConfigError` if a value is out of range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    max_new_tokens: int | None = None
    stop_at_end: bool = True

    def __post_init__(self):
        if self.temperature < 0:
            raise ConfigError(
                f"temperature={self.temperature} is negative; 0 is greedy, 1 the model's own distribution"
            )
        if self.top_k < 0:
            raise ConfigError(f"top-k={self.top_k} is negative; 0 means all tokens")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top-p={self.top_p} must be above 0 and at most 1")
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise ConfigError(f"max-new-tokens={self.max_new_tokens} must be at least 1")

    def arguments(self) -> dict:
        """The same for transformers' `generate`, but for the length."""
        drawing = {"do_sample": True, "temperature": float(self.temperature), "top_k": self.top_k}
        drawing |= {"top_p": float(self.top_p)}
        return (drawing if self.temperature > 0 else {"do_sample": False}) | (
            {} if self.stop_at_end else {"eos_token_id": -1}  # an id that is never drawn
        )


def load_model(name: str):
    """A causal language model, ready to generate on the best device, and its tokenizer; from a folder or the Hub."""
    folder = Path(name).expanduser()
    if name.startswith((".", "/", "~", "runs/")) and not folder.is_dir():
        raise ConfigError(f"there is no folder {name}; give a run folder, a checkpoint folder or a Hub id")
    if not (folder / "config.json").exists() and (replicas := sorted(folder.glob("*/config.json"))):
        raise ConfigError(f"{name} holds several models; give the folder of one, such as {replicas[0].parent}")
    path = str(folder) if folder.is_dir() else name
    disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
        model = AutoModelForCausalLM.from_pretrained(path)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(f"{name} cannot be loaded as a language model: {reason}") from None
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    return model.eval().to(device), tokenizer


def stream(model, tokenizer, prompt: str, sampling: Sampling) -> str:
    """Print a prompt's continuation as it is drawn, and return prompt and continuation.

    `ConfigError` if the prompt leaves no room for one, or has what the tokenizer has no token for.
    """
    ids = encode_prompt(tokenizer, prompt).to(model.device)
    positions = getattr(model.config, "max_position_embeddings", 1024)
    special = (tokenizer.bos_token_id, tokenizer.eos_token_id)  # GPT-2's unknown token is its end of text
    if tokenizer.unk_token_id not in (None, *special) and tokenizer.unk_token_id in ids:
        known = tokenizer.decode(ids[0])
        raise ConfigError(f"the prompt {prompt!r} has text that the tokenizer does not know: it reads {known!r}")
    if ids.shape[1] >= positions:
        raise ConfigError(f"the prompt has {ids.shape[1]} tokens and the model {positions} positions; shorten it")
    with torch.no_grad():
        drawn = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_length=min(ids.shape[1] + (sampling.max_new_tokens or positions), positions),
            streamer=TextStreamer(tokenizer, skip_special_tokens=True),
            **sampling.arguments(),
        )
    return tokenizer.decode(drawn[0], skip_special_tokens=True)


def encode_prompt(tokenizer, prompt: str) -> torch.Tensor:
    """Ids (1, T) of a prompt; of an empty one the start token, whether or not the tokenizer writes it itself."""
    ids = tokenizer(prompt)["input_ids"]
    start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    return torch.tensor([ids or [start]])
