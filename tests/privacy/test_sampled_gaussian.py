"""The privacy loss of the sampled Gaussian: against dp-accounting's own, step by step."""

import math
from typing import Any

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution as library
from dp_accounting.pld.privacy_loss_mechanism import AdjacencyType, GaussianPrivacyLoss
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from wardround.privacy import accounting, sampled_gaussian
from wardround.privacy.sampled_gaussian import distribution

sigmas = st.floats(0.5, 30)
rates = st.one_of(st.floats(1e-6, 0.999), st.sampled_from([1e-6, 0.01, 0.5, 0.999]))


def reference(sigma: float, rate: float, steps: int, interval: float) -> Any:
    return library.from_gaussian_mechanism(
        sigma, sampling_prob=rate, value_discretization_interval=interval
    ).self_compose(steps)


@settings(max_examples=40, deadline=None)
@given(sigmas, rates)
def test_one_step_has_the_library_s_divergences(sigma: float, rate: float) -> None:
    losses = np.linspace(-2, 5, 301)
    for ours, kind in (
        (sampled_gaussian._removed, AdjacencyType.REMOVE),
        (sampled_gaussian._added, AdjacencyType.ADD),
    ):
        theirs = GaussianPrivacyLoss(sigma, sampling_prob=rate, adjacency_type=kind)
        found = np.clip(ours(losses, sigma, rate), 0, 1)
        assert np.abs(found - theirs.get_delta_for_epsilon(losses)).max() < 1e-13


@pytest.mark.parametrize(("sigma", "rate"), [(0.7, 0.01), (1.0, 0.5), (5.0, 0.25)])
@pytest.mark.parametrize("loss", [-0.2, 0.0, 0.1, 0.6])
def test_the_divergences_are_the_integral_of_the_definition(
    sigma: float, rate: float, loss: float
) -> None:
    def density(x: float) -> float:
        return math.exp(-((x / sigma) ** 2) / 2) / (sigma * math.sqrt(2 * math.pi))

    def mixture(x: float, shift: float) -> float:
        return (1 - rate) * density(x) + rate * density(x + shift)

    def gap(x: float, removed: bool) -> float:
        if removed:
            return max(0.0, mixture(x, 1) - math.exp(loss) * density(x))
        return max(0.0, density(x) - math.exp(loss) * mixture(x, -1))

    ends, points = (-9 * sigma - 1, 9 * sigma + 1), np.linspace(-3 * sigma, 3 * sigma, 31)
    for removed, ours in ((True, sampled_gaussian._removed), (False, sampled_gaussian._added)):
        exact, _ = quad(gap, *ends, args=(removed,), points=points, limit=400, epsabs=1e-12)
        assert ours(np.array([loss]), sigma, rate)[0] == pytest.approx(exact, abs=1e-9)


@pytest.mark.parametrize("rate", [0.015872679944715, 0.018820637757194, 0.022737516226723])
def test_a_grid_that_meets_the_end_of_the_losses_is_no_special_case(rate: float) -> None:
    # log(1 - rate) is a loss of the grid here, but for rounding; warnings are errors in tests.
    for ours, end in (
        (sampled_gaussian._removed, math.log1p(-rate)),
        (sampled_gaussian._added, -math.log1p(-rate)),
    ):
        near = round(end, 3) + np.arange(-3, 4) * 1e-3
        assert np.isfinite(ours(near, 3.0, rate)).all()


@settings(max_examples=25, deadline=None)
@given(sigmas, rates, st.sampled_from([1, 2, 7, 60, 1500]))
def test_many_steps_cost_what_the_library_says(sigma: float, rate: float, steps: int) -> None:
    # Beyond, no PLD is asked for; the library's overflows there.
    assume(accounting._renyi(((sigma, rate, steps),), 1e-7, "add-remove") < accounting.MEANINGLESS)
    ours, theirs = distribution(sigma, rate, steps, 1e-3), reference(sigma, rate, steps, 1e-3)
    for delta in (1e-3, 1e-5, 1e-7):
        expected = theirs.get_epsilon_for_delta(delta)
        assert ours.get_epsilon_for_delta(delta) == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_both_directions_and_other_runs_compose() -> None:
    ours = distribution(1.0, 0.05, 40, 1e-3).compose(distribution(4.0, 0.5, 3, 1e-3))
    theirs = reference(1.0, 0.05, 40, 1e-3).compose(reference(4.0, 0.5, 3, 1e-3))
    grid = [-0.5, 0.0, 0.5, 1.0, 3.0]
    assert np.allclose(ours.get_delta_for_epsilon(grid), theirs.get_delta_for_epsilon(grid))


@pytest.mark.parametrize("steps", [1, 3, 1000])
def test_no_probability_is_lost_on_the_way(steps: int) -> None:
    for one in sampled_gaussian._step(0.9, 0.02, 1e-3):
        made = sampled_gaussian._repeated(one, steps)
        assert made.mass.min() >= 0
        # Negative rounding errors count as none, so there may be a little more than all.
        assert -1e-12 < made.mass.sum() + made.lost - 1 < 1e-9 * steps


def test_what_is_cut_off_holds_no_more_than_the_tail() -> None:
    one = sampled_gaussian._step(0.9, 0.02, 1e-2)[0]
    whole = one.mass
    for _ in range(7):
        whole = np.convolve(whole, one.mass)
    first, last = sampled_gaussian._bounds(one.mass, 8)
    # Sums of the ends alone: the whole rounds by more than the tail.
    assert whole[:first].sum() + whole[last + 1 :].sum() <= sampled_gaussian.TAIL
    assert first > 0 or last < len(whole) - 1
    kept = sampled_gaussian._repeated(one, 8)
    assert kept.start == 8 * one.start + first
    assert np.abs(kept.mass - whole[first : last + 1]).max() < 1e-14
