"""The audit log and the actor map. There is no way down: evidence is not migrated away."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the tables; `database.upgrade` adds the triggers."""
    op.create_table(
        "log_entry",
        sa.Column("idx", _BIG, primary_key=True, autoincrement=False),
        sa.Column("ts_ms", _BIG, nullable=False),
        sa.Column("kind", sa.String(40), nullable=False),
        sa.Column("run_id", sa.String(128), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("site_id", sa.String(32), nullable=False),
        sa.Column("actor", sa.String(128), nullable=False),
        sa.Column("leaf", sa.LargeBinary(), nullable=False),
        sa.Column("leaf_hash", sa.LargeBinary(32), nullable=False),
    )
    op.create_index("log_entry_by_site", "log_entry", ["site_id", "idx"])
    op.create_index("log_entry_by_run", "log_entry", ["run_id", "idx"])
    op.create_table(
        "merkle_node",
        sa.Column("level", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("idx", _BIG, primary_key=True, autoincrement=False),
        sa.Column("hash", sa.LargeBinary(32), nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "checkpoint",
        sa.Column("size", _BIG, primary_key=True, autoincrement=False),
        sa.Column("root", sa.LargeBinary(32), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
    )
    op.create_table(
        "cosignature",
        sa.Column(
            "size", _BIG, sa.ForeignKey("checkpoint.size"), primary_key=True, autoincrement=False
        ),
        sa.Column("site", sa.String(32), primary_key=True),
        sa.Column("time_s", _BIG, nullable=False),
        sa.Column("line", sa.Text(), nullable=False),
    )
    op.create_table(
        "actor",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_ms", _BIG, nullable=False),
    )
