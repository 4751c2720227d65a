"""Any history of rounds, cuts and restarts keeps the ledger's promises."""

import shutil
import tempfile
from decimal import Decimal
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from wardround.client.database import open_database
from wardround.client.errors import BudgetExceeded
from wardround.client.ledger import Ledger
from wardround.client.spend import Reservation
from wardround.privacy.accounting import PrivacyEvent, epsilon

DELTA = Decimal("1e-5")
LIMIT = Decimal("1.2")


def steps(count: int) -> tuple[PrivacyEvent, ...]:
    return (PrivacyEvent.gaussian(20.0, 1.0, count, unit="patient", relation="add-remove"),)


class Histories(RuleBasedStateMachine):
    """A site at work; `left` counts the steps whose result has left it, as an outsider would."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.left = 0
        self.held: dict[str, Reservation] = {}
        self.sequence = 0
        self.restart()
        self.ledger.set_budget("ct", LIMIT, DELTA)

    @rule()
    def restart(self) -> None:
        if hasattr(self, "engine"):
            self.engine.dispose()
        self.engine = open_database(self.folder / "site.sqlite3")
        self.ledger = Ledger(self.engine)

    @rule(run=st.sampled_from("abc"), round=st.integers(1, 4), count=st.integers(1, 9))
    def reserve(self, run: str, round: int, count: int) -> None:
        wanted = {"run": run, "study": run, "dataset": "ct", "round": round}
        held = self.ledger.book().find(run, "ct", round)
        if held is not None:
            return
        before = self.ledger.book().accounts("ct", run, steps(count))[0]
        try:
            got = self.ledger.reserve(**wanted, events=steps(count))  # type: ignore[arg-type]  # by name
        except BudgetExceeded:
            assert not before.fits
            return
        assert before.fits
        assert isinstance(got, Reservation)
        self.held[got.id] = got

    def take(self, data: st.DataObject) -> Reservation:
        """One of the open reservations, by its place: their names are random."""
        place = data.draw(st.integers(0, len(self.held) - 1))
        return self.held.pop(list(self.held)[place])

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        held = self.take(data)
        done = data.draw(st.integers(0, held.events[0].steps))
        spend = self.ledger.commit(held.id, steps(done))
        self.left += done
        assert spend.epsilon_after == (epsilon(steps(self.left), DELTA).value if self.left else 0)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self.ledger.release(self.take(data).id)

    @invariant()
    def promises(self) -> None:
        book = self.ledger.book()
        (account,) = book.accounts("ct", "a")
        assert account.held.value <= LIMIT
        assert set(book.open) == set(self.held)
        held = sum(one.events[0].steps for one in self.held.values())
        total = self.left + held
        assert account.held.value == (epsilon(steps(total), DELTA).value if total else 0)
        assert self.ledger.position().sequence >= self.sequence
        self.sequence = self.ledger.position().sequence

    def teardown(self) -> None:
        if hasattr(self, "engine"):
            self.engine.dispose()
            shutil.rmtree(self.folder)


TestHistories = Histories.TestCase
TestHistories.settings = settings(max_examples=12, stateful_step_count=15, deadline=None)
