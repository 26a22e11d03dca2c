"""Text generation and scoring: load a model, stream a continuation, score a text."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn
from transformers import AutoTokenizer, TextStreamer
from transformers.utils.logging import disable_progress_bar

import modeling  # noqa: F401  registers the families, so that no remote code is ever run
from data_prep.sources.splits import parts_of
from data_prep.tokenizer.build import start_token
from modeling.loading import load_causal_lm
from settings.checks import ConfigError

from .prompting import Sampling, path_of_model


def load_model(name: str):
    """Load a causal language model, on the best device and in evaluation mode, and its tokenizer."""
    path = path_of_model(name)
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
