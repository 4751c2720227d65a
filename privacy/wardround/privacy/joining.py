"""Joining a federation: the one-time token, and how a site signs a call to the coordinator.

The token carries everything a site must not learn from the network: the coordinator's address,
the digest of its certificate authority, and the public keys of its log and of itself. An officer
hands it over by a channel the hospital trusts.
"""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from wardround.privacy import canonical
from wardround.privacy.errors import MalformedData, SignatureInvalid
from wardround.privacy.identity import Signer, fingerprint, verify_signature

_PREFIX = "wr1."
_LABEL = b"wardround/v1/call\0"
CLOCK_SKEW_MS = 300_000
HEADER_SITE = "x-wardround-site"
HEADER_TIME = "x-wardround-time"
HEADER_SIGNATURE = "x-wardround-signature"


@dataclass(frozen=True, slots=True)
class JoinToken:
    """What `wardround-coordinator enrol` prints. Valid once, for one site name, for a day.

    `ca` is the SHA-256 (hex) of the authority's certificate; `log_public` and
    `coordinator_public` are 32 raw bytes; `secret` (32 bytes) admits the bearer once.
    """

    url: str
    site: str
    origin: str
    ca: str
    log_public: bytes
    coordinator_public: bytes
    secret: bytes = field(repr=False)

    def to_text(self) -> str:
        """Return the token as one word."""
        value: dict[str, canonical.Json] = {
            "url": self.url,
            "site": self.site,
            "origin": self.origin,
            "ca": self.ca,
            "log": self.log_public.hex(),
            "coordinator": self.coordinator_public.hex(),
            "secret": self.secret.hex(),
        }
        return _PREFIX + base64.urlsafe_b64encode(canonical.dumps(value)).decode().rstrip("=")

    @classmethod
    def from_text(cls, text: str) -> "JoinToken":
        """Read a token; MalformedData when it was cut short or altered."""
        text = text.strip()
        damaged = MalformedData("this is not a join token; copy all of it, from wr1. to its end")
        if not text.startswith(_PREFIX):
            raise damaged
        body = text[len(_PREFIX) :]
        try:
            value = canonical.loads_object(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
            token = cls(
                str(value["url"]),
                str(value["site"]),
                str(value["origin"]),
                str(value["ca"]),
                *(bytes.fromhex(str(value[k])) for k in ("log", "coordinator", "secret")),
            )
        except (ValueError, KeyError, MalformedData):
            raise damaged from None
        if not token.url.startswith("https://"):
            raise MalformedData("a join token names an https address")
        return token

    def fingerprint(self) -> str:
        """Return the coordinator's short fingerprint, to compare by phone."""
        return coordinator_fingerprint(self.ca, self.log_public, self.coordinator_public)


def coordinator_fingerprint(ca: str, log_public: bytes, coordinator_public: bytes) -> str:
    """Return the short fingerprint of a coordinator's authority and keys."""
    return fingerprint(bytes.fromhex(ca), log_public, coordinator_public)


def sign_call(
    signer: Signer, site: str, method: str, path: str, body: bytes, time_ms: int
) -> dict[str, str]:
    """Return the headers with which `site` signs one HTTP call to the coordinator."""
    signature = signer.sign(_call(site, method, path, body, time_ms))
    return {
        HEADER_SITE: site,
        HEADER_TIME: str(time_ms),
        HEADER_SIGNATURE: signature.hex(),
    }


def verify_call(
    public: bytes, headers: Mapping[str, str], method: str, path: str, body: bytes, now_ms: int
) -> None:
    """Check the headers of a call against the site's identity key.

    Raises SignatureInvalid when they do not fit the call, or its time is more than five minutes
    off. A replay inside that window repeats a call that is idempotent.
    """
    try:
        time_ms = int(headers[HEADER_TIME])
        signature = bytes.fromhex(headers[HEADER_SIGNATURE])
        site = headers[HEADER_SITE]
    except (KeyError, ValueError):
        raise SignatureInvalid("the call is not signed by a site") from None
    if abs(now_ms - time_ms) > CLOCK_SKEW_MS:
        raise SignatureInvalid("the call's time is more than five minutes off; check the clock")
    verify_signature(public, signature, _call(site, method, path, body, time_ms))


def _call(site: str, method: str, path: str, body: bytes, time_ms: int) -> bytes:
    return _LABEL + canonical.dumps(
        {
            "site": site,
            "method": method,
            "path": path,
            "time_ms": time_ms,
            "body": hashlib.sha256(body).hexdigest(),
        }
    )
