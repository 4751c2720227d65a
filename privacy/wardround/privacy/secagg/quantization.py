"""From an update to ring integers and back: clip, weigh, rotate, round; counts in limbs.

A coordinate x of a site with n_i samples becomes q = round(L * clamp((n_i / n_max) * x / clip)),
with L = (2^(bits-1) - 1) // n, so the sum of n sites cannot wrap. The run's clip bounds x; a task
may bring a smaller one that bounds the *weighted* coordinate, so that nothing is lost to a large
n_max, and in a ring of 2^16 that of the rotated update (rotation.py). Everything is computed in
float32, where L is usually not a number: the clamp uses the largest float32 *below* the bound,
for rounding it up would let n full-scale coordinates wrap the sum.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wardround.privacy.errors import ContributionInvalid, TaskRejected
from wardround.privacy.secagg.parameters import MAX_COUNTER, SMALLEST_CLIP, RunSpec
from wardround.privacy.secagg.rotation import (
    GAIN,
    ROWS,
    Rotation,
    rotate,
    rotate_back,
    rotated_length,
)
from wardround.privacy.secagg.segments import WORKSPACE

Floats = NDArray[np.float32]

MARGIN = 16.0


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
    """Encodes one site's update for one task, chunk by chunk."""

    __slots__ = ("_bound", "_rotation", "_scale", "_top", "_values")

    def __init__(self, spec: RunSpec, clip: float | None, values: Floats, weight: int) -> None:
        limit = spec.clip if clip is None else clip
        share = spec.largest_value * weight / spec.max_weight
        bound = min(float(spec.largest_value), share * (spec.clip / limit))
        scale = share / limit
        self._rotation = _rotation(spec, clip)
        if self._rotation is not None:
            scale /= GAIN
            bound = scale * spec.clip
        self._values = values
        self._scale = np.float32(scale)
        self._bound = _below(bound)
        self._top = _below(spec.largest_value)

    def encode(self, start: int, out: NDArray[Any]) -> None:
        """Write the integers of encoded coordinates `start` on to `out`, a signed chunk.

        Raises ContributionInvalid for NaN or infinity.
        """
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            scaled = self._scaled(start, len(out))
            low, high = float(scaled.min(initial=0.0)), float(scaled.max(initial=0.0))
        if not (math.isfinite(low) and math.isfinite(high)) and not np.isfinite(self._values).all():
            raise ContributionInvalid("the update holds NaN or infinity; training diverged")
        if max(-low, high) >= float(self._bound):
            np.clip(scaled, -self._bound, self._bound, out=scaled)
        if self._rotation is not None:
            rotate(scaled)
            np.clip(scaled, -self._top, self._top, out=scaled)
        np.rint(scaled, out=scaled)
        np.copyto(out[: scaled.size], scaled.reshape(-1), casting="unsafe")
        out[scaled.size :] = 0

    def _scaled(self, start: int, size: int) -> Floats:
        if self._rotation is not None:
            return self._rotation.gather(self._values, start, size, self._scale)
        values = self._values[start : start + size]  # shorter, or empty, behind the update
        scaled = WORKSPACE.floats[: len(values)]
        return np.multiply(values, self._scale, out=scaled)


class Decoder:
    """Turns chunks of the summed updates into the weighted mean."""

    __slots__ = ("_factor", "_rotation", "mean")

    def __init__(self, spec: RunSpec, clip: float | None, weight: int) -> None:
        self.mean: Floats = np.empty(spec.dimension, dtype=np.float32)
        self._rotation = _rotation(spec, clip)
        limit = spec.clip if clip is None else clip
        unit = limit * spec.max_weight / (spec.largest_value * weight) if weight else 0.0
        self._factor = np.float32(unit if self._rotation is None else unit / GAIN)

    def decode(self, total: NDArray[Any], start: int) -> None:
        """Write the means of `total`, signed coordinates from `start` on; counts are left out.

        The same bytes on every machine: integers, exact sums of them, one product each.
        """
        if self._rotation is None:
            out = self.mean[start : start + len(total)]
            np.copyto(out, total[: len(out)], casting="unsafe")
            np.multiply(out, self._factor, out=out)
            return
        size = min(len(total), rotated_length(len(self.mean)) - start)
        if size <= 0:
            return
        tile = WORKSPACE.floats[:size].reshape(ROWS, -1)
        np.copyto(tile.reshape(-1), total[:size], casting="unsafe")
        rotate_back(tile)
        np.multiply(tile, self._factor, out=tile)
        self._rotation.scatter(tile, start, self.mean)


def check_clip(spec: RunSpec, clip: float | None) -> None:
    """Raise TaskRejected unless `clip` is None or at most the run's clip, and not far too small.

    The smallest allowed is 2^-60 of the run's clip, so no scale leaves float32.
    """
    if clip is not None and not max(spec.clip * 2.0**-60, SMALLEST_CLIP) <= clip <= spec.clip:
        raise TaskRejected("a task's clip is outside what the run spec allows")


def next_clip(spec: RunSpec, aggregate: Aggregate) -> float | None:
    """Return the bound for the next task in a ring of 2^16, from the last aggregate.

    16 times the root mean square of the last mean, times the mean share of `max_weight`: what a
    site's rotated, weighted update of that size stays below by a factor of three. None when the
    aggregate says nothing (weights or mean are zero) or the ring is that of 2^32. Equal on every
    machine: sums of integers.
    """
    peak = float(np.abs(aggregate.mean).max(initial=0.0))
    if spec.ring_bits != 16 or aggregate.weight == 0 or not 1e-30 < peak < math.inf:
        return None
    scale, total = np.float32(2.0**15 / peak), 0
    for start in range(0, spec.dimension, len(WORKSPACE.floats)):
        part = aggregate.mean[start : start + len(WORKSPACE.floats)]
        scaled = np.rint(part * scale).astype(np.float64)
        total += int(np.dot(scaled, scaled))  # below 2^53: exact in any order
    root_mean_square = math.sqrt(total / spec.dimension) / float(scale)
    share = aggregate.weight / (len(aggregate.survivors) * spec.max_weight)
    return min(
        spec.clip, max(MARGIN * root_mean_square * share, spec.clip * 2.0**-40, SMALLEST_CLIP)
    )


def _rotation(spec: RunSpec, clip: float | None) -> Rotation | None:
    """Return how a task's updates are rotated: in a ring of 2^16, once their size is known."""
    return Rotation(spec.dimension) if spec.ring_bits == 16 and clip is not None else None


def _below(value: float) -> np.float32:
    """Return the largest float32 that is not above `value`."""
    rounded = np.float32(value)
    return rounded if float(rounded) <= value else np.nextafter(rounded, np.float32(0))


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
