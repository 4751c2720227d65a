"""The first pass of the verifier: every entry, in order, once.

Each leaf is read strictly, hashed into the tree, compared with the database's columns, checked
against the clock and its site's key and chain, and handed on to the rules of runs and to the
summary. Memory is that of the summary, not of the log.

Signatures are what takes the time in a long log, and of a chain of statements one is enough. Each
statement holds the SHA-256 of what the one before it signs, and the first holds `FIRST`; the pass
checks every link, every sequence number and the signature of the newest statement by each key. If
that one verifies, the site's key signed a text that names its predecessor, which names its own, and
so on: to put another statement anywhere before it, with whatever signature, one would need two
texts of one SHA-256, or the site's key, with which one can sign anything. Taken away from the
front, the rest does not begin with `FIRST`; from the middle, a link is missing; from the end, what
is left is a true but shorter chain, which signatures cannot show either (closing statements, pins
and receipts do). What is not checked is whether the bytes in the signature field of an earlier
statement would verify: they are no part of what anyone claims. A key is settled before it is
replaced or revoked, so no statement waits for a signature by a later key.

Where one of these fails there is `doubt`, and the pass has to be run again with `every` signature
checked, which tells at which entry the fault is.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import zip_longest

from wardround.privacy.errors import MalformedData, SignatureInvalid
from wardround.privacy.events import (
    Enrol,
    Genesis,
    Leaf,
    Restored,
    Revoke,
    Rotate,
    RunStart,
    from_leaf,
)
from wardround.privacy.identity import Roster, SiteKeys
from wardround.privacy.keyring import ChainBroken, Keyring
from wardround.privacy.statements import Envelope
from wardround.privacy.transparency import CompactRange, leaf_hash
from wardround.privacy.verify.findings import Findings
from wardround.privacy.verify.policy import Policy
from wardround.privacy.verify.projections import Projection, columns
from wardround.privacy.verify.runs import Runs
from wardround.privacy.verify.signatures import Signatures


@dataclass(slots=True)
class EntryPass:
    """What one pass over the entries leaves behind.

    `roots` and `times` hold, for each size asked for, the tree's root and the time of its last
    entry. `witness_keys` are, by site, the keys the log gave it beyond the policy's, with the
    entry from which each counts; `retired` the entry at which a witness key was given up.
    """

    policy: Policy
    every: Signatures | None
    findings: Findings = field(default_factory=Findings)
    doubt: bool = False
    tree: CompactRange = field(default_factory=CompactRange)
    roots: dict[int, bytes] = field(default_factory=dict)
    times: dict[int, int] = field(default_factory=dict)
    projection: Projection = field(default_factory=Projection)
    runs: Runs = field(init=False)
    ring: Keyring = field(init=False)
    witness_keys: dict[str, list[tuple[int, bytes]]] = field(default_factory=dict)
    retired: dict[bytes, int] = field(default_factory=dict)
    compromised: list[tuple[int, str, int]] = field(default_factory=list)
    rosters: dict[str, Roster] = field(default_factory=dict)
    coordinator: bytes = b""
    _keys: dict[str, SiteKeys] = field(default_factory=dict)
    _time: int = 0
    _newest: dict[str, tuple[Envelope, bytes]] = field(default_factory=dict)  # and its key

    def __post_init__(self) -> None:
        self.runs = Runs(self.findings)
        self.ring = Keyring(self.policy.log)

    def run(self, leaves: Iterable[bytes], rows: Iterable[bytes], sizes: set[int]) -> None:
        """Read all entries; `rows` are the lines of the columns, one for each."""
        for data, row in zip_longest(leaves, rows):
            index = self.tree.size
            if data is None:
                self.findings.add("columns", index, "no more entries", "more rows of columns")
                break
            try:
                leaf = from_leaf(data)
            except MalformedData as error:
                self.findings.add("entry", index, "a leaf of the catalogue", str(error))
            else:
                self._entry(index, leaf)
                if row != columns(index, leaf):
                    self.findings.add("columns", index, columns(index, leaf).decode(), _shown(row))
            self.tree.append(leaf_hash(data))
            if index + 1 in sizes:
                self.roots[index + 1] = self.tree.root()
                self.times[index + 1] = self._time
        if self.tree.size == 0:
            self.findings.add("genesis", None, "one genesis, as the first entry", "no entries")
        for site in list(self._newest):
            self._settle(site)
        for index in self.every.finish() if self.every is not None else ():
            self.findings.add(
                "signature", index, "a statement signed by the key of its site", "another signature"
            )

    def _entry(self, index: int, leaf: Leaf) -> None:
        self._genesis(index, leaf)
        self._clock(index, leaf)
        if leaf.statement is not None or isinstance(leaf.event, Revoke):
            self._site(index, leaf)
        if isinstance(leaf.event, RunStart):
            self._roster(index, leaf.event)
        if isinstance(leaf.event, Restored):
            self._restored(index, leaf.event)
        self.runs.add(index, leaf)
        self.projection.add(index, leaf)

    def _genesis(self, index: int, leaf: Leaf) -> None:
        first = leaf.event
        if index > 0 and not isinstance(first, Genesis):
            return
        expected = self.policy.origin, self.policy.log_public.hex()
        if index > 0 or not isinstance(first, Genesis):
            self.findings.add("genesis", index, "one genesis, as the first entry", leaf.kind)
        elif (first.origin, first.log_key) != expected:
            self.findings.add(
                "genesis", index, " ".join(expected), f"{first.origin} {first.log_key}"
            )

        if index == 0 and isinstance(first, Genesis):
            self.coordinator = bytes.fromhex(first.coordinator_key or first.log_key)
            self.runs.plans.coordinator = self.coordinator

    def _restored(self, index: int, event: Restored) -> None:
        """What was taken back ends where the entry that says so stands."""
        before = f"{index} entries of root {self.tree.root().hex()}, more than before"
        said = f"from {event.from_size} to {event.to_size} entries of root {event.root}"
        right = event.to_size == index and event.root == self.tree.root().hex()
        if not right or event.from_size >= event.to_size:
            self.findings.add("root", index, before, said)

    def _roster(self, index: int, event: RunStart) -> None:
        """The keys that the run pins must be the logged ones of its participants."""
        try:
            names = sorted(event.participants)
            roster = Roster(tuple(self._keys[site] for site in names))
            if roster.digest() != event.roster_digest:
                roster = Roster(tuple(keys for _, keys in sorted(self._keys.items())))
        except (KeyError, MalformedData):
            self.findings.add("keys", index, "enrolled participants", "a site that is not")
            return
        if roster.digest() == event.roster_digest:
            self.rosters[event.run] = roster
        else:
            self.findings.add("keys", index, "a roster of the logged keys", "another roster")

    def _clock(self, index: int, leaf: Leaf) -> None:
        """An entry is never earlier than the one before, nor than what it quotes."""
        if leaf.ts_ms < self._time:
            self.findings.add("time", index, f"{self._time} ms or later", f"{leaf.ts_ms} ms")
        if leaf.statement is not None:
            earliest = leaf.statement.time_ms - self.policy.tolerance_ms
            if leaf.ts_ms < earliest:
                self.findings.add(
                    "time", index, f"{earliest} ms or later, by {leaf.site}", f"{leaf.ts_ms} ms"
                )
        self._time = max(self._time, leaf.ts_ms)

    def _site(self, index: int, leaf: Leaf) -> None:
        event = leaf.event
        state = self.ring.sites.get(leaf.site)
        try:
            if isinstance(event, Enrol | Rotate | Revoke) or leaf.envelope is None:
                self._settle(leaf.site)
                self.ring.admit(leaf)
            else:
                if self.every is not None and state is not None:
                    self.every.add(index, state.identity, leaf.envelope)
                self.ring.admit(leaf, signature=False)
                self._newest[leaf.site] = leaf.envelope, self.ring.sites[leaf.site].identity
        except ChainBroken as error:
            self.doubt = True
            self.findings.add(error.rule, index, "a statement that fits key and chain", str(error))
            if leaf.site in self.ring.sites or isinstance(event, Enrol):
                self.ring.apply(leaf)  # go on from what it says: one finding for one fault
        if isinstance(event, Enrol):
            known = self.policy.sites.get(leaf.site)
            if known is None:
                self.findings.add("keys", index, "a site of the policy", leaf.site, breaks=False)
            elif (
                bytes.fromhex(event.identity) not in known.identities
                or bytes.fromhex(event.witness) not in known.witnesses
            ):
                self.findings.add("keys", index, f"the policy's keys of {leaf.site}", "other keys")
        if isinstance(event, Enrol | Rotate):
            self._enrolled(event)
        if isinstance(event, Rotate):
            keys = self.witness_keys.setdefault(leaf.site, [])
            keys.append((index, bytes.fromhex(event.witness)))
        if isinstance(event, Rotate | Revoke) and state is not None:
            self.retired.setdefault(state.witness, index)
        if isinstance(event, Revoke):
            self._keys.pop(leaf.site, None)
            if event.compromised_since_ms:
                self.compromised.append((index, leaf.site, event.compromised_since_ms))

    def _settle(self, site: str) -> None:
        """Check the newest signature of a key before the key goes, or the log ends."""
        envelope, identity = self._newest.pop(site, (None, b""))
        if envelope is not None:
            try:
                envelope.verify(identity)
            except (SignatureInvalid, MalformedData):
                self.doubt = True

    def _enrolled(self, event: Enrol | Rotate) -> None:
        keys = (bytes.fromhex(k) for k in (event.identity, event.witness, event.supernode))
        try:
            self._keys[event.site] = SiteKeys(event.site, *keys)
        except MalformedData:
            self._keys.pop(event.site, None)  # one key for two uses: has its own finding


def _shown(row: bytes | None) -> str:
    return "no row" if row is None else row[:300].decode("ascii", "backslashreplace")


def check_compromised(
    found: EntryPass, leaves: Callable[[], Iterator[bytes]], findings: Findings
) -> None:
    """Mark the statements between the time a key was stolen and its revocation."""
    if not found.compromised:
        return
    spans: dict[str, list[tuple[int, int]]] = {}
    for end, site, since in found.compromised:
        spans.setdefault(site, []).append((end, since))
    for index, data in enumerate(leaves()):
        try:
            leaf = from_leaf(data)
        except MalformedData:
            continue  # has its own finding
        if leaf.statement is None or leaf.site not in spans:
            continue
        if any(index < end and leaf.ts_ms >= since for end, since in spans[leaf.site]):
            findings.add(
                "compromised",
                index,
                f"a key of {leaf.site} that only {leaf.site} holds",
                f"{leaf.kind}, when the key may have been stolen",
                breaks=False,
            )
