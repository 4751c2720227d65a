"""Which key of which site counts at which entry of the log: the rules, for everyone who checks.

The coordinator admits statements by these rules, and the verifier replays the log with the same
ones, so what one accepts the other does too.
"""

from dataclasses import dataclass, field, replace

from wardround.privacy.errors import MalformedData, SignatureInvalid
from wardround.privacy.events import Enrol, Leaf, Revoke, Rotate, rotation_message
from wardround.privacy.identity import verify_signature
from wardround.privacy.statements import FIRST, Envelope, Statement


class ChainBroken(SignatureInvalid):
    """A statement that may not stand where it stands; `rule` names the check that failed."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule


@dataclass(frozen=True, slots=True)
class SiteState:
    """One site as the log tells it so far: keys in force, and the end of its statements."""

    site: str
    identity: bytes
    witness: bytes
    sequence: int = 0
    last: str = FIRST
    revoked: bool = False
    compromised_since_ms: int = 0


@dataclass(slots=True)
class Keyring:
    """The sites of one log, by name."""

    log: str
    sites: dict[str, SiteState] = field(default_factory=dict)
    used: dict[bytes, str] = field(default_factory=dict)  # every key there ever was: its site

    def admit(self, leaf: Leaf, *, signature: bool = True) -> None:
        """Take one entry in, if it may stand in the log here: a statement or a revocation.

        Checks key, signature, sequence and link of a statement, and the proof of a rotation.
        With `signature=False` the caller answers for the signature. Raises ChainBroken with the
        reason; nothing has changed then.
        """
        event = leaf.event
        if isinstance(event, Revoke):
            state = self.sites.get(event.site)
            if state is None or state.revoked or state.identity.hex() != event.identity:
                raise ChainBroken("revoked", f"the log revokes a key of {event.site} not in force")
        digest = None
        if leaf.statement is not None and leaf.envelope is not None:
            digest = self._check(leaf, leaf.statement, leaf.envelope, signature)
        self.apply(leaf, digest)

    def apply(self, leaf: Leaf, digest: str | None = None) -> None:
        """Take one entry in without checking it; for entries that were checked before.

        `digest` is that of its statement, when it is known already.
        """
        event, site = leaf.event, leaf.site
        if isinstance(event, Enrol | Rotate):
            for key in (event.identity, event.witness):
                self.used.setdefault(bytes.fromhex(key), site)
        if isinstance(event, Enrol):
            keys = bytes.fromhex(event.identity), bytes.fromhex(event.witness)
            # Enrolled again after a revocation: the statements go on counting, the key is new.
            old = self.sites.get(site)
            sequence, last = (old.sequence, old.last) if old else (0, FIRST)
            self.sites[site] = SiteState(site, *keys, sequence, last)
        elif isinstance(event, Rotate):
            self.sites[site] = replace(
                self.sites[site],
                identity=bytes.fromhex(event.identity),
                witness=bytes.fromhex(event.witness),
            )
        elif isinstance(event, Revoke):
            self.sites[site] = replace(
                self.sites[site],
                revoked=True,
                compromised_since_ms=event.compromised_since_ms,
            )
        if leaf.statement is not None and leaf.envelope is not None:
            self.resume(site, leaf.statement.sequence, digest or leaf.envelope.digest())

    def resume(self, site: str, sequence: int, last: str) -> None:
        """Set where the statements of `site` stand."""
        old = self.sites[site]
        self.sites[site] = SiteState(
            site,
            old.identity,
            old.witness,
            sequence,
            last,
            old.revoked,
            old.compromised_since_ms,
        )

    def _check(self, leaf: Leaf, statement: Statement, envelope: Envelope, signature: bool) -> str:
        site, event = statement.site, leaf.event
        if statement.log != self.log:
            raise ChainBroken("other-log", f"the statement of {site} was made for another log")
        state = self.sites.get(site)
        if isinstance(event, Enrol):
            if state is not None and not state.revoked:
                raise ChainBroken("keys", f"{site} is enrolled twice; a new key needs a rotation")
            self._unused(site, event.identity, event.witness)
            identity = bytes.fromhex(event.identity)
        elif state is None:
            raise ChainBroken("keys", f"{site} speaks but was never enrolled")
        elif state.revoked:
            raise ChainBroken("revoked", f"the key of {site} was revoked before this statement")
        else:
            identity = state.identity
        try:
            digest = envelope.verify(identity) if signature else envelope.digest()
        except (SignatureInvalid, MalformedData) as error:
            raise ChainBroken("signature", f"statement of {site}: {error}") from None
        sequence, last = (state.sequence, state.last) if state else (0, FIRST)
        if (statement.sequence, statement.previous) != (sequence + 1, last):
            raise ChainBroken(
                "sequence",
                f"statement {statement.sequence} of {site} does not follow its {sequence}.",
            )
        if isinstance(event, Rotate):
            self._unused(site, event.identity, event.witness)
            proof, message = bytes.fromhex(event.proof), rotation_message(self.log, event)
            try:
                verify_signature(bytes.fromhex(event.identity), proof, message)
            except SignatureInvalid:
                raise ChainBroken("keys", f"the new key of {site} did not sign") from None
        return digest

    def _unused(self, site: str, *keys: str) -> None:
        """A key serves one purpose of one site, once: a revoked one does not come back."""
        if len(set(keys)) != len(keys):
            raise ChainBroken("keys", f"{site} uses one key as identity and witness")
        state = self.sites.get(site)
        kept = () if state is None or state.revoked else (state.identity, state.witness)
        for key in map(bytes.fromhex, keys):
            owner = self.used.get(key)
            if owner not in (None, site):
                raise ChainBroken("keys", f"one key stands under two names: {owner} and {site}")
            if owner == site and key not in kept:
                raise ChainBroken("keys", f"{site} takes up a key that it had given up")
