"""The ledger's table: rows that are only ever added, each with the hash of the one before."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import DDL, Engine, event, select, text
from sqlalchemy.orm import Mapped, Session, mapped_column

from wardround.client.database import Base
from wardround.client.errors import LedgerDamaged
from wardround.privacy import canonical
from wardround.privacy.budget import ENTRIES, Entry
from wardround.privacy.errors import MalformedData

_LABEL = b"wardround/v1/ledger\0"


class LedgerRow(Base):
    """One entry: canonical JSON of sequence, time, kind and the entry; `digest` chains them."""

    __tablename__ = "ledger_entry"

    sequence: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str]
    body: Mapped[str]
    digest: Mapped[str]


GUARDS = {
    "ledger_no_update": "BEFORE UPDATE ON ledger_entry BEGIN "
    "SELECT RAISE(ABORT, 'the privacy ledger is append-only'); END",
    "ledger_no_delete": "BEFORE DELETE ON ledger_entry BEGIN "
    "SELECT RAISE(ABORT, 'the privacy ledger is append-only'); END",
    # INSERT OR REPLACE gets round a delete trigger, so numbers must also be new. Only an accepted
    # restore leaves a gap: the numbers that the lost entries had.
    "ledger_in_order": "BEFORE INSERT ON ledger_entry "
    "WHEN NEW.sequence <= (SELECT coalesce(max(sequence), 0) FROM ledger_entry) "
    "OR (NEW.kind <> 'accept-restore' AND NEW.sequence <> "
    "(SELECT coalesce(max(sequence), 0) + 1 FROM ledger_entry)) BEGIN "
    "SELECT RAISE(ABORT, 'the privacy ledger is append-only'); END",
}
for _name, _body in GUARDS.items():
    event.listen(LedgerRow.__table__, "after_create", DDL(f"CREATE TRIGGER {_name} {_body}"))  # type: ignore[no-untyped-call]  # SQLAlchemy leaves it untyped


@dataclass(frozen=True, slots=True)
class Position:
    """The ledger's last entry: its sequence number (0: none) and its digest (hex)."""

    sequence: int
    digest: str


START = Position(0, "0" * 64)


def make_table(engine: Engine) -> None:
    """Make table and guards where the database does not have them yet."""
    Base.metadata.create_all(engine, tables=[LedgerRow.__table__])  # type: ignore[list-item]  # declared as FromClause, is a Table


def check_guards(database: Session) -> None:
    """Raise LedgerDamaged when a trigger that keeps rows from being changed is gone."""
    triggers = text("SELECT name FROM sqlite_master WHERE type = 'trigger'")
    if missing := sorted(set(GUARDS) - set(database.scalars(triggers))):
        raise LedgerDamaged(
            f"the ledger's guard {missing[0]} was removed from the database; "
            "restore the database from a backup"
        )


def rows_from(database: Session, sequence: int) -> Sequence[LedgerRow]:
    """The rows from `sequence` on, in order."""
    wanted = select(LedgerRow).where(LedgerRow.sequence >= sequence)
    return database.scalars(wanted.order_by(LedgerRow.sequence)).all()


def make_row(sequence: int, at_ms: int, entry: Entry, previous: Position) -> LedgerRow:
    """The row of `entry`, chained to `previous`."""
    body = canonical.dumps(
        {"sequence": sequence, "at_ms": at_ms, "kind": entry.kind, "entry": entry.to_json()}
    ).decode("ascii")
    return LedgerRow(
        sequence=sequence, kind=entry.kind, body=body, digest=_digest(previous.digest, body)
    )


def read_entry(row: LedgerRow, previous: Position) -> tuple[int, Entry]:
    """Time (ms since 1970) and entry in `row`, which `make_row` wrote after `previous`.

    Raises MalformedData when it did not.
    """
    if not row.body.isascii() or row.digest != _digest(previous.digest, row.body):
        raise MalformedData("its digest does not follow from the row before")
    value = canonical.loads_object(row.body.encode("ascii"))
    kind = ENTRIES.get(row.kind)
    if kind is None or value.keys() != {"sequence", "at_ms", "kind", "entry"}:
        raise MalformedData("it is of an unknown kind")
    if (value["sequence"], value["kind"]) != (row.sequence, row.kind):
        raise MalformedData("its columns and its body disagree")
    if not isinstance(at_ms := value["at_ms"], int):
        raise MalformedData("its time is no number")
    return at_ms, kind.from_json(value["entry"])


def _digest(previous: str, body: str) -> str:
    return hashlib.sha256(_LABEL + bytes.fromhex(previous) + body.encode("ascii")).hexdigest()
