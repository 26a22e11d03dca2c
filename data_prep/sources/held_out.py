"""What of a corpus is kept for validation, where it has none of its own."""

from dataclasses import replace

from .long_text import Text, text_from
from .record_errors import Reading
from .shards import HubShard
from .splits import Place, Split

MAX_HELD_OUT = 1000
"""So many at most, where nothing says how many."""
ONE_IN = 10
"""And no more than one in so many; of fewer documents, that part of each."""
MAX_BYTES_COUNTED = 1 << 28
"""Bytes of files from which on no more documents are counted, if there are enough to hold one out whole."""


def hold_out(split: Split, asked: int | None, limit: int | None) -> tuple[Split, Split]:
    """A split's documents for training, at most `limit`, and those held out: the first ones, as many as `asked` for.

    None asks for the first tenth of its documents, and for at most 1,000; of fewer than ten documents, for the last
    tenth of each. A corpus of the Hub is not counted: there it is 1,000.
    """
    count = asked or _tenth_of_documents(split)
    if count is None:
        return _part(split, is_last=False).cut(0, limit), replace(_part(split, is_last=True), is_held_out=True)
    return split.cut(count, limit and count + limit), replace(split.cut(0, count), more=None, is_held_out=True)


def _tenth_of_documents(split: Split) -> int | None:
    """How many documents are to be held out; None if there are too few to hold one out whole."""
    if any(isinstance(shard, HubShard) for shard in split.shards):
        return MAX_HELD_OUT
    count, reading, is_text = 0, Reading(1.0), True
    for document, _ in split.read_from(None, reading):
        count, is_text = count + 1, is_text and "text" in document
        if count == MAX_HELD_OUT * ONE_IN or (count >= ONE_IN and reading.bytes > MAX_BYTES_COUNTED):
            break
    else:
        if count < ONE_IN and is_text:
            return None
    return max(1, count // ONE_IN)


def _part(split: Split, is_last: bool) -> Split:
    """The last tenth of each document, or what comes before it."""

    def read_from(place: Place, reading: Reading):
        for document, after in split.read_from(place, reading):
            first, last = _cut(document["text"])
            if text := last if is_last else first:
                yield document | {"text": text}, after

    return replace(split, read_from=read_from, identity=split.identity | {"last tenth": is_last}, thin=None)


def _cut(text: Text) -> tuple[Text, Text]:
    """A text in two, after nine tenths of it and at the end of a line or a word, if there is one."""
    utf8 = text.encode()
    place = len(utf8) - max(1, len(utf8) // ONE_IN)
    window = utf8[place : place + (len(utf8) - place) // 2]
    found = [window.find(mark) for mark in (b"\n", b" ")]
    place += next((one + 1 for one in found if one >= 0), 0)
    while place < len(utf8) and utf8[place] & 0xC0 == 0x80:  # in the middle of a letter
        place += 1
    return text_from(utf8[:place]), text_from(utf8[place:])
