"""Openings: in group mode, sums that only the sites can read and some have yet to take."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "opening",
        sa.Column("run", sa.String(), primary_key=True),
        sa.Column("round", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("message", sa.LargeBinary(), nullable=False),
        sa.Column("vector", sa.String(), nullable=False),
    )
