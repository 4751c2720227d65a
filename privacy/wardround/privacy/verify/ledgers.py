"""The rules of privacy ledgers: what a site says it spent, against its past and the plan."""

from dataclasses import dataclass, field
from decimal import Decimal

from wardround.privacy.events import Mechanism, PrivacySpend
from wardround.privacy.plan import StudyPlan, spelled
from wardround.privacy.planned import PlannedSpend
from wardround.privacy.verify.findings import Findings

LEDGER_SLACK = Decimal("0.99")
"""A ledger may price its past anew with a finer accountant; lower than this it has gone back."""


@dataclass(slots=True)
class Ledgers:
    """The ledgers of all sites. `spends` are kept only when asked for: they grow with the log."""

    findings: Findings
    keep: bool = False
    spends: list[tuple[int, str, PrivacySpend]] = field(default_factory=list)
    _sequences: dict[str, int] = field(default_factory=dict)
    _spent: dict[tuple[str, str, str], Decimal] = field(default_factory=dict)

    def add(self, index: int, site: str, event: PrivacySpend) -> None:
        """Check a spend against those before."""
        before, after = Decimal(event.epsilon_before), Decimal(event.epsilon_after)
        last = self._sequences.get(site, 0)
        if event.ledger_sequence <= last:
            self.findings.add("ledger", index, f"after {last}", f"entry {event.ledger_sequence}")
        self._sequences[site] = max(last, event.ledger_sequence)
        key = site, event.dataset, event.delta
        spent = self._spent.get(key, Decimal(0))
        if before < spent * LEDGER_SLACK or after < before:
            self.findings.add(
                "ledger", index, f"epsilon from {spent} on, rising", f"{before} to {after}"
            )
        shared = event.shared_noise_epsilon
        if min(after, Decimal(shared or "inf")) > Decimal(event.budget):
            self.findings.add("ledger", index, f"at most the budget {event.budget}", f"{after}")
        self._spent[key] = max(spent, after)
        if self.keep:
            self.spends.append((index, site, event))

    def of_plan(self, index: int, plan: StudyPlan, event: PrivacySpend) -> None:
        """Check that what a site prices is what the plan has it release in a round.

        A cheaper mechanism (more noise, a smaller sample, fewer steps) would give a lower epsilon
        that is correct for a training that never took place.
        """
        planned = PlannedSpend.of_plan(plan)
        (release,) = planned.events_per_round()
        right = Mechanism(
            release.kind, release.sigma, release.sample_rate, release.steps, release.unit,
            release.relation, release.sampling,
        )  # fmt: skip
        for what, expected, said in (
            ("study", plan.study.id, event.study),
            ("unit", planned.unit, event.unit),
            ("relation", planned.relation, event.relation),
            ("clip", spelled(plan.privacy.clip), event.clip),
            ("mechanism", _told((right,)), _told(event.mechanisms)),
        ):
            if said != expected:
                self.findings.add("spend", index, f"{what} {expected}, as planned", said)


def _told(mechanisms: tuple[Mechanism, ...]) -> str:
    return "; ".join(
        f"{one.kind} sigma {one.noise_multiplier}, rate {one.sample_rate}, {one.steps} steps, "
        f"{one.unit}, {one.relation}, {one.sampling}"
        for one in mechanisms
    )[:300]
