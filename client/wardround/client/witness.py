"""The site as a witness: its own copy of the coordinator's log, and its own statements.

What the site signs is on its disk before anyone sees it. It never puts its name under a smaller
log, a log without proof that it continues the last one, or a log of another name or key; and it
keeps what it refused, because a checkpoint that the log's key signed is evidence against it.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from wardround.client.database import Base, session
from wardround.client.errors import LogForked, LogRefused, LogWentBack, ProofStale, ReceiptMissing
from wardround.client.log_copy import LogCopy, statement_row
from wardround.client.witness_tables import (
    TABLES,
    EntryRow,
    ForgottenRow,
    RefusedRow,
    StatementRow,
    WitnessedRow,
)
from wardround.privacy import canonical
from wardround.privacy.errors import MalformedData, ProofInvalid, SignatureInvalid
from wardround.privacy.events import (
    Closing,
    Event,
    Update,
    read_event,
)
from wardround.privacy.identity import Signer
from wardround.privacy.loghead import LogHead, Receipt, SiteHead, from_hex
from wardround.privacy.notes import (
    Checkpoint,
    Note,
    cosign,
    log_id,
    open_checkpoint,
    verify_cosignature,
    witness_name,
)
from wardround.privacy.statements import FIRST, Body, Envelope, Statement, sign
from wardround.privacy.transparency import (
    EMPTY_ROOT,
    verify_consistency,
)
from wardround.privacy.verify.receipts import SavedReceipt


@dataclass(frozen=True, slots=True)
class Position:
    """Where the site stands.

    It witnessed `size` entries of this `root`, holds the first `mirrored`, and has made
    `sequence` statements. `ledger_sequence` is the highest in its privacy spends that the log
    holds: a ledger that is behind it was restored from an old copy. `forgotten` is the size of the
    largest checkpoint that carries this site's own line, though its database did not know of it
    when it was shown (0: none): then all of the database was.
    """

    size: int
    root: bytes
    mirrored: int
    sequence: int
    ledger_sequence: int
    forgotten: int


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass(slots=True)
class Witness:
    """The witness `site` of the log `origin`, which is signed by the key `log_public`.

    `clock` gives milliseconds since 1970 UTC.
    """

    engine: Engine
    site: str
    identity: Signer = field(repr=False)
    witness: Signer = field(repr=False)
    origin: str
    log_public: bytes
    clock: Callable[[], int] = _now_ms

    _copy: LogCopy = field(init=False, repr=False)

    def __post_init__(self) -> None:
        public = self.identity.public_bytes()
        self._copy = LogCopy(self.site, public, self.origin, self.log_public)
        Base.metadata.create_all(self.engine, tables=TABLES)

    # -- statements -------------------------------------------------------------------------

    def statement(self, event: Event) -> Envelope:
        """Sign `event` as this site's next statement; it is on disk when this returns.

        The statement stays among `pending` until the log is proven to hold it.
        """
        with session(self.engine) as database:
            return self._state(database, event)

    def stated(self, kind: str, run: str, round_: int, attempt: int | None = None) -> bool:
        """Whether this site has signed a statement of `kind` about a round (or one attempt)."""
        query = select(StatementRow.envelope).where(
            StatementRow.kind == kind, StatementRow.run == run
        )
        with session(self.engine) as database:
            events = [_event(row) for row in database.scalars(query)]
        return any(
            getattr(event, "round", 0) == round_
            and attempt in (None, getattr(event, "attempt", None))
            for event in events
        )

    def said(self, event: Event) -> bool:
        """Whether this site has signed this very event before."""
        query = select(StatementRow.envelope).where(StatementRow.kind == event.kind)
        with session(self.engine) as database:
            return any(_event(row) == event for row in database.scalars(query))

    def pending(self) -> tuple[Envelope, ...]:
        """Return the statements without a receipt, in order: what has to be sent (again)."""
        query = select(StatementRow.envelope).where(StatementRow.log_index.is_(None))
        with session(self.engine) as database:
            rows = database.scalars(query.order_by(StatementRow.sequence))
            return tuple(Envelope.from_bytes(row) for row in rows)

    def require_receipts(self) -> None:
        """Raise ReceiptMissing while a statement is not proven to be in the log."""
        missing = self.pending()
        if missing:
            first = missing[0].statement()
            raise ReceiptMissing(
                f"the log does not show statement {first.sequence} ({first.kind}) of this site; "
                "nothing more is sent until it does"
            )

    def closing(self, run: str) -> Envelope:
        """Sign the closing statement of `run`, once: a second call returns the same.

        It says how far this site's statements go and what it witnessed last.
        """
        with session(self.engine) as database:
            made = database.scalar(
                select(StatementRow.envelope).where(
                    StatementRow.kind == Closing.kind, StatementRow.run == run
                )
            )
            if made is not None:
                return Envelope.from_bytes(made)
            updates = [
                event
                for row in database.scalars(
                    select(StatementRow.envelope).where(
                        StatementRow.kind == Update.kind, StatementRow.run == run
                    )
                )
                if isinstance(event := _event(row), Update)
            ]
            size, root = self._head(database)
            closing = Closing(
                run,
                self._last(database)[0],
                size,
                root.hex(),
                len(updates),
                sum(u.size + u.header_size + u.boxes_size for u in updates),
            )
            return self._state(database, closing)

    # -- the log ----------------------------------------------------------------------------

    def accept(self, head: LogHead, *, asked_at: int | None = None) -> str:
        """Check what the coordinator shows of the log, keep it, and return the cosignature.

        `asked_at` is the size this site had witnessed when it asked for `head`, 0 if it did not
        ask: a checkpoint of that size or more may have been overtaken on its way by a newer one,
        and only a smaller one shows a log that went back. None: the present size.

        Checkpoint, entries, receipts and cosignature are on disk when this returns; shown the
        same checkpoint again, the site gives the same line. Raises LogRefused: ProofStale when
        the coordinator takes this site to stand elsewhere (answer with `head`), LogWentBack or
        LogForked when the log contradicts itself (the evidence is kept).
        """
        try:
            note = Note.from_bytes(head.note.encode())
            checkpoint = open_checkpoint(note, self.origin, self.log_public)
        except (MalformedData, SignatureInvalid) as error:
            raise LogRefused(f"the checkpoint is not of the pinned log: {error}") from None
        if head.cosigned:
            self._recall(head.cosigned)
        try:
            with session(self.engine) as database:
                return self._accept(database, head, note, checkpoint, asked_at)
        except ProofStale:
            raise
        except LogRefused as error:
            self._keep_refused(head, checkpoint, error)
            raise

    def advance(
        self, note: bytes, consistency: tuple[bytes, ...], entries: tuple[bytes, ...]
    ) -> str:
        """Like `accept`, for entries that go on from this site's copy to the end of the log."""
        where = self.position()
        return self.accept(
            LogHead(
                note.decode(),
                where.size,
                tuple(part.hex() for part in consistency),
                where.mirrored,
                tuple(entry.decode("ascii") for entry in entries),
                (),
                (),
            )
        )

    def head(self) -> SiteHead:
        """Return what this site tells the coordinator about the log with each reply."""
        with session(self.engine) as database:
            last = database.scalars(
                select(WitnessedRow).order_by(WitnessedRow.size.desc()).limit(1)
            ).first()
            size, line = (last.size, last.line) if last else (0, "")
            mirrored = self._copy.mirror(database).size
        return SiteHead(size, mirrored, line, self.pending())

    def check_receipt(self, receipt: Receipt, size: int) -> None:
        """Check a receipt against the checkpoint of `size` that this site witnessed.

        Raises LogForked when it does not prove that the statement is in the log.
        """
        with session(self.engine) as database:
            row = database.get(WitnessedRow, size)
            if row is None:
                raise ProofStale(f"this site has not witnessed a checkpoint of {size} entries")
            self._copy.check_receipt(database, receipt, size, row.root)

    def receipt(self, sequence: int, head: LogHead) -> SavedReceipt:
        """Return the file that proves one statement: for an auditor, whatever is shown later.

        `head` is a `LogHead` this site accepted that has a receipt for the statement. Raises
        ReceiptMissing when it has none.
        """
        found = next((r for r in head.receipts if r.sequence == sequence), None)
        with session(self.engine) as database:
            row = database.get(StatementRow, sequence)
            entry = database.get(EntryRow, found.index) if found else None
            if found is None or row is None or entry is None:
                raise ReceiptMissing(f"no receipt for statement {sequence} came with this message")
            return SavedReceipt(
                self.site,
                sequence,
                row.run,
                int(getattr(_event(row.envelope), "round", 0)),
                head.note,
                found.index,
                entry.leaf.decode("ascii"),
                found.proof,
            )

    def position(self) -> Position:
        """Return where this site stands."""
        with session(self.engine) as database:
            size, root = self._head(database)
            mirror = self._copy.mirror(database)
            forgotten = database.scalar(select(func.max(ForgottenRow.size))) or 0
            sequence = self._last(database)[0]
            return Position(size, root, mirror.size, sequence, mirror.ledger_sequence, forgotten)

    def entries(self, start: int, end: int) -> tuple[bytes, ...]:
        """Return the leaves of this site's copy, start <= index < end, as many as it has."""
        query = select(EntryRow.leaf).where(EntryRow.idx >= start, EntryRow.idx < end)
        with session(self.engine) as database:
            return tuple(database.scalars(query.order_by(EntryRow.idx)))

    def pin(self) -> bytes:
        """Return the last checkpoint with this site's cosignature: the auditor's `--pin` file.

        Raises LogRefused when this site has not witnessed any.
        """
        with session(self.engine) as database:
            last = database.scalars(
                select(WitnessedRow).order_by(WitnessedRow.size.desc()).limit(1)
            ).first()
            if last is None:
                raise LogRefused("this site has not witnessed the log yet")
            return (last.note + last.line).encode()

    def refused(self) -> tuple[tuple[int, str, LogHead], ...]:
        """Return the evidence: time (ms), reason, and all that was shown, for each refusal."""
        with session(self.engine) as database:
            rows = database.scalars(select(RefusedRow).order_by(RefusedRow.id))
            return tuple(
                (row.time_ms, row.reason, LogHead.from_json(canonical.loads(row.head)))
                for row in rows
            )

    # -- inside one transaction -------------------------------------------------------------

    def _state(self, database: Session, event: Event) -> Envelope:
        sequence, previous = self._last(database)
        statement = Statement(
            log_id(self.origin, self.log_public),
            self.site,
            sequence + 1,
            previous,
            self.clock(),
            event.kind,
            Body(event.to_json()),
        )
        envelope = sign(statement, self.identity)
        run = str(getattr(event, "run", ""))
        database.add(statement_row(statement, envelope, run, None))
        return envelope

    def _last(self, database: Session) -> tuple[int, str]:
        row = database.execute(
            select(StatementRow.sequence, StatementRow.digest)
            .order_by(StatementRow.sequence.desc())
            .limit(1)
        ).first()
        return (row.sequence, row.digest) if row else (0, FIRST)

    def _head(self, database: Session) -> tuple[int, bytes]:
        row = database.execute(
            select(WitnessedRow.size, WitnessedRow.root).order_by(WitnessedRow.size.desc()).limit(1)
        ).first()
        return (row.size, row.root) if row else (0, EMPTY_ROOT)

    def _accept(
        self,
        database: Session,
        head: LogHead,
        note: Note,
        checkpoint: Checkpoint,
        asked_at: int | None,
    ) -> str:
        size, root = self._head(database)
        if checkpoint.size < size:
            if asked_at is not None and checkpoint.size >= asked_at:
                raise ProofStale(
                    f"the checkpoint of {checkpoint.size} entries came late: this site has "
                    f"witnessed {size} meanwhile"
                )
            raise LogWentBack(
                f"the log has {checkpoint.size} entries, this site has witnessed {size}; the "
                "coordinator has restored an old copy and must take the rest back from the sites"
            )
        if head.since != size:
            raise ProofStale(
                f"the proof starts at {head.since} entries, this site stands at {size}"
            )
        try:
            verify_consistency(
                size, checkpoint.size, from_hex(head.consistency), root, checkpoint.root
            )
        except ProofInvalid as error:
            raise LogForked(f"the log is not the one this site has witnessed: {error}") from None
        self._copy.extend(database, head, checkpoint)
        for receipt in head.receipts:
            self._copy.check_receipt(database, receipt, checkpoint.size, checkpoint.root)
        known = database.get(WitnessedRow, checkpoint.size)
        if known is not None:
            return known.line
        latest = database.scalar(select(func.max(WitnessedRow.time_s))) or 0
        time_s = max(self.clock() // 1000, latest)
        name = witness_name(self.origin, self.site)
        line = cosign(note.text, name, self.witness, time_s).line()
        database.add(
            WitnessedRow(
                size=checkpoint.size,
                root=checkpoint.root,
                note=Note(note.text, note.signatures[:1]).to_bytes().decode(),
                line=line,
                time_s=time_s,
            )
        )
        return line

    def _recall(self, text: str) -> None:
        """Keep a checkpoint that this site cosigned, where its database does not know that."""
        try:
            note = Note.from_bytes(text.encode())
            size = open_checkpoint(note, self.origin, self.log_public).size
            with session(self.engine) as database:
                known = database.get(ForgottenRow, size)
                if known is not None or size <= self._head(database)[0]:
                    return
                name = witness_name(self.origin, self.site)
                line = next((line for line in note.signatures if line.name == name), None)
                if line is None:
                    raise SignatureInvalid(f"no line of {name} is under it")
                verify_cosignature(note.text, line, name, self.witness.public_bytes())
                database.add(ForgottenRow(size=size, note=text))
        except (MalformedData, SignatureInvalid) as error:
            raise LogRefused(
                f"the checkpoint that this site is said to have cosigned does not show it: {error}"
            ) from None

    def _keep_refused(self, head: LogHead, checkpoint: Checkpoint, error: LogRefused) -> None:
        shown = canonical.dumps(head.to_json())
        with session(self.engine) as database:
            if database.scalar(select(RefusedRow.id).where(RefusedRow.head == shown)) is None:
                database.add(
                    RefusedRow(
                        time_ms=self.clock(), reason=str(error), size=checkpoint.size, head=shown
                    )
                )


def _event(envelope: bytes) -> Event:
    statement = Envelope.from_bytes(envelope).statement()
    return read_event(statement.kind, statement.event)
