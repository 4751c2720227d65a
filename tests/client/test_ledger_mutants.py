"""Broken ledgers: each shows that a test of the others would go red, or that a second wall holds.

Whoever weakens the rule named here sees the overspending that the rule prevents.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest

from wardround.client import ledger as ledger_module
from wardround.client.database import open_database
from wardround.client.errors import BudgetExceeded, LedgerRolledBack, SiteStateError
from wardround.client.ledger import Ledger
from wardround.client.spend import Reservation
from wardround.privacy.accounting import PrivacyEvent, epsilon
from wardround.privacy.budget import Book
from wardround.privacy.events import PrivacySpend

EVENTS = (PrivacyEvent.gaussian(20.0, 1.0, 3, unit="patient", relation="add-remove"),)
DELTA = Decimal("1e-5")
LIMIT = epsilon(EVENTS * 2, DELTA).value


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "site.sqlite3"


@pytest.fixture
def ledger(database: Path) -> Ledger:
    ledger = Ledger(open_database(database))
    ledger.set_budget("ct", LIMIT, DELTA)
    return ledger


def reserve(ledger: Ledger, round: int, run: str = "run") -> Reservation:
    held = ledger.reserve(run=run, study="s", dataset="ct", round=round, events=EVENTS)
    assert isinstance(held, Reservation)
    return held


def overspends(ledger: Ledger) -> bool:
    """Whether five rounds can be begun on a budget for two, and all be spent."""
    try:
        held = [reserve(ledger, round) for round in range(5)]
    except BudgetExceeded:
        return False
    return len(held) == 5


def test_the_ledger_itself_does_not_overspend(ledger: Ledger) -> None:
    assert not overspends(ledger)


def test_mutant_that_does_not_count_open_reservations(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = Book.events

    def spent_only(
        self: Book, dataset: str, study: str = "", **_: object
    ) -> Iterator[PrivacyEvent]:
        return events(self, dataset, study)

    monkeypatch.setattr(Book, "events", spent_only)
    assert overspends(ledger)


def test_mutant_that_does_not_look_again_inside_the_lock(
    ledger: Ledger, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two processes that both judged the same past: the database lets only one of them write.
    stale = Ledger(open_database(database))
    monkeypatch.setattr(stale, "_load", lambda _database: None)
    reserve(ledger, 1, "first")
    with pytest.raises(SiteStateError, match="append-only"):
        reserve(stale, 1, "second")
    assert len(ledger.book().open) == 1


class RolledBack:
    """A ledger that went back three entries and grew past them, and what the site had signed."""

    def __init__(self, database: Path, ledger: Ledger) -> None:
        ledger.set_budget("ct", Decimal(9), DELTA)
        self.signed: list[PrivacySpend] = []
        older = database.with_name("older.sqlite3")
        older.touch(mode=0o600)
        with closing(sqlite3.connect(database)) as live, closing(sqlite3.connect(older)) as copy:
            live.backup(copy)
        for round in range(2):
            spend = ledger.commit(reserve(ledger, round).id, EVENTS)
            self.signed.append(spend.statement(attempt=0, clip=Decimal(1)))
        self.ledger = Ledger(open_database(older))
        for round in range(3):
            self.ledger.commit(reserve(self.ledger, round, "again").id, EVENTS)

    def check(self) -> None:
        seen = max(statement.ledger_sequence for statement in self.signed)
        self.ledger.check_position(seen, self.signed)


def test_the_deeper_roll_back_is_caught(database: Path, ledger: Ledger) -> None:
    with pytest.raises(LedgerRolledBack):
        RolledBack(database, ledger).check()


def test_mutant_that_compares_numbers_only(
    database: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    rolled_back = RolledBack(database, ledger)
    monkeypatch.setattr(ledger_module, "is_statement_of", lambda _spent, _statement: True)
    rolled_back.check()  # nothing is noticed: the statements are what catches it
