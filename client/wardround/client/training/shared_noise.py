"""Noise shared among the sites of a secure sum.

With secure aggregation nobody sees one site's update, so each site may add only a part of the
noise, as long as the honest sites' parts together make it whole. Honest and surely in the sum are
h = t - c sites, threshold less colluders: never all n, for drop-outs take their noise with them.
It holds only against those who see nothing but the sum, and only for one noisy step a release: in
a second local step a site has moved by its own weakly noised gradient. And it holds only where
nothing is clipped or rounded coarsely between a site's noise and the sum: `check_shared_noise`.
"""

from __future__ import annotations

import math

from wardround.client.errors import NoiseRefused, Refused
from wardround.client.training.settings import TrainingSettings

REACH = 9.5
"""Standard deviations that the noise never exceeds: Box-Muller from 64 bits ends at 9.42."""
FINE = 4.0
"""Whole numbers of the ring to a standard deviation of one site's noise, at least."""


def noise_share(threshold: int, colluders: int) -> float:
    """The part of sigma that each site adds: 1 / sqrt(h), h = threshold - colluders.

    h independent Gaussians of standard deviation sigma / sqrt(h) add up to one of sigma.
    """
    honest = threshold - colluders
    if colluders < 0 or honest < 2:
        raise NoiseRefused(
            f"threshold {threshold} and {colluders} colluders leave {max(honest, 0)} honest sites: "
            "sharing noise needs at least 2; add full noise at each site, or raise the threshold"
        )
    return 1.0 / math.sqrt(honest)


def check_shared_noise(
    settings: TrainingSettings,
    *,
    units: int,
    expected: int,
    update_clip: float,
    max_weight: int,
    largest_value: int,
) -> None:
    """Refuse a protected sum in which the sites' parts of the noise would not add up.

    `units` and `expected` are this site's; `update_clip` bounds each coordinate of its update, and
    the ring holds whole numbers up to `largest_value`. What a site does to its update behind its
    part of the noise is done before the parts come together: a coordinate that is cut, or that is
    rounded away, carries no noise, and the patients of the other sites have only their own site's.
    Raises Refused.
    """
    noise = settings.sigma * settings.noise_share * settings.clip / expected
    if expected > max_weight:
        raise Refused(
            "shared_noise",
            "with shared noise a site counts with its expected batch, and this site's is larger "
            f"than the plan's max_weight of {max_weight}; raise it",
        )
    if settings.clip * units / expected + REACH * noise > update_clip:
        raise Refused(
            "shared_noise",
            f"an update_clip of {update_clip:g} may cut this site's update, and the shared noise "
            "with it; raise it to clip * (1 / sample_rate + 10 * noise / expected batch), or add "
            "full noise at each site",
        )
    if noise * largest_value * expected < FINE * update_clip * max_weight:
        raise Refused(
            "shared_noise",
            "the protected sum would round this site's part of the noise away; lower update_clip "
            "or max_weight, or add full noise at each site",
        )
