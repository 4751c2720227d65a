"""Random bits, the grid, and the shape of the noise."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from wardround.client.errors import NoiseRefused, Refused
from wardround.client.training import noise, randomness
from wardround.client.training.noise import Grid, noise_std, release, standard_normal
from wardround.client.training.randomness import SecureBits
from wardround.client.training.sampling import choose, poisson_sample
from wardround.client.training.settings import TrainingSettings
from wardround.client.training.shared_noise import check_shared_noise, noise_share


class Fixed:
    """Hands out given words."""

    def __init__(self, *words: int) -> None:
        self._words = np.array(words, dtype=np.uint64)

    def words(self, count: int) -> np.ndarray:
        return np.resize(self._words, count)


class Seeded:
    """Reproducible bits, for statistics in tests only."""

    def __init__(self) -> None:
        self._generator = np.random.default_rng(3)

    def words(self, count: int) -> np.ndarray:
        return self._generator.integers(0, 2**64, count, dtype=np.uint64)


def test_streams_differ_and_are_balanced() -> None:
    first, second = SecureBits().words(4096), SecureBits().words(4096)
    assert not np.array_equal(first, second)
    assert len({*first, *second}) == 8192
    ones = int(np.unpackbits(first.view(np.uint8)).sum())
    # 2^18 fair bits: 8 standard deviations, one failure in 10^15.
    assert abs(ones - 2**17) < 8 * 256


def test_the_words_are_the_key_stream_of_aes_256(monkeypatch: pytest.MonkeyPatch) -> None:
    """NIST SP 800-38A, F.5.5: key, first counter, and the output blocks 1 and 2."""
    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    counter = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
    stream = "0bdf7df1591716335e9a8b15c860c502" + "5a6e699d536119065433863c8f657b94"
    system = {len(key): key, len(counter): counter}
    monkeypatch.setattr(randomness.os, "urandom", lambda size: system[size])
    bits = SecureBits()
    assert bits.words(2).tobytes() + bits.words(2).tobytes() == bytes.fromhex(stream)


def test_box_muller_has_known_values() -> None:
    # Radius word 2^63 - 1 is u = 1/2, angle word 0: sqrt(2 ln 2) * (cos 0, sin 0).
    pair = standard_normal(Fixed(2**63 - 1, 0), 2)
    torch.testing.assert_close(pair, torch.tensor([math.sqrt(2 * math.log(2)), 0.0]).double())
    farthest = standard_normal(Fixed(0, 0), 2)[0]
    assert float(farthest) == pytest.approx(math.sqrt(2 * 64 * math.log(2)))
    assert float(standard_normal(Fixed(2**64 - 1, 0), 2).abs().max()) == 0.0


def test_the_noise_is_standard_normal() -> None:
    values = standard_normal(Seeded(), 200_001).numpy()
    assert values.shape == (200_001,)
    assert stats.kstest(values, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(values[:100_000], values[100_000:-1])[0, 1]) < 0.015


@given(st.floats(1e-6, 1e3), st.integers(1, 10**9))
def test_the_sensitivity_is_corrected_for_the_grid(clip: float, dimension: int) -> None:
    grid = Grid.of(clip, dimension)
    assert grid.step == clip * 2.0**-24
    assert grid.sensitivity == pytest.approx(clip + grid.step * math.sqrt(dimension))
    assert noise_std(clip, 2.0, dimension) == 2 * grid.sensitivity


def test_the_noise_of_a_release_is_scaled_by_the_corrected_sensitivity() -> None:
    clip, sigma, dimension = 0.5, 3.0, 10_000
    total = torch.zeros(dimension, dtype=torch.float64)
    release(total, clip, sigma, Fixed(2**63 - 1))  # a radius of sqrt(2 ln 2), an angle of pi
    steps = math.sqrt(2 * math.log(2)) * sigma * (2**24 + math.sqrt(dimension))
    assert float(total[0]) / (clip * 2.0**-24) == -round(steps)


def test_every_piece_of_a_release_has_noise_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "_CHUNK", 8)
    total = torch.zeros(8 * 500 + 3, dtype=torch.float64)
    release(total, 1.0, 1.0, Seeded())
    assert len(total.unique()) == total.numel()
    pieces = total[:4000].reshape(500, 8)
    off = np.corrcoef(pieces.T) - np.eye(8)
    assert np.abs(off).max() < 4.5 / math.sqrt(500)
    assert abs(float(total.std()) - 1) < 4 / math.sqrt(2 * total.numel())


def test_a_release_lies_on_the_grid_and_forgets_the_low_bits() -> None:
    clip = 0.5
    total = torch.randn(1000, dtype=torch.float64)
    moved = total + Grid.of(clip, 1000).step * 1e-3
    kept = total.clone()
    release(total, clip, 1.0, Fixed(12345678901234567890, 987654321))
    release(moved, clip, 1.0, Fixed(12345678901234567890, 987654321))
    points = total / Grid.of(clip, 1000).step
    assert torch.equal(points.round(), points)
    # A difference below the grid shows in about one coordinate of a thousand, not in all.
    assert int((total != moved).sum()) < 10
    assert float((total - kept).abs().max()) > 0.1


def test_rounding_moves_a_neighbour_by_no_more_than_the_correction() -> None:
    grid = Grid.of(1.0, 5000)
    first = torch.rand(5000, dtype=torch.float64)
    change = torch.randn(5000, dtype=torch.float64)
    second = first + change / change.norm()
    moved = ((first / grid.step).round() - (second / grid.step).round()) * grid.step
    assert 0.999 < float(moved.norm()) <= grid.sensitivity


def test_sampling_rates_are_never_exceeded() -> None:
    assert poisson_sample(Fixed(2**62), 3, 0.25).tolist() == []
    assert poisson_sample(Fixed(2**62 - 1), 3, 0.25).tolist() == [0, 1, 2]
    assert poisson_sample(Fixed(2**64 - 1), 4, 1.0).tolist() == [0, 1, 2, 3]
    assert poisson_sample(Seeded(), 0, 0.5).tolist() == []
    for rate in (0.0, -1.0, 1.1):
        with pytest.raises(ValueError, match="sampling rate"):
            poisson_sample(Seeded(), 3, rate)


def test_units_are_drawn_independently_of_each_other() -> None:
    bits = Seeded()
    drawn = np.zeros((2000, 6))
    for row in drawn:
        row[poisson_sample(bits, 6, 0.3)] = 1
    assert np.allclose(drawn.mean(0), 0.3, atol=4 * math.sqrt(0.21 / 2000))
    off = np.corrcoef(drawn.T) - np.eye(6)
    assert np.abs(off).max() < 4.5 / math.sqrt(2000)


def test_images_of_a_patient_are_chosen_evenly() -> None:
    bits, items = Seeded(), np.arange(10, 15)
    assert choose(bits, items, 5) is items
    seen = np.zeros(5)
    for _ in range(2000):
        chosen = choose(bits, items, 2)
        assert len(chosen) == 2
        assert chosen[0] < chosen[1]
        seen[chosen - 10] += 1
    assert np.allclose(seen / 2000, 0.4, atol=4 * math.sqrt(0.24 / 2000))


def test_shared_noise_counts_the_honest_survivors_only() -> None:
    assert noise_share(5, 1) == 0.5
    with pytest.raises(NoiseRefused, match="at least 2"):
        noise_share(3, 2)


SHARED = TrainingSettings(
    clip=1.0, sigma=4.0, sample_rate=0.5, steps=1, noise_share=0.5, mode="one_step"
)
# The largest sum of 200 patients is 200, noise of 2 reaches 19: (200 + 19) / 100.
SOUND = {"units": 200, "expected": 100, "update_clip": 2.19, "max_weight": 1000}


def summed(other: float, update_clip: float) -> np.ndarray:
    """What four sites' sums show of a coordinate in which three of them have the gradient `other`.

    Each adds its part of the noise and cuts its mean to `update_clip`.
    """
    bits, parts = Seeded(), []
    for gradient in (0.0, other, other, other):
        noise = SHARED.sigma * SHARED.noise_share * standard_normal(bits, 40_000).numpy()
        mean = (gradient + noise) / SOUND["expected"]
        parts.append(np.clip(mean, -update_clip, update_clip) * SOUND["expected"])
    return np.sum(parts, axis=0)


def test_attack_other_sites_at_the_clip_take_their_noise_with_them() -> None:
    """An `update_clip` that cuts leaves a patient one site's part of the noise alone."""
    check_shared_noise(SHARED, largest_value=2**31 // 4, **SOUND)
    error = 4 / math.sqrt(2 * 40_000)
    for other in (0.0, 200.0):
        assert abs(summed(other, SOUND["update_clip"]).std() / SHARED.sigma - 1) < error
    assert abs(summed(200.0, 0.5).std() / (SHARED.sigma * SHARED.noise_share) - 1) < error


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"update_clip": 2.18}, "may cut this site's update"),
        ({"units": 202}, "may cut this site's update"),
        ({"max_weight": 99}, "raise it"),
        ({"max_weight": 10**7, "largest_value": 2**15 // 4}, "round this site's part"),
        ({"largest_value": 2**12}, "round this site's part"),
    ],
)
def test_shared_noise_that_would_not_add_up_is_refused(change: dict[str, int], match: str) -> None:
    with pytest.raises(Refused, match=match):
        check_shared_noise(SHARED, **({"largest_value": 2**31 // 4} | SOUND | change))
