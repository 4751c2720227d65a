"""The site's own calls to the coordinator: joining, and bringing log and statements up to date.

Flower carries the rounds; this carries what happens between runs. Every answer is checked against
what was pinned at `join`: TLS against the coordinator's own authority, the log by the witness.
"""

import ssl
import time
from typing import Protocol

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from wardround.client.config import Home, Pins
from wardround.client.errors import ClientError, SiteStateError
from wardround.privacy import canonical
from wardround.privacy.errors import MalformedData
from wardround.privacy.identity import Signer
from wardround.privacy.joining import JoinToken, sign_call
from wardround.privacy.loghead import LogHead, SiteHead
from wardround.privacy.statements import Envelope

API = "/wardround/v1"
_TIMEOUT = httpx.Timeout(30.0)


def fetch_authority(token: JoinToken) -> bytes:
    """Return the coordinator's authority (PEM), checked against the digest in the token.

    The connection itself is not authenticated yet: the digest is what authenticates the answer.
    Raises ClientError when it is another authority, or nobody answers.
    """
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    answer = _call(token.url, context, "GET", f"{API}/ca", b"", {})
    try:
        found = x509.load_pem_x509_certificate(answer).fingerprint(hashes.SHA256()).hex()
    except ValueError:
        raise ClientError(f"{token.url} does not answer like a Wardround coordinator") from None
    if found != token.ca:
        raise ClientError(
            f"{token.url} shows another certificate authority than the token names: somebody "
            "stands between, or the coordinator was set up anew; ask for a new token by phone"
        )
    return answer


def enrol(token: JoinToken, authority: bytes, envelope: Envelope) -> None:
    """Hand the site's signed enrolment to the coordinator, with the token's secret."""
    body = canonical.dumps({"secret": token.secret.hex(), "statement": envelope.to_json()})
    _call(token.url, _context(authority), "POST", f"{API}/enrol", body, {})


class Link(Protocol):
    """How a site reaches its coordinator between runs."""

    def sync(self, head: SiteHead) -> tuple[LogHead, str]:
        """Tell where the site stands; return the log's head and the site's status."""


class HttpLink:
    """Signed calls of one enrolled site over TLS."""

    def __init__(self, home: Home, pins: Pins, signer: Signer) -> None:
        self._home = home
        self._pins = pins
        self._signer = signer
        self._context = _context(home.ca_certificate.read_bytes())

    def sync(self, head: SiteHead) -> tuple[LogHead, str]:
        """Tell the coordinator where the site stands; return the log's head and the site's status.

        The head's entries may be only the next few thousand: call again until none are missing.
        """
        body = canonical.dumps(head.to_json())
        path = f"{API}/sync"
        headers = sign_call(
            self._signer, self._home.name, "POST", path, body, time.time_ns() // 1_000_000
        )
        answer = _call(self._pins.url, self._context, "POST", path, body, headers)
        try:
            value = canonical.loads_object(answer)
            return LogHead.from_json(value["head"]), str(value["status"])
        except (MalformedData, KeyError):
            raise ClientError("the coordinator's answer is not of this version") from None


def _context(authority: bytes) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cadata=authority.decode("ascii"))
    except (ssl.SSLError, UnicodeDecodeError):
        raise SiteStateError("ca.pem is damaged; join again") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


def _call(
    url: str,
    context: ssl.SSLContext,
    method: str,
    path: str,
    body: bytes,
    headers: dict[str, str],
) -> bytes:
    # trust_env=False: no proxy from the environment stands between a site and its coordinator.
    with httpx.Client(verify=context, timeout=_TIMEOUT, trust_env=False) as client:
        try:
            response = client.request(method, url + path, content=body, headers=headers)
        except (httpx.TransportError, httpx.InvalidURL) as error:
            reason = type(error).__name__
            raise ClientError(
                f"cannot reach the coordinator at {url} ({reason}); is it running?"
            ) from None
    if response.status_code == httpx.codes.OK:
        return response.content
    try:
        said = response.json()["detail"]
    except (ValueError, KeyError, TypeError):
        said = f"HTTP {response.status_code}"
    raise ClientError(f"the coordinator refuses: {str(said)[:300]}")
