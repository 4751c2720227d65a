"""Who a party is: signing keys in files, public key sets, and the roster that everyone pins.

A site holds an Ed25519 identity key (its statements and protocol messages), a *separate* Ed25519
witness key (C2SP tlog-cosignature forbids sharing one), and the EC P-384 key of its Flower
SuperNode. The three are bound together in one enrolment that the identity key signs.

Sources: RFC 8032 (Ed25519), RFC 9106 (Argon2id), RFC 5116 (AEAD).
"""

import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from wardround.privacy import canonical
from wardround.privacy.errors import (
    IdentityUnknown,
    KeyFileError,
    MalformedData,
    SignatureInvalid,
)

SITE_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?")
_PLAIN = b"wardround-key-1 plain\n"
_LOCKED = b"wardround-key-1 argon2id\n"
_SALT, _NONCE = 16, 12


class Signer(Protocol):
    """Signs with a key it does not show. A file holds it here; a token or an HSM may elsewhere."""

    def public_bytes(self) -> bytes:
        """Return the 32 raw bytes of the Ed25519 public key."""

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte Ed25519 signature of `message` (RFC 8032)."""


@dataclass(frozen=True, slots=True)
class FileSigner:
    """An Ed25519 key from a file that only its owner can read."""

    _key: Ed25519PrivateKey = field(repr=False)

    def public_bytes(self) -> bytes:
        """Return the 32 raw bytes of the public key."""
        return self._key.public_key().public_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte signature of `message`."""
        return self._key.sign(message)

    @classmethod
    def generate(cls) -> "FileSigner":
        """Return a fresh key that is in no file: for tests and for keys of one run."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def create(cls, path: Path, passphrase: str | None = None) -> "FileSigner":
        """Make a key, write it to `path` with mode 0600 and return it.

        With a passphrase the file is sealed with AES-256-GCM under Argon2id (RFC 9106, second
        recommended option: 64 MiB, 3 passes). Raises KeyFileError when `path` exists.
        """
        key = Ed25519PrivateKey.generate()
        raw = key.private_bytes_raw()
        if passphrase is None:
            content = _PLAIN + raw
        else:
            salt, nonce = secrets.token_bytes(_SALT), secrets.token_bytes(_NONCE)
            sealed = AESGCM(_stretch(passphrase, salt)).encrypt(nonce, raw, _LOCKED)
            content = _LOCKED + salt + nonce + sealed
        write_private(path, content)
        return cls(key)

    @classmethod
    def load(cls, path: Path, passphrase: str | None = None) -> "FileSigner":
        """Read the key at `path`.

        Raises KeyFileError when the file is missing, open to group or others, not a key of this
        form, or locked with another passphrase.
        """
        content = read_private(path)
        if content.startswith(_PLAIN):
            raw = content[len(_PLAIN) :]
        elif content.startswith(_LOCKED):
            if passphrase is None:
                raise KeyFileError(f"{path.name} is locked; give its passphrase")
            body = content[len(_LOCKED) :]
            salt, nonce = body[:_SALT], body[_SALT : _SALT + _NONCE]
            try:
                raw = AESGCM(_stretch(passphrase, salt)).decrypt(
                    nonce, body[_SALT + _NONCE :], _LOCKED
                )
            except (InvalidTag, ValueError):
                raise KeyFileError(f"{path.name} does not open with this passphrase") from None
        else:
            raise KeyFileError(f"{path.name} is not a Wardround key file")
        if len(raw) != 32:
            raise KeyFileError(f"{path.name} is damaged; restore it from your backup")
        return cls(Ed25519PrivateKey.from_private_bytes(raw))


def _stretch(passphrase: str, salt: bytes) -> bytes:
    return Argon2id(salt=salt, length=32, iterations=3, lanes=4, memory_cost=64 * 1024).derive(
        passphrase.encode()
    )


def write_private(path: Path, content: bytes) -> None:
    """Write `content` to a new file of mode 0600; KeyFileError when something is there already."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise KeyFileError(f"{path.name} exists already; it is never overwritten") from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def read_private(path: Path) -> bytes:
    """Read a secret file; KeyFileError when it is missing or open to group or others."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise KeyFileError(f"{path.name} is missing; restore it from your backup") from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise KeyFileError(f"{path.name} can be read by others; run: chmod 600 on it")
    return path.read_bytes()


def verify_signature(public: bytes, signature: bytes, message: bytes) -> None:
    """Check an Ed25519 `signature` (64 bytes) of `message` under `public` (32 bytes).

    Raises SignatureInvalid when it does not verify (RFC 8032, section 5.1.7).
    """
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        raise SignatureInvalid("signature does not verify under the expected key") from None


def fingerprint(*publics: bytes) -> str:
    """Return a short text to compare by phone: 80 bits of SHA-256 as five groups of four hex."""
    digest = hashlib.sha256(b"wardround/v1/fingerprint" + b"".join(publics)).hexdigest()
    return "-".join(digest[i : i + 4] for i in range(0, 20, 4))


def check_site_name(name: str) -> str:
    """Return `name` when it is a site name (a-z, 0-9, inner hyphens, 1 to 32), else raise."""
    if not SITE_NAME.fullmatch(name):
        raise MalformedData(
            f"{name[:40]!r} is not a site name: use a-z, 0-9 and inner hyphens, at most 32"
        )
    return name


@dataclass(frozen=True, slots=True)
class SiteKeys:
    """The public keys of one site: one row of the roster.

    `identity` and `witness` are 32 raw bytes (Ed25519); `supernode` is the EC P-384 public key
    in the form Flower registers.
    """

    site: str
    identity: bytes
    witness: bytes
    supernode: bytes

    def __post_init__(self) -> None:
        check_site_name(self.site)
        if len(self.identity) != 32 or len(self.witness) != 32:
            raise MalformedData(f"keys of {self.site} are not 32 bytes")
        if self.identity == self.witness:
            raise MalformedData(f"{self.site} uses one key as identity and witness")

    def to_json(self) -> dict[str, canonical.Json]:
        """Return the canonical-JSON object of these keys."""
        return {
            "site": self.site,
            "identity": self.identity.hex(),
            "witness": self.witness.hex(),
            "supernode": self.supernode.hex(),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, canonical.Json]) -> "SiteKeys":
        """Read what `to_json` wrote; MalformedData for anything else."""
        if set(value) != {"site", "identity", "witness", "supernode"}:
            raise MalformedData("site keys do not have exactly their four fields")
        try:
            return cls(
                str(value["site"]),
                *(bytes.fromhex(str(value[k])) for k in ("identity", "witness", "supernode")),
            )
        except ValueError:
            raise MalformedData("site keys are not hexadecimal") from None

    def fingerprint(self) -> str:
        """Return the short fingerprint of all three keys, to compare by phone."""
        return fingerprint(self.site.encode(), self.identity, self.witness, self.supernode)


@dataclass(frozen=True)
class Roster(Mapping[str, SiteKeys]):
    """The sites of a study and their keys, in order of name. No key is in it twice."""

    sites: tuple[SiteKeys, ...]

    def __post_init__(self) -> None:
        names = [keys.site for keys in self.sites]
        if names != sorted(set(names)):
            raise MalformedData("roster is not in order of site names, or names one twice")
        keys = [key for row in self.sites for key in (row.identity, row.witness, row.supernode)]
        if len(set(keys)) != len(keys):
            raise MalformedData("one key stands in the roster under two names")

    def __getitem__(self, site: str) -> SiteKeys:
        for keys in self.sites:
            if keys.site == site:
                return keys
        raise IdentityUnknown(f"site {site[:40]!r} is not in the roster")

    def __iter__(self) -> Iterator[str]:
        return (keys.site for keys in self.sites)

    def __len__(self) -> int:
        return len(self.sites)

    def __contains__(self, site: object) -> bool:
        return any(keys.site == site for keys in self.sites)

    def digest(self) -> str:
        """Return the SHA-256 (hex) of the canonical roster."""
        rows: list[canonical.Json] = [keys.to_json() for keys in self.sites]
        return hashlib.sha256(b"wardround/v1/roster\0" + canonical.dumps(rows)).hexdigest()

    def to_json(self) -> list[dict[str, canonical.Json]]:
        """Return the canonical-JSON list of the roster."""
        return [keys.to_json() for keys in self.sites]
