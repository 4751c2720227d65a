"""The coordinator's audit log: append, sign, prove, collect cosignatures.

Several processes may append to one database. Each append is one durable transaction that holds
the lock from its first read on; each checkpoint is signed in a later one, over committed rows.
"""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar, cast

from sqlalchemy import Connection, Engine, Table, func, insert, select

from wardround.privacy.errors import MalformedData, SignatureInvalid
from wardround.privacy.events import (
    Event,
    Genesis,
    Leaf,
    Restored,
    from_leaf,
    statement_leaf,
    to_leaf,
)
from wardround.privacy.identity import Signer
from wardround.privacy.notes import (
    Checkpoint,
    Note,
    NoteSignature,
    log_id,
    open_checkpoint,
    sign_checkpoint,
    verify_cosignature,
    witness_name,
)
from wardround.privacy.statements import Envelope
from wardround.privacy.transparency import (
    HASH_BYTES,
    CompactRange,
    NodeHash,
    completed_by,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    peaks,
    root_at,
)
from wardround.server.admission import Admission
from wardround.server.database import READ_ONLY, serialise
from wardround.server.errors import CosignatureRefused, LogDamaged, StatementRefused
from wardround.server.models import CheckpointRow, CosignatureRow, LogEntry

T = TypeVar("T")
_LAST_ENTRY = "SELECT idx, ts_ms, leaf_hash FROM log_entry ORDER BY idx DESC LIMIT 1"


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass(slots=True)
class _Tail:
    """The end of the log: what the next append needs."""

    tree: CompactRange
    ts_ms: int
    last_hash: bytes


@dataclass(slots=True)
class AuditLog:
    """The audit log `origin` in the database behind `engine`, signed by `signer`.

    `clock` gives milliseconds since 1970 UTC; entries never go back in time.
    """

    engine: Engine
    signer: Signer = field(repr=False)
    origin: str
    clock: Callable[[], int] = _now_ms
    _tail: _Tail | None = field(default=None, init=False, repr=False)
    _admission: Admission = field(init=False, repr=False)
    _add_entries: str = field(init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        self._admission = Admission(self.log)
        # As text: what reads and writes in every append does without the building of statements.
        add = insert(cast("Table", LogEntry.__table__))
        self._add_entries = str(add.compile(dialect=self.engine.dialect))

    @property
    def log(self) -> str:
        """The id that statements name this log by."""
        return log_id(self.origin, self.signer.public_bytes())

    def begin(self, operator: str, software: str, coordinator_key: bytes = b"") -> bool:
        """Make the first entry of an empty log; False when the log has begun already."""
        key = self.signer.public_bytes().hex()
        event = Genesis(self.origin, key, coordinator_key.hex(), operator, software)
        with self._lock, self.engine.begin() as connection:
            serialise(connection)
            if self._read_tail(connection).tree.size:
                return False
            self._append(connection, [event], "")
        return True

    def append(self, events: Iterable[Event | Envelope], actor: str = "") -> tuple[int, ...]:
        """Append in one durable transaction; return the index of each.

        Statements may stand among the events. One that the log holds already is not appended
        again, its index is returned: a site may always send again. Raises StatementRefused when
        a statement does not verify or does not follow; nothing is appended then.
        """
        with self._lock:
            try:
                with self.engine.begin() as connection:
                    serialise(connection)
                    return self._append(connection, events, actor)
            except BaseException:
                # What was admitted in memory was rolled back on disk.
                self._tail = None
                raise

    def append_statements(self, envelopes: Iterable[Envelope], actor: str = "") -> tuple[int, ...]:
        """Append sites' statements; the same as `append`, for the reader's sake."""
        return self.append(envelopes, actor)

    def checkpoint(self) -> bytes:
        """Return the signed checkpoint of all that is committed, signing it when it is new.

        Raises LogDamaged when the stored tree contradicts the last checkpoint that was signed.
        """
        with self.engine.begin() as connection:
            serialise(connection)
            size = self._size(connection)
            last = connection.execute(
                select(CheckpointRow).order_by(CheckpointRow.size.desc()).limit(1)
            ).first()
            if last is not None and last.size == size:
                return str(last.note).encode()
            if last is not None:
                self._compare(connection, last.size, last.root, size)
            root = self._prove(connection, lambda node: root_at(size, node))
            note = sign_checkpoint(Checkpoint(self.origin, size, root), self.signer).to_bytes()
            connection.execute(
                insert(CheckpointRow), {"size": size, "root": root, "note": note.decode()}
            )
        return note

    def size(self) -> int:
        """Return the number of committed entries."""
        with self._reading() as connection:
            return self._size(connection)

    def holds(self, kind: str, run: str, number: int) -> bool:
        """Whether an entry of `kind` about round `number` of `run` is committed."""
        query = select(LogEntry.idx).where(
            LogEntry.kind == kind, LogEntry.run_id == run, LogEntry.round == number
        )
        with self._reading() as connection:
            return connection.scalar(query.limit(1)) is not None

    def inclusion(self, index: int, size: int) -> tuple[bytes, ...]:
        """Return the proof that entry `index` is in the tree of `size`; ProofInvalid if not."""
        with self._reading() as connection:
            return self._prove(connection, lambda node: inclusion_proof(index, size, node))

    def consistency(self, old: int, new: int) -> tuple[bytes, ...]:
        """Return the proof that the tree of `old` is the start of that of `new`."""
        with self._reading() as connection:
            return self._prove(connection, lambda node: consistency_proof(old, new, node))

    def entries(self, start: int, end: int) -> tuple[bytes, ...]:
        """Return the leaves of entries start <= index < end, as many of them as exist."""
        query = select(LogEntry.leaf).where(LogEntry.idx >= start, LogEntry.idx < end)
        with self._reading() as connection:
            return tuple(connection.scalars(query.order_by(LogEntry.idx)))

    def note(self, size: int) -> bytes | None:
        """Return the signed checkpoint of `size`, None when none was signed."""
        query = select(CheckpointRow.note).where(CheckpointRow.size == size)
        with self._reading() as connection:
            found = connection.scalar(query)
        return None if found is None else found.encode()

    # -- cosignatures -----------------------------------------------------------------------

    def add_cosignature(self, site: str, size: int, line: str) -> int:
        """Keep a site's signature line under the checkpoint of `size`; return its time (s).

        A line that is there already stays. Raises CosignatureRefused when there is no such
        checkpoint, or the line is not by the witness key of this site in force.
        """
        with self._lock, self.engine.begin() as connection:
            serialise(connection)
            self._read_tail(connection)
            stored = connection.scalar(select(CheckpointRow.note).where(CheckpointRow.size == size))
            state = self._admission.ring(connection).sites.get(site)
            if stored is None or state is None or state.revoked:
                raise CosignatureRefused(
                    f"{site} cosigns a checkpoint of {size} entries: no such checkpoint or site"
                )
            note, name = Note.from_bytes(stored.encode()), witness_name(self.origin, site)
            try:
                signature = NoteSignature.from_line(line)
                time_s = verify_cosignature(note.text, signature, name, state.witness)
            except (SignatureInvalid, MalformedData) as error:
                raise CosignatureRefused(f"cosignature of {site} refused: {error}") from None
            place = (CosignatureRow.size == size, CosignatureRow.site == site)
            if connection.scalar(select(CosignatureRow.time_s).where(*place)) is None:
                connection.execute(
                    insert(CosignatureRow),
                    {"size": size, "site": site, "time_s": time_s, "line": signature.line()},
                )
        return time_s

    def cosigned(self, size: int) -> bytes | None:
        """Return the checkpoint of `size` with every cosignature under it, by name of site."""
        note = self.note(size)
        query = select(CosignatureRow.line).where(CosignatureRow.size == size)
        with self._reading() as connection:
            lines = connection.scalars(query.order_by(CosignatureRow.site)).all()
        return None if note is None else note + "".join(lines).encode()

    def witnessed(self, site: str) -> int:
        """Return the size of the largest checkpoint that `site` has cosigned; 0 for none."""
        query = select(func.max(CosignatureRow.size)).where(CosignatureRow.site == site)
        with self._reading() as connection:
            return connection.scalar(query) or 0

    # -- after a restore from an old backup --------------------------------------------------

    def recover(self, pin: bytes, leaves: Sequence[bytes], site: str, reason: str) -> int:
        """Take lost entries back from the copy of `site`; return how many.

        `pin` is the checkpoint that the site witnessed, `leaves` its copy from this log's size
        on to the checkpoint's. They are appended as they are, and an entry says so. See
        `server/README.md` for when to do this. Raises LogDamaged when pin, copy and this log do
        not continue each other: then two histories are signed, and this log is at its end.
        """
        try:
            note = Note.from_bytes(pin)
            checkpoint = open_checkpoint(note, self.origin, self.signer.public_bytes())
        except (MalformedData, SignatureInvalid) as error:
            raise LogDamaged(
                f"the pin of {site} is not a checkpoint of this log: {error}"
            ) from None
        with self._lock:
            self._tail = None
            try:
                with self.engine.begin() as connection:
                    serialise(connection)
                    size: int = self._read_tail(connection).tree.size
                    try:
                        self._extend(connection, ((leaf, from_leaf(leaf)) for leaf in leaves))
                    except (StatementRefused, MalformedData) as error:
                        raise LogDamaged(f"the copy of {site} cannot follow: {error}") from None
                    tree = self._read_tail(connection).tree
                    if (tree.size, tree.root()) != (checkpoint.size, checkpoint.root):
                        raise LogDamaged(
                            f"the copy of {site} does not continue this log; two histories are "
                            "signed: keep both as evidence and begin a new log"
                        )
                    kept = Note(note.text, note.signatures[:1]).to_bytes().decode()
                    row = {"size": tree.size, "root": checkpoint.root, "note": kept}
                    connection.execute(insert(CheckpointRow), row)
                    root = checkpoint.root.hex()
                    event = Restored(size, checkpoint.size, root, site, reason)
                    self._append(connection, [event], "")
            except BaseException:
                self._tail = None
                raise
        return len(leaves)

    # -- inside one transaction -------------------------------------------------------------

    def _reading(self) -> Connection:
        return self.engine.connect().execution_options(**READ_ONLY)

    def _size(self, connection: Connection) -> int:
        last = connection.scalar(select(func.max(LogEntry.idx)))
        return 0 if last is None else last + 1

    def _append(
        self, connection: Connection, events: Iterable[Event | Envelope], actor: str
    ) -> tuple[int, ...]:
        now = max(self.clock(), self._read_tail(connection).ts_ms)
        return self._extend(connection, (_leaf(event, now, actor) for event in events))

    def _extend(
        self, connection: Connection, leaves: Iterable[tuple[bytes, Leaf]]
    ) -> tuple[int, ...]:
        """Check and insert leaves at the end; the lock is held and the tail has been read."""
        tail = self._tail or self._read_tail(connection)
        tree, last_hash, ts_ms = tail.tree.copy(), tail.last_hash, tail.ts_ms
        indices: list[int] = []
        rows: list[dict[str, object]] = []
        for data, leaf in leaves:
            known = self._admission.admit(connection, leaf, tree.size)
            if known is not None:
                indices.append(known)
                continue
            indices.append(tree.size)
            last_hash, ts_ms = leaf_hash(data), leaf.ts_ms
            rows.append(_row(tree, leaf, data, last_hash))
        if rows:
            connection.exec_driver_sql(self._add_entries, rows)
        self._tail = _Tail(tree, ts_ms, last_hash)
        return tuple(indices)

    def _read_tail(self, connection: Connection) -> _Tail:
        """Take the remembered tail when nobody else appended since; read it otherwise."""
        last = connection.exec_driver_sql(_LAST_ENTRY).first()
        size, ts_ms, last_hash = (last[0] + 1, last[1], last[2]) if last else (0, 0, b"")
        tail = self._tail
        self._admission.begin()
        if tail is None or (tail.tree.size, tail.last_hash) != (size, last_hash):
            self._admission.forget()
            at = peaks(size)
            hashes = _load_nodes(connection, at)
            tail = self._tail = _Tail(CompactRange(size, [hashes[n] for n in at]), ts_ms, last_hash)
        return tail

    def _prove(self, connection: Connection, prove: Callable[[NodeHash], T]) -> T:
        """Run `prove` twice: once to learn which nodes it needs, once with them, in one query."""
        needed: list[tuple[int, int]] = []

        def collect(level: int, index: int) -> bytes:
            needed.append((level, index))
            return b""

        prove(collect)
        hashes = _load_nodes(connection, needed)
        return prove(lambda level, index: hashes[level, index])

    def _compare(self, connection: Connection, size: int, root: bytes, now: int) -> None:
        if size > now or self._prove(connection, lambda node: root_at(size, node)) != root:
            raise LogDamaged(
                f"the stored log contradicts its own checkpoint of {size} entries; sign nothing, "
                "restore the database and let the sites' copies fill what is missing"
            )


def _load_nodes(
    connection: Connection, nodes: Sequence[tuple[int, int]]
) -> dict[tuple[int, int], bytes]:
    places = {node: node[1] if node[0] == 0 else completed_by(*node) for node in nodes}
    query = select(LogEntry.idx, LogEntry.leaf_hash, LogEntry.subtrees)
    rows = connection.execute(query.where(LogEntry.idx.in_(set(places.values()))))
    # An entry's own hash and those of what it completes are one row of levels, from 0 on.
    levels = {row.idx: row.leaf_hash + row.subtrees for row in rows}
    found: dict[tuple[int, int], bytes] = {}
    for node, entry in places.items():
        value = levels.get(entry, b"")[HASH_BYTES * node[0] :][:HASH_BYTES]
        if len(value) == HASH_BYTES:
            found[node] = value
    missing = set(nodes) - found.keys()
    if missing:
        raise LogDamaged(f"the tree lacks the node {min(missing)}; restore the database")
    return found


def _leaf(event: Event | Envelope, now: int, actor: str) -> tuple[bytes, Leaf]:
    if isinstance(event, Envelope):
        data = statement_leaf(event, now, actor)
        return data, from_leaf(data)
    return to_leaf(event, now, actor), Leaf(now, actor, event)


def _row(tree: CompactRange, leaf: Leaf, data: bytes, digest: bytes) -> dict[str, object]:
    """The row of the next entry, which `tree` takes in."""
    return {
        "idx": tree.size,
        "ts_ms": leaf.ts_ms,
        "kind": leaf.kind,
        "run_id": leaf.run,
        "round": leaf.round,
        "site_id": leaf.site,
        "actor": leaf.actor,
        "leaf": data,
        "leaf_hash": digest,
        "subtrees": b"".join(tree.append(digest)),
    }
