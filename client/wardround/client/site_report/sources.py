"""Reads what a site's report is made from: its statements, its copy of the log, its checkpoints."""

from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy import select

from wardround.client.database import session
from wardround.client.witness import Witness
from wardround.client.witness_tables import EntryRow, StatementRow, WitnessedRow
from wardround.privacy.errors import MalformedData
from wardround.privacy.events import Event, Leaf, from_leaf, read_event
from wardround.privacy.presentation.marks import Marked, Source
from wardround.privacy.statements import Envelope, Statement

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Said:
    """One statement of this site, with the log index of its receipt (None: none yet)."""

    envelope: Envelope
    statement: Statement
    event: Event
    entry: int | None

    def mark(self, value: T) -> Marked[T]:
        """Return `value` as this site signed it."""
        return Marked(value, Source.SITE, () if self.entry is None else (self.entry,))


@dataclass(frozen=True, slots=True)
class Seen:
    """One entry of this site's copy of the log."""

    index: int
    leaf: Leaf

    def mark(self, value: T) -> Marked[T]:
        """Return `value` as the entry tells it: signed by a site, or asserted."""
        source = Source.SITE if self.leaf.statement else Source.COORDINATOR
        return Marked(value, source, (self.index,))


@dataclass(frozen=True, slots=True)
class Sources:
    """Everything of one moment: all statements, all entries, all cosigned checkpoints."""

    said: tuple[Said, ...]
    seen: tuple[Seen, ...]
    unreadable: tuple[int, ...]
    cosigned: tuple[tuple[int, int], ...]  # size, time in ms


def read_sources(witness: Witness) -> Sources:
    """Read the site's database in one transaction, so that the parts fit each other."""
    with session(witness.engine) as database:
        said = tuple(
            _said(row.envelope, row.log_index)
            for row in database.scalars(select(StatementRow).order_by(StatementRow.sequence))
        )
        seen, unreadable = [], []
        for row in database.scalars(select(EntryRow).order_by(EntryRow.idx)):
            try:
                seen.append(Seen(row.idx, from_leaf(row.leaf)))
            except MalformedData:
                unreadable.append(row.idx)
        cosigned = tuple(
            (row.size, row.time_s * 1000)
            for row in database.scalars(select(WitnessedRow).order_by(WitnessedRow.size))
        )
    return Sources(said, tuple(seen), tuple(unreadable), cosigned)


def _said(data: bytes, entry: int | None) -> Said:
    envelope = Envelope.from_bytes(data)
    statement = envelope.statement()
    return Said(envelope, statement, read_event(statement.kind, statement.event), entry)
