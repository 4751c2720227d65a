"""Who takes part in a step: every patient alone, with probability q (Poisson sampling).

The accountant's amplification by sampling holds for this sampler and for no other: a shuffled
loader that deals out batches of fixed size is another mechanism, with another epsilon.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from wardround.client.training.randomness import BitSource

_WORD = 2**64


def poisson_sample(bits: BitSource, population: int, rate: float) -> npt.NDArray[np.int64]:
    """Indices of the units that take part; each one independently with probability `rate`.

    `rate` in (0, 1]; `population` >= 0. The result is sorted and may be empty. The probability is
    rounded down to a multiple of 2^-64, which never samples more often than was accounted.
    """
    if not 0 < rate <= 1:
        raise ValueError("the sampling rate lies in (0, 1]")
    if rate == 1:
        return np.arange(population, dtype=np.int64)
    threshold = np.uint64(int(rate * _WORD))
    return np.flatnonzero(bits.words(population) < threshold).astype(np.int64)


def choose(bits: BitSource, items: npt.NDArray[np.int64], most: int) -> npt.NDArray[np.int64]:
    """At most `most` of `items`, all subsets equally likely; order is kept."""
    if len(items) <= most:
        return items
    return items[np.sort(np.argsort(bits.words(len(items)), kind="stable")[:most])]
