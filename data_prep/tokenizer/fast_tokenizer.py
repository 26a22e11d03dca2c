"""The class of the tokenizers that are made here."""

import json
from pathlib import Path

from transformers import PreTrainedTokenizerFast as TokenizersBackend


class PreTrainedTokenizerFast(TokenizersBackend):
    """transformers' own, saved under the name that transformers 4, and converters built on it, can load as well.

    In transformers 5 it is an alias of `TokenizersBackend`, a name that nothing older knows. That a start token is put
    before a text stands in the post-processor, where transformers looks, and is written down as `add_bos_token` too,
    where litgpt and others look: transformers leaves it out.
    """

    def save_pretrained(self, *args, **kwargs) -> tuple[str, ...]:
        files = super().save_pretrained(*args, **kwargs)
        path = next(Path(file) for file in files if file.endswith("tokenizer_config.json"))
        about = json.loads(path.read_text(encoding="utf-8"))
        about["add_bos_token"] = self.bos_token_id is not None and self("")["input_ids"][:1] == [self.bos_token_id]
        path.write_text(json.dumps(about, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
        return files
