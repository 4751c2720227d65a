"""Keys of a run: X25519 agreement, HKDF derivations, commitments, sealed boxes, the group key.

Every derivation names its purpose and everything it depends on in a length-prefixed `info`
(RFC 5869), so no two purposes share a key. Pair roots move forward one way each round: what a
site holds after round r does not give the pair secrets of rounds before r.
"""

import hashlib
import secrets
import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from wardround.privacy.errors import KeysRejected

_LABEL = b"wardround/v1/secagg/key/"
_NONCE = 12


def fresh_secret() -> bytes:
    """Return 32 random bytes from the operating system."""
    return secrets.token_bytes(32)


def fresh_key_pair() -> tuple[bytes, bytes]:
    """Return a new X25519 key as (private, public), 32 raw bytes each (RFC 7748)."""
    private = fresh_secret()
    return private, X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def derive(secret: bytes, purpose: str, *context: bytes, salt: bytes = b"") -> bytes:
    """Return HKDF-SHA256(secret, salt) for `purpose` in `context`: 32 bytes."""
    return HKDF(SHA256(), 32, salt, _frame(purpose, *context)).derive(secret)


def pair_root(private: bytes, public: bytes, book: bytes, own: str, peer: str) -> bytes:
    """Return root_ij, the secret two sites share for one run; the same from either end.

    `private` and `public` are raw X25519 keys of `own` and `peer`; `book` is the digest of the
    key book. Raises KeysRejected when the peer's key is of low order (RFC 7748, section 6.1).
    """
    try:
        shared = X25519PrivateKey.from_private_bytes(private).exchange(
            X25519PublicKey.from_public_bytes(public)
        )
    except ValueError:
        raise KeysRejected(f"the key of {peer} is not a usable X25519 key", peer) from None
    first, second = sorted((own, peer))
    return derive(shared, "pair-root", first.encode(), second.encode(), salt=book)


def advance(root: bytes, rounds: int) -> bytes:
    """Return a pair root moved forward by `rounds` one-way steps."""
    for _ in range(rounds):
        root = derive(root, "next-round")
    return root


def pair_secret(root: bytes, context: bytes) -> bytes:
    """Return h_ij: what masks two sites' vectors in one context, and can be shared safely."""
    return derive(root, "pair-secret", context)


def stream_key(secret: bytes) -> bytes:
    """Return the AES-256 key of the mask stream of a self mask, pair secret or group mask."""
    return derive(secret, "stream")


def commit(kind: str, context: bytes, secret: bytes, *sites: str) -> bytes:
    """Return the SHA-256 commitment to a uniform 32-byte secret (which needs no extra salt)."""
    names = (site.encode() for site in sites)
    return hashlib.sha256(_frame("commit-" + kind, context, *names, secret)).digest()


def seal(root: bytes, context: bytes, sender: str, recipient: str, content: bytes) -> bytes:
    """Seal `content` from one site to another with AES-256-GCM: nonce, ciphertext, tag.

    The key is bound to purpose, context and direction. It is used once; the random nonce keeps
    it safe should a restored disk make a site repeat a context.
    """
    nonce = secrets.token_bytes(_NONCE)
    return nonce + AESGCM(_box_key(root, context, sender, recipient)).encrypt(nonce, content, None)


def unseal(root: bytes, context: bytes, sender: str, recipient: str, box: bytes) -> bytes:
    """Return what `seal` sealed. Raises KeysRejected when the box was not made by `sender`."""
    try:
        key = AESGCM(_box_key(root, context, sender, recipient))
        return key.decrypt(box[:_NONCE], box[_NONCE:], None)
    except (InvalidTag, ValueError):
        raise KeysRejected(f"a box from {sender} does not open", sender) from None


def _box_key(root: bytes, context: bytes, sender: str, recipient: str) -> bytes:
    return derive(root, "box", context, sender.encode(), recipient.encode())


def _frame(purpose: str, *parts: bytes) -> bytes:
    pieces = (_LABEL + purpose.encode(), *parts)
    return b"".join(struct.pack(">I", len(piece)) + piece for piece in pieces)
