"""The site's own database: one SQLite file that holds ledger, approvals, marks and the log copy."""

import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import DatabaseError
from sqlalchemy.orm import DeclarativeBase, Session

from wardround.client.errors import SiteStateError

SCHEMA_VERSION = 1
WAIT_SECONDS = 120
"""How long a transaction waits for another one, before it gives up."""


class Base(DeclarativeBase):
    """Root of every table of the site's database."""


def open_database(path: Path) -> Engine:
    """Open (or make) the site's database at `path`, mode 0600, durable at each commit.

    Raises SiteStateError when the file is open to group or others, or was written by another
    version of Wardround.
    """
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise SiteStateError(f"{path.name} can be read by others; run: chmod 600 on it")
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": WAIT_SECONDS})

    @event.listens_for(engine, "connect")
    def _pragmas(connection: Any, _record: object) -> None:
        # FULL: what was committed survives a power cut; the ledger relies on it.
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")
        # pysqlite would begin transactions late, after the first read; we begin them ourselves.
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        # One writer at a time from the first statement on: read-then-write cannot interleave.
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    try:
        _prepare(engine, path.name)
    except DatabaseError as error:
        engine.dispose()
        raise _unusable(path.name, error) from None
    return engine


def _prepare(engine: Engine, name: str) -> None:
    """Make the tables that are missing; SiteStateError for a database of another version."""
    with engine.begin() as connection:
        found = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
        if found not in (0, SCHEMA_VERSION):
            raise SiteStateError(
                f"{name} has schema {found}, this version reads {SCHEMA_VERSION}; "
                "install the version that wrote it"
            )
        Base.metadata.create_all(connection)
        connection.exec_driver_sql(f"PRAGMA user_version={SCHEMA_VERSION}")


@contextmanager
def session(engine: Engine) -> Iterator[Session]:
    """One transaction: committed when the block ends, rolled back when it raises.

    Raises SiteStateError when the database is damaged, locked or cannot be written.
    """
    try:
        with Session(engine) as database, database.begin():
            yield database
    except DatabaseError as error:
        raise _unusable(Path(engine.url.database or "").name, error) from None


def _unusable(name: str, error: DatabaseError) -> SiteStateError:
    # The low byte is SQLite's error; what is above tells its cases apart.
    match getattr(error.orig, "sqlite_errorcode", 0) & 0xFF:
        case sqlite3.SQLITE_BUSY:
            advice = "another command or program is writing; try again when it has ended"
        case sqlite3.SQLITE_FULL | sqlite3.SQLITE_IOERR:
            advice = "is the disk full or failing? Nothing was changed; make room and try again"
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
            advice = "even looking needs a folder that this account can write to"
        case _:
            advice = "is it this site's database, whole?"
    return SiteStateError(f"{name} cannot be used: {error.orig}; {advice}")
