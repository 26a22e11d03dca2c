"""Pads a batch and builds its labels: -100 on padding and prompt tokens.

Padding is recognised by length, never by token id: an end-of-text token that is also the pad token keeps its label.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch.nn.utils.rnn import pad_sequence

from data_prep.tokenizer.build import start_token
from settings.checks import ConfigError
from settings.data_sections import DataSection

IGNORE_INDEX = -100
NO_GROUP = -1


@dataclass(frozen=True)
class CausalLMCollator:
    """Collates examples (`input_ids`, and `prompt_length` if they have a prompt) into `input_ids`, `attention_mask` and
    `labels`, (B, T) int64, padded on the right to the longest; and `groups`, if given, with -1 on padding.

    Labels equal the inputs (the model shifts them), except for -100 on padding and on each example's prompt: its first
    `prompt_length` tokens, its first `mask_first_n` tokens, or its tokens up to and including the first
    `separator_id`, whichever is longest.

    With `document_start_id`, `position_ids` replace the mask: they restart at 0 at each document and at the padding, by
    which transformers' attention separates documents.

    `ConfigError` if an example has no separator, and, where the model's limits are given, an id outside `vocab_size` or
    more than `max_position_embeddings` tokens: a forward would fail with `index out of range`, or silently extrapolate.
    """

    pad_token_id: int
    mask_first_n: int = 0
    separator_id: int | None = None
    document_start_id: int | None = None
    vocab_size: int | None = None
    max_position_embeddings: int | None = None

    def __call__(self, examples: Sequence[dict]) -> dict[str, torch.Tensor]:
        rows = [torch.as_tensor(example["input_ids"], dtype=torch.int64) for example in examples]
        if self.max_position_embeddings is not None:
            self._check_lengths(rows, self.max_position_embeddings)
        shape = (len(rows), max(len(row) for row in rows))
        input_ids = torch.full(shape, self.pad_token_id)
        attention_mask = torch.zeros(shape, dtype=torch.int64)
        labels = torch.full(shape, IGNORE_INDEX)
        for i, (row, example) in enumerate(zip(rows, examples, strict=True)):
            input_ids[i, : len(row)] = row
            attention_mask[i, : len(row)] = 1
            prompt = self._prompt_length(row, example)
            labels[i, prompt : len(row)] = row[prompt:]
        if self.vocab_size is not None:
            self._check_ids(input_ids, self.vocab_size)
        batch = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
        if self.document_start_id is not None:
            position_ids = self._positions(input_ids, attention_mask)
            batch = {"input_ids": input_ids, "position_ids": position_ids, "labels": labels}
        if "groups" in examples[0]:
            groups = [torch.as_tensor(example["groups"], dtype=torch.int64) for example in examples]
            batch["groups"] = pad_sequence(groups, batch_first=True, padding_value=NO_GROUP)
        return batch

    def _check_lengths(self, rows: list[torch.Tensor], positions: int):
        for i, row in enumerate(rows):
            if len(row) > positions:
                raise ConfigError(
                    f"an example of {len(row)} tokens (row {i} of its batch) is too long for the model's {positions} "
                    "positions (max_position_embeddings); shorten it, or train a model with more"
                )

    def _check_ids(self, input_ids: torch.Tensor, vocab_size: int):
        """Padding is checked too, because it is embedded as well."""
        least, largest = input_ids.aminmax()
        if least < 0 or largest >= vocab_size:
            row, place = ((input_ids < 0) | (input_ids >= vocab_size)).nonzero()[0].tolist()
            raise ConfigError(
                f"token id {input_ids[row, place]} (row {row}, position {place} of its batch) is outside the model's "
                f"vocabulary of {vocab_size} tokens; prepare the data with the model's own tokenizer"
            )

    def _positions(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Positions within each document. A token shared by two documents is the first of the second."""
        places = torch.arange(input_ids.shape[1]).expand_as(input_ids)
        ends = attention_mask.sum(1, keepdim=True)
        starts = ((input_ids == self.document_start_id) & (places < ends)) | (places == ends)
        return places - torch.where(starts, places, 0).cummax(1).values

    def _prompt_length(self, row: torch.Tensor, example: dict) -> int:
        lengths = [self.mask_first_n, example.get("prompt_length", 0)]
        if self.separator_id is not None:
            places = (row == self.separator_id).nonzero()
            if len(places) == 0:
                raise ConfigError(
                    f"an example has no separator (token {self.separator_id}) and begins with the tokens "
                    f"{row.tolist()[:20]}; end each prompt with data.mask_up_to, or leave that out"
                )
            lengths.append(int(places[0]) + 1)
        return max(lengths)


def build_collator(data: DataSection, tokenizer, config=None) -> CausalLMCollator:
    """The collator of an experiment's `data` section, with the limits of a model's configuration, if given.

    `ConfigError` if `mask_up_to` is not a single token.
    """
    separator = None
    if data.mask_up_to is not None:
        ids = tokenizer(data.mask_up_to, add_special_tokens=False)["input_ids"]
        if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
            raise ConfigError(
                f"data.mask_up_to={data.mask_up_to!r} is {len(ids)} tokens; give text that is a single token"
            )
        separator = ids[0]
    start = start_token(tokenizer) if data.reset_at_documents else None
    collate = CausalLMCollator(tokenizer.pad_token_id, data.mask_first_n, separator, start)
    if config is None:
        return collate
    return replace(collate, vocab_size=config.vocab_size, max_position_embeddings=config.max_position_embeddings)
