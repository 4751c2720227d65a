"""Prices of privacy events: closed forms, published figures, other accountants, rules."""

import math
import subprocess
import sys
import warnings
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.privacy import accounting, canonical
from wardround.privacy.accounting import (
    DECISION,
    ESTIMATE,
    PrivacyEvent,
    epsilon,
    renyi_ceiling,
    within,
)
from wardround.privacy.errors import AccountantMissing, AccountingError, MalformedData

DELTA = Decimal("1e-5")


def event(
    sigma: float,
    rate: float = 1.0,
    steps: int = 1,
    *,
    unit: str = "patient",
    relation: str = "add-remove",
    honest: int = 1,
) -> PrivacyEvent:
    return PrivacyEvent.gaussian(sigma, rate, steps, unit=unit, relation=relation, honest=honest)


def gaussian_epsilon(sigma: float, sensitivity: float = 1.0, delta: float = 1e-5) -> float:
    """The exact epsilon of one Gaussian release (Balle and Wang 2018, theorem 8)."""
    mu = sensitivity / sigma

    def phi(x: float) -> float:
        return math.erfc(-x / math.sqrt(2)) / 2  # exact far out in the tail, unlike 1 + erf

    def spent(eps: float) -> float:
        return phi(mu / 2 - eps / mu) - math.exp(eps) * phi(-mu / 2 - eps / mu)

    low, high = 0.0, 100.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if spent(middle) > delta else (low, middle)
    return high


# -- closed forms ---------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.7, 1.0, 3.0, 10.0])
@pytest.mark.parametrize("steps", [1, 7, 100])
def test_unsampled_steps_are_the_analytic_gaussian(sigma: float, steps: int) -> None:
    exact = gaussian_epsilon(sigma / math.sqrt(steps))
    price = epsilon([event(sigma, steps=steps)], DELTA)
    if price.accountant == "PLD":
        assert exact <= price.value <= exact + 1e-3
    else:
        assert exact <= price.value == price.ceiling
    assert exact <= price.ceiling


@pytest.mark.parametrize("delta", [1e-11, 1e-12, 1e-13])
@pytest.mark.parametrize(
    ("mu", "steps", "interval"),
    [(1, 100_000, DECISION), (3, 1000, DECISION), (4, 100, DECISION), (4, 10_000, ESTIMATE)],
)
def test_rounding_takes_nothing_off_the_price_at_a_small_delta(
    mu: int, steps: int, interval: float, delta: float
) -> None:
    # Sampled at almost 1, so that the steps are composed by FFT, and the exact price is known.
    rate = Decimal(1) - Decimal("1e-15")
    many = PrivacyEvent.gaussian(
        math.sqrt(steps) / mu, rate, steps, unit="patient", relation="add-remove"
    )
    price = epsilon([many], Decimal(repr(delta)), interval=interval)
    assert price.value >= gaussian_epsilon(1 / mu, delta=delta)


@pytest.mark.parametrize("sigma", [2.0, 5.0])
def test_replacing_one_is_twice_the_sensitivity(sigma: float) -> None:
    exact = gaussian_epsilon(sigma, sensitivity=2.0)
    price = epsilon([event(sigma, relation="replace-one")], DELTA)
    assert exact <= price.value <= exact + 1e-3
    assert exact <= price.ceiling


def test_different_noise_composes_in_quadrature() -> None:
    exact = gaussian_epsilon(1 / math.sqrt(1 / 3**2 + 2 / 4**2))
    assert exact <= epsilon([event(3.0), event(4.0, steps=2)], DELTA).value <= exact + 1e-3


def test_renyi_of_the_unsampled_gaussian_is_linear_in_the_order() -> None:
    # Mironov 2017, proposition 7; and the sampled form goes there as the rate goes to 1.
    orders = np.array(accounting._ORDERS)
    assert np.allclose(accounting._sampled_gaussian(2.0, 1.0), orders / 8)
    assert np.allclose(accounting._sampled_gaussian(2.0, 1 - 1e-12), orders / 8, rtol=1e-6)


def test_nothing_costs_nothing() -> None:
    price = epsilon([], DELTA)
    assert (price.value, price.unit, price.text) == (0, "", "0")
    assert epsilon([event(1.0, 0.1, 0)], DELTA).value == 0


# -- the literature -------------------------------------------------------------------------------


def moments(sigma: float, rate: float, steps: int) -> float:
    """Epsilon as published before 2020: Renyi with the conversion of Mironov 2017, prop. 3."""
    orders = np.array(accounting._ORDERS, dtype=float)
    divergence = steps * accounting._sampled_gaussian(sigma, rate)
    return float(np.min(divergence + math.log(1e5) / (orders - 1)))


@pytest.mark.parametrize(
    ("published", "sigma", "rate", "steps"),
    [
        # Abadi et al. 2016, section 5.1: q = 0.01, sigma = 4, T = 10,000.
        pytest.param(1.26, 4.0, 0.01, 10_000, id="moments-accountant"),
        # TensorFlow Privacy's MNIST tutorial: batch 256 of 60,000, 15 and 60 epochs.
        pytest.param(1.19, 1.3, 256 / 60_000, 3_515, id="mnist-15-epochs"),
        pytest.param(3.01, 1.1, 256 / 60_000, 14_062, id="mnist-60-epochs"),
    ],
)
def test_published_epsilons(published: float, sigma: float, rate: float, steps: int) -> None:
    assert moments(sigma, rate, steps) == pytest.approx(published, abs=0.0051)
    price = epsilon([event(sigma, rate, steps)], DELTA)
    assert 0.7 * published < price.value < price.ceiling < published


def test_the_figures_of_the_design() -> None:
    # n = 2000, batch 64, sigma 1, 50 epochs: PLD 8.41; replace-one 1.5 to 2.5 times larger.
    run = (1.0, 0.032, 1563)
    price = epsilon([event(*run)], DELTA)
    assert price.value == pytest.approx(Decimal("8.41"), abs=Decimal("0.01"))
    assert price.ceiling == pytest.approx(Decimal("9.2"), abs=Decimal("0.1"))
    replaced = epsilon([event(*run, relation="replace-one")], DELTA)
    assert Decimal("1.5") < replaced.value / price.value < Decimal("2.5")
    assert replaced.value < replaced.ceiling


# -- other accountants ----------------------------------------------------------------------------

RUNS = [(1.0, 0.032, 1563), (5.0, 0.5, 100), (2.0, 0.1, 50), (8.0, 0.25, 400)]


@pytest.mark.parametrize(("sigma", "rate", "steps"), RUNS)
def test_opacus_agrees(sigma: float, rate: float, steps: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from opacus.accountants import GaussianAccountant, PRVAccountant, RDPAccountant

        figures = {}
        for kind in (RDPAccountant, PRVAccountant, GaussianAccountant):
            accountant = kind()
            accountant.history = [(sigma, rate, steps)]
            figures[kind] = accountant.get_epsilon(delta=1e-5)
    price = epsilon([event(sigma, rate, steps)], DELTA, interval=DECISION)
    value = float(price.value)
    assert value < figures[RDPAccountant] <= float(price.ceiling) * 1.0001
    assert float(price.ceiling) < 1.02 * figures[RDPAccountant]
    assert value == pytest.approx(figures[PRVAccountant], rel=0.01)
    # Why the Gaussian-DP accountant is not offered: it is no upper bound.
    assert figures[GaussianAccountant] < value


def test_opacus_prv_agrees_on_a_small_epsilon() -> None:
    # PRV adds its own error bound of 0.01 to every answer: a twentieth of this one.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from opacus.accountants import PRVAccountant

        accountant = PRVAccountant()
        accountant.history = [(8.0, 0.1, 20)]
        reference = accountant.get_epsilon(delta=1e-5, eps_error=1e-3)
    price = epsilon([event(8.0, 0.1, 20)], DELTA, interval=DECISION)
    assert float(price.value) == pytest.approx(reference, rel=0.01)


def test_mixed_runs_agree_with_opacus_prv() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from opacus.accountants import PRVAccountant

        accountant = PRVAccountant()
        accountant.history = [(2.0, 0.1, 50), (1.5, 0.02, 300), (6.0, 0.5, 40)]
        reference = accountant.get_epsilon(delta=1e-5)
    price = epsilon([event(*run) for run in accountant.history], DELTA)
    assert float(price.value) == pytest.approx(reference, rel=0.01)


# -- always an upper bound ------------------------------------------------------------------------

sigmas = st.floats(0.8, 20)
rates = st.sampled_from([0.01, 0.1, 0.25, 0.5, 1.0])
events = st.builds(event, sigmas, rates, st.integers(1, 60))


@settings(max_examples=25)
@given(st.lists(events, min_size=1, max_size=3), events)
def test_a_release_more_never_costs_less(past: list[PrivacyEvent], more: PrivacyEvent) -> None:
    before, after = epsilon(past, DELTA), epsilon([*past, more], DELTA)
    assert before.value <= after.value + Decimal("0.002")
    assert after.value <= after.ceiling
    assert after.value >= after.value.quantize(accounting.PLACES) or after.accountant == "RDP"


@settings(max_examples=15)
@given(sigmas, rates, st.integers(1, 60))
def test_replacing_costs_at_least_as_much(sigma: float, rate: float, steps: int) -> None:
    one = epsilon([event(sigma, rate, steps)], DELTA)
    other = epsilon([event(sigma, rate, steps, relation="replace-one")], DELTA)
    assert one.value <= other.value + Decimal("0.001")


@settings(max_examples=15)
@given(sigmas, rates, st.integers(2, 60))
def test_rounds_and_runs_are_priced_the_same(sigma: float, rate: float, steps: int) -> None:
    whole = epsilon([event(sigma, rate, steps)], DELTA)
    parts = epsilon([event(sigma, rate, 1), event(sigma, rate, steps - 1)], DELTA)
    assert whole.value == parts.value


def test_finer_bins_are_tighter_and_a_no_is_always_asked_again_finely() -> None:
    run = [event(4.0, 0.01, 10_000)]
    coarse, fine = epsilon(run, DELTA), epsilon(run, DELTA, interval=DECISION)
    assert fine.value < coarse.value
    between = (fine.value + coarse.value) / 2
    assert within(run, DELTA, between).value == fine.value
    assert within(run, DELTA, coarse.value).value == coarse.value
    assert within(run, DELTA, fine.value - Decimal("0.01")).value == fine.value


def test_mixed_relations_are_priced_as_the_stricter() -> None:
    mixed = [event(5.0, 0.1, 10), event(5.0, 0.1, 10, relation="replace-one")]
    strict = [event(5.0, 0.1, 20, relation="replace-one")]
    assert epsilon(mixed, DELTA).value == epsilon(strict, DELTA).value
    assert epsilon(mixed, DELTA).relation == "replace-one"


def test_noise_that_hides_nothing_is_priced_without_exploding() -> None:
    price = epsilon([event(0.01, 0.5, 1000)], DELTA)
    assert price.accountant == "RDP"
    assert price.value > 1000
    assert epsilon([event(0.01, 0.5, 1000, relation="replace-one")], DELTA).value > 1000
    assert epsilon([event(1e-15, 0.5, 10**9)], DELTA).text == "inf"


# -- noise shared between sites -------------------------------------------------------------------


def test_shared_noise_has_two_prices() -> None:
    shared = [event(2.0, 0.5, honest=4)] * 10
    own = epsilon(shared, DELTA)
    seen = epsilon(shared, DELTA, audience="aggregate")
    assert own.value == epsilon([event(2.0, 0.5, 10)], DELTA).value
    assert seen.value == epsilon([event(4.0, 0.5, 10)], DELTA).value
    assert seen.value < own.value


def test_shared_noise_over_more_than_one_step_is_refused() -> None:
    with pytest.raises(AccountingError, match="one noisy step"):
        event(2.0, 0.5, 2, honest=4)


# -- what cannot be priced ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sigma", "rate"), [(0.0, 0.1), (-1.0, 0.1), (math.nan, 0.1), (1e6, 0.1), (1, 0), (1, 1.1)]
)
def test_impossible_numbers_are_refused(sigma: float, rate: float) -> None:
    with pytest.raises((AccountingError, MalformedData)):
        event(sigma, rate)


def test_patients_and_images_do_not_mix() -> None:
    with pytest.raises(AccountingError, match="patients and images"):
        epsilon([event(1.0), event(1.0, unit="image")], DELTA)


@pytest.mark.parametrize("delta", ["0", "1", "-1e-5", "2"])
def test_a_delta_out_of_range_is_refused(delta: str) -> None:
    with pytest.raises(AccountingError, match="delta"):
        epsilon([event(1.0)], Decimal(delta))


def test_events_survive_the_log_byte_for_byte() -> None:
    one = event(1.1, 1 / 3, 7, honest=1)
    data = canonical.dumps(one.to_json())
    assert PrivacyEvent.from_json(canonical.loads(data)) == one
    with pytest.raises(MalformedData):
        PrivacyEvent.from_json({**one.to_json(), "kind": "laplace"})


def test_cut_digits_never_make_an_event_cheaper() -> None:
    one = event(1 / 3, 1 / 3, 1)
    assert float(one.sigma) <= 1 / 3
    assert Decimal(one.sample_rate) >= Decimal(1) / 3


def test_a_price_states_what_nist_sp_800_226_asks_for() -> None:
    said = epsilon([event(1.0, 0.1, 10)], DELTA).to_json()
    assert canonical.loads(canonical.dumps(said)) == said
    assert said["unit"] == "patient"
    assert said["neighbouring_relation"] == "add-remove"
    assert said["sampling"] == "poisson"
    assert said["delta"] == "0.00001"
    assert said["accountant"] == "PLD"
    assert str(said["accountant_version"]).startswith("dp-accounting 0.")


# -- without the extra ----------------------------------------------------------------------------


def test_the_accountant_is_imported_only_for_a_price() -> None:
    script = (
        "import sys, wardround.privacy.accounting, wardround.privacy.budget;"
        "print(any(name.split('.')[0] in ('dp_accounting', 'scipy') for name in sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_a_missing_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dp_accounting.pld", None)
    with pytest.raises(AccountantMissing, match=r"pip install 'wardround\[accounting\]'"):
        epsilon([event(17.0)], DELTA)
    assert renyi_ceiling([event(17.0)], DELTA) > 0
