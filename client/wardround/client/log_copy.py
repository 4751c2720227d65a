"""The site's copy of the log: every entry it was shown, proven, and its own statements in it."""

from dataclasses import dataclass

from sqlalchemy.orm import Session

from wardround.client.errors import LogForked, ProofStale
from wardround.client.witness_tables import EntryRow, MirrorRow, StatementRow
from wardround.privacy.errors import MalformedData, ProofInvalid, SignatureInvalid
from wardround.privacy.events import Genesis, Leaf, PrivacySpend, from_leaf
from wardround.privacy.loghead import LogHead, Receipt, from_hex
from wardround.privacy.notes import Checkpoint
from wardround.privacy.statements import Envelope, Statement
from wardround.privacy.transparency import (
    CompactRange,
    leaf_hash,
    verify_consistency,
    verify_inclusion,
)


@dataclass(frozen=True, slots=True)
class LogCopy:
    """The copy that `site` keeps of the log `origin` with the key `log_public`.

    `identity` is the site's public identity key. Every method works in the transaction of the
    session it is given.
    """

    site: str
    identity: bytes
    origin: str
    log_public: bytes

    def mirror(self, database: Session) -> MirrorRow:
        """Return how far the copy goes."""
        row = database.get(MirrorRow, 1)
        if row is None:
            row = MirrorRow(id=1, size=0, peaks=b"", ledger_sequence=0)
            database.add(row)
        return row

    def extend(self, database: Session, head: LogHead, checkpoint: Checkpoint) -> None:
        """Add the entries of `head`, proven to be those of its checkpoint.

        Raises ProofStale when they begin beyond the copy's end, LogForked when they are not the
        log's, or when they hold a statement of this site that it did not make.
        """
        mirror = self.mirror(database)
        if head.start > mirror.size:
            raise ProofStale(
                f"the entries start at {head.start}, this site holds the first {mirror.size}"
            )
        peaks = [mirror.peaks[i : i + 32] for i in range(0, len(mirror.peaks), 32)]
        tree = CompactRange(mirror.size, peaks)
        for data in head.leaves()[mirror.size - head.start :]:
            index = tree.size
            leaf = self._read(data, index)
            database.add(EntryRow(idx=index, leaf=data))
            if leaf.statement is not None and leaf.site == self.site:
                self._own(database, mirror, leaf, leaf.statement, index)
            tree.append(leaf_hash(data))
        if tree.size != mirror.size or head.start + len(head.entries) == tree.size:
            try:
                verify_consistency(
                    tree.size,
                    checkpoint.size,
                    from_hex(head.entries_consistency),
                    tree.root(),
                    checkpoint.root,
                )
            except ProofInvalid as error:
                raise LogForked(f"the entries are not those of the checkpoint: {error}") from None
        mirror.size, mirror.peaks = tree.size, b"".join(tree.hashes)

    def _read(self, data: bytes, index: int) -> Leaf:
        try:
            leaf = from_leaf(data)
        except MalformedData as error:
            raise LogForked(f"entry {index} cannot be read: {error}") from None
        if index == 0:
            first = leaf.event
            key = self.log_public.hex()
            if not isinstance(first, Genesis) or (first.origin, first.log_key) != (
                self.origin,
                key,
            ):
                raise LogForked("the log does not begin with the pinned origin and key")
        return leaf

    def _own(
        self, database: Session, mirror: MirrorRow, leaf: Leaf, statement: Statement, index: int
    ) -> None:
        """Take the log's copy of a statement of this site as its receipt."""
        row = database.get(StatementRow, statement.sequence)
        if leaf.envelope is None:
            return
        if row is None:
            # This database is older than the log: the site was restored from a backup. What it
            # once signed is its own; what it did not sign is a forgery.
            try:
                leaf.envelope.verify(self.identity)
            except SignatureInvalid:
                raise LogForked(
                    f"entry {index} is a statement of this site that it never signed"
                ) from None
            database.add(statement_row(statement, leaf.envelope, leaf.run, index))
        elif row.digest != leaf.envelope.digest():
            raise LogForked(
                f"entry {index} differs from this site's statement {row.sequence}: the log was "
                "changed, or this site's database went back to an old copy and spoke since"
            )
        else:
            row.log_index = index
        if isinstance(leaf.event, PrivacySpend):
            mirror.ledger_sequence = max(mirror.ledger_sequence, leaf.event.ledger_sequence)

    def check_receipt(self, database: Session, receipt: Receipt, size: int, root: bytes) -> None:
        """Check that the log of `size` and `root` holds the statement the receipt names.

        Raises LogForked when it does not.
        """
        row = database.get(StatementRow, receipt.sequence)
        entry = database.get(EntryRow, receipt.index)
        if entry is None and receipt.index < size:
            return  # the copy lags behind; the statement stays pending until it has caught up
        try:
            if row is None or entry is None or row.log_index != receipt.index:
                raise ProofInvalid(f"entry {receipt.index} is not statement {receipt.sequence}")
            verify_inclusion(
                receipt.index, size, leaf_hash(entry.leaf), from_hex(receipt.proof), root
            )
        except ProofInvalid as error:
            raise LogForked(f"the receipt does not hold: {error}") from None


def statement_row(
    statement: Statement, envelope: Envelope, run: str, index: int | None
) -> StatementRow:
    """Return the row of a statement; `index` is its place in the log, once that is proven."""
    return StatementRow(
        sequence=statement.sequence,
        kind=statement.kind,
        run=run,
        digest=envelope.digest(),
        envelope=envelope.to_bytes(),
        log_index=index,
    )
