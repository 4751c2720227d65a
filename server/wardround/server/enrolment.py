"""Who takes part: join tokens, requests that wait for an officer, approval, revocation.

The truth is the log: a site is enrolled when its signed enrolment is an entry, and no longer when
its revocation is. The tables hold what comes before that, and tokens only as hashes.
"""

import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from wardround.privacy.errors import MalformedData, SignatureInvalid
from wardround.privacy.events import Enrol, Revoke, read_event
from wardround.privacy.federation import Federation
from wardround.privacy.identity import SiteKeys, check_site_name
from wardround.privacy.joining import JoinToken
from wardround.privacy.records import one_line
from wardround.privacy.statements import FIRST, Envelope
from wardround.server.audit import AuditLog
from wardround.server.database import READ_ONLY
from wardround.server.errors import EnrolmentError
from wardround.server.federation import read_federation
from wardround.server.operations import JoinRequest

TOKEN_HOURS = 24


@dataclass(frozen=True, slots=True)
class SiteRow:
    """One site as an officer sees it; `keys` is None until the site has sent its keys."""

    site: str
    status: str
    organisation: str
    keys: SiteKeys | None

    @property
    def fingerprint(self) -> str:
        """What to compare by phone."""
        return self.keys.fingerprint() if self.keys else ""


class Enrolment:
    """Join tokens and approvals of one coordinator."""

    def __init__(self, engine: Engine, log: AuditLog) -> None:
        self._engine = engine
        self._reader = engine.execution_options(**READ_ONLY)
        self.log = log

    def federation(self) -> Federation:
        """Return enrolled sites, plans and approvals as the log has them."""
        return read_federation(self._engine)

    def offer(
        self, site: str, *, url: str, origin: str, ca: str, log_public: bytes, coordinator: bytes
    ) -> JoinToken:
        """Make a one-time token for `site`, valid for 24 hours; earlier ones end.

        Raises EnrolmentError when a site of that name is enrolled, or was: its statements are one
        chain in the log, and nobody else can go on with it.
        """
        try:
            check_site_name(site)
        except MalformedData as error:
            raise EnrolmentError(str(error)) from None
        federation = self.federation()
        if site in federation.sites:
            raise EnrolmentError(
                f"{site} is enrolled already; if it lost its keys, revoke it and let it join "
                "under another name"
            )
        if site in federation.revoked:
            raise EnrolmentError(f"{site} was revoked; let it join under another name")
        secret = secrets.token_bytes(32)
        with Session(self._engine) as database, database.begin():
            for row in database.scalars(select(JoinRequest).where(JoinRequest.site == site)):
                if row.status in ("offered", "pending"):
                    row.status = "refused"
            database.add(
                JoinRequest(
                    site=site,
                    secret_hash=hashlib.sha256(secret).hexdigest(),
                    expires_ms=_now_ms() + TOKEN_HOURS * 3_600_000,
                    envelope=b"",
                    status="offered",
                )
            )
        return JoinToken(url, site, origin, ca, log_public, coordinator, secret)

    def receive(self, secret: bytes, envelope: Envelope) -> None:
        """Take a site's signed enrolment with its token's secret; it then waits for an officer.

        Raises EnrolmentError for a token that is unknown, used or too old, for a statement that
        is not this site's first, signed by the key it names, and for a key of another site. The
        token is used up only by a statement that fits.
        """
        digest = hashlib.sha256(secret).hexdigest()
        with Session(self._engine) as database, database.begin():
            row = database.scalars(select(JoinRequest).where(JoinRequest.status == "offered")).all()
            found = [item for item in row if hmac.compare_digest(item.secret_hash, digest)]
            if not found or found[0].expires_ms < _now_ms():
                raise EnrolmentError(
                    "this join token is unknown, used or older than a day; ask for a new one"
                )
            event = _read_enrolment(envelope, self.log.log)
            if event.site != found[0].site:
                raise EnrolmentError("this join token is for a site of another name")
            self._refuse_shared_keys(site_keys(event))
            found[0].envelope = envelope.to_bytes()
            found[0].status = "pending"

    def pending(self, site: str) -> SiteRow:
        """Return the request of `site`; EnrolmentError when none waits."""
        for row in self.rows():
            if row.site == site and row.status == "pending":
                return row
        raise EnrolmentError(f"no request of {site[:40]!r} waits for approval")

    def approve(self, site: str, actor: str) -> SiteKeys:
        """Log the enrolment of a pending site; from then on it takes part."""
        waiting = (JoinRequest.site == site, JoinRequest.status == "pending")
        with Session(self._reader) as database:
            row = database.scalars(select(JoinRequest).where(*waiting)).one_or_none()
        if row is None:
            raise EnrolmentError(f"no request of {site[:40]!r} waits for approval")
        envelope = Envelope.from_bytes(row.envelope)
        event = _read_enrolment(envelope, self.log.log)
        self._refuse_shared_keys(site_keys(event))
        # The log first: appending the same statement again changes nothing, should we die here.
        self.log.append([envelope], actor=actor)
        self.log.checkpoint()
        with Session(self._engine) as database, database.begin():
            database.get_one(JoinRequest, row.id).status = "approved"
        return site_keys(event)

    def revoke(self, site: str, reason: str, actor: str, compromised_since_ms: int = 0) -> None:
        """Log that the keys of `site` are void; its next request is refused."""
        keys = self.federation().sites.get(site)
        if keys is None:
            raise EnrolmentError(f"no site {site[:40]!r} is enrolled")
        event = Revoke(site, keys.identity.hex(), one_line(reason), compromised_since_ms)
        self.log.append([event], actor=actor)
        self.log.checkpoint()

    def rows(self) -> list[SiteRow]:
        """Return every site, enrolled, waiting or revoked, by name."""
        federation = self.federation()
        rows = {
            site: SiteRow(site, "approved", federation.organisations[site], keys)
            for site, keys in federation.sites.items()
        }
        for site in federation.revoked:
            rows.setdefault(site, SiteRow(site, "revoked", "", None))
        with Session(self._reader) as database:
            for request in database.scalars(select(JoinRequest).order_by(JoinRequest.id)):
                if request.status == "offered":
                    rows.setdefault(request.site, SiteRow(request.site, "token made", "", None))
                if request.status == "pending":
                    event = _read_enrolment(Envelope.from_bytes(request.envelope), self.log.log)
                    rows[request.site] = SiteRow(
                        request.site, "pending", event.organisation, site_keys(event)
                    )
        return [rows[site] for site in sorted(rows)]

    def _refuse_shared_keys(self, keys: SiteKeys) -> None:
        """Raise EnrolmentError when one of the keys is an enrolled other site's already."""
        own = {keys.identity, keys.witness, keys.supernode}
        for site, others in self.federation().sites.items():
            if site != keys.site and own & {others.identity, others.witness, others.supernode}:
                raise EnrolmentError(
                    "the enrolment names a key that is another site's; make a new site folder"
                )


def site_keys(event: Enrol) -> SiteKeys:
    """Return the public keys that an enrolment binds."""
    return SiteKeys(
        event.site,
        bytes.fromhex(event.identity),
        bytes.fromhex(event.witness),
        bytes.fromhex(event.supernode),
    )


def _read_enrolment(envelope: Envelope, log: str) -> Enrol:
    """Return a site's enrolment, checked: its first statement, to this log, by the key it names."""
    try:
        statement = envelope.statement()
        event = read_event(statement.kind, statement.event)
        if not isinstance(event, Enrol) or event.site != statement.site:
            raise MalformedData("it is not a site's enrolment of itself")
        if (statement.sequence, statement.previous, statement.log) != (1, FIRST, log):
            raise MalformedData("it is not the site's first statement to this log")
        envelope.verify(bytes.fromhex(event.identity))
        _check_supernode(site_keys(event).supernode)
    except (MalformedData, SignatureInvalid) as error:
        raise EnrolmentError(f"the enrolment does not hold: {error}") from None
    return event


def _check_supernode(pem: bytes) -> None:
    """Raise MalformedData unless Flower can register the key: an EC P-384 key in PEM."""
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise MalformedData("the SuperNode's key is no EC P-384 key")


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
