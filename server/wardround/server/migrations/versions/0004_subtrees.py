"""Perfect subtrees stand with the entry that completes them, instead of in a table of their own.

Each append wrote to as many places as the tree has levels. The hashes are made again from those
of the leaves; the next checkpoint is compared with the last one that was signed, as ever.
"""

import sqlalchemy as sa
from alembic import op

from wardround.privacy.transparency import CompactRange

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_PAGE = 10_000


def upgrade() -> None:
    """Fill the new column; `database.upgrade` makes the triggers anew afterwards."""
    connection = op.get_bind()
    empty = sa.text("''")
    op.add_column(
        "log_entry", sa.Column("subtrees", sa.LargeBinary(), nullable=False, server_default=empty)
    )
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("DROP TRIGGER IF EXISTS log_entry_no_update")
    else:
        connection.exec_driver_sql("DROP TRIGGER IF EXISTS log_entry_no_change ON log_entry")
    tree = CompactRange()
    while page := connection.execute(_PAGE_OF, {"start": tree.size, "page": _PAGE}).all():
        rows = [{"at": idx, "full": b"".join(tree.append(bytes(digest)))} for idx, digest in page]
        connection.execute(_FILL, rows)
    op.drop_table("merkle_node")
    if connection.dialect.name == "postgresql":
        for name in ("merkle_node_no_change", "merkle_node_next"):
            connection.exec_driver_sql(f"DROP FUNCTION IF EXISTS {name}()")
    op.drop_index("log_entry_by_site", "log_entry")
    some = sa.text("site_id <> ''")
    op.create_index(
        "log_entry_by_site",
        "log_entry",
        ["site_id", "idx"],
        sqlite_where=some,
        postgresql_where=some,
    )


_PAGE_OF = sa.text(
    "SELECT idx, leaf_hash FROM log_entry WHERE idx >= :start ORDER BY idx LIMIT :page"
)
_FILL = sa.text("UPDATE log_entry SET subtrees = :full WHERE idx = :at")
