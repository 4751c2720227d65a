"""Which statements of sites the log takes in: by enrolled key, in sequence, each once."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from sqlalchemy import Connection, select, text

from wardround.privacy.events import KINDS, Enrol, Leaf, Revoke, Rotate, from_leaf
from wardround.privacy.keyring import ChainBroken, Keyring
from wardround.privacy.statements import Envelope
from wardround.server.errors import StatementRefused
from wardround.server.models import OF_SITES, LogEntry

_SIGNED = [kind for kind, event in KINDS.items() if event.signed]
_KEYS = [Enrol.kind, Rotate.kind, Revoke.kind]


@dataclass(slots=True)
class Admission:
    """The sites' keys and last statements as the log has them, remembered between appends."""

    log: str
    _ring: Keyring | None = field(default=None, init=False, repr=False)
    _fresh: dict[tuple[str, int], tuple[int, str]] = field(default_factory=dict, init=False)

    def forget(self) -> None:
        """Read everything anew: another process appended, or a transaction was rolled back."""
        self._ring = None

    def begin(self) -> None:
        """A transaction begins: what the last one appended is in the database now."""
        self._fresh.clear()

    def admit(self, connection: Connection, leaf: Leaf, index: int) -> int | None:
        """Check what is about to become entry `index`.

        Returns the index it has already when the log holds this very statement, else None.
        Raises StatementRefused.
        """
        if leaf.envelope is None and leaf.kind != Revoke.kind:
            return None
        ring = self.ring(connection)
        if leaf.envelope is not None:
            known = self._known(connection, ring, leaf)
            if known is not None:
                return known
        try:
            ring.admit(leaf)
        except ChainBroken as error:
            raise StatementRefused(f"{leaf.kind} refused: {error}") from None
        if leaf.statement is not None and leaf.envelope is not None:
            place = leaf.statement.site, leaf.statement.sequence
            self._fresh[place] = index, leaf.envelope.digest()
        return None

    def ring(self, connection: Connection) -> Keyring:
        """Return the keyring of all committed entries."""
        if self._ring is None:
            self._ring = _read_keyring(connection, self.log)
        return self._ring

    def _known(self, connection: Connection, ring: Keyring, leaf: Leaf) -> int | None:
        if leaf.statement is None or leaf.envelope is None:
            return None
        site, sequence = leaf.statement.site, leaf.statement.sequence
        state = ring.sites.get(site)
        if state is None or sequence > state.sequence:
            return None
        digest = leaf.envelope.digest()
        if (site, sequence) in self._fresh:
            index, logged = self._fresh[site, sequence]
            if logged == digest:
                return index
        else:
            for index, envelope in _statements(connection, site):
                if envelope.digest() == digest:
                    return index
        raise StatementRefused(
            f"{site} sends another statement {sequence} than the one logged; its database may "
            "be an old copy"
        )


def _statements(connection: Connection, site: str) -> Iterator[tuple[int, Envelope]]:
    """Give the logged statements of a site, newest first."""
    query = (
        select(LogEntry.idx, LogEntry.leaf)
        .where(LogEntry.site_id == site, text(OF_SITES), LogEntry.kind.in_(_SIGNED))
        .order_by(LogEntry.idx.desc())
    )
    for row in connection.execute(query):
        leaf = from_leaf(row.leaf)
        if leaf.envelope is not None:
            yield row.idx, leaf.envelope


def _read_keyring(connection: Connection, log: str) -> Keyring:
    """Replay what changed keys, then find each site's last statement.

    The entries are the coordinator's own and were checked when they were appended.
    """
    ring = Keyring(log)
    query = select(LogEntry.leaf).where(LogEntry.kind.in_(_KEYS)).order_by(LogEntry.idx)
    for data in connection.scalars(query):
        ring.apply(from_leaf(data))
    for site in list(ring.sites):
        for _, envelope in _statements(connection, site):
            ring.resume(site, envelope.statement().sequence, envelope.digest())
            break
    return ring
