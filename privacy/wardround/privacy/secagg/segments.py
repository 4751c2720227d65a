"""Long vectors cut in segments of 2 MiB: the unit of parallel work, of the digest, of a nonce.

`cryptography`, hashlib and numpy let go of the interpreter lock while they work on a buffer, so
threads use every core this process may run on.
"""

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Ring: TypeAlias = NDArray[Any]  # uint32 or uint16, little-endian

SEGMENT_BYTES = 2 * 2**20
CHUNK = 2**16  # coordinates; a rotation works on one, so this is part of what is uploaded
MAX_WORKERS = 8
_BLOCK = 16
_PAGE = 4096
_DIGEST_LABEL = b"wardround/v1/secagg/vector\0"


def aligned(length: int, dtype: "np.dtype[Any] | type[np.generic]") -> NDArray[Any]:
    """Return an array [length], not initialised, that begins on a page of memory.

    NumPy's own begin 16 bytes into one, so every other wide load of a vector addition straddles
    two cache lines: that makes adding a mask a third slower, and making it a few per cent.
    """
    size = length * np.dtype(dtype).itemsize
    memory = np.empty(size + _PAGE, dtype=np.uint8)
    start = -memory.ctypes.data % _PAGE
    return memory[start : start + size].view(dtype)


class Workspace(threading.local):
    """Buffers of one thread for one chunk, made once: fresh memory costs as much as a mask.

    All are views of one memory, so that chunk, mask and all stay in the cache: what encodes a
    chunk, authenticates it or masks it leaves nothing there for the next. `doubles` covers the
    whole, `floats` its second half, `between` (of a rotation) and `mask` the first.
    """

    def __init__(self) -> None:
        self.doubles: NDArray[np.float64] = aligned(CHUNK, np.float64)
        self.between, self.floats = self.doubles.view(np.float32).reshape(2, CHUNK)
        self.mask = self.doubles.view(np.uint8)[: 4 * CHUNK + _BLOCK]  # a cipher may ask for more


WORKSPACE = Workspace()


def ring_type(bits: int) -> np.dtype[Any]:
    """Return the little-endian unsigned type of a ring of 2^32 or 2^16."""
    return np.dtype("<u4" if bits == 32 else "<u2")


def signed_view(vector: Ring) -> NDArray[Any]:
    """Return the same memory read as signed integers (two's complement)."""
    return vector.view("<i4" if vector.itemsize == 4 else "<i2")


def segments(length: int, itemsize: int) -> list[tuple[int, int]]:
    """Return (start, stop) of each segment of a vector of `length` items, in items."""
    step = SEGMENT_BYTES // itemsize
    return [(start, min(start + step, length)) for start in range(0, length, step)]


def chunks(start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of the chunks of one segment: small enough to stay in a core's cache."""
    for at in range(start, stop, CHUNK):
        yield at, min(at + CHUNK, stop)


def for_each(count: int, work: Callable[[int], None]) -> None:
    """Call `work(0)` to `work(count - 1)`, on all cores when there is more than one call."""
    workers = min(count, _cores())
    if workers <= 1:
        for index in range(count):
            work(index)
        return
    for _ in _pool().map(work, range(count)):
        pass


def join_digests(digests: list[bytes], length: int, itemsize: int) -> bytes:
    """Return the digest of a vector from those of its segments."""
    head = _DIGEST_LABEL + length.to_bytes(8, "big") + itemsize.to_bytes(1, "big")
    return hashlib.sha256(head + b"".join(digests)).digest()


def vector_digest(vector: Ring) -> bytes:
    """Return the digest of a ring vector: SHA-256 over length, width and its segments' SHA-256."""
    return _digest_behind(lambda start, stop: vector[start:stop].max(), vector)


def accumulate(total: Ring, vector: Ring, first: bool) -> bytes:
    """Add `vector` to `total` in place and return its digest, in one pass over both.

    The `first` vector is copied: `total` need not be initialised.
    """

    def add(start: int, stop: int) -> None:
        chunk, sums = vector[start:stop], total[start:stop]
        if first:
            np.copyto(sums, chunk)
        else:
            np.add(sums, chunk, out=sums)

    return _digest_behind(add, vector)


def _digest_behind(read: Callable[[int, int], object], vector: Ring) -> bytes:
    """Return the digest of `vector`; `read` has used each chunk before it is hashed.

    A fast step over a chunk brings it into the cache. SHA-256 alone reads too slowly for memory to
    be fetched ahead, and takes a fifth to a third longer.
    """
    parts = segments(len(vector), vector.itemsize)
    digests = [b""] * len(parts)

    def work(index: int) -> None:
        hasher = hashlib.sha256()
        for start, stop in chunks(*parts[index]):
            read(start, stop)
            hasher.update(vector[start:stop].data)
        digests[index] = hasher.digest()

    for_each(len(parts), work)
    return join_digests(digests, len(vector), vector.itemsize)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return min(MAX_WORKERS, len(os.sched_getaffinity(0)))
    return min(MAX_WORKERS, os.cpu_count() or 1)


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_cores(), thread_name_prefix="secagg")


os.register_at_fork(after_in_child=_pool.cache_clear)  # threads do not survive a fork
