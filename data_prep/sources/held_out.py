"""Holds out validation documents from a corpus that has no validation split."""

from dataclasses import replace

from .long_text import Text, text_from
from .record_errors import Reading
from .shards import HubShard
from .splits import Place, Split

MAX_HELD_OUT = 1000
"""Maximum number of held-out documents if the settings give none."""
ONE_IN = 10
"""Hold out at most one document in this many; of fewer documents, this fraction of each."""
MAX_BYTES_COUNTED = 1 << 28
"""Stop counting documents after this many bytes, once there are enough to hold out a whole one."""


def hold_out(split: Split, asked: int | None, limit: int | None) -> tuple[Split, Split]:
    """A split's training documents, at most `limit`, and its held-out documents: the first `asked`.

    None means the first tenth, at most 1,000; of fewer than ten documents, the last tenth of each. Hub data sets are
    not counted: for them it means 1,000.
    """
    count = asked or _tenth_of_documents(split)
    if count is None:
        return _part(split, is_last=False).cut(0, limit), replace(_part(split, is_last=True), is_held_out=True)
    return split.cut(count, limit and count + limit), replace(split.cut(0, count), more=None, is_held_out=True)


def _tenth_of_documents(split: Split) -> int | None:
    """How many documents to hold out; None if there are too few to hold out a whole one."""
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
    """The last tenth of each document, or the rest."""

    def read_from(place: Place, reading: Reading):
        for document, after in split.read_from(place, reading):
            first, last = _cut(document["text"])
            if text := last if is_last else first:
                yield document | {"text": text}, after

    return replace(split, read_from=read_from, identity=split.identity | {"last tenth": is_last}, thin=None)


def _cut(text: Text) -> tuple[Text, Text]:
    """Cut a text after nine tenths, at the end of a line or a word if possible."""
    utf8 = text.encode()
    place = len(utf8) - max(1, len(utf8) // ONE_IN)
    window = utf8[place : place + (len(utf8) - place) // 2]
    found = [window.find(mark) for mark in (b"\n", b" ")]
    place += next((one + 1 for one in found if one >= 0), 0)
    while place < len(utf8) and utf8[place] & 0xC0 == 0x80:  # not inside a character
        place += 1
    return text_from(utf8[:place]), text_from(utf8[place:])
