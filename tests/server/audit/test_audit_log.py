"""The log itself, in both databases: appending, proving, and that nothing is ever changed."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from alembic import command
from audit_study import ORIGIN, Clock
from sqlalchemy import URL, Connection, Engine, inspect, text, update
from sqlalchemy.exc import DatabaseError as DriverError

from wardround.privacy.errors import ProofInvalid
from wardround.privacy.events import Access, Enrol, Event, Revoke, from_leaf, to_leaf
from wardround.privacy.identity import FileSigner
from wardround.privacy.notes import Checkpoint, Note, cosign, witness_name
from wardround.privacy.statements import FIRST, Body, Envelope, Statement, sign
from wardround.privacy.transparency import (
    leaf_hash,
    root_of,
    verify_consistency,
    verify_inclusion,
)
from wardround.server import append_only, database
from wardround.server.audit import AuditLog
from wardround.server.database import (
    grant_roles,
    make_engine,
    open_database,
    upgrade,
)
from wardround.server.errors import (
    CosignatureRefused,
    DatabaseError,
    GuardMissing,
    LogDamaged,
    StatementRefused,
)
from wardround.server.models import LogEntry

ACCESS = Access("http", "GET", "/runs", "allowed", 200, "auditor", "")


@dataclass
class Speaker:
    """A site's keys and its chain of statements, without a witness."""

    log: str
    name: str = "a"
    sequence: int = 0
    previous: str = FIRST

    def __post_init__(self) -> None:
        self.identity, self.witness = FileSigner.generate(), FileSigner.generate()

    def enrol(self) -> Envelope:
        keys = self.identity.public_bytes().hex(), self.witness.public_bytes().hex()
        return self.say(Enrol(self.name, *keys, "00", "Hospital", "wardround-0.1.0"))

    def say(self, event: Event) -> Envelope:
        statement = Statement(
            self.log, self.name, self.sequence + 1, self.previous, 1, event.kind,
            Body(event.to_json()),
        )  # fmt: skip
        made = sign(statement, self.identity)
        self.sequence, self.previous = statement.sequence, made.digest()
        return made


@pytest.fixture
def engine(database_url: str | URL) -> Iterator[Engine]:
    made = open_database(database_url)
    yield made
    made.dispose()


@pytest.fixture
def log(engine: Engine) -> AuditLog:
    made = AuditLog(engine, FileSigner.generate(), ORIGIN, Clock())
    assert made.begin("Operator", "wardround-0.1.0")
    return made


def root_and_size(note: bytes) -> tuple[bytes, int]:
    checkpoint = Checkpoint.from_text(Note.from_bytes(note).text)
    return checkpoint.root, checkpoint.size


def test_indices_are_contiguous_and_every_proof_holds(log: AuditLog) -> None:
    assert log.append([ACCESS] * 3) == (1, 2, 3)
    old_root, old = root_and_size(log.checkpoint())
    assert log.append([ACCESS] * 9) == tuple(range(4, 13))
    root, size = root_and_size(log.checkpoint())
    leaves = log.entries(0, size)
    assert root == root_of(map(leaf_hash, leaves))
    for index, leaf in enumerate(leaves):
        verify_inclusion(index, size, leaf_hash(leaf), log.inclusion(index, size), root)
    verify_consistency(old, size, log.consistency(old, size), old_root, root)
    with pytest.raises(ProofInvalid):
        log.inclusion(size, size)


def test_a_checkpoint_is_signed_once_for_each_size(log: AuditLog) -> None:
    first = log.checkpoint()
    assert log.checkpoint() == first
    log.append([ACCESS])
    assert log.checkpoint() != first
    assert log.note(1) == first
    assert log.note(7) is None


def test_a_log_begins_once(log: AuditLog) -> None:
    assert not log.begin("Somebody else", "wardround-0.1.0")
    assert log.size() == 1


def test_nothing_of_a_transaction_stays_when_one_entry_is_refused(log: AuditLog) -> None:
    stranger = Speaker(log.log, "b")
    closing = Statement(log.log, "b", 1, FIRST, 1, "closing", Body(_closing()))
    with pytest.raises(StatementRefused, match="never enrolled"):
        log.append([ACCESS, Speaker(log.log).enrol(), sign(closing, stranger.identity)])
    assert log.size() == 1
    a = Speaker(log.log, "a")
    assert log.append([ACCESS, a.enrol()]) == (1, 2)


def _closing() -> dict[str, int | str]:
    return {
        "run": "r", "last_sequence": 0, "checkpoint_size": 0, "checkpoint_root": "0" * 64,
        "updates": 0, "bytes_sent": 0,
    }  # fmt: skip


def test_a_statement_sent_again_keeps_its_place(log: AuditLog) -> None:
    enrol = Speaker(log.log).enrol()
    assert log.append_statements([enrol, enrol]) == (1, 1)
    assert log.append([ACCESS, enrol]) == (2, 1)
    again = AuditLog(log.engine, log.signer, ORIGIN, Clock())
    assert again.append_statements([enrol]) == (1,)
    assert log.size() == 3


def test_a_site_that_says_two_things_under_one_number_is_refused(log: AuditLog) -> None:
    site = Speaker(log.log)
    log.append_statements([site.enrol()])
    site.sequence, site.previous = 0, FIRST
    keys = site.identity.public_bytes().hex(), site.witness.public_bytes().hex()
    other = site.say(Enrol("a", *keys, "01", "Other", "wardround-0.1.0"))
    with pytest.raises(StatementRefused, match="another statement 1"):
        log.append_statements([other])


def test_a_revoked_site_says_nothing_more(log: AuditLog) -> None:
    site = Speaker(log.log)
    log.append_statements([site.enrol()])
    log.append([Revoke("a", site.identity.public_bytes().hex(), "stolen", 0)])
    envelope = sign(
        Statement(log.log, "a", 2, site.previous, 1, "closing", Body(_closing())), site.identity
    )
    with pytest.raises(StatementRefused, match="revoked"):
        log.append_statements([envelope])


def test_a_cosignature_is_kept_only_when_it_is_the_sites_own(log: AuditLog) -> None:
    site = Speaker(log.log)
    log.append_statements([site.enrol()])
    text_of = Note.from_bytes(log.checkpoint()).text
    name = witness_name(ORIGIN, "a")
    good = cosign(text_of, name, site.witness, 5).line()
    with pytest.raises(CosignatureRefused, match="no such checkpoint"):
        log.add_cosignature("a", 1, good)
    with pytest.raises(CosignatureRefused, match="not by"):
        log.add_cosignature("a", 2, cosign(text_of, name, site.identity, 5).line())
    with pytest.raises(CosignatureRefused, match="no such checkpoint or site"):
        log.add_cosignature("b", 2, good)
    assert log.add_cosignature("a", 2, good) == 5
    assert log.add_cosignature("a", 2, good) == 5
    cosigned = log.cosigned(2)
    assert cosigned is not None
    assert cosigned.endswith(good.encode())
    assert log.witnessed("a") == 2


def test_time_never_goes_back(log: AuditLog) -> None:
    log.append([ACCESS])
    assert isinstance(log.clock, Clock)
    log.clock.now -= 10**9
    log.append([ACCESS])
    times = [from_leaf(leaf).ts_ms for leaf in log.entries(0, 3)]
    assert times == sorted(times)


CHANGES = [
    "UPDATE log_entry SET actor = 'x'",
    "DELETE FROM log_entry WHERE idx = 1",
    "DELETE FROM log_entry",
    "UPDATE log_entry SET subtrees = leaf_hash WHERE idx = 1",
    "UPDATE checkpoint SET note = ''",
    "DELETE FROM checkpoint",
    "UPDATE cosignature SET line = ''",
    "DELETE FROM cosignature",
    "INSERT INTO log_entry SELECT idx + 1, ts_ms, kind, run_id, round, site_id, actor, leaf, "
    "leaf_hash, subtrees FROM log_entry",
    "INSERT INTO log_entry SELECT idx + 9, ts_ms, kind, run_id, round, site_id, actor, leaf, "
    "leaf_hash, subtrees FROM log_entry WHERE idx = 1",
    "INSERT INTO log_entry SELECT * FROM log_entry WHERE true "
    "ON CONFLICT (idx) DO UPDATE SET actor = 'x'",
    "INSERT INTO log_entry SELECT * FROM log_entry WHERE true "
    "ON CONFLICT (idx) DO UPDATE SET subtrees = excluded.leaf_hash",
    "INSERT INTO checkpoint SELECT 1, root, note FROM checkpoint",
    "INSERT INTO checkpoint SELECT size + 5, root, note FROM checkpoint",
    "INSERT INTO cosignature SELECT * FROM cosignature WHERE true "
    "ON CONFLICT (size, site) DO UPDATE SET line = 'x'",
]
SQLITE = [
    "INSERT OR REPLACE INTO log_entry SELECT * FROM log_entry",
    "REPLACE INTO log_entry SELECT idx, ts_ms, kind, run_id, round, site_id, 'x', leaf, leaf_hash, "
    "subtrees FROM log_entry",
    "INSERT OR REPLACE INTO checkpoint SELECT * FROM checkpoint",
    "INSERT OR REPLACE INTO cosignature SELECT * FROM cosignature",
    "UPDATE OR REPLACE log_entry SET idx = 0 WHERE idx = 1",
]
POSTGRES = [
    "TRUNCATE log_entry",
    "TRUNCATE checkpoint CASCADE",
    "TRUNCATE cosignature",
    "SET session_replication_role = replica; DELETE FROM cosignature",
    "MERGE INTO log_entry l USING log_entry m ON l.idx = m.idx "
    "WHEN MATCHED THEN UPDATE SET actor = 'x'",
]


def fill(log: AuditLog) -> None:
    """Something in every table."""
    site = Speaker(log.log)
    log.append([site.enrol(), ACCESS, ACCESS])
    text_of = Note.from_bytes(log.checkpoint()).text
    line = cosign(text_of, witness_name(ORIGIN, "a"), site.witness, 5).line()
    log.add_cosignature("a", 4, line)


def everything(connection: Connection) -> list[object]:
    return [
        tuple(row)
        for table in append_only.APPEND_ONLY
        for row in connection.execute(text(f"SELECT * FROM {table}"))  # noqa: S608  # our own names
    ]


def _execute(engine: Engine, statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements.split("; "):
            connection.exec_driver_sql(statement)


def test_no_statement_of_sql_changes_what_is_written(log: AuditLog) -> None:
    fill(log)
    with log.engine.connect() as connection:
        before = everything(connection)
    special = SQLITE if log.engine.dialect.name == "sqlite" else POSTGRES
    for change in CHANGES + special:
        with pytest.raises(DriverError):
            _execute(log.engine, change)
        with log.engine.connect() as connection:
            assert everything(connection) == before, change


def test_a_missing_trigger_is_found_at_start(log: AuditLog, database_url: str | URL) -> None:
    sqlite = log.engine.dialect.name == "sqlite"
    with log.engine.begin() as connection:
        connection.exec_driver_sql(
            "DROP TRIGGER log_entry_no_delete"
            if sqlite
            else "ALTER TABLE log_entry DISABLE TRIGGER log_entry_no_change"
        )
    with pytest.raises(GuardMissing, match="log_entry_no"):
        open_database(database_url, migrate=False)
    open_database(database_url).dispose()
    open_database(database_url, migrate=False).dispose()


def test_a_weakened_trigger_is_found_at_start(log: AuditLog, database_url: str | URL) -> None:
    with log.engine.begin() as connection:
        if log.engine.dialect.name == "sqlite":
            connection.exec_driver_sql("DROP TRIGGER log_entry_no_update")
            connection.exec_driver_sql(
                "CREATE TRIGGER log_entry_no_update BEFORE UPDATE ON log_entry BEGIN SELECT 1; END"
            )
        else:
            connection.exec_driver_sql(
                "CREATE OR REPLACE FUNCTION log_entry_no_change() RETURNS trigger "
                "LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$"
            )
    with pytest.raises(GuardMissing, match="missing or changed"):
        open_database(database_url, migrate=False)


STRANGE_SQLITE = [
    "CREATE TRIGGER lost BEFORE INSERT ON log_entry BEGIN SELECT RAISE(IGNORE); END",
    "CREATE TRIGGER lost AFTER INSERT ON checkpoint BEGIN SELECT 1; END",
]
STRANGE_POSTGRES = [
    "CREATE FUNCTION lost() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$; "
    "CREATE TRIGGER aaa BEFORE INSERT ON log_entry FOR EACH ROW EXECUTE FUNCTION lost()",
    "CREATE RULE lost AS ON INSERT TO log_entry DO INSTEAD NOTHING",
    "CREATE RULE lost AS ON UPDATE TO cosignature DO INSTEAD NOTHING",
    "CREATE TABLE more () INHERITS (log_entry)",
]


def test_what_loses_or_adds_rows_unseen_is_found_at_start(
    log: AuditLog, database_url: str | URL
) -> None:
    sqlite = log.engine.dialect.name == "sqlite"
    undo = {"CREATE TABLE": "DROP TABLE more", "CREATE RULE": "DROP RULE lost ON {}"}
    for change in STRANGE_SQLITE if sqlite else STRANGE_POSTGRES:
        with log.engine.begin() as connection:
            connection.exec_driver_sql(change)
        with pytest.raises(GuardMissing, match="stands on a table of the log"):
            open_database(database_url, migrate=False)
        with pytest.raises(GuardMissing, match="stands on a table of the log"):
            open_database(database_url)
        if sqlite:
            drop = "DROP TRIGGER lost"
        elif "FUNCTION" in change:
            drop = "DROP FUNCTION lost CASCADE"
        else:
            table = "cosignature" if "cosignature" in change else "log_entry"
            drop = undo[change[:12].strip()].format(table)
        with log.engine.begin() as connection:
            connection.exec_driver_sql(drop)
    open_database(database_url, migrate=False).dispose()


def test_a_temporary_table_of_the_same_name_is_not_counted(log: AuditLog) -> None:
    """The next entry follows the log, not what a session put before it."""
    fill(log)
    row = "ts_ms, kind, run_id, round, site_id, actor, leaf, leaf_hash, subtrees"
    public = "main" if log.engine.dialect.name == "sqlite" else "public"
    insert = (
        f"INSERT INTO {public}.log_entry (idx, {row}) "  # noqa: S608  # our own names
        f"SELECT 100, {row} FROM {public}.log_entry WHERE idx = 1"
    )
    with log.engine.connect() as connection:
        connection.exec_driver_sql("CREATE TEMPORARY TABLE log_entry (idx bigint)")
        connection.exec_driver_sql("INSERT INTO log_entry VALUES (99)")
        with pytest.raises(DriverError, match="append-only"):
            connection.exec_driver_sql(insert)


def test_a_migration_that_copies_a_table_drops_triggers_and_they_come_back(
    log: AuditLog, database_url: str | URL
) -> None:
    """What Alembic's batch mode does in SQLite: a new table, and the old one dropped."""
    from alembic.migration import MigrationContext
    from alembic.operations import Operations

    fill(log)
    with log.engine.begin() as connection:
        if log.engine.dialect.name == "sqlite":
            operations = Operations(MigrationContext.configure(connection))
            # Even this would be refused row by row while the triggers stand on the old table.
            with operations.batch_alter_table("cosignature", recreate="always") as batch:
                batch.alter_column("line", nullable=False)
        else:
            connection.exec_driver_sql("CREATE TABLE copy AS SELECT * FROM cosignature")
            connection.exec_driver_sql("DROP TABLE cosignature")
            connection.exec_driver_sql("ALTER TABLE copy RENAME TO cosignature")
    with log.engine.connect() as connection, pytest.raises(GuardMissing, match="cosignature"):
        append_only.check(connection)
    upgrade(log.engine)
    with log.engine.connect() as connection:
        append_only.check(connection)
    with pytest.raises(DriverError, match="append-only"), log.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM cosignature")


def test_a_stored_tree_that_contradicts_the_last_checkpoint_is_not_signed(
    log: AuditLog,
) -> None:
    fill(log)
    with log.engine.begin() as connection:
        sqlite = log.engine.dialect.name == "sqlite"
        connection.exec_driver_sql(
            "DROP TRIGGER log_entry_no_update"
            if sqlite
            else "DROP TRIGGER log_entry_no_change ON log_entry"
        )
        connection.execute(update(LogEntry).where(LogEntry.idx == 3).values(subtrees=b"\0" * 64))
    log.append([ACCESS])
    with pytest.raises(LogDamaged, match="contradicts"):
        log.checkpoint()


def test_a_log_with_a_table_of_nodes_keeps_its_tree(database_url: str | URL) -> None:
    """The schema before hashes of subtrees stood with the entries that complete them."""
    engine = make_engine(database_url)
    config = database._alembic()
    leaves = [to_leaf(ACCESS, 1000 + place) for place in range(11)]
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0003")
        append_only.install(connection)
        connection.execute(
            text("INSERT INTO log_entry VALUES (:n, :ts, 'access', '', 0, '', '', :leaf, :hash)"),
            [
                {"n": place, "ts": 1000 + place, "leaf": leaf, "hash": leaf_hash(leaf)}
                for place, leaf in enumerate(leaves)
            ],
        )
    upgrade(engine)
    with engine.connect() as connection:
        append_only.check(connection)
        assert "merkle_node" not in inspect(connection).get_table_names()
    log = AuditLog(engine, FileSigner.generate(), ORIGIN, Clock())
    log.append([ACCESS])
    hashes = [leaf_hash(leaf) for leaf in log.entries(0, 20)]
    assert hashes[:11] == [leaf_hash(leaf) for leaf in leaves]
    for index, value in enumerate(hashes):
        verify_inclusion(index, 12, value, log.inclusion(index, 12), root_of(hashes))
    for old in range(1, 12):
        proof = log.consistency(old, 12)
        verify_consistency(old, 12, proof, root_of(hashes[:old]), root_of(hashes))
    engine.dispose()


def test_roles_of_postgresql(postgres: Callable[..., URL]) -> None:
    """The application inserts and reads, the auditor reads; neither can drop a trigger."""
    owner = open_database(postgres())
    with owner.begin() as connection:
        for role in ("app", "auditor"):
            connection.exec_driver_sql(
                f"DO $$ BEGIN CREATE ROLE {role} LOGIN; "
                "EXCEPTION WHEN duplicate_object THEN NULL; END $$"
            )
        grant_roles(connection, "app", "auditor")
    app = open_database(postgres("app"), migrate=False)
    log = AuditLog(app, FileSigner.generate(), ORIGIN)
    log.begin("Operator", "wardround-0.1.0")
    fill(log)
    auditor = open_database(postgres("auditor"), migrate=False)
    with auditor.connect() as connection:
        assert len(everything(connection)) > 4
    refused = [
        (app, "UPDATE log_entry SET actor = 'x'"),
        (app, "DELETE FROM checkpoint"),
        (app, "TRUNCATE cosignature"),
        (app, "DROP TRIGGER log_entry_next ON log_entry"),
        (app, "ALTER TABLE log_entry DISABLE TRIGGER ALL"),
        (app, "SET session_replication_role = replica"),
        (auditor, "INSERT INTO checkpoint VALUES (9, '', '')"),
        (auditor, "SELECT * FROM actor"),
    ]
    for engine, change in refused:
        with pytest.raises(DriverError, match=r"permission denied|must be owner"):
            _execute(engine, change)
    for engine in (owner, app, auditor):
        engine.dispose()


def test_a_database_of_another_version_is_refused(log: AuditLog, database_url: str | URL) -> None:
    with log.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'x'")
    with pytest.raises(DatabaseError, match="run the migrations"):
        open_database(database_url, migrate=False)


def test_another_database_is_not_supported() -> None:
    with pytest.raises(DatabaseError, match="not supported"):
        make_engine("mysql://localhost/x")


def test_the_actor_map_can_be_erased_and_the_log_stays_whole(log: AuditLog) -> None:
    with log.engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO actor VALUES ('id-1', 'A Person', 1)")
    log.append([ACCESS], actor="id-1")
    note = log.checkpoint()
    with log.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM actor WHERE id = 'id-1'")
    assert log.checkpoint() == note
    assert b"A Person" not in b"".join(log.entries(0, 9))
