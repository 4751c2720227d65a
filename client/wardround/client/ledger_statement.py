"""The account of each data set over a period: opening, spends, closing; by data set and study."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal

from wardround.privacy.accounting import Audience, Epsilon, PrivacyEvent
from wardround.privacy.budget import Account, Book, BudgetSet, Spent, price
from wardround.privacy.canonical import Json

OUTSIDE = (
    "number of patients or images of the cohort, as weight of an update (in the masked sum)",
    "patients expected in a step, by which its noisy sum is divided: the size of the noise tells",
    "counts of held-out evaluation (in the masked sum, shown above the plan's minimum count)",
    "sizes and times of messages, rounds taken part in, approvals and refusals with their rule",
    "tuning and training on the same data at this site whose results leave it by another way",
    "mean and deviation by which a table with scaling = site is scaled: inputs depend on others",
    "de-identification counts, where the site signs them into the log",
)
"""What leaves a site, or may, and no accountant covers; printed beside every account."""


@dataclass(frozen=True, slots=True)
class SpendLine:
    """The spends of one run in a period: `steps` over all rounds, epsilon of the data set after.

    `epsilon_after` is what was recorded then, at `delta`, the budget's of that time.
    """

    first_ms: int
    last_ms: int
    study: str
    run: str
    rounds: int
    steps: int
    mechanisms: tuple[str, ...]
    epsilon_after: Decimal
    delta: str
    sequence: int


@dataclass(frozen=True, slots=True)
class StudyPart:
    """One study's part of a data set's account; `budget` where the site has set one for it."""

    study: str
    opening: Epsilon
    closing: Epsilon
    budget: BudgetSet | None


@dataclass(frozen=True, slots=True)
class Statement:
    """The account of one data set over a period. Epsilons do not add up; each is a bound of all.

    `otherwise` is the closing against the audience that the budget is not kept against, where
    noise was shared and the two differ.
    """

    account: Account
    opening: Epsilon
    closing: Epsilon
    otherwise: Epsilon | None
    lines: tuple[SpendLine, ...]
    studies: tuple[StudyPart, ...]
    open_reservations: tuple[tuple[str, str, int], ...]  # id, run, round
    lost: int
    curve: tuple[tuple[int, Decimal], ...]  # ms since 1970, epsilon

    @property
    def dataset(self) -> str:
        """The data set's name."""
        return self.account.budget.dataset

    def to_json(self) -> dict[str, Json]:
        """Return the canonical-JSON form, with NIST SP 800-226's list beside the closing."""
        budget = self.account.budget
        return {
            "dataset": self.dataset,
            "budget": budget.to_json(),
            "opening": self.opening.text,
            "closing": self.closing.text,
            "held_for_open_rounds": self.account.held.text,
            "left": f"{self.account.left:f}",
            "claim": self.closing.to_json(),
            "claim_otherwise": self.otherwise.to_json() if self.otherwise else None,
            "spends": [
                {
                    "from_ms": line.first_ms,
                    "to_ms": line.last_ms,
                    "study": line.study,
                    "run": line.run,
                    "rounds": line.rounds,
                    "steps": line.steps,
                    "mechanisms": list(line.mechanisms),
                    "epsilon_after": f"{line.epsilon_after:f}",
                    "at_delta": line.delta,
                    "ledger_sequence": line.sequence,
                }
                for line in self.lines
            ],
            "studies": [
                {
                    "study": part.study,
                    "opening": part.opening.text,
                    "closing": part.closing.text,
                    "claim": part.closing.to_json(),
                    "budget": part.budget.to_json() if part.budget else None,
                }
                for part in self.studies
            ],
            "open_reservations": [
                {"id": id, "run": run, "round": round} for id, run, round in self.open_reservations
            ],
            "spends_restored_from_the_log": self.lost,
        }


def statements(
    book: Book, *, since_ms: int = 0, until_ms: int = 2**62, dataset: str | None = None
) -> Iterator[Statement]:
    """Yield the account of each data set with a budget, from `since_ms` up to `until_ms`."""
    names = dict.fromkeys(name for name, study in book.budgets if not study)
    for name in names if dataset is None else [dataset]:
        if (name, "") in book.budgets:
            yield _statement(book, name, since_ms, until_ms)


def _statement(book: Book, dataset: str, since_ms: int, until_ms: int) -> Statement:
    budget = book.budgets[dataset, ""]
    spends = [
        spent
        for spent in book.spent.values()
        if spent.reserved.dataset == dataset and spent.at_ms < until_ms
    ]
    period = [spent for spent in spends if spent.at_ms >= since_ms]
    lost = [lost for lost in book.lost if lost.dataset == dataset]
    studies = dict.fromkeys(
        [*(s.reserved.study for s in spends), *(one.study for one in lost)]
        + [study for name, study in book.budgets if name == dataset and study]
    )

    def events_of(chosen: Iterable[Spent], study: str = "") -> tuple[PrivacyEvent, ...]:
        events: list[PrivacyEvent] = []
        for one in lost:  # they carry no time of this ledger: they count from the beginning
            events.extend(one.events if study in ("", one.study) else ())
        for spent in chosen:
            events.extend(spent.committed.events if study in ("", spent.reserved.study) else ())
        return tuple(events)

    def priced(chosen: Iterable[Spent], study: str = "", *, kept: BudgetSet = budget) -> Epsilon:
        return price(events_of(chosen, study), kept)

    before = [spent for spent in spends if spent.at_ms < since_ms]
    parts = []
    for study in studies:
        kept = book.budgets.get((dataset, study), budget)
        parts.append(
            StudyPart(
                study=study,
                opening=priced(before, study, kept=kept),
                closing=priced(spends, study, kept=kept),
                budget=book.budgets.get((dataset, study)),
            )
        )
    done = events_of(spends)
    other: Audience = "aggregate" if budget.audience == "everyone" else "everyone"
    shared = any(event.honest > 1 for event in done)
    return Statement(
        account=book.accounts(dataset, "")[0],
        opening=priced(before),
        closing=price(done, budget),
        otherwise=price(done, budget, other) if shared else None,
        lines=tuple(_lines(period)),
        studies=tuple(parts),
        open_reservations=tuple(
            (one.id, one.run, one.round) for one in book.open.values() if one.dataset == dataset
        ),
        lost=len(lost),
        curve=tuple((spent.at_ms, _after(spent)) for spent in period),
    )


def _lines(spends: Iterable[Spent]) -> Iterator[SpendLine]:
    """One line for each run, in the order of their last spends: runs may go on side by side."""
    groups: dict[str, list[Spent]] = {}
    for spent in spends:
        groups.setdefault(spent.reserved.run, []).append(spent)
    for group in sorted(groups.values(), key=lambda group: group[-1].sequence):
        yield _line(group)


def _line(group: list[Spent]) -> SpendLine:
    events = [event for spent in group for event in spent.committed.events]
    mechanisms = dict.fromkeys(
        f"sigma {event.sigma}, rate {event.sample_rate}"
        + (f", noise of {event.honest} sites" if event.honest > 1 else "")
        for event in events
    )
    return SpendLine(
        first_ms=group[0].at_ms,
        last_ms=group[-1].at_ms,
        study=group[0].reserved.study,
        run=group[0].reserved.run,
        rounds=len(group),
        steps=sum(event.steps for event in events),
        mechanisms=tuple(mechanisms),
        epsilon_after=_after(group[-1]),
        delta=group[-1].committed.delta,
        sequence=group[-1].sequence,
    )


def _after(spent: Spent) -> Decimal:
    """The account after a spend, for the audience that its budget was kept in."""
    done = spent.committed
    shared = done.audience == "aggregate" and done.shared_after
    return Decimal(done.shared_after if shared else done.epsilon_after)
