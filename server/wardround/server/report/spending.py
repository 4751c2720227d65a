"""Reads what a run cost in privacy, per site, data set and round."""

from decimal import Decimal

from wardround.privacy.events import PrivacySpend
from wardround.privacy.presentation.marks import Marked, Source
from wardround.privacy.verify.findings import Verification
from wardround.server.report.model import MechanismFacts, SpendFacts, Text
from wardround.server.report.reading import Noted, Reading


def spend_facts(reading: Reading, run: str, verification: Verification) -> tuple[SpendFacts, ...]:
    """Return every privacy spend of `run`, by site, data set and ledger order."""
    recomputed = dict(verification.recomputed)
    found = [_spend(noted, recomputed) for noted in reading.run(PrivacySpend, run)]
    found.sort(key=lambda s: (s.site.value, s.dataset.value, s.ledger_sequence.value))
    return tuple(found)


def against_budget(spend: SpendFacts) -> Text:
    """Return the epsilon that the budget bounds.

    Where noise is shared between sites, a site may keep its budget against those who see only the
    sum; its epsilon against everyone may then be above the budget.
    """
    shared = spend.shared_noise
    over = Decimal(spend.after.value) > Decimal(spend.budget.value)
    return shared if shared.value and over else spend.after


def _spend(noted: Noted[PrivacySpend], recomputed: dict[int, str]) -> SpendFacts:
    event = noted.event
    again = recomputed.get(noted.index)
    return SpendFacts(
        site=noted.mark(noted.site),
        dataset=noted.mark(event.dataset),
        round=noted.mark(event.round),
        attempt=noted.mark(event.attempt),
        unit=noted.mark(event.unit),
        relation=noted.mark(event.relation),
        clip=noted.mark(event.clip),
        mechanisms=noted.mark(
            tuple(
                MechanismFacts(m.kind, m.noise_multiplier, m.sample_rate, m.steps, m.sampling)
                for m in event.mechanisms
            )
        ),
        delta=noted.mark(event.delta),
        before=noted.mark(event.epsilon_before),
        after=noted.mark(event.epsilon_after),
        study=noted.mark(event.epsilon_study),
        budget=noted.mark(event.budget),
        accountant=noted.mark(f"{event.accountant} {event.accountant_version}"),
        ledger_sequence=noted.mark(event.ledger_sequence),
        shared_noise=noted.mark(event.shared_noise_epsilon),
        outside=noted.mark(event.releases_outside),
        recomputed=None if again is None else Marked(again, Source.VERIFIED, (noted.index,)),
    )
