"""Mask streams: AES-256-CTR from full 256-bit keys, added to or taken from ring vectors.

Segment k of a stream is the CTR key stream from the counter block `k (12 bytes, big-endian) ||
2 (4 bytes)`, NIST SP 800-38A. AES-GCM over zeros with the 12-byte nonce k encrypts from the same
counter block (SP 800-38D, section 7.1), so either gives the same bytes; whichever is faster on
this machine is used (vector AES often reaches only the GCM code of OpenSSL).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR, GCM
from numpy.typing import NDArray

from wardround.privacy.secagg.segments import (
    CHUNK,
    WORKSPACE,
    Ring,
    aligned,
    chunks,
    for_each,
    segments,
)

_zeros = aligned(4 * CHUNK, np.uint8)
_zeros[:] = 0
_ZEROS = _zeros.data.toreadonly()


@dataclass(frozen=True, slots=True)
class Stream:
    """One mask: its AES-256 key, and whether it is added (+1) or subtracted (-1)."""

    key: bytes = field(repr=False)
    sign: Literal[1, -1] = 1

    def opposite(self) -> "Stream":
        """Return the stream that undoes this one."""
        return Stream(self.key, -1 if self.sign == 1 else 1)


class SegmentMask:
    """The streams of one segment, handed out chunk by chunk from its start."""

    __slots__ = ("_encryptors",)

    def __init__(self, streams: Sequence[Stream], segment: int, backend: str | None = None) -> None:
        chosen = backend or fastest_backend()
        self._encryptors = [(_encryptor(s.key, segment, chosen), s.sign) for s in streams]

    def apply(self, chunk: Ring) -> None:
        """Add every stream's next bytes to `chunk`, in place (in the ring: modulo 2^bits)."""
        size = chunk.nbytes
        zeros, buffer = _ZEROS[:size], WORKSPACE.mask.data
        mask = WORKSPACE.mask[:size].view(chunk.dtype)
        for encryptor, sign in self._encryptors:
            encryptor.update_into(zeros, buffer)
            if sign == 1:
                np.add(chunk, mask, out=chunk)
            else:
                np.subtract(chunk, mask, out=chunk)


def apply_streams(vector: Ring, streams: Sequence[Stream]) -> None:
    """Add all `streams` to a ring vector in place, segment by segment on all cores."""
    parts = segments(len(vector), vector.itemsize)

    def work(index: int) -> None:
        mask = SegmentMask(streams, index)
        for start, stop in chunks(*parts[index]):
            mask.apply(vector[start:stop])

    for_each(len(parts), work)


def expand(key: bytes, count: int, dtype: "np.dtype[Any]") -> NDArray[Any]:
    """Return `count` items of a stream as an array: for short key material, from segment 0."""
    size = count * dtype.itemsize
    stream = _encryptor(key, 0, "ctr").update(bytes(size))
    return np.frombuffer(stream, dtype=dtype)


@cache
def fastest_backend() -> str:
    """Return "gcm" or "ctr": what makes the stream faster on this machine (tried once)."""
    return min(("gcm", "ctr"), key=_seconds)


def _seconds(backend: str) -> float:
    buffer = WORKSPACE.mask.data
    best = float("inf")
    for _ in range(3):
        encryptor = _encryptor(bytes(32), 0, backend)
        start = time.perf_counter()
        for _ in range(4):
            encryptor.update_into(_ZEROS, buffer)
        best = min(best, time.perf_counter() - start)
    return best


def _encryptor(key: bytes, segment: int, backend: str) -> CipherContext:
    nonce = segment.to_bytes(12, "big")
    mode = GCM(nonce) if backend == "gcm" else CTR(nonce + (2).to_bytes(4, "big"))
    return Cipher(AES256(key), mode).encryptor()
