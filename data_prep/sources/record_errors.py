"""How the reading of a split goes: how far it is, what is no document, and a limit to how much of that there may be."""

import json
import math
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from settings.checks import ConfigError
from settings.wording import format_count

CHECKED_AFTER = 1000
CHECK_SETTINGS = "check data.source and data.text_field"


@dataclass(frozen=True)
class Malformed:
    """A record that is no document, and why: a `kind` that others may share, and what this one has of its own."""

    kind: str
    detail: str = ""


@dataclass(frozen=True)
class MalformedRecord:
    """A record that is no document. `record` counts from 1, `offset` is in unpacked bytes."""

    file: str
    record: int
    offset: int | None
    reason: str

    def __str__(self) -> str:
        place = f" (byte {self.offset:,})" if self.offset else ""
        return f"{self.file}, record {self.record}{place}: {self.reason}"


class Reading:
    """Counts of a split's records so far. Faults are also written to `quarantine`, a file of JSON lines.

    `limit` is the largest share of faults, judged from the 1,000th record on, and by `judge` at the split's end: those
    of a split that is held out from another together with the other's. Where a split is made of several, each has a
    `part` of the reading, which is judged by itself.
    """

    def __init__(self, limit: float = 0.0, quarantine: Path | None = None, is_held_out: bool = False, **counts):
        """`counts` are those of `counts()`, to go on with."""
        self.limit, self.quarantine, self.is_held_out = limit, quarantine, is_held_out
        self._records, self._empty, self._faults = (counts.get(name, 0) for name in ("records", "empty", "faults"))
        self._reasons = Counter(counts.get("reasons"))
        self.parts = {name: Reading(limit, quarantine, **part) for name, part in counts.get("parts", {}).items()}
        self.before = Reading(limit, **counts["before"]) if counts.get("before") else None
        """The records that come before the split, and are held out for another."""
        self.is_skipping = False
        """Whether what is read now is of those."""
        self.bytes = 0
        """Of the files as they are on disk."""
        self.last: MalformedRecord | None = None

    def part(self, name: str, is_held_out: bool) -> "Reading":
        """The reading of one of several splits, whose records are counted here as well."""
        return self.parts.setdefault(name, Reading(self.limit, self.quarantine, is_held_out))

    def skip_held_out(self):
        """From here on records are held out for another split, until `is_skipping` is set back."""
        self.is_skipping, self.before = True, Reading(self.limit)

    def document(self):
        """Count a record that is a document."""
        if self.is_skipping:
            self.before.document()
        else:
            self._count()

    def empty_document(self):
        """Count a document without text, which is skipped and no fault."""
        if self.is_skipping:
            self.before.empty_document()
        else:
            self._empty += 1
            self._count()

    def fault(self, fault: MalformedRecord, kind: str | None = None):
        """Count and write down a fault, which is one of a `kind` (None: it is called by its reason)."""
        if self.is_skipping:
            self.before.fault(fault, kind)
            return
        self._faults += 1
        self._reasons[kind or fault.reason] += 1
        self.last = fault
        if self.quarantine is not None:
            with self.quarantine.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(json.dumps(asdict(fault), ensure_ascii=False) + "\n")
        self._count()

    def _count(self):
        self._records += 1
        if self._records >= CHECKED_AFTER:
            self._judge()

    def judge(self):
        """At the end of a split that holds documents: `ConfigError` if too many of its records are faults."""
        if self.documents:
            for reading in (self, *self.parts.values()):
                if not reading.is_held_out:
                    reading._judge()

    def _judge(self):
        before = self.before or NO_RECORDS
        records, faults = self._records + before._records, self._faults + before._faults
        if faults <= self.limit * records:
            return
        empty, reasons = self._empty + before._empty, self._reasons + before._reasons
        both = Reading(records=records, empty=empty, faults=faults, reasons=reasons)
        both.last, share = self.last or before.last, faults / records
        raised = f", or raise the limit to {math.ceil(share * 1000) / 1000:g}" if share < 1 else ""
        raise ConfigError(f"{both}, more than data.bad_records={self.limit:g}; {both.remedy}{raised}")

    @property
    def remedy(self) -> str:
        """What may help against the faults."""
        if any("UTF-8" in reason for reason in self.reasons):
            return "save the files as UTF-8"
        return "mend the files" if self.documents else CHECK_SETTINGS

    @property
    def records(self) -> int:
        """Records of the split so far, empty ones and faults included."""
        return self._records + sum(part.records for part in self.parts.values())

    @property
    def empty(self) -> int:
        """How many of the records were empty."""
        return self._empty + sum(part.empty for part in self.parts.values())

    @property
    def faults(self) -> int:
        """How many of the records were no documents."""
        return self._faults + sum(part.faults for part in self.parts.values())

    @property
    def reasons(self) -> Counter:
        """Faults by kind."""
        return sum((part.reasons for part in self.parts.values()), self._reasons)

    @property
    def documents(self) -> int:
        """How many of the records were documents."""
        return self.records - self.empty - self.faults

    def counts(self) -> dict:
        """What to go on with after an interruption."""
        return {
            "records": self._records,
            "empty": self._empty,
            "faults": self._faults,
            "reasons": dict(self._reasons),
            "is_held_out": self.is_held_out,
            "before": self.before and self.before.counts(),
            "parts": {name: part.counts() for name, part in self.parts.items()},
        }

    def __str__(self) -> str:
        last = next((one.last for one in (self, *self.parts.values()) if one.last), None)
        told = [f"the last: {last}"] if last else []
        if len(self.reasons) > 1 or not last:
            told.append(describe_reasons(self.reasons))
        what = "is no document" if self.faults == 1 else "are no documents"
        return f"{self.faults:,} of {format_count(self.records, 'record')} {what} ({'; '.join(filter(None, told))})"


NO_RECORDS = Reading()


def describe_reasons(reasons: dict[str, int]) -> str:
    """Kinds of what was skipped with how many there are of each, the most frequent first."""
    return ", ".join(f"{count:,} x {kind}" for kind, count in sorted(reasons.items(), key=lambda item: -item[1]))
