"""The rules of a privacy budget, without storage: what is spent, what is held, what still fits.

A ledger is a list of entries, folded one by one into a `Book`. The rules:

1. A budget belongs to a data set, or to one study on a data set; no budget, no training.
2. A reservation is held against every budget it touches, in full, until it is committed or
   released; one that a crash left open stays held. Nothing frees it but those two.
3. A commit counts what was done, which is at most what was reserved. A release counts nothing,
   and is right only where nothing left the site.
4. A round of a run on a data set is reserved once; asking again returns what is there.
5. A ledger that is found to be older than the site's own signed statements is suspended: nothing
   is reserved or committed until an operator accepts it. The spends that the statements show and
   the ledger lacks count from then on as if they stood in it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Annotated, ClassVar, TypeAlias, cast

from wardround.privacy import records
from wardround.privacy.accounting import Audience, Epsilon, PrivacyEvent, epsilon, within
from wardround.privacy.errors import AccountingError, MalformedData
from wardround.privacy.records import Count, Line, MaybeName, Name, Pattern, Record, Small

_AUDIENCE = Pattern("everyone|aggregate", "everyone or aggregate")


@dataclass(frozen=True, slots=True)
class BudgetSet(Record):
    """The site sets a budget: `epsilon` at `delta`, for one `study` or, where empty, for all.

    `audience` says against whom it is kept: `everyone`, or, for noise shared under secure
    aggregation, whoever sees only the `aggregate`.
    """

    kind: ClassVar[str] = "budget"
    dataset: Name
    study: MaybeName
    epsilon: records.Decimal
    delta: records.Decimal
    audience: Annotated[str, _AUDIENCE]

    def __post_init__(self) -> None:
        Record.__post_init__(self)  # super() does not find itself in a class with slots
        if not 0 < Decimal(self.delta) < 1:
            raise AccountingError(f"delta {self.delta}: it must be between 0 and 1, such as 1e-5")
        if not Decimal(self.epsilon).is_finite():
            raise AccountingError("a budget without limit is none; give a number")


@dataclass(frozen=True, slots=True)
class Reserved(Record):
    """A round is about to be trained: `events` are held until committed or released."""

    kind: ClassVar[str] = "reserve"
    id: Name
    run: Name
    study: Name
    dataset: Name
    round: Small
    events: tuple[PrivacyEvent, ...]


@dataclass(frozen=True, slots=True)
class Committed(Record):
    """What was really done under reservation `id`, and what the data set's account says.

    Prices are upper bounds at `delta`; `shared_` ones against who sees only the sum, and
    `study_epsilon` of this study alone, against everyone.
    """

    kind: ClassVar[str] = "commit"
    id: Name
    events: tuple[PrivacyEvent, ...]
    delta: records.Decimal
    epsilon_before: records.Decimal
    epsilon_after: records.Decimal
    shared_before: records.MaybeDecimal
    shared_after: records.MaybeDecimal
    study_epsilon: records.Decimal
    budget: records.Decimal
    audience: Annotated[str, _AUDIENCE]
    accountant: Name
    version: Name


@dataclass(frozen=True, slots=True)
class Released(Record):
    """Nothing left the site under reservation `id`, and nothing will."""

    kind: ClassVar[str] = "release"
    id: Name
    reason: Line


@dataclass(frozen=True, slots=True)
class Lost(Record):
    """A spend that the site once signed, at entry `sequence`, and the ledger no longer holds."""

    sequence: Count
    run: Name
    study: Name
    dataset: Name
    round: Small
    events: tuple[PrivacyEvent, ...]


@dataclass(frozen=True, slots=True)
class Suspended(Record):
    """The log has seen entry `seen` of this ledger, which this ledger lacks or has otherwise.

    `seen` is 0 where no entry is missing, and only the site's own line under a checkpoint of
    `cosigned` entries shows that its database is an older copy.
    """

    kind: ClassVar[str] = "suspend"
    seen: Count
    lost: tuple[Lost, ...]
    cosigned: Count = 0

    @property
    def sentence(self) -> str:
        """What was seen, for the operator; without a full stop."""
        if not self.seen:
            return (
                f"this site has cosigned {self.cosigned} entries of the audit log, and its "
                "database does not know of it"
            )
        return (
            f"the audit log has seen entry {self.seen} of this site's privacy ledger, and the "
            f"ledger does not hold it ({len(self.lost)} signed spends are missing)"
        )


@dataclass(frozen=True, slots=True)
class Accepted(Record):
    """An operator goes on with a restored ledger; `lost` counts as spent, `seen` is passed.

    So is `cosigned`, see `Suspended`.
    """

    kind: ClassVar[str] = "accept-restore"
    seen: Count
    lost: tuple[Lost, ...]
    reason: Line
    cosigned: Count = 0


Entry: TypeAlias = BudgetSet | Reserved | Committed | Released | Suspended | Accepted
ENTRIES: dict[str, type[Entry]] = {
    kind.kind: kind for kind in (BudgetSet, Reserved, Committed, Released, Suspended, Accepted)
}


@dataclass(frozen=True, slots=True)
class Spent:
    """A reservation that was committed: by which entry of the ledger, and when (ms since 1970)."""

    sequence: int
    at_ms: int
    reserved: Reserved
    committed: Committed


@dataclass(frozen=True, slots=True)
class Account:
    """One budget, and what it would be at: `spent`, with what is `held` open, with what is `asked`.

    Prices are at the budget's delta, against its audience.
    """

    budget: BudgetSet
    spent: Epsilon
    held: Epsilon
    asked: Epsilon

    @property
    def fits(self) -> bool:
        """Whether the asked can be reserved."""
        return self.asked.value <= Decimal(self.budget.epsilon)

    @property
    def cost(self) -> Decimal:
        """What the asked adds: less than its price alone, since costs do not simply add up."""
        return self.asked.value - self.held.value

    @property
    def left(self) -> Decimal:
        """What neither spends nor reservations have taken, zero or more."""
        return max(Decimal(0), Decimal(self.budget.epsilon) - self.held.value)


@dataclass(slots=True)
class Book:
    """The state that a list of entries amounts to. `apply` refuses what breaks a rule."""

    budgets: dict[tuple[str, str], BudgetSet] = field(default_factory=dict)
    open: dict[str, Reserved] = field(default_factory=dict)
    spent: dict[str, Spent] = field(default_factory=dict)
    released: dict[str, Reserved] = field(default_factory=dict)
    lost: list[Lost] = field(default_factory=list)
    suspended: Suspended | None = None
    passed: int = 0
    cosigned: int = 0

    def apply(self, sequence: int, at_ms: int, entry: Entry) -> None:
        """Add `entry`; MalformedData when no ledger that kept the rules could hold it."""
        match entry:
            case BudgetSet():
                self.budgets[entry.dataset, entry.study] = entry
            case Reserved():
                if entry.id in self.open or entry.id in self.spent or entry.id in self.released:
                    raise MalformedData(f"reservation {entry.id} is made twice")
                self.open[entry.id] = entry
            case Committed():
                reserved = self._close(entry.id)
                if not covers(reserved.events, entry.events):
                    raise MalformedData(f"reservation {entry.id} is committed for more than it is")
                self.spent[entry.id] = Spent(sequence, at_ms, reserved, entry)
            case Released():
                self.released[entry.id] = self._close(entry.id)
            case Suspended():
                self.suspended = entry
            case Accepted():
                self.suspended = None
                self.lost.extend(entry.lost)
                self.passed = max(self.passed, entry.seen)
                self.cosigned = max(self.cosigned, entry.cosigned)

    def _close(self, reservation: str) -> Reserved:
        try:
            return self.open.pop(reservation)
        except KeyError:
            raise MalformedData(f"reservation {reservation} is not open") from None

    def copy(self) -> "Book":
        """A book that later entries do not change."""
        return Book(
            dict(self.budgets), dict(self.open), dict(self.spent), dict(self.released),
            list(self.lost), self.suspended, self.passed, self.cosigned,
        )  # fmt: skip

    def touched(self, dataset: str, study: str) -> tuple[BudgetSet, ...]:
        """The budgets that training in `study` on `dataset` is counted on; the data set's first."""
        total = self.budgets.get((dataset, ""))
        part = self.budgets.get((dataset, study)) if study else None
        return () if total is None else (total,) if part is None else (total, part)

    def find(self, run: str, dataset: str, round: int) -> Reserved | Spent | None:
        """What stands for this round: a spend, an open reservation, or nothing."""
        wanted = (run, dataset, round)
        for spent in self.spent.values():
            reserved = spent.reserved
            if (reserved.run, reserved.dataset, reserved.round) == wanted:
                return spent
        for reserved in self.open.values():
            if (reserved.run, reserved.dataset, reserved.round) == wanted:
                return reserved
        return None

    def events(
        self, dataset: str, study: str = "", *, held: bool = False, without: str = ""
    ) -> Iterator[PrivacyEvent]:
        """Events spent on `dataset` (by `study`, where given), with open reservations if `held`.

        The reservation `without` is left out.
        """
        for lost in self.lost:
            if lost.dataset == dataset and study in ("", lost.study):
                yield from lost.events
        for spent in self.spent.values():
            if spent.reserved.dataset == dataset and study in ("", spent.reserved.study):
                yield from spent.committed.events
        if held:
            for reserved in self.open.values():
                if (
                    reserved.dataset == dataset
                    and study in ("", reserved.study)
                    and reserved.id != without
                ):
                    yield from reserved.events

    def accounts(
        self,
        dataset: str,
        study: str,
        asked: tuple[PrivacyEvent, ...] = (),
        *,
        instead_of: str = "",
    ) -> tuple[Account, ...]:
        """Judge `asked` on every budget it touches: the data set's, then the study's if there.

        None without a budget of the data set. The reservation `instead_of` is not held any more.
        """
        found = []
        for budget in self.touched(dataset, study):
            key = (budget.dataset, budget.study)
            spent = tuple(self.events(*key))
            held = tuple(self.events(*key, held=True, without=instead_of))
            found.append(
                Account(
                    budget,
                    spent=price(spent, budget),
                    held=price(held, budget),
                    asked=price(held + asked, budget),
                )
            )
        return tuple(found)


def price(
    events: tuple[PrivacyEvent, ...], budget: BudgetSet, audience: Audience | None = None
) -> Epsilon:
    """Price `events` at the delta of `budget`, against its audience or another.

    Against its own audience as finely as the question whether they fit needs.
    """
    delta, kept = Decimal(budget.delta), cast(Audience, budget.audience)
    if audience in (None, kept):
        return within(events, delta, Decimal(budget.epsilon), audience=kept)
    return epsilon(events, delta, audience=audience or kept)


def covers(reserved: tuple[PrivacyEvent, ...], done: tuple[PrivacyEvent, ...]) -> bool:
    """Whether `done` is no more steps of each mechanism than `reserved`."""
    left = _steps(reserved)
    return all(count <= left.get(kind, 0) for kind, count in _steps(done).items())


MOST_ROUNDS = 100_000


def affordable(book: Book, dataset: str, study: str, round: tuple[PrivacyEvent, ...]) -> int:
    """How many more rounds of these events every budget they touch can bear.

    At most MOST_ROUNDS; 0 without a budget. Exact: that many can be reserved one by one, and one
    more is refused.
    """
    budgets = [
        (budget, tuple(book.events(budget.dataset, budget.study, held=True)))
        for budget in book.touched(dataset, study)
    ]

    def fits(rounds: int, *, finely: bool = False) -> bool:
        for budget, held in budgets:
            events, audience = held + round * rounds, cast(Audience, budget.audience)
            cost = epsilon(events, Decimal(budget.delta), audience=audience)
            if cost.value > Decimal(budget.epsilon) and finely:
                cost = price(events, budget)
            if cost.value > Decimal(budget.epsilon):
                return False
        return True

    if not budgets or not fits(0, finely=True):
        return 0
    low, high = 0, 1
    while high <= MOST_ROUNDS and fits(high):
        low, high = high, 2 * high
    high = min(high, MOST_ROUNDS + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    while low < MOST_ROUNDS and fits(low + 1, finely=True):
        low += 1
    return low


def _steps(events: tuple[PrivacyEvent, ...]) -> dict[tuple[str, ...], int]:
    total: dict[tuple[str, ...], int] = {}
    for event in events:
        kind = (
            event.kind, event.sigma, event.sample_rate, event.unit, event.relation,
            event.sampling, str(event.honest),
        )  # fmt: skip
        total[kind] = total.get(kind, 0) + event.steps
    return total
