"""The class of the tokenizers that Kindling trains."""

import json
from pathlib import Path

from transformers import PreTrainedTokenizerFast as TokenizersBackend


class PreTrainedTokenizerFast(TokenizersBackend):
    """transformers' own class, saved under the name that transformers 4 and converters built on it can load.

    In transformers 5 it is an alias of `TokenizersBackend`, which older versions do not know. Whether a start token is
    added is stored in the post-processor, where transformers looks, and also saved as `add_bos_token`, where litgpt and
    others look: transformers does not save it.
    """

    def save_pretrained(self, *args, **kwargs) -> tuple[str, ...]:
        files = super().save_pretrained(*args, **kwargs)
        path = next(Path(file) for file in files if file.endswith("tokenizer_config.json"))
        about = json.loads(path.read_text(encoding="utf-8"))
        about["add_bos_token"] = self.bos_token_id is not None and self("")["input_ids"][:1] == [self.bos_token_id]
        path.write_text(json.dumps(about, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
        return files
