"""Keyed replacements: UIDs, patient identifiers and date shifts that only the key can link back.

Everything is HMAC-SHA256 (RFC 2104, FIPS 198-1) of the original under the site's 256-bit key and
a label per use. The same original gives the same replacement in every file of the site, so
references between files hold; without the key nobody can test a guess, which a plain hash of a
medical record number would allow.
"""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from pydicom._uid_dict import UID_dictionary

from wardround.datasets.deidentify.table import known_class
from wardround.datasets.errors import DeidentificationError
from wardround.privacy.identity import read_private, write_private

KEY_BYTES = 32
MAX_SHIFT_DAYS = 3650
_CONTEXT_GROUP = re.compile(r"1\.2\.840\.10008\.6\.1\.\d{1,4}")  # PS3.6 table A-3


@dataclass(frozen=True, slots=True)
class Pseudonyms:
    """The replacements under one site key (32 bytes, never shown)."""

    key: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.key) != KEY_BYTES:
            raise DeidentificationError(f"a de-identification key is {KEY_BYTES} bytes")

    def digest(self, use: str, value: str) -> bytes:
        """Return the 32 bytes that stand for `value` in one `use`."""
        label = f"wardround/v1/deidentify/{use}\0".encode()
        return hmac.digest(self.key, label + value.encode("utf-8", "surrogateescape"), "sha256")

    def uid(self, original: str) -> str:
        """Return the UID that replaces `original`: 2.25 and 128 bits (PS3.5 section B.2).

        UIDs of the standard itself (SOP classes, transfer syntaxes, well-known frames of
        reference, context groups) name no patient and stay.
        """
        original = original.strip(" \0")
        if not original or _of_the_standard(original):
            return original
        return f"2.25.{int.from_bytes(self.digest('uid', original)[:16])}"

    def patient(self, identity: str) -> str:
        """Return a patient's pseudonym: 64 bits in capital hexadecimal, fit for LO, SH and PN."""
        return f"WR{self.digest('patient', identity)[:8].hex().upper()}"

    def days_back(self, identity: str) -> int:
        """Return how many days this patient's dates move into the past, 1 to 3650."""
        number = int.from_bytes(self.digest("date-shift", identity)[:8])
        return 1 + number % MAX_SHIFT_DAYS


def _of_the_standard(uid: str) -> bool:
    return uid in UID_dictionary or known_class(uid) or bool(_CONTEXT_GROUP.fullmatch(uid))


def open_key(path: Path, *, create: bool) -> bytes:
    """Read the key file at `path` (mode 0600); make one of random bytes when told to and missing.

    Raises KeyFileError when it is missing or others can read it, DeidentificationError when it is
    not a key.
    """
    if create and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_private(path, secrets.token_bytes(KEY_BYTES).hex().encode() + b"\n")
    try:
        key = bytes.fromhex(read_private(path).decode("ascii").strip())
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise DeidentificationError(
            "the key file does not hold a de-identification key (64 hexadecimal digits); "
            "give another with --key"
        )
    return key


def key_id(key: bytes) -> str:
    """Return a short public name of the key, to tell in a report which one was used."""
    return hashlib.sha256(b"wardround/v1/deidentify/key-id\0" + key).hexdigest()[:16]
