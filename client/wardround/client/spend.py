"""What the ledger hands out: a reservation before training, a spend before anything leaves."""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from wardround.privacy.accounting import PrivacyEvent
from wardround.privacy.budget import Lost, Spent
from wardround.privacy.canonical import Json
from wardround.privacy.events import Mechanism, PrivacySpend
from wardround.privacy.plan import spelled


@dataclass(frozen=True, slots=True)
class Reservation:
    """Privacy held for one round. `last_affordable`: the budget bears no further round like it."""

    id: str
    run: str
    study: str
    dataset: str
    round: int
    events: tuple[PrivacyEvent, ...]
    last_affordable: bool


@dataclass(frozen=True, slots=True)
class Spend:
    """What one round has cost a data set, and the account of the data set before and after it.

    Epsilons are upper bounds at the delta of the data set's budget, of everything ever spent on
    the data set: `epsilon_` against everyone who may see what the site sent; `shared_`, where
    noise is shared, against the coordinator with at most the plan's colluders, who see only the
    sum. `audience` says which of the two the budget is kept in; `study_epsilon` is this study's
    part, against everyone. `sequence` is the entry's number in the site's ledger.
    """

    sequence: int
    id: str
    run: str
    study: str
    dataset: str
    round: int
    events: tuple[PrivacyEvent, ...]
    delta: Decimal
    epsilon_before: Decimal
    epsilon_after: Decimal
    shared_before: Decimal | None
    shared_after: Decimal | None
    study_epsilon: Decimal
    budget: Decimal
    audience: str
    accountant: str
    version: str

    @classmethod
    def of(cls, spent: Spent) -> "Spend":
        """Read a committed reservation."""
        reserved, done = spent.reserved, spent.committed
        return cls(
            sequence=spent.sequence,
            id=reserved.id,
            run=reserved.run,
            study=reserved.study,
            dataset=reserved.dataset,
            round=reserved.round,
            events=done.events,
            delta=Decimal(done.delta),
            epsilon_before=Decimal(done.epsilon_before),
            epsilon_after=Decimal(done.epsilon_after),
            shared_before=Decimal(done.shared_before) if done.shared_before else None,
            shared_after=Decimal(done.shared_after) if done.shared_after else None,
            study_epsilon=Decimal(done.study_epsilon),
            budget=Decimal(done.budget),
            audience=done.audience,
            accountant=done.accountant,
            version=done.version,
        )

    @property
    def counted(self) -> Decimal:
        """The account after the round, against the audience that the budget is kept against."""
        shared = self.shared_after if self.audience == "aggregate" else None
        return self.epsilon_after if shared is None else shared

    @property
    def left(self) -> Decimal:
        """What is left of the budget, for its own audience."""
        return max(Decimal(0), self.budget - self.counted)

    def to_json(self) -> dict[str, Json]:
        """Return the canonical-JSON form: what NIST SP 800-226 wants stated, decimals as text."""
        return {
            "ledger_sequence": self.sequence,
            "reservation": self.id,
            "run": self.run,
            "study": self.study,
            "dataset": self.dataset,
            "round": self.round,
            "events": [event.to_json() for event in self.events],
            "unit": "+".join(sorted({event.unit for event in self.events})),
            "neighbouring_relation": "+".join(sorted({e.relation for e in self.events})),
            "sampling": "+".join(sorted({event.sampling for event in self.events})),
            "delta": _text(self.delta),
            "epsilon_before": _text(self.epsilon_before),
            "epsilon_after": _text(self.epsilon_after),
            "shared_noise_epsilon_before": _text(self.shared_before),
            "shared_noise_epsilon_after": _text(self.shared_after),
            "study_epsilon": _text(self.study_epsilon),
            "budget": _text(self.budget),
            "budget_against": self.audience,
            "accountant": self.accountant,
            "accountant_version": self.version,
        }

    def statement(
        self, *, attempt: int, clip: Decimal, releases_outside: Iterable[str] = ()
    ) -> PrivacySpend:
        """The log leaf that the site signs for this spend.

        `clip` is the plan's bound on one unit's gradient; `releases_outside` names, one line
        each, what left the site beside it and no accountant covers. Noise in it is the site's
        own, so its epsilons are those against everyone.
        """
        return PrivacySpend(
            run=self.run,
            study=self.study,
            round=self.round,
            attempt=attempt,
            dataset=self.dataset,
            unit=self.events[0].unit if self.events else "patient",
            relation=self.events[0].relation if self.events else "add-remove",
            clip=_text(clip),
            mechanisms=tuple(_mechanism(event) for event in self.events),
            delta=_text(self.delta),
            epsilon_before=_text(self.epsilon_before),
            epsilon_after=_text(self.epsilon_after),
            epsilon_study=_text(self.study_epsilon),
            budget=_text(self.budget),
            accountant=self.accountant,
            accountant_version=self.version,
            ledger_sequence=self.sequence,
            shared_noise_epsilon=_text(self.shared_after),
            releases_outside=tuple(releases_outside),
        )


def is_statement_of(spent: Spent, statement: PrivacySpend) -> bool:
    """Whether `statement` is one that the site signs for `spent`, in whatever attempt."""
    reserved, done = spent.reserved, spent.committed
    return (
        (spent.sequence, reserved.run, reserved.study, reserved.dataset, reserved.round)
        == (
            statement.ledger_sequence, statement.run, statement.study, statement.dataset,
            statement.round,
        )
        and (done.epsilon_before, done.epsilon_after, done.delta, done.budget)
        == (
            statement.epsilon_before, statement.epsilon_after, statement.delta, statement.budget,
        )
        and tuple(_mechanism(event) for event in done.events) == statement.mechanisms
    )  # fmt: skip


def lost_spend(statement: PrivacySpend) -> Lost:
    """The spend in `statement`, to be counted by a ledger that does not hold it.

    The log does not say between how many sites noise was shared, so none is assumed: the cost
    against everyone is exact, that against the aggregate too high.
    """
    return Lost(
        sequence=statement.ledger_sequence,
        run=statement.run,
        study=statement.study,
        dataset=statement.dataset,
        round=statement.round,
        events=tuple(
            PrivacyEvent(
                kind=one.kind,
                sigma=one.noise_multiplier,
                sample_rate=one.sample_rate,
                steps=one.steps,
                unit=one.unit,
                relation=one.relation,
                sampling=one.sampling,
            )
            for one in statement.mechanisms
        ),
    )


def _mechanism(event: PrivacyEvent) -> Mechanism:
    return Mechanism(
        kind=event.kind,
        noise_multiplier=event.sigma,
        sample_rate=event.sample_rate,
        steps=event.steps,
        unit=event.unit,
        relation=event.relation,
        sampling=event.sampling,
    )


def _text(number: Decimal | None) -> str:
    return "" if number is None else spelled(number)
