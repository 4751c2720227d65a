"""The tables of the audit log: insert-only facts, and the one table that may be erased.

Leaves are the truth. The other columns of `log_entry` repeat what the leaf says, so that a
database can search by them; the verifier checks each against its leaf. Of the tree it keeps
perfect subtrees only, which never change; there is no mutable head.
"""

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, LargeBinary, String, Text, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

_Big = BigInteger().with_variant(Integer, "sqlite")


class Base(DeclarativeBase):
    """Root of every table of the coordinator's database."""


OF_SITES = "site_id <> ''"
"""The entries that the index by site holds; a query has to say so itself, in these words."""


class LogEntry(Base):
    """One entry: its exact leaf, the leaf's hash, and columns to search by."""

    __tablename__ = "log_entry"

    idx: Mapped[int] = mapped_column(_Big, primary_key=True, autoincrement=False)
    ts_ms: Mapped[int] = mapped_column(_Big)
    kind: Mapped[str] = mapped_column(String(40))
    run_id: Mapped[str] = mapped_column(String(128))
    round: Mapped[int] = mapped_column(Integer)
    site_id: Mapped[str] = mapped_column(String(32))
    actor: Mapped[str] = mapped_column(String(128))
    leaf: Mapped[bytes] = mapped_column(LargeBinary)
    leaf_hash: Mapped[bytes] = mapped_column(LargeBinary(32))
    subtrees: Mapped[bytes] = mapped_column(LargeBinary)
    """Hashes of the perfect subtrees that are full with this entry, 32 bytes each, level 1 (two
    leaves) first. Here, and not in a table of nodes, an append writes to one place alone."""

    __table_args__ = (
        Index(
            "log_entry_by_site",
            "site_id",
            "idx",
            sqlite_where=text(OF_SITES),
            postgresql_where=text(OF_SITES),
        ),
        Index("log_entry_by_run", "run_id", "idx"),
    )


class CheckpointRow(Base):
    """A checkpoint that was signed: the first `size` entries have this root."""

    __tablename__ = "checkpoint"

    size: Mapped[int] = mapped_column(_Big, primary_key=True, autoincrement=False)
    root: Mapped[bytes] = mapped_column(LargeBinary(32))
    note: Mapped[str] = mapped_column(Text)


class CosignatureRow(Base):
    """A site's line under a checkpoint, and the time it signed for (POSIX seconds)."""

    __tablename__ = "cosignature"

    size: Mapped[int] = mapped_column(
        _Big, ForeignKey("checkpoint.size"), primary_key=True, autoincrement=False
    )
    site: Mapped[str] = mapped_column(String(32), primary_key=True)
    time_s: Mapped[int] = mapped_column(_Big)
    line: Mapped[str] = mapped_column(Text)


class Actor(Base):
    """Who a random actor id is. The only personal data here, and it may be erased (GDPR 17)."""

    __tablename__ = "actor"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    created_ms: Mapped[int] = mapped_column(_Big)


APPEND_ONLY = ("log_entry", "checkpoint", "cosignature")
