"""A short trial on the spot decides between several ways to the same numbers.

Which primitive is fast depends on the layer's shape, the device and the library behind it, by
factors of ten. The trial's key knows the batch size only roughly, because Poisson sampling changes
it at every step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Mapping

import torch
from torch import Tensor

_TRIALS = 3
# Batches from this size on share one trial; smaller ones, as in the self-test, have their own.
_CROWD = 16
_chosen: dict[Hashable, str] = {}


def quickest(ways: Mapping[str, Callable[..., object]], key: Hashable, *tensors: Tensor) -> str:
    """The name of the fastest of `ways`, each called with `tensors`, whose first axis is the batch.

    Tried once for each `key`, names, shape of one sample, rough batch size, type, device and
    number of threads.
    """
    if len(ways) == 1:
        return next(iter(ways))
    first = tensors[0]
    crowd = min(first.shape[0], _CROWD).bit_length()
    shapes = tuple(t.shape[1:] for t in tensors)
    where = first.dtype, first.device, torch.get_num_threads()
    whole = key, tuple(ways), shapes, crowd, where
    if whole not in _chosen:
        _chosen[whole] = _tried(ways, tensors)
    return _chosen[whole]


def _tried(ways: Mapping[str, Callable[..., object]], tensors: tuple[Tensor, ...]) -> str:
    best = dict.fromkeys(ways, math.inf)
    for _ in range(_TRIALS):
        for name, way in ways.items():
            start = _now(tensors[0])
            way(*tensors)
            best[name] = min(best[name], _now(tensors[0]) - start)
    return min(best, key=best.__getitem__)


def _now(like: Tensor) -> float:
    """Seconds; on a CPU this thread's own, which other processes disturb less."""
    if not like.is_cuda:
        return time.thread_time()
    torch.cuda.synchronize(like.device)
    return time.perf_counter()
