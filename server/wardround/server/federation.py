"""The federation as the coordinator's own log has it."""

from sqlalchemy import Engine, select

from wardround.privacy.events import from_leaf
from wardround.privacy.federation import KINDS, Federation, project
from wardround.server.database import READ_ONLY
from wardround.server.models import LogEntry


def read_federation(engine: Engine) -> Federation:
    """Return enrolled sites, studies and runs at the present end of the log."""
    query = select(LogEntry.leaf).where(LogEntry.kind.in_(KINDS)).order_by(LogEntry.idx)
    with engine.connect().execution_options(**READ_ONLY) as connection:
        return project(from_leaf(data) for data in connection.scalars(query))
