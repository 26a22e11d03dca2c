"""Selects the texts of a corpus that a tokenizer is trained on."""

from collections.abc import Iterator

from tqdm import tqdm

from data_prep.sources.long_text import Text
from data_prep.sources.record_errors import Reading
from data_prep.sources.splits import Split, text_of


class TrainingTexts:
    """The texts of a split that a tokenizer is trained on, counted as they are read.

    The first `max_documents`, or texts of `max_bytes` spread evenly over the split; None means no limit.
    """

    def __init__(self, split: Split, max_documents: int | None, max_bytes: int | None):
        self.split = split.thin(max_bytes) if split.thin and max_bytes else split
        self.max_documents, self.max_bytes = max_documents, max_bytes
        self.documents = self.bytes = 0
        self.limit = f"tokenizer.train_bytes={max_bytes}" if len(self.split.shards) < len(split.shards) else None
        """The setting that excluded some texts, if any did."""
        self.reading, self.is_whole = Reading(), self.split is split

    def __iter__(self) -> Iterator[Text]:
        reading = self.reading = self.split.reading()
        by_bytes = {"total": self.max_bytes, "unit": "B", "unit_scale": True}
        by_documents = {"total": self.max_documents or self.split.documents, "unit": " documents"}
        with tqdm(desc="tokenizer", **(by_bytes if self.max_bytes else by_documents)) as bar:
            for seen, (document, _) in enumerate(self.split.read_from(None, reading), start=1):
                if self.documents == self.max_documents:
                    self.limit = f"tokenizer.train_documents={self.max_documents}"
                    break
                text = text_of(document)
                size = len(text.encode())
                share = self._fraction_read(seen, reading)
                if self.max_bytes and self.documents and self.bytes + size > self.max_bytes * share:
                    self.limit = f"tokenizer.train_bytes={self.max_bytes}"
                    if share >= 1:
                        break
                    continue  # skip it for now, so that texts come from the whole split
                self.documents += 1
                self.bytes += size
                bar.update(size if self.max_bytes else 1)
                yield text
            else:
                if self.is_whole:
                    reading.judge()
            bar.total = bar.n  # the corpus may be smaller than the limit
            bar.set_postfix_str("training the tokenizer")

    def _fraction_read(self, seen: int, reading: Reading) -> float:
        """The fraction of the split read so far, by bytes or by documents; 1 if the total is unknown."""
        shares = [seen / most for most in (self.max_documents, self.split.documents) if most]
        shares += [reading.bytes / self.split.size] if self.split.size else []
        return max(shares, default=1.0)
