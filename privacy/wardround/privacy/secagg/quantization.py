"""From an update to ring integers and back: clip, weigh, round; counts in limbs.

A coordinate x of a site with n_i samples becomes q = round(L * (n_i / n_max) * clamp(x / clip)),
with L = (2^(bits-1) - 1) // n, so the sum of n sites cannot wrap. Everything is computed in
float32, where L is usually not a number: the clamp uses the largest float32 *below* the bound,
for rounding it up would let n full-scale coordinates wrap the sum.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wardround.privacy.errors import ContributionInvalid, TaskRejected
from wardround.privacy.secagg.parameters import MAX_COUNTER, RunSpec
from wardround.privacy.secagg.segments import WORKSPACE

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Contribution:
    """What a site adds to a round, before masking.

    `values` float32 [D] is its update; `weight` its sample count (0 to max_weight; 0 when it only
    evaluates); `counters` one non-negative integer below 2^31 for each counter of the RunSpec.
    """

    values: Floats = field(repr=False)
    weight: int = field(repr=False)
    counters: tuple[int, ...] = field(default=(), repr=False)

    def check(self, spec: RunSpec) -> None:
        """Raise ContributionInvalid unless shapes, types and ranges fit `spec`."""
        if self.values.shape != (spec.dimension,) or self.values.dtype != np.float32:
            raise ContributionInvalid(f"an update must be float32 [{spec.dimension}]")
        if type(self.weight) is not int or not 0 <= self.weight <= spec.max_weight:
            raise ContributionInvalid(
                f"the sample count must be 0 to {spec.max_weight}; raise max_weight in the plan"
            )
        if len(self.counters) != len(spec.counters) or not all(
            type(count) is int and 0 <= count <= MAX_COUNTER for count in self.counters
        ):
            raise ContributionInvalid(
                f"counters must be {len(spec.counters)} integers from 0 to {MAX_COUNTER}"
            )


@dataclass(frozen=True, slots=True)
class Aggregate:
    """What a round yields: the weighted mean, exact totals, who is in it, and the sum's digest.

    `mean` float32 [D] is sum(n_i x_i) / sum(n_i), or zeros when all weights are 0. `digest` (hex)
    is that of the opened ring vector, as in the log.
    """

    mean: Floats = field(repr=False)
    weight: int
    counters: dict[str, int]
    survivors: tuple[str, ...]
    digest: str


class Quantizer:
    """Encodes chunks of one site's update for one task."""

    __slots__ = ("_bound", "_largest_scale", "_spans", "_starts")

    def __init__(self, spec: RunSpec, clips: Sequence[float], weight: int) -> None:
        share = spec.largest_value * weight / spec.max_weight
        bound = np.float32(share)
        self._bound = bound if float(bound) <= share else np.nextafter(bound, np.float32(0))
        self._spans = [
            (start, stop, np.float32(share / clip)) for start, stop, clip in _spans(spec, clips)
        ]
        self._starts = [start for start, _, _ in self._spans]
        self._largest_scale = max(float(scale) for _, _, scale in self._spans)

    def encode(self, values: Floats, start: int, out: NDArray[Any]) -> None:
        """Write the integers of `values` (coordinates `start` on) to `out`, a signed chunk.

        Raises ContributionInvalid for NaN or infinity.
        """
        low, high = float(values.min()), float(values.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ContributionInvalid("the update holds NaN or infinity; training diverged")
        scaled = WORKSPACE.floats[: len(values)]
        stop = start + len(values)
        with np.errstate(over="ignore", under="ignore"):
            for first, last, scale in self._spans[bisect_right(self._starts, start) - 1 :]:
                if first >= stop:
                    break
                part = slice(max(first, start) - start, min(last, stop) - start)
                np.multiply(values[part], scale, out=scaled[part])
        if max(-low, high) * self._largest_scale >= float(self._bound):
            np.clip(scaled, -self._bound, self._bound, out=scaled)
        np.rint(scaled, out=scaled)
        np.copyto(out, scaled, casting="unsafe")


def check_clips(spec: RunSpec, clips: Sequence[float]) -> None:
    """Raise TaskRejected unless `clips` is empty or one bound per tensor, at most the run's clip.

    The smallest allowed is 2^-60 of the run's clip, so no scale leaves float32.
    """
    if clips and len(clips) != len(spec.layout):
        raise TaskRejected(f"a task must bound all {len(spec.layout)} tensors or none")
    smallest = max(spec.clip * 2.0**-60, 1e-28)
    if any(not smallest <= clip <= spec.clip for clip in clips):
        raise TaskRejected("a task's clip is outside what the run spec allows")


def adaptive_clips(spec: RunSpec, mean: Floats, margin: float = 6.0) -> tuple[float, ...]:
    """Return per-tensor bounds for the next task from the last mean update [D].

    `margin` times each tensor's largest absolute value, at least 2^-20 of the largest of all and
    at most the run's clip. What a 16-bit ring needs to lose little.
    """
    peaks, start = [], 0
    for tensor in spec.layout:
        part = mean[start : start + tensor.size]
        peaks.append(float(np.abs(part).max()) if tensor.size else 0.0)
        start += tensor.size
    floor = max(max(peaks) * 2.0**-20, spec.clip * 2.0**-40, 1e-28)
    return tuple(min(spec.clip, max(floor, margin * peak)) for peak in peaks)


class Decoder:
    """Turns chunks of the summed updates into the weighted mean."""

    __slots__ = ("_spans", "_starts", "mean")

    def __init__(self, spec: RunSpec, clips: Sequence[float], weight: int) -> None:
        self.mean: Floats = np.empty(spec.dimension, dtype=np.float32)
        unit = spec.max_weight / (spec.largest_value * weight) if weight else 0.0
        self._spans = [
            (start, stop, np.float32(unit * clip)) for start, stop, clip in _spans(spec, clips)
        ]
        self._starts = [start for start, _, _ in self._spans]

    def decode(self, total: NDArray[Any], start: int) -> None:
        """Write the means of `total`, signed coordinates from `start` on; counts are left out."""
        stop = min(start + len(total), len(self.mean))
        for first, last, factor in self._spans[bisect_right(self._starts, start) - 1 :]:
            if first >= stop:
                break
            low, high = max(first, start), min(last, stop)
            out = self.mean[low:high]
            np.copyto(out, total[low - start : high - start], casting="unsafe")
            np.multiply(out, factor, out=out)


def to_limbs(value: int, bits: int, count: int) -> list[int]:
    """Return `count` limbs of `bits` bits, lowest first, of a non-negative integer."""
    return [(value >> (bits * k)) & ((1 << bits) - 1) for k in range(count)]


def from_limbs(limbs: Sequence[int], bits: int) -> int:
    """Return the integer whose limbs (or sums of limbs) are given."""
    return sum(int(limb) << (bits * k) for k, limb in enumerate(limbs))


def count_coordinates(spec: RunSpec, contribution: Contribution) -> list[int]:
    """Return the coordinates behind the update: limbs of the weight, then of each counter."""
    counts = (contribution.weight, *contribution.counters)
    return [limb for count in counts for limb in to_limbs(count, spec.limb_bits, spec.count_limbs)]


def decode_counts(spec: RunSpec, coordinates: Sequence[int]) -> tuple[int, dict[str, int]]:
    """Return total weight and counters from the sums of `count_coordinates`."""
    size = spec.count_limbs
    totals = [
        from_limbs(coordinates[at : at + size], spec.limb_bits)
        for at in range(0, len(coordinates), size)
    ]
    return totals[0], dict(zip(spec.counters, totals[1:], strict=True))


def _spans(spec: RunSpec, clips: Sequence[float]) -> list[tuple[int, int, float]]:
    """Return (start, stop, clip) of runs of coordinates with one clip."""
    if not clips:
        return [(0, spec.dimension, spec.clip)]
    spans: list[tuple[int, int, float]] = []
    start = 0
    for tensor, clip in zip(spec.layout, clips, strict=True):
        stop = start + tensor.size
        if spans and spans[-1][2] == clip:
            spans[-1] = (spans[-1][0], stop, clip)
        elif stop > start:
            spans.append((start, stop, clip))
        start = stop
    return spans
