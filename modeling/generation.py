"""Checks of `generate` before its first step: ids outside the vocabulary, and more tokens than positions.

Shapes: B batch, T length of the prompt, D width.
"""

import torch
from transformers import GenerationMixin

from .attention import causal_mask


class KindlingGenerationMixin(GenerationMixin):
    """transformers' generation with checks of the prompt, instead of an IndexError at a later step."""

    # `generate` creates the mask of a static cache itself, outside the compiled function.
    create_masks_for_generate = staticmethod(causal_mask)

    def generate(self, inputs=None, generation_config=None, *arguments, **given):
        """As transformers', and a `ValueError` before the first step if an id of the prompt is outside the vocabulary,
        or prompt and new tokens are more than `max_position_embeddings`, an assistant's too.

        Padding is not counted if there is an `attention_mask`.
        """
        ids_BT = given.get("input_ids") if inputs is None else inputs
        embeds_BTD = given.get("inputs_embeds")
        if isinstance(ids_BT, torch.Tensor):
            _check_vocabulary(ids_BT, self.config.vocab_size)
        if (prompt := ids_BT if embeds_BTD is None else embeds_BTD) is not None:
            # In transformers' order: the call, its configuration, the model's.
            settings = [given, vars(generation_config) if generation_config else {}, vars(self.generation_config)]
            new = _new_tokens(prompt.shape[1], settings)
            _check_positions(_prompt_length(prompt, given.get("attention_mask")), new, self._positions(given))
        if generation_config is None and given.get("max_new_tokens") is not None:
            # The model's own `max_length` is a limit, not a second request that deserves a warning.
            given.setdefault("max_length", None)
        return super().generate(inputs, generation_config, *arguments, **given)

    def _positions(self, given):
        """Positions of the model, or of an assistant that reads the same ids, whichever has fewer."""
        limits = [self.config.max_position_embeddings]
        if given.get("assistant_model") is not None and given.get("assistant_tokenizer") is None:
            limits.append(getattr(given["assistant_model"].config, "max_position_embeddings", limits[0]))
        return min(limits)


def _check_vocabulary(ids_BT, vocab_size):
    outside_BT = (ids_BT < 0) | (ids_BT >= vocab_size)
    if outside_BT.any():
        row, place = outside_BT.nonzero()[0].tolist()
        raise ValueError(
            f"id {ids_BT[row, place].item()} (row {row}, position {place} of the prompt) is outside the vocabulary of "
            f"{vocab_size} tokens; encode the prompt with the model's own tokenizer"
        )


def _check_positions(prompt, new, positions):
    if prompt + new > positions:
        raise ValueError(
            f"the prompt's {prompt} tokens and {new} more are too many for the model's {positions} positions "
            "(max_position_embeddings); shorten the prompt or ask for fewer new tokens"
        )


def _prompt_length(prompt, attention_mask):
    """Tokens of the longest row, without padding; cached tokens count if the mask covers them."""
    return prompt.shape[1] if attention_mask is None else attention_mask.sum(-1).max().item()


def _new_tokens(length, settings):
    """Number of new tokens requested, at least one, after a prompt of `length` tokens, padding included."""
    max_new_tokens, max_length = (
        next((one[name] for one in settings if one.get(name) is not None), None)
        for name in ("max_new_tokens", "max_length")
    )
    if max_new_tokens is None:
        max_new_tokens = (max_length or 0) - length
    return max(max_new_tokens, 1)
