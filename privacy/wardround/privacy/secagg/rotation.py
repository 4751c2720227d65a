"""A rotation that spreads an update evenly over its coordinates, for the ring of 2^16.

An update is heavy-tailed: its largest coordinates are tens of times its root mean square, and a
range wide enough for them leaves 16 bits little for the rest. So the update, as a matrix of 256
rows that reach across the whole vector, is multiplied by an orthogonal 256 x 256 matrix of signs
(Walsh-Hadamard, with the columns' signs a bent function, so that a constant update stays flat).
Every rotated coordinate is then a sum over the whole vector, near a normal variable of one and
the same spread, and one number bounds them all (Suresh et al., ICML 2017, section 3). A rotation
is linear, so the sum of rotated updates is the rotated sum.

The matrix is the Kronecker square of a 16 x 16 one: two products of small matrices a tile. A tile
is 256 columns, as long as a chunk, and is stored row by row.
"""

import numpy as np
from numpy.typing import NDArray

from wardround.privacy.secagg.segments import WORKSPACE

Floats = NDArray[np.float32]

ROWS = 256
GAIN = 16  # sqrt(ROWS): rotating there and back multiplies by its square
_BASE = 16


def _base() -> Floats:
    hadamard = np.ones((1, 1), dtype=np.float32)
    while len(hadamard) < _BASE:
        hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])
    bit = [(np.arange(_BASE) >> k) & 1 for k in range(4)]
    bent = 1 - 2 * ((bit[0] & bit[1]) ^ (bit[2] & bit[3]))
    return np.ascontiguousarray(hadamard * bent, dtype=np.float32)


_FORWARD = _base()
_BACK = np.ascontiguousarray(_FORWARD.T)


def rotated_length(dimension: int) -> int:
    """Return `dimension` rounded up to whole columns of 256."""
    return -(-dimension // ROWS) * ROWS


class Rotation:
    """Tiles of a vector of `dimension` floats, to and from the rotated order."""

    __slots__ = ("_columns", "_full", "_rest")

    def __init__(self, dimension: int) -> None:
        self._columns = rotated_length(dimension) // ROWS
        self._full, self._rest = divmod(dimension, self._columns)

    def gather(self, values: Floats, start: int, size: int, scale: np.float32) -> Floats:
        """Return the tile behind rotated coordinates `start` to `start + size`, times `scale`.

        float32 [256, size / 256], zeros behind the vector; in this thread's workspace.
        """
        first, last = start // ROWS, (start + size) // ROWS
        tile = WORKSPACE.floats[:size].reshape(ROWS, last - first)
        full, columns = self._full, self._columns
        rows = values[: full * columns].reshape(full, columns)
        np.multiply(rows[:, first:last], scale, out=tile[:full])
        tile[full:] = 0.0
        rest = max(0, min(self._rest, last) - first)
        if rest:
            begin = full * columns + first
            np.multiply(values[begin : begin + rest], scale, out=tile[full, :rest])
        return tile

    def scatter(self, tile: Floats, start: int, values: Floats) -> None:
        """Write a tile to the coordinates of `values` that `gather` takes it from."""
        full, columns = self._full, self._columns
        first, last = start // ROWS, start // ROWS + tile.shape[1]
        values[: full * columns].reshape(full, columns)[:, first:last] = tile[:full]
        rest = max(0, min(self._rest, last) - first)
        if rest:
            begin = full * columns + first
            values[begin : begin + rest] = tile[full, :rest]


def rotate(tile: Floats) -> None:
    """Multiply a tile of the workspace by the matrix, in place: norms grow 16-fold."""
    _multiply(tile, _FORWARD)


def rotate_back(tile: Floats) -> None:
    """Multiply a tile of the workspace by the transpose, in place: 256 times what was rotated.

    Exact for integers of 16 bits in any order of summation: every partial sum is below 2^24.
    """
    _multiply(tile, _BACK)


def _multiply(tile: Floats, matrix: Floats) -> None:
    cube = tile.reshape(_BASE, _BASE, -1)
    between = WORKSPACE.between[: tile.size].reshape(cube.shape)
    np.matmul(matrix, cube, out=between)
    np.matmul(matrix, between.transpose(1, 0, 2), out=cube.transpose(1, 0, 2))
