"""Counts the records of a split as it is read, writes malformed ones to a file, and limits their fraction."""

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
    """A malformed record: the `kind` of error, which others may share, and details of this one."""

    kind: str
    detail: str = ""


@dataclass(frozen=True)
class MalformedRecord:
    """A malformed record and its place. `record` counts from 1, `offset` is in decompressed bytes."""

    file: str
    record: int
    offset: int | None
    reason: str

    def __str__(self) -> str:
        place = f" (byte {self.offset:,})" if self.offset else ""
        return f"{self.file}, record {self.record}{place}: {self.reason}"


class Reading:
    """Counts of a split's records so far. Malformed ones are also written to `quarantine`, a file of JSON lines.

    `limit` is the maximum fraction of malformed records, checked from the 1,000th record on, and by `judge` at the end
    of the split; a held-out split is checked together with the split that it is held out from. If a split is made of
    several, each has its own `part` of the reading, which is checked separately.
    """

    def __init__(self, limit: float = 0.0, quarantine: Path | None = None, is_held_out: bool = False, **counts):
        """`counts` are the values of `counts()` to resume from."""
        self.limit, self.quarantine, self.is_held_out = limit, quarantine, is_held_out
        self._records, self._empty, self._faults = (counts.get(name, 0) for name in ("records", "empty", "faults"))
        self._reasons = Counter(counts.get("reasons"))
        self.parts = {name: Reading(limit, quarantine, **part) for name, part in counts.get("parts", {}).items()}
        self.before = Reading(limit, **counts["before"]) if counts.get("before") else None
        """The records before the split, which are held out for another one."""
        self.is_skipping = False
        """Whether such held-out records are being read now."""
        self.bytes = 0
        """Bytes read so far, of the files as they are on disk."""
        self.last: MalformedRecord | None = None

    def part(self, name: str, is_held_out: bool) -> "Reading":
        """The reading of one of several splits; its records are included in the counts here."""
        return self.parts.setdefault(name, Reading(self.limit, self.quarantine, is_held_out))

    def skip_held_out(self):
        """Count the next records as held out for another split, until `is_skipping` is reset."""
        self.is_skipping, self.before = True, Reading(self.limit)

    def document(self):
        """Count a valid document."""
        if self.is_skipping:
            self.before.document()
        else:
            self._count()

    def empty_document(self):
        """Count an empty document, which is skipped but not malformed."""
        if self.is_skipping:
            self.before.empty_document()
        else:
            self._empty += 1
            self._count()

    def fault(self, fault: MalformedRecord, kind: str | None = None):
        """Count a malformed record of a `kind` (None: its reason), and write it to the quarantine file."""
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
        """At the end of a split with documents: `ConfigError` if too many of its records are malformed."""
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
        """What the user can do about the malformed records."""
        if any("UTF-8" in reason for reason in self.reasons):
            return "save the files as UTF-8"
        return "fix the files" if self.documents else CHECK_SETTINGS

    @property
    def records(self) -> int:
        """Records of the split so far, including empty and malformed ones."""
        return self._records + sum(part.records for part in self.parts.values())

    @property
    def empty(self) -> int:
        """Number of empty records."""
        return self._empty + sum(part.empty for part in self.parts.values())

    @property
    def faults(self) -> int:
        """Number of malformed records."""
        return self._faults + sum(part.faults for part in self.parts.values())

    @property
    def reasons(self) -> Counter:
        """Malformed records by kind."""
        return sum((part.reasons for part in self.parts.values()), self._reasons)

    @property
    def documents(self) -> int:
        """Number of valid documents."""
        return self.records - self.empty - self.faults

    def counts(self) -> dict:
        """The counts to save, and to resume from after an interruption."""
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
        details = [f"the last: {last}"] if last else []
        if len(self.reasons) > 1 or not last:
            details.append(describe_reasons(self.reasons))
        what = "is malformed" if self.faults == 1 else "are malformed"
        return f"{self.faults:,} of {format_count(self.records, 'record')} {what} ({'; '.join(filter(None, details))})"


NO_RECORDS = Reading()


def describe_reasons(reasons: dict[str, int]) -> str:
    """The reasons for skipped records with their counts, most frequent first."""
    return ", ".join(f"{count:,} x {kind}" for kind, count in sorted(reasons.items(), key=lambda item: -item[1]))
