"""The tables of the audit log: insert-only facts, and the one table that may be erased.

Leaves are the truth. The other columns of `log_entry` repeat what the leaf says, so that a
database can search by them; the verifier checks each against its leaf. `merkle_node` holds
perfect subtrees only, which never change; there is no mutable head.
"""

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, LargeBinary, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

_Big = BigInteger().with_variant(Integer, "sqlite")


class Base(DeclarativeBase):
    """Root of every table of the coordinator's database."""


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

    __table_args__ = (
        Index("log_entry_by_site", "site_id", "idx"),
        Index("log_entry_by_run", "run_id", "idx"),
    )


class MerkleNode(Base):
    """The hash of a perfect subtree; `level` 1 covers two leaves."""

    __tablename__ = "merkle_node"

    level: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    idx: Mapped[int] = mapped_column(_Big, primary_key=True, autoincrement=False)
    hash: Mapped[bytes] = mapped_column(LargeBinary(32))

    __table_args__ = ({"sqlite_with_rowid": False},)


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


APPEND_ONLY = ("log_entry", "merkle_node", "checkpoint", "cosignature")
