"""The tables of the site's witness: its statements, its copy of the log, what it refused."""

from sqlalchemy import LargeBinary, Text
from sqlalchemy.orm import Mapped, mapped_column

from wardround.client.database import Base


class StatementRow(Base):
    """A statement this site made. `log_index` is set once the log is proven to hold it."""

    __tablename__ = "witness_statement"

    sequence: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    kind: Mapped[str]
    run: Mapped[str]
    digest: Mapped[str]
    envelope: Mapped[bytes] = mapped_column(LargeBinary)
    log_index: Mapped[int | None]


class EntryRow(Base):
    """An entry of the log as this site was shown it: the exact leaf."""

    __tablename__ = "witness_entry"

    idx: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    leaf: Mapped[bytes] = mapped_column(LargeBinary)


class MirrorRow(Base):
    """How far the copy of the log goes (one row): its size and the peaks of its tree.

    `ledger_sequence` is the highest in this site's own logged privacy spends.
    """

    __tablename__ = "witness_mirror"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    size: Mapped[int]
    peaks: Mapped[bytes] = mapped_column(LargeBinary)
    ledger_sequence: Mapped[int]


class WitnessedRow(Base):
    """A checkpoint this site cosigned: the log's note and this site's line under it."""

    __tablename__ = "witness_checkpoint"

    size: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    root: Mapped[bytes] = mapped_column(LargeBinary)
    note: Mapped[str] = mapped_column(Text)
    line: Mapped[str] = mapped_column(Text)
    time_s: Mapped[int]


class ForgottenRow(Base):
    """A checkpoint with this site's own line that its database did not remember: an old copy."""

    __tablename__ = "witness_forgotten"

    size: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    note: Mapped[str] = mapped_column(Text)


class RefusedRow(Base):
    """A checkpoint this site refused, with all it was shown: evidence against the log."""

    __tablename__ = "witness_refused"

    id: Mapped[int] = mapped_column(primary_key=True)
    time_ms: Mapped[int]
    reason: Mapped[str]
    size: Mapped[int]
    head: Mapped[bytes] = mapped_column(LargeBinary)


TABLES = [
    Base.metadata.tables[row.__tablename__]
    for row in (StatementRow, EntryRow, MirrorRow, WitnessedRow, ForgottenRow, RefusedRow)
]
