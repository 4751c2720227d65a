"""Signed notes, checkpoints and cosignatures, byte for byte as C2SP defines them.

- signed-note: text, a blank line, and lines `— <name> base64(key id || signature)`;
- tlog-checkpoint: the text is origin, size, base64 root, each on a line;
- tlog-cosignature v1 (Ed25519): a witness signs the header `cosignature/v1`, its time and the
  text, and its line carries key id, time and signature.

Source: https://c2sp.org/signed-note, tlog-checkpoint and tlog-cosignature.
"""

import base64
import hashlib
import re
from dataclasses import dataclass

from wardround.privacy.errors import MalformedData, SignatureInvalid
from wardround.privacy.identity import Signer, verify_signature
from wardround.privacy.records import MAX_MILLIS

MAX_NOTE = 2**18
_ED25519, _COSIGNATURE = b"\x01", b"\x04"
_NAME = re.compile(r"[^\s+\x00-\x1f\x7f]{1,200}")
_LINE = re.compile(r"— ([^\s+]{1,200}) ([A-Za-z0-9+/]+={0,2})")
_SIZE = re.compile(r"0|[1-9][0-9]{0,17}")


@dataclass(frozen=True, slots=True)
class NoteSignature:
    """One signature line: the signer's name, the 4-byte hint of its key, and what it signed."""

    name: str
    key_id: bytes
    body: bytes

    def line(self) -> str:
        """Return the line as it stands in a note, with its newline."""
        return f"— {self.name} {base64.b64encode(self.key_id + self.body).decode()}\n"

    @classmethod
    def from_line(cls, line: str) -> "NoteSignature":
        """Read one line, with its newline; MalformedData for anything `line` does not write."""
        found = _LINE.fullmatch(line.removesuffix("\n"))
        if found is None or not line.endswith("\n"):
            raise MalformedData("not a signature line of a note")
        raw = _base64(found[2])
        if len(raw) < 5:
            raise MalformedData("signature line is too short")
        return cls(found[1], raw[:4], raw[4:])


@dataclass(frozen=True, slots=True)
class Note:
    """A text (it ends with a newline) and the signatures under it."""

    text: str
    signatures: tuple[NoteSignature, ...]

    def to_bytes(self) -> bytes:
        """Return the note as UTF-8."""
        return (self.text + "\n" + "".join(s.line() for s in self.signatures)).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Note":
        """Read a note; MalformedData for anything that is not one."""
        if len(data) > MAX_NOTE:
            raise MalformedData(f"a note of {len(data)} bytes; at most {MAX_NOTE} are accepted")
        try:
            content = data.decode()
        except UnicodeDecodeError:
            raise MalformedData("note is not UTF-8") from None
        if any(ord(c) < 32 and c != "\n" for c in content):
            raise MalformedData("note holds control characters")
        text, blank, signatures = content.rpartition("\n\n")
        if not blank or not text or not signatures.endswith("\n"):
            raise MalformedData("note has no signatures")
        lines = signatures.removesuffix("\n").split("\n")
        return cls(text + "\n", tuple(NoteSignature.from_line(line + "\n") for line in lines))


def check_key_name(name: str) -> str:
    """Return `name` when it may name a key (no spaces, no plus); MalformedData otherwise."""
    if not _NAME.fullmatch(name):
        raise MalformedData(f"{name[:40]!a} cannot name a key: no spaces and no plus sign")
    return name


def key_hint(name: str, public: bytes, *, cosigner: bool = False) -> bytes:
    """Return the 4-byte id: SHA-256(name, newline, type, key) cut; type 4 for a cosigner."""
    kind = _COSIGNATURE if cosigner else _ED25519
    return hashlib.sha256(name.encode() + b"\n" + kind + public).digest()[:4]


def verifier_key(name: str, public: bytes, *, cosigner: bool = False) -> str:
    """Return the key as text, `name+hint+base64(type || key)`, the form policies are made of."""
    kind = _COSIGNATURE if cosigner else _ED25519
    hint = key_hint(name, public, cosigner=cosigner).hex()
    return f"{check_key_name(name)}+{hint}+{base64.b64encode(kind + public).decode()}"


def read_verifier_key(text: str, *, cosigner: bool = False) -> tuple[str, bytes]:
    """Return name and 32-byte key of `verifier_key`'s text; MalformedData for anything else."""
    name, _, rest = text.partition("+")
    raw = _base64(rest.partition("+")[2]) if rest else b""
    if len(raw) != 33 or verifier_key(name, raw[1:], cosigner=cosigner) != text:
        raise MalformedData(f"{text[:60]!a} is not a verifier key of the expected kind")
    return name, raw[1:]


def sign_note(text: str, name: str, signer: Signer) -> NoteSignature:
    """Return the Ed25519 signature line of `text` by the key `name`."""
    hint = key_hint(check_key_name(name), signer.public_bytes())
    return NoteSignature(name, hint, signer.sign(text.encode()))


def verify_note(note: Note, name: str, public: bytes) -> None:
    """Check that exactly one line of this key is under the note, and verifies.

    Lines of other keys are left alone, as the format demands. Raises SignatureInvalid.
    """
    hint = key_hint(name, public)
    mine = [s for s in note.signatures if (s.name, s.key_id) == (name, hint)]
    if len(mine) != 1:
        raise SignatureInvalid(f"the note bears {len(mine)} signatures of {name[:80]!a}, not one")
    verify_signature(public, mine[0].body, note.text.encode())


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A state of a log: its name, its number of entries and its 32-byte root."""

    origin: str
    size: int
    root: bytes

    def to_text(self) -> str:
        """Return the text that is signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"

    @classmethod
    def from_text(cls, text: str) -> "Checkpoint":
        """Read a checkpoint; extension lines are refused, this log writes none."""
        lines = text.split("\n")
        if len(lines) != 4 or lines[3] or not lines[0] or not _SIZE.fullmatch(lines[1]):
            raise MalformedData("note is not a checkpoint of origin, size and root")
        root = _base64(lines[2])
        if len(root) != 32:
            raise MalformedData("root of the checkpoint is not 32 bytes")
        return cls(lines[0], int(lines[1]), root)


def sign_checkpoint(checkpoint: Checkpoint, signer: Signer) -> Note:
    """Return the checkpoint as a note signed by the log's key, which bears the origin's name."""
    text = checkpoint.to_text()
    return Note(text, (sign_note(text, checkpoint.origin, signer),))


def open_checkpoint(note: Note, origin: str, public: bytes) -> Checkpoint:
    """Return the checkpoint of a note of the log `origin`.

    Raises SignatureInvalid when the log's key did not sign it, MalformedData when it is not a
    checkpoint or of another log.
    """
    verify_note(note, origin, public)
    checkpoint = Checkpoint.from_text(note.text)
    if checkpoint.origin != origin:
        raise MalformedData(f"checkpoint is of {checkpoint.origin[:80]!a}, not of {origin}")
    return checkpoint


def log_id(origin: str, public: bytes) -> str:
    """Return what statements name the log by: SHA-256 (hex) of its origin and key."""
    return hashlib.sha256(b"wardround/v1/log\0" + verifier_key(origin, public).encode()).hexdigest()


def witness_name(origin: str, site: str) -> str:
    """Return the key name under which `site` cosigns the log `origin`."""
    return f"{origin}/witness/{site}"


def cosign(text: str, name: str, signer: Signer, time_s: int) -> NoteSignature:
    """Return a witness's line under the checkpoint `text`, at `time_s` (POSIX seconds)."""
    hint = key_hint(check_key_name(name), signer.public_bytes(), cosigner=True)
    body = time_s.to_bytes(8, "big") + signer.sign(_cosigned(text, time_s))
    return NoteSignature(name, hint, body)


def verify_cosignature(text: str, line: NoteSignature, name: str, public: bytes) -> int:
    """Check a witness's line under the checkpoint `text`; return its time in POSIX seconds.

    Raises SignatureInvalid when it is another's line, malformed, or does not verify.
    """
    if (line.name, line.key_id) != (name, key_hint(name, public, cosigner=True)):
        raise SignatureInvalid(f"signature line of {line.name[:80]!a} is not by {name}")
    if len(line.body) != 72:
        raise SignatureInvalid(f"cosignature of {name} is not 72 bytes")
    time_s = int.from_bytes(line.body[:8], "big")
    if time_s > MAX_MILLIS // 1000:
        raise SignatureInvalid(f"cosignature of {name} is of a time after the year 9999")
    verify_signature(public, line.body[8:], _cosigned(text, time_s))
    return time_s


def _cosigned(text: str, time_s: int) -> bytes:
    return f"cosignature/v1\ntime {time_s}\n{text}".encode()


def _base64(text: str) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except ValueError:
        raise MalformedData("not base64") from None
    if base64.b64encode(raw).decode() != text:
        raise MalformedData("base64 is not in its one form")
    return raw
