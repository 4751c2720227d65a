"""Noise shared among the sites of a secure sum.

With secure aggregation nobody sees one site's update, so each site may add only a part of the
noise, as long as the honest sites' parts together make it whole. Honest and surely in the sum are
h = t - c sites, threshold less colluders: never all n, for drop-outs take their noise with them.
It holds only against those who see nothing but the sum, and only for one noisy step a release: in
a second local step a site has moved by its own weakly noised gradient.
"""

from __future__ import annotations

import math

from wardround.client.errors import NoiseRefused


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
    *, threshold: int, colluders: int, steps: int, mode: str, share: float, weight_is_batch: bool
) -> None:
    """Refuse a plan whose shared noise would not give the stated epsilon.

    `weight_is_batch`: every site's weight in the sum is its expected batch, so that a patient
    moves the weighted sum by at most the clip wherever it lies. Raises NoiseRefused.
    """
    if steps != 1 or mode != "one_step":
        raise NoiseRefused(
            f"noise is shared, but a round has {steps} steps in mode {mode}: only one noisy step a "
            "release is covered; use mode one_step, or full noise at each site"
        )
    if not weight_is_batch:
        raise NoiseRefused(
            "noise is shared, but sites are not weighted by their expected batch: then a small "
            "site's patient counts for more than the noise covers; weight by the expected batch"
        )
    least = noise_share(threshold, colluders)
    if share < least:
        raise NoiseRefused(
            f"each site adds {share:.4f} of the noise, {least:.4f} is needed with threshold "
            f"{threshold} and {colluders} colluders: raise the share"
        )
