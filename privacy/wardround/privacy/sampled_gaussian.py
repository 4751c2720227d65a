"""The privacy loss distribution (PLD) of many steps of one sampled Gaussian.

The same that dp-accounting makes (`from_gaussian_mechanism`, then `self_compose`), computed on
whole arrays instead of one loss after the other, which takes about a tenth of the time; the result
is an object of dp-accounting, which composes it with others and reads epsilon off. Tests hold the
two against each other.

A PLD is held on a grid of losses: `start` is the first loss in bins, `mass` [n] the probability of
each bin, `lost` the probability of an infinite loss. Every approximation rounds up.

Sources: Doroshenko et al. 2022 (arXiv 2207.04380), algorithm 1 (connect the dots); Zhu, Dong,
Wang 2022, appendix A (both directions of the sampled Gaussian); Koskela, Jälkö, Honkela 2020
(composition by FFT).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from dp_accounting.pld.pld_pmf import DensePLDPmf
from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution
from numpy.typing import NDArray
from scipy.fft import irfft, next_fast_len, rfft
from scipy.special import log_ndtr, ndtr, ndtri

Floats: TypeAlias = NDArray[np.float64]

BEYOND = 0.5 * math.exp(-50)
"""Probability of the noise beyond each end of the grid; there the loss counts as infinite."""
TAIL = 1e-15
"""Probability that composing may cut off, which counts as an infinite loss then."""
_ORDERS = np.concatenate((np.arange(-20, 0), np.arange(1, 21)))


@dataclass(frozen=True, slots=True)
class _Losses:
    """A privacy loss distribution on a grid; see the top of this file."""

    start: int
    mass: Floats
    lost: float


def distribution(sigma: float, rate: float, steps: int, interval: float) -> Any:
    """Return the PLD of `steps` >= 1 steps under add-or-remove, as dp-accounting's object.

    `sigma` > 0 is the noise multiplier, `rate` in (0, 1) the Poisson rate, `interval` the width of
    a bin.
    """
    return PrivacyLossDistribution(*(
        DensePLDPmf(interval, made.start, made.mass, made.lost, pessimistic_estimate=True)
        for made in (_repeated(one, steps) for one in _step(sigma, rate, interval))
    ))  # fmt: skip


@lru_cache(maxsize=4)
def _step(sigma: float, rate: float, interval: float) -> tuple[_Losses, _Losses]:
    """One step, for a unit that is removed and for one that is added."""
    reach = -sigma * float(ndtri(BEYOND))
    low, high = _removal_loss(reach, sigma, rate), _removal_loss(-reach - 1, sigma, rate)
    return (
        _connected(lambda e: _removed(e, sigma, rate), low, high, interval),
        _connected(lambda e: _added(e, sigma, rate), -high, -low, interval),
    )


def _removal_loss(x: float, sigma: float, rate: float) -> float:
    """The loss at outcome `x`: mixture of N(0, s^2) and N(-1, s^2) over N(0, s^2), logarithm."""
    return float(np.logaddexp(math.log1p(-rate), math.log(rate) - (x + 0.5) / sigma**2))


def _removed(losses: Floats, sigma: float, rate: float) -> Floats:
    """The hockey-stick divergence of the mixture from the Gaussian, at each of `losses`."""
    found = -np.expm1(losses)  # below log(1 - q) the mixture is larger everywhere
    inside = losses > math.log1p(-rate)
    e = losses[inside]
    x = -0.5 - sigma**2 * (e - math.log(rate) + _log_rest(-e, rate))
    above = (1 - rate) * ndtr(x / sigma) + rate * ndtr((x + 1) / sigma)
    found[inside] = above - np.exp(e + log_ndtr(x / sigma))
    return found


def _added(losses: Floats, sigma: float, rate: float) -> Floats:
    """The hockey-stick divergence of the Gaussian from the mixture, at each of `losses`."""
    found = np.zeros_like(losses)  # above -log(1 - q) the mixture is larger everywhere
    inside = losses < -math.log1p(-rate)
    e = losses[inside]
    x = 0.5 + sigma**2 * (-e - math.log(rate) + _log_rest(e, rate))
    mixture = np.logaddexp(
        math.log1p(-rate) + log_ndtr(x / sigma), math.log(rate) + log_ndtr((x - 1) / sigma)
    )
    found[inside] = ndtr(x / sigma) - np.exp(e + mixture)
    return found


def _log_rest(e: Floats, rate: float) -> Floats:
    """log(1 - (1 - rate) exp(e)), exact where rate is tiny, and finite at the end of the losses."""
    return np.log(np.maximum(rate * np.exp(e) - np.expm1(e), np.finfo(np.float64).tiny))


def _connected(
    divergence: Callable[[Floats], Floats], low: float, high: float, interval: float
) -> _Losses:
    """The PLD on a grid that has the given divergences at the grid's losses, and more between."""
    start = math.floor(low / interval)
    grid = np.arange(start, math.ceil(high / interval) + 1).astype(np.float64) * interval
    delta = np.minimum.accumulate(np.clip(divergence(grid), 0, 1))
    falls = np.diff(delta)
    mass = np.empty_like(delta)
    mass[0] = 1 - delta[0] + falls[0] / math.expm1(interval)
    mass[1:-1] = (falls[1:] - falls[:-1] * math.exp(interval)) / math.expm1(interval)
    mass[-1] = falls[-1] / math.expm1(-interval)
    return _Losses(start, np.maximum(mass, 0), float(delta[-1]))


def _repeated(one: _Losses, steps: int) -> _Losses:
    """`steps` times the same: its FFT to that power, on the part that holds all but TAIL."""
    if steps == 1:
        return one
    first, last = _bounds(one.mass, steps)
    size = next_fast_len(max(last - first + 1, len(one.mass)), real=True)
    around = irfft(rfft(one.mass, size) ** steps, size)
    mass = np.maximum(np.roll(around, -first)[: last - first + 1], 0)
    lost = TAIL - math.expm1(steps * math.log1p(-one.lost))
    return _Losses(one.start * steps + first, mass, lost)


def _bounds(mass: Floats, steps: int) -> tuple[int, int]:
    """The bins between which the sum of `steps` draws lies, but for TAIL (Chernoff)."""
    kept = np.flatnonzero(mass)
    logs, orders = np.log(mass[kept]), _ORDERS / len(mass)
    moments = np.array([_log_sum(order * kept + logs) for order in orders])
    ends = (steps * moments + math.log(2 / TAIL)) / orders
    first = math.floor(ends[orders < 0].max())
    last = math.ceil(ends[orders > 0].min())
    return max(0, first), min((len(mass) - 1) * steps, last)


def _log_sum(exponents: Floats) -> float:
    most = float(exponents.max())
    return most + math.log(float(np.exp(exponents - most).sum()))
