"""How the reading of a split goes: how far it is, what is no document, and a limit to how much of that there may be."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from sections import ConfigError

JUDGED_AFTER = 1000


@dataclass(frozen=True)
class Fault:
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

    `limit` is the largest share of faults, judged once there are 1,000 records.
    """

    def __init__(self, limit: float = 0.0, quarantine: Path | None = None, records=0, empty=0, faults=0):
        self.limit, self.quarantine = limit, quarantine
        self.records, self.empty, self.faults = records, empty, faults
        self.bytes = 0
        """Of the files as they are on disk."""
        self.last: Fault | None = None

    def document(self):
        """Count a record that is a document."""
        self._count()

    def empty_document(self):
        """Count a document without text, which is skipped and no fault."""
        self.empty += 1
        self._count()

    def fault(self, fault: Fault):
        """Count and write down a fault."""
        self.faults += 1
        self.last = fault
        if self.quarantine is not None:
            with self.quarantine.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(fault), ensure_ascii=False) + "\n")
        self._count()

    def _count(self):
        """One more record. `ConfigError` if too many are faults."""
        self.records += 1
        if self.faults > self.limit * self.records and self.records >= JUDGED_AFTER:
            raise ConfigError(f"{self}, more than data.bad_records={self.limit:g}; mend the files, or raise the limit")

    @property
    def documents(self) -> int:
        """How many of the records were documents."""
        return self.records - self.empty - self.faults

    def counts(self) -> dict:
        """What to go on with after an interruption."""
        return {"records": self.records, "empty": self.empty, "faults": self.faults}

    def __str__(self) -> str:
        last = f" (the last: {self.last})" if self.last else ""
        return f"{self.faults:,} of {self.records:,} records are no documents{last}"
