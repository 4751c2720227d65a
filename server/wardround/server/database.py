"""The coordinator's database: SQLite on one machine, PostgreSQL in production.

Every commit is durable before it returns: a checkpoint is signed only over rows that survive a
power cut, because a signed root over lost rows is a fork of one's own making.
"""

from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import DBAPIError

from wardround.privacy.records import one_line
from wardround.server import append_only
from wardround.server.errors import DatabaseError
from wardround.server.models import APPEND_ONLY, Base

_LOCK = 0x57415244  # "WARD": the advisory lock that serialises appends in PostgreSQL
READ_ONLY = {"wardround_read_only": True}


def open_database(url: str | URL, *, migrate: bool = True) -> Engine:
    """Open the coordinator's database and check that its append-only triggers stand.

    With `migrate` the schema is brought up to date first, which in PostgreSQL needs the owner's
    role; the application and the auditor open with `migrate=False`. Raises DatabaseError when
    the database cannot be used, GuardMissing when a trigger is gone.
    """
    engine = make_engine(url)
    try:
        if migrate:
            upgrade(engine)
        with engine.connect().execution_options(**READ_ONLY) as connection:
            _check_schema(connection)
            append_only.check(connection)
    except DBAPIError as error:
        engine.dispose()
        raise DatabaseError(
            f"the database cannot be used: {one_line(str(error.orig))}; "
            "see [database] in config.toml"
        ) from None
    except BaseException:
        engine.dispose()
        raise
    return engine


def _check_schema(connection: Connection) -> None:
    revision = MigrationContext.configure(connection).get_current_revision()
    newest = ScriptDirectory.from_config(_alembic()).get_current_head()
    if revision != newest:
        raise DatabaseError(
            f"the database has schema {revision}, this version needs {newest}; "
            "run the migrations as the owner of the database"
        )


def make_engine(url: str | URL) -> Engine:
    """Return an engine whose commits are durable; nothing is read or changed yet."""
    url = make_url(url)
    if url.get_backend_name() == "sqlite":
        # Named, as PostgreSQL's driver takes them: one form of rows for both.
        engine = create_engine(url, connect_args={"timeout": 120}, paramstyle="named")
        event.listen(engine, "connect", _sqlite_pragmas)
        event.listen(engine, "begin", _sqlite_begin)
        return engine
    if url.get_backend_name() == "postgresql":
        engine = create_engine(
            url.set(drivername="postgresql+psycopg"),
            pool_pre_ping=True,
            connect_args={"client_encoding": "utf8"},
        )
        event.listen(engine, "connect", _postgres_durable)
        return engine
    raise DatabaseError(f"{url.get_backend_name()} is not supported; use sqlite or postgresql")


def upgrade(engine: Engine) -> None:
    """Run all migrations, then make the triggers anew (a migration may have dropped them)."""
    config = _alembic()
    with engine.begin() as connection:
        serialise(connection)
        config.attributes["connection"] = connection
        command.upgrade(config, "heads")
        append_only.install(connection)


def serialise(connection: Connection) -> None:
    """Let this transaction be the only one that appends, until it ends.

    SQLite has begun with BEGIN IMMEDIATE, which is that already.
    """
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")


def grant_roles(connection: Connection, app: str, auditor: str) -> None:
    """Give the PostgreSQL roles their rights: `app` inserts and reads, `auditor` reads.

    On the log's tables neither may change or delete; on the rest, `app` may.
    """
    quote = connection.dialect.identifier_preparer.quote
    for role in (app, auditor):
        connection.exec_driver_sql(f"GRANT USAGE ON SCHEMA public TO {quote(role)}")
        connection.exec_driver_sql(f"GRANT SELECT ON alembic_version TO {quote(role)}")
    for table in Base.metadata.tables:
        rights = "INSERT, SELECT"
        if table not in APPEND_ONLY:
            rights += ", UPDATE, DELETE"
        connection.exec_driver_sql(f"REVOKE ALL ON {quote(table)} FROM PUBLIC")
        connection.exec_driver_sql(f"GRANT {rights} ON {quote(table)} TO {quote(app)}")
        if table != "actor":  # names of people are not evidence
            connection.exec_driver_sql(f"GRANT SELECT ON {quote(table)} TO {quote(auditor)}")


def _alembic() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.set_main_option("path_separator", "os")
    return config


def _sqlite_pragmas(connection: Any, _record: object) -> None:
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")
    # pysqlite would begin late, after the first read; `_sqlite_begin` does it instead.
    connection.isolation_level = None


def _sqlite_begin(connection: Connection) -> None:
    # IMMEDIATE: read-then-append cannot interleave with another process.
    read_only = connection.get_execution_options().get("wardround_read_only")
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")


def _postgres_durable(connection: Any, _record: object) -> None:
    connection.execute("SET synchronous_commit = on")
    connection.commit()
