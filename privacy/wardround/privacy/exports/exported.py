"""What both exports take from a log entry: its parts as short, printable text."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from datetime import UTC, datetime

from wardround.privacy.errors import MalformedData
from wardround.privacy.events import Leaf, from_leaf
from wardround.privacy.presentation.text import printable
from wardround.privacy.records import Record

MAX_VALUE = 256


@dataclass(frozen=True, slots=True)
class Exported:
    """One log entry; `leaf` is None when it cannot be read, which an export must not hide."""

    index: int
    leaf_hash: str
    leaf: Leaf | None

    @property
    def kind(self) -> str:
        """The kind of the entry."""
        return self.leaf.kind if self.leaf else "unreadable"

    @property
    def time(self) -> str:
        """The coordinator's time of the entry, RFC 3339 with milliseconds; 1970 when unreadable."""
        when = datetime.fromtimestamp((self.leaf.ts_ms if self.leaf else 0) / 1000, UTC)
        return f"{when:%Y-%m-%dT%H:%M:%S}.{when.microsecond // 1000:03d}Z"

    @property
    def failed(self) -> bool:
        """Whether the entry tells of something that went wrong or was refused."""
        event = self.leaf.event if self.leaf else None
        status = getattr(event, "status", 0)
        outcome = getattr(event, "outcome", "")
        return self.kind in _FAILURES or status >= 400 or outcome in ("aborted", "denied", "failed")

    def details(self) -> dict[str, str]:
        """Return the event's fields as text: long and nested ones by digest, names or count."""
        if self.leaf is None:
            return {}
        event = self.leaf.event
        found = {f.name: _short(getattr(event, f.name)) for f in fields(event)}  # type: ignore[arg-type]  # every event is a dataclass
        if self.leaf.statement is not None:
            found["statement_sequence"] = str(self.leaf.statement.sequence)
        return {name: value for name, value in found.items() if value}


_FAILURES = frozenset({"unreadable", "fault", "refusal", "revoke", "restored"})


def exported(entries: Iterable[bytes], first: int) -> Iterator[Exported]:
    """Read raw leaves, the first of which has the log index `first`."""
    for index, data in enumerate(entries, first):
        leaf_hash = hashlib.sha256(b"\0" + data).hexdigest()
        try:
            yield Exported(index, leaf_hash, from_leaf(data))
        except MalformedData:
            yield Exported(index, leaf_hash, None)


def _short(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        if any(isinstance(item, Record) for item in value):
            return f"{len(value)} items"
        return printable(", ".join(str(item) for item in value), limit=MAX_VALUE)
    text = str(value)
    if len(text) > MAX_VALUE:
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
    return printable(text, limit=MAX_VALUE)
