"""The privacy ledger: the site's own record of what its data sets have spent, and of what is left.

One table of rows that are only ever added, each with the hash of the one before; the rules are
`wardround.privacy.budget`. The way of a round:

1. `reserve` before training: durable when it returns, so two runs at once cannot overspend.
2. Train.
3. `commit` what was really done, before anything leaves; durable when it returns.
4. Let the update leave. Where nothing left and nothing will: `release` instead of 3.

A process killed after 1 leaves the reservation held; killed after 3, the spend counts although
nothing may have left. Either way too much is counted, never too little.

`check_position` notices a database restored from an older copy, because the audit log has seen
later entries of this ledger, and suspends it until an operator decides with `accept_restore`.
"""

import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from decimal import Decimal

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from wardround.client.database import session
from wardround.client.errors import (
    BudgetExceeded,
    LedgerDamaged,
    LedgerError,
    LedgerRolledBack,
)
from wardround.client.ledger_rows import (
    START,
    Position,
    check_guards,
    make_row,
    make_table,
    read_entry,
    rows_from,
)
from wardround.client.spend import Reservation, Spend, is_statement_of, lost_spend
from wardround.privacy.accounting import PrivacyEvent, check_delta, epsilon
from wardround.privacy.budget import (
    Accepted,
    Account,
    Book,
    BudgetSet,
    Committed,
    Entry,
    Released,
    Reserved,
    Spent,
    Suspended,
    affordable,
    covers,
    price,
)
from wardround.privacy.errors import MalformedData
from wardround.privacy.events import PrivacySpend
from wardround.privacy.plan import decimal_text, spelled
from wardround.privacy.planned import Forecast


class Ledger:
    """The privacy ledger in the site's database; safe for several processes and threads."""

    def __init__(
        self, engine: Engine, *, clock: Callable[[], int] = lambda: time.time_ns() // 10**6
    ) -> None:
        """Open the ledger in `engine` (see `client.database.open_database`).

        `clock` gives milliseconds since 1970. Raises LedgerDamaged when rows do not chain.
        """
        self._engine = engine
        self._clock = clock
        self._lock = threading.Lock()
        self._forget()
        make_table(engine)
        with session(engine) as database:
            check_guards(database)
            self._load(database)

    # -- what the site decides ------------------------------------------------------------------

    def set_budget(
        self,
        dataset: str,
        epsilon: Decimal,
        delta: Decimal,
        *,
        study: str | None = None,
        audience: str = "everyone",
    ) -> BudgetSet:
        """Set the budget of a data set, or of one study on it; the last one set holds.

        `epsilon` >= 0 at `delta` in (0, 1). Raises MalformedData or AccountingError for values
        out of range. A budget below what is spent is allowed: nothing more will be.
        """
        check_delta(delta)  # one that cannot be priced would hide the whole account
        entry = BudgetSet(
            dataset=dataset,
            study=study or "",
            epsilon=decimal_text(epsilon),
            delta=spelled(delta),
            audience=audience,
        )
        with self._transaction() as database:
            if self._book.budgets.get((entry.dataset, entry.study)) != entry:
                self._append(database, entry)
        return entry

    # -- the way of a round ---------------------------------------------------------------------

    def reserve(
        self, *, run: str, study: str, dataset: str, round: int, events: Iterable[PrivacyEvent]
    ) -> Reservation | Spend:
        """Hold `events` against the budgets of `dataset`; durable when this returns.

        The same round asked for again gives back what stands: the open reservation, or the spend
        that was committed, and then the update that was trained must be sent again, not a new
        one. Raises BudgetExceeded, LedgerRolledBack, or LedgerError for the same round with
        other events, or spent before a restore.
        """
        wanted = Reserved(
            id=secrets.token_hex(8),
            run=run,
            study=study,
            dataset=dataset,
            round=round,
            events=tuple(events),
        )
        self._warm(dataset, study, wanted.events)
        with self._transaction() as database:
            self._refuse_if_suspended()
            if (run, dataset, round) in ((o.run, o.dataset, o.round) for o in self._book.lost):
                raise LedgerError(
                    f"round {round} of run {run} was spent before this ledger was restored; it "
                    "is not trained again"
                )
            found = self._book.find(run, dataset, round)
            if isinstance(found, Spent):
                return Spend.of(found)
            if found is None:
                _demand(self._book.accounts(dataset, study, wanted.events), dataset)
                self._append(database, wanted)
            elif (found.study, found.events) != (study, wanted.events):
                raise LedgerError(
                    f"round {round} of run {run} is reserved for other training; "
                    f"release reservation {found.id} first"
                )
        held = found or wanted
        another = self.book().accounts(dataset, study, wanted.events)
        return Reservation(
            id=held.id,
            run=run,
            study=study,
            dataset=dataset,
            round=round,
            events=held.events,
            last_affordable=not all(account.fits for account in another),
        )

    def commit(self, reservation: str, events_done: Iterable[PrivacyEvent]) -> Spend:
        """Record what was really done, at most what was reserved; durable when this returns.

        Call it before anything leaves the site. Committing the same again gives the same spend.
        Raises LedgerError when the reservation is not open or less than what was done,
        BudgetExceeded when the budget was lowered meanwhile: then nothing may leave.
        """
        done = tuple(events_done)
        with self._transaction() as database:
            self._refuse_if_suspended()
            spent = self._book.spent.get(reservation)
            if spent is not None and spent.committed.events == done:
                return Spend.of(spent)
            reserved = self._open(reservation)
            if not covers(reserved.events, done):
                raise LedgerError(
                    f"round {reserved.round} of run {reserved.run} did more than was reserved; "
                    "discard its result, nothing of it may leave"
                )
            entry = self._priced(reserved, done)
            self._append(database, entry)
            return Spend.of(self._book.spent[reservation])

    def release(self, reservation: str, reason: str = "nothing left the site") -> None:
        """Give back a reservation of which nothing left the site and nothing will.

        Raises LedgerError when it is not open; a spend cannot be taken back.
        """
        with self._transaction() as database:
            self._refuse_if_suspended()
            if reservation in self._book.released:
                return
            self._open(reservation)
            self._append(database, Released(id=reservation, reason=reason))

    # -- looking ahead and back -----------------------------------------------------------------

    def affordable_rounds(
        self, dataset: str, study: str, events_per_round: Iterable[PrivacyEvent]
    ) -> int:
        """How many more such rounds the budgets bear: 0 without a budget."""
        return affordable(self.book(), dataset, study, tuple(events_per_round))

    def forecast(
        self, events: Iterable[PrivacyEvent], dataset: str, study: str, *, rounds: int = 1
    ) -> Forecast:
        """What `rounds` rounds of `events` in `study` would cost on `dataset`, of what is left."""
        per_round, book = tuple(events), self.book()
        accounts = book.accounts(dataset, study, per_round * rounds)
        delta = Decimal(accounts[0].budget.delta) if accounts else Decimal("1e-5")
        return Forecast(
            dataset=dataset,
            planned=rounds,
            cost=epsilon(per_round * rounds, delta),
            accounts=accounts,
            rounds=affordable(book, dataset, study, per_round),
        )

    def book(self) -> Book:
        """The state of the ledger as it stands in the database now."""
        with self._transaction():
            return self._book.copy()

    # -- a restored older copy ------------------------------------------------------------------

    def position(self) -> Position:
        """The ledger's last entry."""
        with self._transaction():
            return self._last

    def check_position(
        self, seen: int, statements: Iterable[PrivacySpend] = (), cosigned: int = 0
    ) -> None:
        """Compare with what the audit log holds of this site; silent when all is well.

        `seen` is the highest ledger sequence number the log has from this site (0: none), and
        `statements` this site's privacy spends in it, as many as are at hand. `cosigned` is the
        size of a checkpoint that this site cosigned and its database forgot (0: none). Raises
        LedgerRolledBack, and suspends the ledger, when the log is ahead or shows another past.
        """
        statements = tuple(statements)
        seen = max([seen, *(statement.ledger_sequence for statement in statements)])
        with self._transaction() as database:
            mine = {spent.sequence: spent for spent in self._book.spent.values()}
            lost = tuple(
                lost_spend(one)
                for one in statements
                if not (
                    one.ledger_sequence in mine and is_statement_of(mine[one.ledger_sequence], one)
                )
                and lost_spend(one) not in self._book.lost
            )
            behind = seen > max(self._last.sequence, self._book.passed)
            short = behind or bool(lost)
            if not short and cosigned <= self._book.cosigned:
                return
            entry = Suspended(seen=seen if short else 0, lost=lost, cosigned=cosigned)
            if self._book.suspended != entry:
                self._append(database, entry)
        self._refuse_if_suspended()

    def accept_restore(self, reason: str, *, unknown: bool = False) -> Accepted:
        """The operator goes on with a restored ledger: the lost spends count as spent.

        Where the statement of the newest entry that the log has seen was not at hand, what is
        lost is not known either, and only `unknown` goes on, counting what is known. Raises
        LedgerError for that, and when the ledger is not suspended.
        """
        with self._transaction() as database:
            suspended = self._book.suspended
            if suspended is None:
                raise LedgerError("the ledger is in order; there is no restore to accept")
            known = not suspended.seen or any(
                lost.sequence == suspended.seen for lost in suspended.lost
            )
            if not (known or unknown):
                raise LedgerError(
                    "what this ledger has lost is not known: let the site fetch its statements "
                    "from the audit log first (wardround-site start), or accept with "
                    "--unknown that what was spent meanwhile is not counted"
                )
            entry = Accepted(suspended.seen, suspended.lost, reason, suspended.cosigned)
            self._append(database, entry, after=suspended.seen)
            return entry

    def _refuse_if_suspended(self) -> None:
        if (suspended := self._book.suspended) is not None:
            raise LedgerRolledBack(
                f"{suspended.sentence}; the database was restored from an older copy. "
                "Bring back the newer one, or decide with: wardround-site ledger accept-restore"
            )

    # -- rows -----------------------------------------------------------------------------------

    @contextmanager
    def _transaction(self) -> Iterator[Session]:
        """The database locked against other writers, with the book as it stands in it."""
        with self._lock:
            before = self._last
            try:
                with session(self._engine) as database:
                    self._load(database)
                    before = self._last
                    yield database
            except BaseException:
                if self._last != before:
                    self._forget()  # what was appended was rolled back: read it all again
                raise

    def _forget(self) -> None:
        self._book = Book()
        self._last = START

    def _load(self, database: Session) -> None:
        """Read and check the rows added since the last look."""
        rows = rows_from(database, self._last.sequence)
        if self._last.sequence:
            if not rows or Position(rows[0].sequence, rows[0].digest) != self._last:
                raise LedgerDamaged(
                    "the site's database was exchanged while in use; stop and start again"
                )
            rows = rows[1:]
        for row in rows:
            try:
                at_ms, entry = read_entry(row, self._last)
                self._book.apply(row.sequence, at_ms, entry)
            except MalformedData as error:
                raise LedgerDamaged(
                    f"entry {row.sequence} of the privacy ledger was changed ({error}); "
                    "restore the database from a backup"
                ) from None
            self._last = Position(row.sequence, row.digest)

    def _append(self, database: Session, entry: Entry, *, after: int = 0) -> None:
        """Add `entry` inside the caller's transaction; the book follows once it is flushed."""
        sequence = max(self._last.sequence, after) + 1
        at_ms = self._clock()
        row = make_row(sequence, at_ms, entry, self._last)
        database.add(row)
        database.flush()
        self._book.apply(sequence, at_ms, entry)
        self._last = Position(sequence, row.digest)

    # -- prices ---------------------------------------------------------------------------------

    def _warm(self, dataset: str, study: str, events: tuple[PrivacyEvent, ...]) -> None:
        """Price outside the transaction, so that the one inside finds it in the cache."""
        self.book().accounts(dataset, study, events)

    def _open(self, reservation: str) -> Reserved:
        if (reserved := self._book.open.get(reservation)) is None:
            raise LedgerError(
                f"reservation {reservation} is not open: it was committed, released or never made"
            )
        return reserved

    def _priced(self, reserved: Reserved, done: tuple[PrivacyEvent, ...]) -> Committed:
        accounts = self._book.accounts(
            reserved.dataset, reserved.study, done, instead_of=reserved.id
        )
        _demand(accounts, reserved.dataset)
        budget = accounts[0].budget
        before = tuple(self._book.events(reserved.dataset))
        after = before + done
        study = tuple(self._book.events(reserved.dataset, reserved.study)) + done
        shared = any(event.honest > 1 for event in after)
        price_after = price(after, budget, "everyone")
        return Committed(
            id=reserved.id,
            events=done,
            delta=budget.delta,
            epsilon_before=price(before, budget, "everyone").text,
            epsilon_after=price_after.text,
            shared_before=price(before, budget, "aggregate").text if shared else "",
            shared_after=price(after, budget, "aggregate").text if shared else "",
            study_epsilon=price(study, budget, "everyone").text,
            budget=budget.epsilon,
            audience=budget.audience,
            accountant=price_after.accountant,
            version=price_after.version,
        )


def _demand(accounts: tuple[Account, ...], dataset: str) -> None:
    """Raise BudgetExceeded unless there is a budget and all of `accounts` bear what is asked."""
    if not accounts:
        raise BudgetExceeded(
            f"data set {dataset} has no privacy budget; "
            f"set one with: wardround-site ledger budget set {dataset} --epsilon E --delta D"
        )
    for account in accounts:
        if account.fits:
            continue
        budget = account.budget
        where = f"study {budget.study} on data set" if budget.study else "data set"
        held = (
            f", {account.held.text} with what is reserved" if account.held != account.spent else ""
        )
        raise BudgetExceeded(
            f"{where} {dataset} has a budget of epsilon {budget.epsilon} at delta {budget.delta}; "
            f"{account.spent.text} is spent{held}, and this would make it {account.asked.text}. "
            "Ask for more noise, fewer steps or fewer rounds (wardround-site plan suggest), or "
            "raise the budget (wardround-site ledger budget set)"
        )
