"""The coordinator's end of the exchange about the log with one site (see `privacy.loghead`)."""

from dataclasses import dataclass, field

from wardround.privacy.loghead import (
    MAX_ENTRIES,
    MAX_ENTRY_BYTES,
    LogHead,
    Receipt,
    SiteHead,
    to_hex,
)
from wardround.server.audit import AuditLog
from wardround.server.errors import LogDamaged, StatementRefused


@dataclass(slots=True)
class LogLink:
    """What one site has of the log, as far as the coordinator knows.

    Nothing here needs to survive a restart: a site that is further back or further on says so
    in its next `SiteHead`, and sends every statement again for which it holds no receipt.
    """

    log: AuditLog
    site: str
    _size: int = field(default=-1, init=False)
    _mirrored: int = field(default=-1, init=False)
    _owed: dict[int, int] = field(default_factory=dict, init=False)  # sequence -> index

    def head(self) -> LogHead:
        """Return the newest checkpoint and all that the site needs to believe it."""
        if self._size < 0:
            self._size = self._mirrored = self.log.witnessed(self.site)
        note = self.log.checkpoint()
        size = int(note.split(b"\n", 2)[1])
        since, start = min(self._size, size), min(self._mirrored, size)
        leaves: list[str] = []
        budget = MAX_ENTRY_BYTES
        for leaf in self.log.entries(start, min(size, start + MAX_ENTRIES)):
            budget -= len(leaf)
            if budget < 0 and leaves:
                break
            leaves.append(leaf.decode("ascii"))
        receipts = [
            Receipt(sequence, index, to_hex(self.log.inclusion(index, size)))
            for sequence, index in sorted(self._owed.items())
            if index < size
        ]
        return LogHead(
            note.decode(),
            since,
            to_hex(self.log.consistency(since, size)),
            start,
            tuple(leaves),
            to_hex(self.log.consistency(start + len(leaves), size)),
            tuple(receipts),
            self._cosigned(),
        )

    def _cosigned(self) -> str:
        size = self.log.witnessed(self.site)
        note = self.log.cosigned(size) if size > self._size else None
        return note.decode() if note else ""

    def receive(self, head: SiteHead) -> tuple[int, ...]:
        """Take in what the site says; return the index of each of its statements.

        Raises LogDamaged when the site has witnessed more than this log holds (this database is
        an old copy: nothing may be appended before `AuditLog.recover`), StatementRefused, or
        CosignatureRefused, which leaves the statements logged.
        """
        size = self.log.size()
        if head.size > size:
            raise LogDamaged(
                f"{self.site} has witnessed {head.size} entries, this log has {size}: the "
                "database is an old copy; take the rest back from a site before anything else"
            )
        self._size, self._mirrored = head.size, head.mirrored
        statements = [envelope.statement() for envelope in head.statements]
        for statement in statements:
            if statement.site != self.site:
                raise StatementRefused(f"{self.site} sends a statement of {statement.site}")
        indices = self.log.append_statements(head.statements) if statements else ()
        self._owed = {s.sequence: i for s, i in zip(statements, indices, strict=True)}
        if head.cosignature:
            self.log.add_cosignature(self.site, head.size, head.cosignature)
        return indices
