"""The aggregate MAC: a linear tag under the group key that the sum of all tags authenticates.

For integers e_rc (the encoded vector in rows of 256) and secret keys l_c in [-2^14, 2^14) and
k_r in [0, 2^16), a tag is  sum_r k_r * (sum_c l_c * e_rc)  over the integers, modulo 2^96, which
no honest value reaches. It is linear, so the tags of the sites add up to the tag of their sum;
and a sum that differs anywhere, a wrapped coordinate too, has the same tag with probability at
most 2^-15 + 2^-16. Four tags with independent keys make that 2^-57 (README, "Aggregate MAC").

The inner sums run as float64 matrix products and are exact: |e| <= 2^31, 256 * 2^14 * 2^31 = 2^53.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from wardround.privacy.secagg.keys import derive
from wardround.privacy.secagg.masking import expand
from wardround.privacy.secagg.parameters import TAG_BITS, TAGS
from wardround.privacy.secagg.segments import WORKSPACE, Ring, chunks, for_each, segments

ROW = 256
_LOW_BITS = 27  # sums are below 2^53: two halves, each times a 16-bit key, summed in 63 bits
_BLOCK_ROWS = 4096


class Authenticator:
    """Tags of one context. `inner` may be called for different chunks by several threads."""

    __slots__ = ("_columns", "_row_keys", "_sums")

    def __init__(self, group_key: bytes, context: bytes, length: int) -> None:
        rows = -(-length // ROW)
        columns = expand(derive(group_key, "mac-columns", context), ROW * TAGS, np.dtype("<i2"))
        row_keys = expand(derive(group_key, "mac-rows", context), rows * TAGS, np.dtype("<u2"))
        self._columns = (columns >> 1).astype(np.float64).reshape(ROW, TAGS)
        self._row_keys = row_keys.reshape(rows, TAGS)
        self._sums = np.zeros((rows, TAGS), dtype=np.float64)

    def inner(self, start: int, values: NDArray[Any]) -> None:
        """Take in a chunk of signed coordinates, from `start` (a multiple of 256) on."""
        scratch = WORKSPACE.doubles
        count = len(values)
        full = -(-count // ROW) * ROW
        scratch[:count] = values
        scratch[count:full] = 0.0
        row = start // ROW
        rows = full // ROW
        np.matmul(
            scratch[:full].reshape(rows, ROW), self._columns, out=self._sums[row : row + rows]
        )

    def tags(self) -> tuple[int, ...]:
        """Return the tags of everything taken in: 4 integers modulo 2^96."""
        totals = [0] * TAGS
        for at in range(0, len(self._sums), _BLOCK_ROWS):
            sums = self._sums[at : at + _BLOCK_ROWS].astype(np.int64)
            keys = self._row_keys[at : at + _BLOCK_ROWS].astype(np.int64)
            high = np.einsum("rt,rt->t", sums >> _LOW_BITS, keys)
            low = np.einsum("rt,rt->t", sums & (2**_LOW_BITS - 1), keys)
            for tag in range(TAGS):
                totals[tag] += (int(high[tag]) << _LOW_BITS) + int(low[tag])
        return tuple(total % 2**TAG_BITS for total in totals)


def tags_of(group_key: bytes, context: bytes, vector: Ring) -> tuple[int, ...]:
    """Return the tags of a whole vector of signed integers (int32 or int16)."""
    authenticator = Authenticator(group_key, context, len(vector))
    parts = segments(len(vector), vector.itemsize)

    def work(index: int) -> None:
        for start, stop in chunks(*parts[index]):
            authenticator.inner(start, vector[start:stop])

    for_each(len(parts), work)
    return authenticator.tags()
