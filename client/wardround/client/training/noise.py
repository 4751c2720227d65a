"""The Gaussian mechanism on an integer grid.

Floating-point noise leaks through its low bits (Mironov, CCS 2012; Jin et al., arXiv 2112.05307).
So the clipped sum and the noise are both rounded to multiples of one grid, C * 2^-24, and added as
integers: which numbers can appear no longer depends on the data. Rounding moves each of the d
coordinates by at most half a grid step per neighbour, at most grid * sqrt(d) together in L2, and
that is added to the sensitivity before the noise is scaled.

The noise is Box-Muller in float64 from 64-bit words: it reaches 9.4 standard deviations, where a
float32 version ends at 5.8, which a network of millions of parameters would meet in most steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from wardround.client.training.randomness import BitSource

GRID_BITS = 24
_CHUNK = 1 << 20
_RADIUS = 2.0**-64
_ANGLE = 2.0 * math.pi * 2.0**-64


@dataclass(frozen=True, slots=True)
class Grid:
    """The grid of one release.

    `step` is the distance of two neighbouring values, in units of the gradient; `sensitivity` the
    most by which one unit moves the rounded sum, in L2 and in the same units.
    """

    step: float
    sensitivity: float

    @classmethod
    def of(cls, clip: float, dimension: int) -> Grid:
        """The grid for sums clipped to `clip` > 0 in `dimension` >= 1 coordinates."""
        step = clip * 2.0**-GRID_BITS
        return cls(step, clip + step * math.sqrt(dimension))


def standard_normal(bits: BitSource, count: int) -> torch.Tensor:
    """`count` independent standard normal values, float64 [count] (Box and Muller, 1958)."""
    values = torch.empty(count + count % 2, dtype=torch.float64)
    for start in range(0, values.numel(), _CHUNK):
        piece = values[start : start + _CHUNK]
        half = piece.numel() // 2
        words = bits.words(2 * half)
        radius = torch.from_numpy(words[:half].astype(np.float64)).add_(1.0).mul_(_RADIUS)
        radius.log_().mul_(-2.0).clamp_(min=0.0).sqrt_()
        angle = torch.from_numpy(words[half:].astype(np.float64)).mul_(_ANGLE)
        torch.mul(radius, torch.cos(angle), out=piece[:half])
        torch.mul(radius, angle.sin_(), out=piece[half:])
    return values[:count]


def release(total: torch.Tensor, clip: float, noise_multiplier: float, bits: BitSource) -> None:
    """Make `total` what may leave: rounded to the grid, plus Gaussian noise on the grid.

    `total` [d], changed in place, is a sum of vectors, one for each unit and none longer than
    `clip` in L2. The noise has standard deviation `noise_multiplier` times the corrected
    sensitivity. Whole numbers below 2^53 add up exactly in float64; going back to the type of
    `total` happens after the noise and reveals nothing.
    """
    grid = Grid.of(clip, total.numel())
    scale = noise_multiplier * grid.sensitivity / grid.step
    for start in range(0, total.numel(), _CHUNK):
        piece = total[start : start + _CHUNK]
        noise = standard_normal(bits, piece.numel()).mul_(scale).round_().to(total.device)
        piece.copy_(piece.double().div_(grid.step).round_().add_(noise).mul_(grid.step))


def noise_std(clip: float, noise_multiplier: float, dimension: int) -> float:
    """Standard deviation of the noise on each coordinate of the sum (not of the mean)."""
    return noise_multiplier * Grid.of(clip, dimension).sensitivity
