"""What a plan would cost, before anyone agrees to it; and what to plan for a given budget."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal

from wardround.privacy.accounting import (
    Audience,
    Epsilon,
    PrivacyEvent,
    epsilon,
    renyi_ceiling,
)
from wardround.privacy.budget import Account
from wardround.privacy.canonical import Json
from wardround.privacy.errors import AccountingError
from wardround.privacy.plan import MAX_EPSILON, StudyPlan


@dataclass(frozen=True, slots=True)
class PlannedSpend:
    """The part of a study plan that costs privacy: so many rounds of so many noisy steps.

    `sigma` is the noise multiplier each site adds, `honest` the number of honest survivors whose
    noise shares a sum (1: every site adds all of it). Ranges are those of `PrivacyEvent`.
    """

    study: str
    rounds: int
    steps_per_round: int
    sigma: Decimal
    sample_rate: Decimal
    unit: str
    relation: str
    delta: Decimal
    honest: int = 1

    @classmethod
    def of_plan(cls, plan: StudyPlan) -> "PlannedSpend":
        """Read the cost of `plan`. With shared noise each site adds sigma / sqrt(h), h = t - c."""
        privacy, sums = plan.privacy, plan.secure_aggregation
        honest = sums.threshold - sums.colluders if privacy.shared_noise else 1
        return cls(
            study=plan.study.id,
            rounds=plan.training.rounds,
            steps_per_round=plan.steps_per_round,
            sigma=site_sigma(privacy.noise_multiplier, honest),
            sample_rate=privacy.sample_rate,
            unit=privacy.unit,
            relation=privacy.relation,
            delta=privacy.delta,
            honest=honest,
        )

    def events_per_round(self) -> tuple[PrivacyEvent, ...]:
        """What one round releases."""
        event = PrivacyEvent.gaussian(
            self.sigma,
            self.sample_rate,
            self.steps_per_round,
            unit=self.unit,
            relation=self.relation,
            honest=self.honest,
        )
        return (event,)

    def events(self) -> tuple[PrivacyEvent, ...]:
        """What the whole plan releases."""
        return self.events_per_round() * self.rounds

    def cost(self, audience: Audience = "everyone") -> Epsilon:
        """The price of the whole plan on a data set that has spent nothing yet."""
        return epsilon(self.events(), self.delta, audience=audience)

    def promised(self) -> Epsilon:
        """The price that a plan's target epsilon bounds.

        Against everyone; where noise is shared, against those whom sharing protects from: the
        coordinator with at most the plan's colluders, who see only the sum.
        """
        return self.cost("aggregate" if self.honest > 1 else "everyone")


def site_sigma(sigma: Decimal, honest: int) -> Decimal:
    """The noise multiplier of one site where `honest` of them must make `sigma` together.

    Rounded down, so that no more noise is accounted than a site adds.
    """
    if honest < 1:
        raise AccountingError("noise can be shared only by more sites than may collude")
    if honest == 1:
        return sigma
    return (sigma / Decimal(honest).sqrt()).quantize(Decimal("1e-12"), rounding=ROUND_FLOOR)


@dataclass(frozen=True, slots=True)
class Forecast:
    """What `planned` rounds would do to each budget of `dataset`; `rounds` are affordable.

    `cost` is the plan's price by itself, at the delta of the data set's budget.
    """

    dataset: str
    planned: int
    cost: Epsilon
    accounts: tuple[Account, ...]
    rounds: int

    @property
    def fits(self) -> bool:
        """Whether there is a budget and all of them bear the plan."""
        return bool(self.accounts) and all(account.fits for account in self.accounts)

    @property
    def sentence(self) -> str:
        """One line for a person, of the budget that is nearest its end."""
        if not self.accounts:
            return f"Data set {self.dataset} has no privacy budget: the plan would be refused."
        tight = min(self.accounts, key=lambda account: account.left - account.cost)
        study = f" for study {tight.budget.study}" if tight.budget.study else ""
        left = f"{tight.left:.2f} left of {tight.budget.epsilon}{study} on {self.dataset}"
        if self.fits:
            return f"This plan costs {tight.cost:.2f} of the {left}."
        return (
            f"This plan costs {tight.cost:.2f}, more than the {left}: "
            f"{self.rounds} of its {self.planned} rounds are affordable."
        )

    def to_json(self) -> dict[str, Json]:
        """Return the canonical-JSON form, decimals as text."""
        return {
            "dataset": self.dataset,
            "fits": self.fits,
            "cost_alone": self.cost.to_json(),
            "rounds_planned": self.planned,
            "rounds_affordable": self.rounds,
            "sentence": self.sentence,
            "budgets": [
                {
                    "budget": account.budget.to_json(),
                    "spent": account.spent.text,
                    "held": account.held.text,
                    "after": account.asked.text,
                    "cost": f"{account.cost:f}",
                    "left": f"{account.left:f}",
                }
                for account in self.accounts
            ],
        }


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A way to spend `price`: `sigma` noise at `sample_rate` for `steps` steps.

    `batch` is the expected number of units a step. `step_error` is the standard error of one
    coordinate of a step's mean gradient that comes from the noise, in units of the clip: sigma /
    batch; `run_error` is that of the mean over all steps, step_error / sqrt(steps). `passes` is
    how often each unit is used.
    """

    sample_rate: Decimal
    batch: float
    steps: int
    sigma: Decimal
    price: Epsilon
    step_error: float
    run_error: float
    passes: float

    @property
    def epsilon(self) -> Decimal:
        """What it costs."""
        return self.price.value


RATES = tuple(map(Decimal, ("0.05", "0.1", "0.25", "0.5")))


def suggest(
    target: Decimal,
    delta: Decimal,
    units: int,
    *,
    unit: str = "patient",
    relation: str = "add-remove",
    steps: tuple[int, ...] = (50, 100, 200),
    rates: tuple[Decimal, ...] = RATES,
    passes: float = 50.0,
) -> tuple[Suggestion, ...]:
    """Propose ways to spend `target` epsilon at `delta` on `units` patients or images, best first.

    Best is the least error over the run among those that use each unit at most `passes` times:
    large samples and few steps, as the measurements in the design say. Raises AccountingError
    for a target that no plan may have, or that no noise up to 1,000 meets.
    """
    if not 0 < target <= MAX_EPSILON or units < 1:
        raise AccountingError(
            f"give an epsilon above 0, at most {MAX_EPSILON}, and at least one unit"
        )
    found = []
    for count in steps:
        for rate in rates:
            sigma, price = _calibrated(target, delta, rate, count, unit, relation)
            batch = float(rate) * units
            error = float(sigma) / batch
            found.append(
                Suggestion(
                    sample_rate=rate,
                    batch=batch,
                    steps=count,
                    sigma=sigma,
                    price=price,
                    step_error=error,
                    run_error=error / math.sqrt(count),
                    passes=float(rate) * count,
                )
            )
    return tuple(sorted(found, key=lambda one: (one.passes > passes, one.run_error)))


def _calibrated(
    target: Decimal, delta: Decimal, rate: Decimal, steps: int, unit: str, relation: str
) -> tuple[Decimal, Epsilon]:
    """The least sigma, in hundredths, whose price is within `target`, and that price."""

    def event(hundredths: int) -> tuple[PrivacyEvent, ...]:
        sigma = Decimal(hundredths) / 100
        return (PrivacyEvent.gaussian(sigma, rate, steps, unit=unit, relation=relation),)

    def least(low: int, high: int, price: Callable[[tuple[PrivacyEvent, ...]], Decimal]) -> int:
        while high - low > 1:  # low is too little noise, high enough
            middle = (low + high) // 2
            low, high = (low, middle) if price(event(middle)) <= target else (middle, high)
        return high

    def ceiling(events: tuple[PrivacyEvent, ...]) -> Decimal:
        return renyi_ceiling(events, delta)

    def exact(events: tuple[PrivacyEvent, ...]) -> Decimal:
        return epsilon(events, delta).value

    most = 100_000
    if ceiling(event(most)) > target:
        raise AccountingError(f"no sensible noise meets epsilon {target} at delta {delta}")
    # The Renyi bound is quick and never below the price, so its answer is noise enough.
    enough = least(10, most, ceiling)
    low = enough
    while low > 10 and exact(event(low)) <= target:
        low = max(10, low * 4 // 5)
    best = least(low, enough, exact) if low < enough else enough
    return Decimal(best) / 100, epsilon(event(best), delta)
