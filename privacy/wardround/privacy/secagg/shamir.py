"""Shamir's secret sharing over GF(2^8), byte by byte (Shamir, CACM 1979).

The field is that of AES (x^8 + x^4 + x^3 + x + 1). Sharing byte-wise makes a share as long as the
secret and needs no big numbers. The secret is the value at point 0; with the shares at any t - 1
other points it fixes the rest (`interpolate`), so when those are uniform, t - 1 shares tell nothing
about it. Points are 1 to 255. `decode` finds wrong shares (Berlekamp and Welch, US patent
4,633,470).
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from wardround.privacy.errors import SharesRejected

Bytes = NDArray[np.uint8]


def _tables() -> tuple[Bytes, Bytes]:
    powers = np.zeros(510, dtype=np.uint8)
    logs = np.zeros(256, dtype=np.intp)
    value = 1
    for exponent in range(255):
        powers[exponent] = powers[exponent + 255] = value
        logs[value] = exponent
        value ^= (value << 1) ^ (0x11B if value & 0x80 else 0)  # times 3, a generator
        value &= 0xFF
    product = powers[logs[:, None] + logs[None, :]]
    product[0, :] = product[:, 0] = 0
    inverse = powers[(255 - logs) % 255]
    return product, inverse


_PRODUCT, _INVERSE = _tables()


def combine(points: Sequence[int], shares: Sequence[bytes]) -> bytes:
    """Return the secret whose shares at `points` (all of them different) are `shares`."""
    return interpolate(points, shares, 0)


def interpolate(points: Sequence[int], shares: Sequence[bytes], at: int) -> bytes:
    """Return the value at `at` of the polynomials of degree < len(points) through the shares."""
    rows = np.frombuffer(b"".join(shares), dtype=np.uint8).reshape(len(points), -1)
    result = np.zeros(rows.shape[1], dtype=np.uint8)
    for weight, row in zip(_lagrange(tuple(points), at), rows, strict=True):
        result ^= _PRODUCT[weight][row]
    return bytes(result)


def decode(points: Sequence[int], shares: Sequence[bytes], threshold: int) -> set[int]:
    """Return the points whose shares are wrong, at most (len(points) - threshold) // 2 of them.

    Raises SharesRejected when the shares are not within that distance of any sharing.
    """
    rows = np.frombuffer(b"".join(shares), dtype=np.uint8).reshape(len(points), -1)
    errors = (len(points) - threshold) // 2
    wrong: set[int] = set()
    for column in range(rows.shape[1]):
        wrong |= _wrong_points(points, rows[:, column], threshold, errors)
    if len(wrong) > errors:
        raise SharesRejected("too many recovery shares are wrong to tell which")
    return wrong


@lru_cache(maxsize=64)
def _lagrange(points: tuple[int, ...], at: int) -> list[int]:
    weights = []
    for one in points:
        weight = 1
        for other in points:
            if other != one:
                ratio = _PRODUCT[at ^ other, _INVERSE[one ^ other]]
                weight = int(_PRODUCT[weight, ratio])
        weights.append(weight)
    return weights


def _wrong_points(points: Sequence[int], values: Bytes, threshold: int, errors: int) -> set[int]:
    """Berlekamp-Welch on one byte: find E of degree <= e, Q of degree < t + e with Q = y E."""
    powers = np.ones((len(points), threshold + errors), dtype=np.uint8)
    for k in range(1, threshold + errors):
        powers[:, k] = _PRODUCT[np.asarray(points), powers[:, k - 1]]
    located = _PRODUCT[values[:, None], powers[:, : errors + 1]]
    solution = _null_vector(np.concatenate((powers, located), axis=1))
    locator = solution[threshold + errors :]
    roots = np.zeros(len(points), dtype=np.uint8)
    for coefficient, column in zip(locator, powers.T, strict=False):
        roots ^= _PRODUCT[coefficient][column]
    wrong = {point for point, root in zip(points, roots, strict=True) if root == 0}
    good = [i for i, point in enumerate(points) if point not in wrong]
    if len(good) < threshold:
        raise SharesRejected("too many recovery shares are wrong to tell which")
    base = [points[i] for i in good[:threshold]]
    chosen = [bytes(values[i : i + 1]) for i in good[:threshold]]
    return {
        point
        for point, value in zip(points, values, strict=True)
        if interpolate(base, chosen, point)[0] != value
    }


def _null_vector(matrix: Bytes) -> Bytes:
    """Return a non-zero x with matrix x = 0 over GF(2^8); the matrix has more columns than rank."""
    rows = matrix.copy()
    pivots: list[int] = []
    for column in range(rows.shape[1]):
        top = len(pivots)
        below = np.flatnonzero(rows[top:, column])
        if below.size == 0:
            solution = np.zeros(rows.shape[1], dtype=np.uint8)
            solution[column] = 1
            solution[pivots] = rows[: len(pivots), column]
            return solution
        rows[[top, top + below[0]]] = rows[[top + below[0], top]]
        rows[top] = _PRODUCT[_INVERSE[rows[top, column]]][rows[top]]
        factors = rows[:, column].copy()
        factors[top] = 0
        rows ^= _PRODUCT[factors[:, None], rows[top][None, :]]
        pivots.append(column)
    raise SharesRejected("too many recovery shares are wrong to tell which")
