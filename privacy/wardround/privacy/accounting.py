"""What releases cost: privacy events go in, an epsilon at a delta comes out.

What was released (events) is kept apart from what it costs (the accountant), so a better
accountant can price the past again. The price is an upper bound at every step: dp-accounting's
privacy loss distributions (PLD) with pessimistic rounding, never above the Renyi bound that this
module computes by itself, rounded up to a decimal text. dp-accounting is the extra
`wardround[accounting]` and is imported only when a price is asked for; what it takes long for,
the sampled Gaussian's own distribution, comes from `sampled_gaussian`.

Sources: Sommer, Meiser, Mohammadi 2019 and Doroshenko et al. 2022 (PLD, connect the dots);
Mironov, Talwar, Zhang 2019, section 3.3 (Renyi DP of the sampled Gaussian, integer orders);
Mironov 2017, proposition 2 (groups); Canonne, Kamath, Steinke 2020, proposition 12 (Renyi to
epsilon); NIST SP 800-226 (what a claim of differential privacy must state).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from functools import cache, lru_cache
from importlib.metadata import version
from typing import Annotated, Any, Literal, Self, TypeAlias

import numpy as np

from wardround.privacy import records
from wardround.privacy.canonical import Json
from wardround.privacy.errors import AccountantMissing, AccountingError
from wardround.privacy.plan import spelled
from wardround.privacy.records import Count, Pattern, Record, Small

ESTIMATE = 1e-3
"""Width of the PLD's privacy-loss bins for estimates; a bound all the same."""
DECISION = 1e-4
"""Width of the bins where a bound at ESTIMATE would refuse."""
PLACES = Decimal("0.0001")
LEAST_NOISE = Decimal("1e-15")
MEANINGLESS = 50.0
"""From here on the Renyi bound stands alone: e^50 says nothing, and the PLD's arrays explode."""
ROUNDING = 2.0**-52
"""Probability that float64 may lose in each step of a PLD: the n-th power of an FFT errs n times
as much as the FFT. Seven times the most that was found against exact values."""

Audience: TypeAlias = Literal["everyone", "aggregate"]
"""Against whom: `everyone` may see what this site sent in clear; `aggregate` is the coordinator
with at most the plan's number of colluders, who see only a sum with other honest sites in it."""

_ORDERS = (*range(2, 64), *range(64, 129, 4), 160, 192, 256, 384, 512, 1024)


@dataclass(frozen=True, slots=True)
class PrivacyEvent(Record):
    """`steps` releases of a sum over units of one data set, each clipped and with Gaussian noise.

    `sigma` is the noise's standard deviation over the clip, `sample_rate` in (0, 1] the Poisson
    rate of each step (1 with `sampling` none: every unit takes part), both as decimal text.
    `honest` > 1 says that the noise is shared: that many honest sites with equal weights add
    noise of this sigma to the same sum, so whoever sees only the sum meets sigma * sqrt(honest).
    That holds for one noisy step a release, so `steps` is 1 then. Raises MalformedData.
    """

    kind: Annotated[str, Pattern("gaussian", "gaussian (the one mechanism accounted here)")]
    sigma: records.Decimal
    sample_rate: records.Decimal
    steps: Count
    unit: Annotated[str, Pattern("patient|image", "patient or image")]
    relation: Annotated[str, Pattern("add-remove|replace-one", "add-remove or replace-one")]
    sampling: Annotated[str, Pattern("poisson|none", "poisson or none")]
    honest: Small = 1

    def __post_init__(self) -> None:
        Record.__post_init__(self)  # super() does not find itself in a class with slots
        sigma, rate = Decimal(self.sigma), Decimal(self.sample_rate)
        if not LEAST_NOISE <= sigma < 10**6:  # less is none: its square leaves float64
            raise AccountingError(f"noise multiplier {self.sigma}: it must be in (0, 1000000)")
        if not 0 < rate <= 1 or (self.sampling == "none" and rate != 1):
            raise AccountingError(f"sample rate {self.sample_rate}: it must be in (0, 1], 1 if all")
        if self.honest < 1 or (self.honest > 1 and self.steps != 1):
            raise AccountingError("shared noise is sound only for one noisy step a release")

    @classmethod
    def gaussian(
        cls,
        sigma: Decimal | float,
        sample_rate: Decimal | float,
        steps: int,
        *,
        unit: str,
        relation: str,
        honest: int = 1,
    ) -> Self:
        """Make the event of `steps` DP-SGD steps; see the class for ranges and meaning."""
        rate = _digits(sample_rate, ROUND_CEILING)
        return cls(
            kind="gaussian",
            sigma=spelled(_digits(sigma, ROUND_FLOOR)),
            sample_rate=spelled(rate),
            steps=steps,
            unit=unit,
            relation=relation,
            sampling="none" if rate == 1 else "poisson",
            honest=honest,
        )

    def noise(self, audience: Audience) -> float:
        """The noise multiplier that `audience` meets."""
        return float(self.sigma) * (math.sqrt(self.honest) if audience == "aggregate" else 1.0)


@dataclass(frozen=True, slots=True)
class Epsilon:
    """A price, with all that NIST SP 800-226 wants said beside it.

    `value` is an upper bound, rounded up to 4 places, infinite where no bound was found;
    `ceiling` the Renyi bound; `accountant` says which of the two the value is.
    """

    value: Decimal
    delta: Decimal
    audience: Audience
    unit: str
    relation: str
    sampling: str
    accountant: str
    version: str
    interval: Decimal
    ceiling: Decimal

    @property
    def text(self) -> str:
        """The value as decimal text, `inf` where there is no bound."""
        return spelled(self.value)

    def to_json(self) -> dict[str, Json]:
        """Return the statement for log, ledger and screen; decimals are text."""
        return {
            "epsilon": spelled(self.value),
            "delta": spelled(self.delta),
            "against": self.audience,
            "unit": self.unit,
            "neighbouring_relation": self.relation,
            "sampling": self.sampling,
            "accountant": self.accountant,
            "accountant_version": self.version,
            "loss_interval": spelled(self.interval),
            "renyi_ceiling": spelled(self.ceiling),
            "bound": "upper, rounded up",
        }


def epsilon(
    events: Iterable[PrivacyEvent],
    delta: Decimal,
    *,
    interval: float = ESTIMATE,
    audience: Audience = "everyone",
) -> Epsilon:
    """Return an upper bound of the epsilon of all `events` together at `delta` in (0, 1).

    Events on different neighbouring relations are priced under the stricter, replace-one.
    Raises AccountingError when units mix or `delta` is out of range, AccountantMissing when
    dp-accounting is not installed.
    """
    check_delta(delta)
    groups, unit, relation, sampling = _merged(events, audience)
    value, accountant, ceiling = 0.0, "PLD", 0.0
    if groups:
        value, accountant, ceiling = _bound(groups, float(delta), relation, interval)
    return Epsilon(
        value=_up(value),
        delta=delta,
        audience=audience,
        unit=unit,
        relation=relation,
        sampling=sampling,
        accountant=accountant,
        version=library_version(),
        interval=Decimal(repr(interval)),
        ceiling=_up(ceiling),
    )


def within(
    events: Iterable[PrivacyEvent],
    delta: Decimal,
    limit: Decimal,
    *,
    audience: Audience = "everyone",
) -> Epsilon:
    """Return the price of `events`, computed as finely as the question "within `limit`?" needs.

    The bound at ESTIMATE is given when it says yes, since a bound that fits is an answer; only a
    no is computed again at DECISION.
    """
    events = tuple(events)
    price = epsilon(events, delta, audience=audience)
    if price.value > limit:
        price = epsilon(events, delta, interval=DECISION, audience=audience)
    return price


def renyi_ceiling(
    events: Iterable[PrivacyEvent], delta: Decimal, *, audience: Audience = "everyone"
) -> Decimal:
    """Return the Renyi bound alone: quick, needs no library, never below the price."""
    check_delta(delta)
    groups, _, relation, _ = _merged(events, audience)
    return _up(_renyi(groups, float(delta), relation)) if groups else Decimal(0)


def check_delta(delta: Decimal) -> None:
    """Raise AccountingError unless `delta` is in (0, 1), and large enough for float64."""
    if not delta.is_finite() or not 0 < float(delta) < 1:
        raise AccountingError(f"delta {delta}: it must be between 0 and 1, such as 1e-5")


def library_version() -> str:
    """Name and version of the accountant; AccountantMissing when it is not installed."""
    _library()
    return _library_version()


@cache
def _library_version() -> str:
    return f"dp-accounting {version('dp-accounting')}"


_Group: TypeAlias = tuple[float, float, int]  # noise multiplier, sample rate, steps


@lru_cache(maxsize=1024)  # a ledger prices the same sums before, in and after each of its entries
def _bound(
    groups: tuple[_Group, ...], delta: float, relation: str, interval: float
) -> tuple[float, str, float]:
    """The lower of the two upper bounds, which of them it is, and the Renyi bound."""
    ceiling = _renyi(groups, delta, relation)
    # What rounding may hide is taken off delta. Where nothing is left, the Renyi bound stands.
    surely = delta - ROUNDING * sum(1 if rate == 1 else steps for _, rate, steps in groups)
    if ceiling < MEANINGLESS and surely > 0:
        pld = _distribution(groups, relation, interval).get_epsilon_for_delta(surely)
        if pld <= ceiling:
            return float(pld), "PLD", ceiling
    return ceiling, "RDP", ceiling


def _merged(
    events: Iterable[PrivacyEvent], audience: Audience
) -> tuple[tuple[_Group, ...], str, str, str]:
    """Add up equal steps, in order of first appearance, so a growing run keeps its past priced."""
    steps: dict[tuple[float, float], int] = {}
    units, relations, samplings = set(), set(), set()
    for event in events:
        units.add(event.unit)
        relations.add(event.relation)
        samplings.add(event.sampling)
        key = (event.noise(audience), float(event.sample_rate))
        steps[key] = steps.get(key, 0) + event.steps
    if len(units) > 1:
        raise AccountingError(
            "patients and images cannot be added up in one account; keep one unit a data set"
        )
    relation = "replace-one" if "replace-one" in relations else "add-remove"
    groups = tuple((*key, count) for key, count in steps.items() if count)
    return groups, "".join(units), relation, "+".join(sorted(samplings))


@lru_cache(maxsize=32)
def _composed(groups: tuple[_Group, ...], relation: str, interval: float) -> Any:
    """Compose by halves of a power of two: the past's part stays cached while groups are added."""
    half = 1 << ((len(groups) - 1).bit_length() - 1)
    left, right = groups[:half], groups[half:]
    return _distribution(left, relation, interval).compose(_distribution(right, relation, interval))


def _distribution(groups: tuple[_Group, ...], relation: str, interval: float) -> Any:
    if len(groups) > 1:
        return _composed(groups, relation, interval)
    sigma, rate, steps = groups[0]
    if rate == 1.0:  # steps of an unsampled Gaussian are one with less noise
        return _single(sigma / math.sqrt(steps), rate, relation, interval)
    if relation == "replace-one":
        return _single(sigma, rate, relation, interval).self_compose(steps)
    _library()
    from wardround.privacy import sampled_gaussian

    return sampled_gaussian.distribution(sigma, rate, steps, interval)


@lru_cache(maxsize=4)
def _single(sigma: float, rate: float, relation: str, interval: float) -> Any:
    library = _library()
    neighbours = library.NeighborRel
    return library.from_gaussian_mechanism(
        sigma,
        sampling_prob=rate,
        value_discretization_interval=interval,
        neighboring_relation=(
            neighbours.REPLACE_ONE if relation == "replace-one" else neighbours.ADD_OR_REMOVE_ONE
        ),
    )


def _library() -> Any:
    try:
        from dp_accounting.pld import privacy_loss_distribution
    except ImportError:
        raise AccountantMissing(
            "no privacy accountant is installed; run: pip install 'wardround[accounting]'"
        ) from None
    return privacy_loss_distribution


def _renyi(groups: tuple[_Group, ...], delta: float, relation: str) -> float:
    """The Renyi bound, by this module alone: a second opinion that needs no library."""
    orders = np.array(_ORDERS, dtype=np.float64)
    total = np.zeros_like(orders)
    for sigma, rate, steps in groups:
        total += steps * _sampled_gaussian(sigma, rate)
    if relation == "replace-one":
        # A replacement is a removal and an addition: D_a <= 3 D_2a (Mironov 2017, prop. 2, c = 1).
        keep = orders >= 4
        orders, total = orders[keep] / 2, 3 * total[keep]
    with np.errstate(over="ignore", invalid="ignore"):
        bounds = total + np.log1p(-1 / orders) - (math.log(delta) + np.log(orders)) / (orders - 1)
    return max(0.0, float(np.min(bounds)))


@lru_cache(maxsize=256)
def _sampled_gaussian(sigma: float, rate: float) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """Renyi divergence of one step at each of _ORDERS (Mironov, Talwar, Zhang 2019, eq. 3)."""
    if rate == 1.0:
        return np.array([order / (2 * sigma**2) for order in _ORDERS])
    result = []
    for order in _ORDERS:
        k = np.arange(order + 1)
        factorials = np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, order + 1)))))
        terms = (
            factorials[order] - factorials - factorials[::-1]
            + (order - k) * math.log1p(-rate) + k * math.log(rate)
            + (k * k - k) / (2 * sigma**2)
        )  # fmt: skip
        result.append(float(np.logaddexp.reduce(terms)) / (order - 1))
    return np.array(result)


def _digits(number: Decimal | float, rounding: str) -> Decimal:
    """A number fit for an event: 15 decimals, less noise and more sampling where it is cut."""
    exact = number if isinstance(number, Decimal) else Decimal(repr(float(number)))
    if not exact.is_finite() or abs(exact) >= 10**6:
        raise AccountingError(f"{number} is no noise multiplier or sample rate")
    return exact.quantize(Decimal("1e-15"), rounding=rounding)


def _up(number: float) -> Decimal:
    if not number < 1e12:  # also what is not a number: no bound
        return Decimal("Infinity")
    return Decimal(number).quantize(PLACES, rounding=ROUND_CEILING)
