"""Triggers that keep the log append-only inside the database, and the check that they stand.

Whoever owns the database can still drop them: they stop accidents, careless tools and a stolen
application password, not the operator. Against the operator stand the signed checkpoints.

Some ways around a plain "no UPDATE, no DELETE" pair of triggers, and what closes them here:
`INSERT OR REPLACE` in SQLite deletes without firing delete triggers, so inserts must continue
the table; TRUNCATE in PostgreSQL fires no row trigger, so it has its own; a replication role
skips ordinary triggers, so these are ENABLE ALWAYS; Alembic's batch mode copies a table and
forgets its triggers, so they are made again after each migration and compared at each start; a
temporary table of the same name would be counted in PostgreSQL, so the schema is named; another
trigger, a rule or an inheriting table could drop, change or add rows unseen, so there may be none.
"""

from sqlalchemy import Connection, text

from wardround.server.errors import GuardMissing
from wardround.server.models import APPEND_ONLY

# What makes a new row acceptable, as a condition under which it is *not*. In SQLite a trigger sees
# its own database only; in PostgreSQL `schema` is the one of the tables, with its dot.
_REFUSE_INSERT = {
    "log_entry": "NEW.idx <> (SELECT COALESCE(MAX(idx) + 1, 0) FROM {schema}log_entry)",
    "checkpoint": (
        "NEW.size <= (SELECT COALESCE(MAX(size), -1) FROM {schema}checkpoint) "
        "OR NEW.size > (SELECT COALESCE(MAX(idx) + 1, 0) FROM {schema}log_entry)"
    ),
    "cosignature": (
        "EXISTS (SELECT 1 FROM {schema}cosignature WHERE size = NEW.size AND site = NEW.site)"
    ),
}


def install(connection: Connection) -> None:
    """Make every trigger anew, in the transaction of `connection`."""
    if connection.dialect.name == "sqlite":
        for name, statement in _sqlite().items():
            connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS {name}")
            connection.exec_driver_sql(statement)
        return
    for name, (table, when, body) in _postgres(_schema(connection)).items():
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
    """Raise GuardMissing unless every trigger stands exactly as `install` made it, and no other."""
    expected: dict[str, object] = {}
    if connection.dialect.name == "sqlite":
        expected |= _sqlite()
        rows = connection.execute(text(_SQLITE_TRIGGERS))
        found: dict[str, object] = {
            row.name: row.sql for row in rows if row.relation in APPEND_ONLY
        }
    else:
        expected |= {
            name: (table, when, "A", body)
            for name, (table, when, body) in _postgres(_schema(connection)).items()
        }
        rows = connection.execute(text(_POSTGRES_TRIGGERS))
        found = {
            row.name: (row.relation, _timing(row.kind), row.enabled, row.source)
            for row in rows
            if row.relation in APPEND_ONLY
        }
    for name, what in expected.items():
        if found.get(name) != what:
            raise GuardMissing(
                f"the trigger {name} that keeps the log append-only is missing or changed; "
                "stop, find out who did it, then run the migrations again"
            )
    strange = sorted(found.keys() - expected.keys())
    if strange:
        raise GuardMissing(
            f"{strange[0]} stands on a table of the log, and can change what is written or read "
            "there; stop, find out who made it, and drop it as the owner of the database"
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
            f"CREATE TRIGGER {name} BEFORE INSERT ON {table} WHEN {_refused(table)} {abort}"
        )
    return triggers


_CHANGE = "BEFORE UPDATE OR DELETE OR TRUNCATE"
_INSERT = "BEFORE INSERT"


def _refused(table: str, schema: str = "") -> str:
    return _REFUSE_INSERT[table].format(schema=schema)


def _schema(connection: Connection) -> str:
    """Return the schema of the tables as it stands before a name, with its dot."""
    return f"{connection.scalar(text('SELECT quote_ident(current_schema())'))}."


def _postgres(schema: str) -> dict[str, tuple[str, str, str]]:
    triggers = {}
    for table in APPEND_ONLY:
        abort = f"RAISE EXCEPTION '{table} is append-only';"
        condition = _refused(table, schema)
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


_SQLITE_TRIGGERS = """
SELECT name, tbl_name AS relation, sql FROM sqlite_master WHERE type = 'trigger'
UNION ALL SELECT name, tbl_name, sql FROM sqlite_temp_master WHERE type = 'trigger'
"""

# Triggers; rules and inheriting tables come along under their names, and are never expected.
_POSTGRES_TRIGGERS = """
SELECT t.tgname AS name, c.relname AS relation, t.tgtype AS kind, t.tgenabled::text AS enabled,
       p.prosrc AS source
FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_proc p ON p.oid = t.tgfoid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE NOT t.tgisinternal AND n.nspname = current_schema()
UNION ALL
SELECT 'the rule ' || r.rulename, c.relname, 0, '', ''
FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = current_schema()
UNION ALL
SELECT 'the table ' || h.inhrelid::regclass::text, c.relname, 0, '', ''
FROM pg_inherits h JOIN pg_class c ON c.oid = h.inhparent
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = current_schema()
"""
