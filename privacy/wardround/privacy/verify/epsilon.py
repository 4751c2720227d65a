"""`--recompute-epsilon`: the price of the logged privacy events, computed once more.

The log need not hold everything a data set has spent (a site may serve another coordinator), so
what is logged here is a lower bound: a site that states less than that understates.
"""

from collections import defaultdict
from dataclasses import dataclass
from decimal import Decimal

from wardround.privacy.accounting import DECISION, PrivacyEvent, epsilon
from wardround.privacy.errors import AccountantMissing, PrivacyError
from wardround.privacy.events import Mechanism, PrivacySpend
from wardround.privacy.verify.findings import Findings

ROUNDING = Decimal("0.0001")
MAX_STEPS, MAX_KINDS = 10**6, 64
"""So many noisy steps of one data set, of so many kinds, are priced in seconds; a colluding site
could state more than any machine gets through."""


@dataclass(slots=True)
class Recompute:
    """Prices the spends of a log, in their order."""

    findings: Findings

    def all(self, spends: list[tuple[int, str, PrivacySpend]]) -> tuple[tuple[int, str], ...]:
        """Return entry and epsilon of each that was computed again.

        Without the accountant nothing is, and a finding says what to install.
        """
        done: list[tuple[int, str]] = []
        events: dict[tuple[str, str], list[PrivacyEvent]] = defaultdict(list)
        for entry, site, spend in spends:
            past = events[site, spend.dataset]
            try:
                past += [_event(one) for one in spend.mechanisms]
                if excess := _excess(past):
                    expected = f"{MAX_STEPS} steps of {MAX_KINDS} kinds at most"
                    self.findings.add("epsilon", entry, expected, excess, breaks=False)
                    continue
                price = self._price(past, Decimal(spend.delta), Decimal(spend.epsilon_after))
            except AccountantMissing as error:
                self.findings.add("epsilon", None, "an accountant", str(error), breaks=False)
                return ()
            except PrivacyError as error:
                self.findings.add("epsilon", entry, "events that can be priced", str(error))
                continue
            done.append((entry, f"{price}"))
            if Decimal(spend.epsilon_after) + ROUNDING < price:
                self.findings.add(
                    "epsilon",
                    entry,
                    f"at least {price} for data set {spend.dataset} of {site}",
                    spend.epsilon_after,
                )
        return tuple(done)

    def _price(self, events: list[PrivacyEvent], delta: Decimal, said: Decimal) -> Decimal:
        """Price finely only where the quick bound is above what the site says."""
        price = epsilon(events, delta).value
        if said + ROUNDING < price:
            price = min(price, epsilon(events, delta, interval=DECISION).value)
        return price


def _excess(events: list[PrivacyEvent]) -> str:
    """Return how much there is to price where that is too much, else nothing."""
    steps = sum(event.steps for event in events)
    kinds = len({(event.sigma, event.sample_rate) for event in events})
    return f"{steps} steps of {kinds} kinds" if steps > MAX_STEPS or kinds > MAX_KINDS else ""


def _event(one: Mechanism) -> PrivacyEvent:
    return PrivacyEvent(
        kind=one.kind,
        sigma=one.noise_multiplier,
        sample_rate=one.sample_rate,
        steps=one.steps,
        unit=one.unit,
        relation=one.relation,
        sampling=one.sampling,
    )
