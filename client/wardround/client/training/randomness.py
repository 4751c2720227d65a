"""Random bits fit for privacy: AES-256 in counter mode under a fresh key of the operating system.

torch's and numpy's generators are not cryptographic: who sees some of their outputs, or guesses a
seed, can take the noise off again. Here every stream has its own key, which never leaves the
object and cannot be set from outside, so no stream can be repeated.
"""

from __future__ import annotations

import os
from typing import Protocol

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

KEY_BYTES = 32


class BitSource(Protocol):
    """Whatever gives uniformly random 64-bit words."""

    def words(self, count: int) -> npt.NDArray[np.uint64]:
        """`count` independent, uniform 64-bit words, shape [count]."""


class SecureBits:
    """The key stream of AES-256-CTR under a key from the operating system (NIST SP 800-38A)."""

    def __init__(self) -> None:
        cipher = Cipher(algorithms.AES(os.urandom(KEY_BYTES)), modes.CTR(os.urandom(16)))
        self._stream = cipher.encryptor()

    def words(self, count: int) -> npt.NDArray[np.uint64]:
        """`count` independent, uniform 64-bit words, shape [count]."""
        return np.frombuffer(self._stream.update(bytes(8 * count)), dtype=np.uint64)
