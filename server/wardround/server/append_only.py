"""Triggers that keep the log append-only inside the database, and the check that they stand.

Whoever owns the database can still drop them: they stop accidents, careless tools and a stolen
application password, not the operator. Against the operator stand the signed checkpoints.

Some ways around a plain "no UPDATE, no DELETE" pair of triggers, and what closes them here:
`INSERT OR REPLACE` in SQLite deletes without firing delete triggers, so inserts must continue
the table; TRUNCATE in PostgreSQL fires no row trigger, so it has its own; a replication role
skips ordinary triggers, so these are ENABLE ALWAYS; Alembic's batch mode copies a table and
forgets its triggers, so they are made again after each migration and compared at each start.
"""

from sqlalchemy import Connection, text

from wardround.server.errors import GuardMissing
from wardround.server.models import APPEND_ONLY

# What makes a new row acceptable, as a condition under which it is *not*.
_REFUSE_INSERT = {
    "log_entry": "NEW.idx <> (SELECT COALESCE(MAX(idx) + 1, 0) FROM log_entry)",
    "checkpoint": (
        "NEW.size <= (SELECT COALESCE(MAX(size), -1) FROM checkpoint) "
        "OR NEW.size > (SELECT COALESCE(MAX(idx) + 1, 0) FROM log_entry)"
    ),
    "cosignature": "EXISTS (SELECT 1 FROM cosignature WHERE size = NEW.size AND site = NEW.site)",
}


def install(connection: Connection) -> None:
    """Make every trigger anew, in the transaction of `connection`."""
    if connection.dialect.name == "sqlite":
        for name, statement in _sqlite().items():
            connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS {name}")
            connection.exec_driver_sql(statement)
        return
    for name, (table, when, body) in _postgres().items():
        connection.exec_driver_sql(
            f"CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql "
            f"AS $body${body}$body$"
        )
        connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS {name} ON {table}")
        connection.exec_driver_sql(
            f"CREATE TRIGGER {name} {when} ON {table} "
            f"FOR EACH {_scope(when)} EXECUTE FUNCTION {name}()"
        )
        connection.exec_driver_sql(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {name}")


def check(connection: Connection) -> None:
    """Raise GuardMissing unless every trigger stands exactly as `install` made it."""
    expected: dict[str, object] = {}
    if connection.dialect.name == "sqlite":
        expected |= _sqlite()
        rows = connection.execute(text("SELECT name, sql FROM sqlite_master WHERE type='trigger'"))
        found: dict[str, object] = {row.name: row.sql for row in rows}
    else:
        expected |= {
            name: (table, when, "A", body) for name, (table, when, body) in _postgres().items()
        }
        rows = connection.execute(text(_POSTGRES_TRIGGERS))
        found = {
            row.name: (row.relation, _timing(row.kind), row.enabled, row.source) for row in rows
        }
    for name, what in expected.items():
        if found.get(name) != what:
            raise GuardMissing(
                f"the trigger {name} that keeps the log append-only is missing or changed; "
                "stop, find out who did it, then run the migrations again"
            )


def _sqlite() -> dict[str, str]:
    triggers = {}
    for table in APPEND_ONLY:
        abort = f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
        for change in ("UPDATE", "DELETE"):
            name = f"{table}_no_{change.lower()}"
            triggers[name] = f"CREATE TRIGGER {name} BEFORE {change} ON {table} {abort}"
        name = f"{table}_next"
        triggers[name] = (
            f"CREATE TRIGGER {name} BEFORE INSERT ON {table} WHEN {_REFUSE_INSERT[table]} {abort}"
        )
    return triggers


_CHANGE = "BEFORE UPDATE OR DELETE OR TRUNCATE"
_INSERT = "BEFORE INSERT"


def _postgres() -> dict[str, tuple[str, str, str]]:
    triggers = {}
    for table in APPEND_ONLY:
        abort = f"RAISE EXCEPTION '{table} is append-only';"
        condition = _REFUSE_INSERT[table]
        triggers[f"{table}_no_change"] = (table, _CHANGE, f" BEGIN {abort} END ")
        triggers[f"{table}_next"] = (
            table,
            _INSERT,
            f" BEGIN IF {condition} THEN {abort} END IF; RETURN NEW; END ",
        )
    return triggers


def _scope(when: str) -> str:
    return "ROW" if when == _INSERT else "STATEMENT"


def _timing(kind: int) -> str:
    """Name the bits of pg_trigger.tgtype (pg_trigger.h): row 1, before 2, insert 4, delete 8..."""
    return {0b000111: _INSERT, 0b111010: _CHANGE}.get(kind, f"type {kind}")


_POSTGRES_TRIGGERS = """
SELECT t.tgname AS name, c.relname AS relation, t.tgtype AS kind, t.tgenabled::text AS enabled,
       p.prosrc AS source
FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_proc p ON p.oid = t.tgfoid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE NOT t.tgisinternal AND n.nspname = current_schema()
"""
