"""Text from a trained model: loading it, checking what was asked, streaming what it says."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, TextStreamer
from transformers.utils.logging import disable_progress_bar

import modeling  # noqa: F401  registers the families, so that no remote code is ever run
from config import ConfigError


def load_model(name: str):
    """A causal language model, ready to generate on the best device, and its tokenizer; from a folder or the Hub."""
    if name.startswith((".", "/", "~", "runs/")) and not Path(name).expanduser().is_dir():
        raise ConfigError(f"there is no folder {name}; give a run folder, a checkpoint folder or a Hub id")
    disable_progress_bar()
    path = str(Path(name).expanduser()) if Path(name).expanduser().is_dir() else name
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
        model = AutoModelForCausalLM.from_pretrained(path)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(f"{name} cannot be loaded as a language model: {reason}") from None
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    return model.eval().to(device), tokenizer


def stream(model, tokenizer, prompt, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=None, stop_at_end=True) -> str:
    """Print a prompt's continuation as it is drawn, and return prompt and continuation.

    `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 leave the distribution whole. `ConfigError` if a setting is out
    of range or the prompt leaves no room.
    """
    _check(temperature, top_k, top_p, max_new_tokens)
    ids = _encode(tokenizer, prompt).to(model.device)
    positions = getattr(model.config, "max_position_embeddings", None)
    longest = ids.shape[1] + (max_new_tokens or positions or 256)
    if positions is not None:
        if ids.shape[1] >= positions:
            raise ConfigError(f"the prompt has {ids.shape[1]} tokens and the model {positions} positions; shorten it")
        longest = min(longest, positions)
    sampling = {"do_sample": True, "temperature": float(temperature), "top_k": top_k, "top_p": float(top_p)}
    with torch.no_grad():
        drawn = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_length=longest,
            streamer=TextStreamer(tokenizer, skip_special_tokens=True),
            **(sampling if temperature > 0 else {"do_sample": False}),
            **({} if stop_at_end else {"eos_token_id": []}),
        )
    return tokenizer.decode(drawn[0], skip_special_tokens=True)


def _encode(tokenizer, prompt: str) -> torch.Tensor:
    """Ids (1, T) of a prompt; of an empty one the start token, whether or not the tokenizer writes it itself."""
    ids = tokenizer(prompt)["input_ids"]
    start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    return torch.tensor([ids or [start]])


def _check(temperature, top_k, top_p, max_new_tokens):
    if temperature < 0:
        raise ConfigError(f"temperature={temperature} is negative; 0 is greedy, 1 the model's own distribution")
    if top_k < 0:
        raise ConfigError(f"top-k={top_k} is negative; 0 means all tokens")
    if not 0 < top_p <= 1:
        raise ConfigError(f"top-p={top_p} must be above 0 and at most 1")
    if max_new_tokens is not None and max_new_tokens < 1:
        raise ConfigError(f"max-new-tokens={max_new_tokens} must be at least 1")
