"""A ledger restored from an older copy: noticed by the audit log's view, refused until decided."""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest

from wardround.client.database import open_database
from wardround.client.errors import LedgerError, LedgerRolledBack, Refused
from wardround.client.ledger import Ledger
from wardround.client.spend import Reservation
from wardround.privacy.accounting import PrivacyEvent, epsilon
from wardround.privacy.events import PrivacySpend

EVENTS = (PrivacyEvent.gaussian(20.0, 1.0, 3, unit="patient", relation="add-remove"),)
DELTA = Decimal("1e-5")


class Hospital:
    """A site whose database is copied and brought back, and the log that remembers it all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log: list[PrivacySpend] = []
        self.start("live")
        self.ledger.set_budget("ct", Decimal(9), DELTA)

    def start(self, name: str) -> None:
        self.name = name
        self.engine = open_database(self.folder / f"{name}.sqlite3")
        self.ledger = Ledger(self.engine)

    def train(self, *rounds: int, run: str = "run") -> None:
        for round in rounds:
            held = self.ledger.reserve(run=run, study="s", dataset="ct", round=round, events=EVENTS)
            assert isinstance(held, Reservation)
            spend = self.ledger.commit(held.id, EVENTS)
            self.log.append(spend.statement(attempt=0, clip=Decimal(1)))

    def backup(self, name: str) -> None:
        target = self.folder / f"{name}.sqlite3"
        target.touch(mode=0o600)
        source = self.folder / f"{self.name}.sqlite3"
        with closing(sqlite3.connect(source)) as live, closing(sqlite3.connect(target)) as copy:
            live.backup(copy)

    @property
    def seen(self) -> int:
        return max((statement.ledger_sequence for statement in self.log), default=0)

    def check(self) -> None:
        self.ledger.check_position(self.seen, self.log)

    def spent(self) -> Decimal:
        return self.ledger.book().accounts("ct", "s")[0].spent.value


def price(rounds: int) -> Decimal:
    return epsilon(EVENTS * rounds, DELTA).value


@pytest.fixture
def hospital(tmp_path: Path) -> Iterator[Hospital]:
    hospital = Hospital(tmp_path)
    yield hospital
    hospital.engine.dispose()


def test_a_ledger_in_order_passes(hospital: Hospital) -> None:
    hospital.check()
    hospital.train(1, 2, 3)
    hospital.check()
    # The ledger may be ahead of the log: a statement is still on its way.
    hospital.log.pop()
    hospital.check()


def test_an_older_copy_is_refused_until_an_operator_decides(hospital: Hospital) -> None:
    hospital.train(1, 2)
    hospital.backup("old")
    hospital.train(3, 4)
    hospital.start("old")
    with pytest.raises(LedgerRolledBack, match="2 signed spends are missing"):
        hospital.check()
    for refused in (
        lambda: hospital.train(5),
        lambda: hospital.ledger.commit("any", EVENTS),
        lambda: hospital.ledger.release("any"),
        hospital.check,
    ):
        with pytest.raises(LedgerRolledBack) as caught:
            refused()
        assert isinstance(caught.value, Refused)
        assert "ledger accept-restore" in str(caught.value)
    hospital.start("old")  # a restart forgets nothing
    with pytest.raises(LedgerRolledBack):
        hospital.train(5)
    accepted = hospital.ledger.accept_restore("the disk was replaced")
    assert {lost.round for lost in accepted.lost} == {3, 4}
    assert hospital.spent() == price(4)
    hospital.check()
    hospital.train(5)
    assert Decimal(hospital.log[-1].epsilon_before) == price(4)
    with pytest.raises(LedgerError, match="spent before this ledger was restored"):
        hospital.train(4)
    # Sequence numbers go on after what the log has seen, so its order stays monotone.
    numbers = [statement.ledger_sequence for statement in hospital.log]
    assert numbers == sorted(set(numbers))
    hospital.check()


def test_a_deeper_roll_back_that_grew_again_is_caught(hospital: Hospital) -> None:
    # The attack: go back, then train on until the sequence number is beyond what the log saw.
    hospital.train(1)
    hospital.backup("old")
    hospital.train(2, 3)
    hospital.start("old")
    honest = list(hospital.log)
    hospital.train(11, 12, 13, run="other")
    assert hospital.ledger.position().sequence > max(one.ledger_sequence for one in honest)
    hospital.log = honest
    # The number alone says nothing any more; the statements do.
    with pytest.raises(LedgerRolledBack, match="2 signed spends are missing"):
        hospital.check()
    hospital.ledger.accept_restore("known")
    assert hospital.spent() == price(6)


def test_the_same_rounds_trained_again_after_a_roll_back_are_caught(hospital: Hospital) -> None:
    hospital.train(1)
    hospital.backup("old")
    hospital.train(2)
    hospital.start("old")
    hospital.ledger.set_budget("ct", Decimal(10), DELTA)  # moves the sequence numbers by one
    signed = list(hospital.log)
    hospital.train(2)
    hospital.log = signed
    with pytest.raises(LedgerRolledBack):
        hospital.check()


def test_an_empty_new_database_is_caught(hospital: Hospital) -> None:
    hospital.train(1)
    hospital.start("new")
    with pytest.raises(LedgerRolledBack):
        hospital.check()


def test_an_accepted_restore_does_not_hide_the_next(hospital: Hospital) -> None:
    hospital.train(1)
    hospital.backup("first")
    hospital.backup("first-again")
    hospital.train(2)
    hospital.start("first")
    with pytest.raises(LedgerRolledBack):
        hospital.check()
    hospital.ledger.accept_restore("first time")
    hospital.train(3)
    hospital.backup("second")
    hospital.train(4)
    hospital.start("second")
    with pytest.raises(LedgerRolledBack, match="1 signed spends are missing"):
        hospital.check()
    # And back to before the first restore: the accepted row is gone with the rest.
    hospital.start("first-again")
    with pytest.raises(LedgerRolledBack):
        hospital.check()


def test_what_was_lost_is_counted_or_the_operator_says_it_is_not(hospital: Hospital) -> None:
    hospital.train(1)
    hospital.backup("old")
    hospital.train(2)
    hospital.start("old")
    with pytest.raises(LedgerRolledBack, match="0 signed spends"):
        hospital.ledger.check_position(hospital.seen)  # a number, no statements
    with pytest.raises(LedgerError, match="--unknown"):
        hospital.ledger.accept_restore("in a hurry")
    # The log comes at last: the suspension learns what is missing.
    with pytest.raises(LedgerRolledBack, match="1 signed spends"):
        hospital.check()
    hospital.ledger.accept_restore("the log shows it")
    assert hospital.spent() == price(2)


def test_an_operator_can_go_on_without_the_log(hospital: Hospital) -> None:
    hospital.train(1)
    hospital.backup("old")
    hospital.train(2)
    hospital.start("old")
    with pytest.raises(LedgerRolledBack):
        hospital.ledger.check_position(hospital.seen)
    hospital.ledger.accept_restore("the coordinator is gone for good", unknown=True)
    assert hospital.spent() == price(1)
    # But when the log comes back after all, its statements count.
    with pytest.raises(LedgerRolledBack, match="1 signed spends"):
        hospital.check()


def test_there_is_nothing_to_accept_in_a_ledger_in_order(hospital: Hospital) -> None:
    with pytest.raises(LedgerError, match="in order"):
        hospital.ledger.accept_restore("just in case")


def test_a_database_exchanged_under_a_running_process_is_noticed(hospital: Hospital) -> None:
    hospital.train(1)
    running = hospital.ledger
    hospital.backup("old")
    hospital.train(2)
    hospital.engine.dispose()
    for suffix in ("", "-wal", "-shm"):
        (hospital.folder / f"live.sqlite3{suffix}").unlink(missing_ok=True)
    shutil.copy2(hospital.folder / "old.sqlite3", hospital.folder / "live.sqlite3")
    with pytest.raises(LedgerError, match="exchanged while in use"):
        running.book()


def test_an_own_line_that_the_database_forgot_suspends_a_ledger_that_lacks_nothing(
    hospital: Hospital,
) -> None:
    hospital.train(1)
    with pytest.raises(LedgerRolledBack, match="this site has cosigned 40 entries"):
        hospital.ledger.check_position(hospital.seen, hospital.log, 40)
    with pytest.raises(LedgerRolledBack, match="has cosigned 40"):
        hospital.train(2)
    hospital.start("live")  # a new process knows of it as well
    hospital.ledger.accept_restore("a new disk")
    hospital.ledger.check_position(hospital.seen, hospital.log, 40)
    hospital.train(2)
    with pytest.raises(LedgerRolledBack, match="has cosigned 41"):
        hospital.ledger.check_position(hospital.seen, hospital.log, 41)
