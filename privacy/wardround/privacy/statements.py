"""What a site says: signed statements, each with a sequence number and the hash of the one before.

The signature is that of DSSE, the Dead Simple Signing Envelope (secure-systems-lab/dsse,
protocol.md and envelope.md): not over the payload alone but over PAE(type, payload), so a text
signed as one thing is never taken for another.
"""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from wardround.privacy import canonical
from wardround.privacy.canonical import Json
from wardround.privacy.errors import MalformedData
from wardround.privacy.identity import Signer, verify_signature
from wardround.privacy.records import Hex32, Millis, Name, Pattern, Range, Record, Site, read_exact

FIRST = "0" * 64  # `previous` of a site's first statement
_TYPE = "application/vnd.wardround.{}.v1+json"


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return DSSE's pre-authentication encoding, the bytes that are signed.

    PAE(type, body) = "DSSEv1" SP LEN(type) SP type SP LEN(body) SP body, lengths in decimal.
    """
    name = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(name), name, len(payload), payload)


def payload_type(kind: str) -> str:
    """Return the DSSE payload type of statements of `kind`."""
    return _TYPE.format(kind.replace("_", "-"))


def key_id(public: bytes) -> str:
    """Return the hint that names a signing key in an envelope: SHA-256 of its 32 bytes, hex."""
    return hashlib.sha256(b"wardround/v1/key-id\0" + public).hexdigest()


@dataclass(frozen=True, slots=True)
class Statement(Record):
    """What one site says once: `event` is the body of an event of `kind`.

    `log` binds it to one log (`notes.log_id`), `sequence` counts the site's statements from 1,
    `previous` is the digest of the one before (`FIRST` before the first).
    """

    log: Hex32
    site: Site
    sequence: Annotated[int, Range(1, 2**53)]
    previous: Hex32
    time_ms: Millis
    kind: Name
    event: "Body"


class Body(dict[str, Json]):
    """The body of an event that has not been read as an event yet."""

    __slots__ = ()

    @classmethod
    def from_json(cls, value: Json) -> "Body":
        """Take any JSON object."""
        if not isinstance(value, Mapping):
            raise MalformedData("event is not an object")
        return cls(value)


@dataclass(frozen=True, slots=True)
class Envelope(Record):
    """One signed statement in DSSE form; `payload` and `sig` are in standard base64."""

    payload: Annotated[str, Pattern("[A-Za-z0-9+/]{0,1400000}={0,2}", "base64")]
    payload_type: Annotated[str, Pattern("application/[a-z0-9.+-]{1,100}", "a payload type")]
    keyid: Hex32
    sig: Annotated[str, Pattern("[A-Za-z0-9+/]{86}==", "64 bytes in base64")]

    def to_json(self) -> dict[str, Json]:
        """Return the DSSE object (envelope.md): payload, payloadType, signatures."""
        return {
            "payload": self.payload,
            "payloadType": self.payload_type,
            "signatures": [{"keyid": self.keyid, "sig": self.sig}],
        }

    @classmethod
    def from_json(cls, value: Json) -> "Envelope":
        """Read a DSSE object with exactly one signature; MalformedData for anything else."""
        if not isinstance(value, Mapping) or set(value) != {
            "payload",
            "payloadType",
            "signatures",
        }:
            raise MalformedData("not a DSSE envelope")
        signatures = value["signatures"]
        if not isinstance(signatures, list) or len(signatures) != 1:
            raise MalformedData("a statement bears exactly one signature")
        signature = signatures[0]
        if not isinstance(signature, Mapping) or set(signature) != {"keyid", "sig"}:
            raise MalformedData("not a DSSE signature")
        # The record's own rules refuse whatever is not text of the right form.
        parts = (value["payload"], value["payloadType"], signature["keyid"], signature["sig"])
        return cls(*parts)  # type: ignore[arg-type]  # checked when made

    def to_bytes(self) -> bytes:
        """Return the canonical bytes of the envelope."""
        return canonical.dumps(self.to_json())

    @classmethod
    def from_bytes(cls, data: bytes) -> "Envelope":
        """Read what `to_bytes` wrote; MalformedData for anything else."""
        return cls.from_json(canonical.loads(data))

    def body(self) -> bytes:
        """Return the signed payload; MalformedData when it is not strict base64."""
        return _decode(self.payload)

    def signed(self) -> bytes:
        """Return the bytes under the signature."""
        return pae(self.payload_type, self.body())

    def digest(self) -> str:
        """Return the hex SHA-256 of the signed bytes: what the next statement names."""
        return hashlib.sha256(self.signed()).hexdigest()

    def verify(self, public: bytes) -> str:
        """Check the signature under `public` (32 bytes) and return the digest of what it signs.

        Raises SignatureInvalid when it fails.
        """
        signed = self.signed()
        verify_signature(public, _decode(self.sig), signed)
        return hashlib.sha256(signed).hexdigest()

    def statement(self) -> Statement:
        """Read the payload (the signature is *not* checked here).

        Raises MalformedData when the payload is not canonical or not of the type it says.
        """
        statement = Statement.from_json(read_exact(self.body()))
        if self.payload_type != payload_type(statement.kind):
            raise MalformedData("payload type and kind of the statement differ")
        return statement


def sign(statement: Statement, signer: Signer) -> Envelope:
    """Return `statement` in an envelope signed by the site's identity key."""
    payload = canonical.dumps(statement.to_json())
    kind = payload_type(statement.kind)
    signature = signer.sign(pae(kind, payload))
    return Envelope(
        base64.b64encode(payload).decode(),
        kind,
        key_id(signer.public_bytes()),
        base64.b64encode(signature).decode(),
    )


def _decode(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        raise MalformedData("not base64") from None
    if base64.b64encode(data).decode() != text:
        raise MalformedData("base64 is not in its one form")
    return data
