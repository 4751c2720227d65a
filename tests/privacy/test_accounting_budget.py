"""The rules of a privacy budget, without storage."""

from decimal import Decimal

import pytest

from wardround.privacy.accounting import PrivacyEvent, epsilon
from wardround.privacy.budget import (
    Accepted,
    Book,
    BudgetSet,
    Committed,
    Lost,
    Released,
    Reserved,
    affordable,
    covers,
)
from wardround.privacy.errors import AccountingError, MalformedData

STEP = PrivacyEvent.gaussian(4.0, 0.5, 5, unit="patient", relation="add-remove")
SHARED = PrivacyEvent.gaussian(4.0, 0.5, 1, unit="patient", relation="add-remove", honest=4)


def budget(epsilon: str, study: str = "", audience: str = "everyone") -> BudgetSet:
    return BudgetSet(dataset="ct", study=study, epsilon=epsilon, delta="0.00001", audience=audience)


def reserved(id: str, round: int = 1, study: str = "s") -> Reserved:
    return Reserved(id=id, run="r", study=study, dataset="ct", round=round, events=(STEP,))


def committed(id: str, events: tuple[PrivacyEvent, ...] = (STEP,)) -> Committed:
    return Committed(
        id=id, events=events, delta="0.00001", epsilon_before="0", epsilon_after="1",
        shared_before="", shared_after="", study_epsilon="1", budget="3", audience="everyone",
        accountant="PLD", version="test",
    )  # fmt: skip


def book(*entries: object) -> Book:
    made = Book()
    for sequence, entry in enumerate(entries, start=1):
        made.apply(sequence, 0, entry)  # type: ignore[arg-type]  # entries of several kinds
    return made


def price(rounds: int) -> Decimal:
    return epsilon([STEP] * rounds, Decimal("1e-5")).value


def test_no_budget_bears_nothing() -> None:
    assert Book().accounts("ct", "s", (STEP,)) == ()
    assert affordable(Book(), "ct", "s", (STEP,)) == 0
    # A study's budget without one of the data set is none either.
    assert book(budget("9", study="s")).accounts("ct", "s", (STEP,)) == ()


def test_what_is_open_counts_as_spent_until_it_is_closed() -> None:
    made = book(budget("3"), reserved("a"))
    (account,) = made.accounts("ct", "s", (STEP,))
    assert (account.spent.value, account.held.value) == (0, price(1))
    assert account.asked.value == price(2)
    made.apply(3, 0, committed("a"))
    (account,) = made.accounts("ct", "s", (STEP,))
    assert (account.spent.value, account.held.value) == (price(1), price(1))


def test_a_release_gives_back() -> None:
    made = book(budget("3"), reserved("a"), Released(id="a", reason="nothing left"))
    assert made.accounts("ct", "s")[0].held.value == 0


@pytest.mark.parametrize(
    "entries",
    [
        pytest.param((committed("a"),), id="commit of nothing"),
        pytest.param((reserved("a"), committed("a"), committed("a")), id="committed twice"),
        pytest.param(
            (reserved("a"), committed("a"), Released(id="a", reason="")), id="spend taken back"
        ),
        pytest.param((reserved("a"), Released(id="a", reason=""), committed("a")), id="revived"),
        pytest.param((reserved("a"), reserved("a", 2)), id="one name twice"),
        pytest.param((reserved("a"), committed("a", (STEP, STEP))), id="more than reserved"),
    ],
)
def test_entries_that_no_ledger_could_hold_are_refused(entries: tuple[object, ...]) -> None:
    with pytest.raises(MalformedData):
        book(*entries)


def test_a_study_is_held_to_its_own_budget_and_the_data_sets() -> None:
    made = book(budget("9"), budget("1.5", study="s"))
    total, part = made.accounts("ct", "s", (STEP,) * 3)
    assert price(3) > Decimal("1.5")
    assert total.fits
    assert not part.fits
    (only,) = made.accounts("ct", "other", (STEP,) * 3)
    assert only.fits


def test_the_last_set_budget_holds() -> None:
    made = book(budget("9"), budget("0"))
    assert not made.accounts("ct", "s", (STEP,))[0].fits


@pytest.mark.parametrize("limit", ["0.5", "1.5", "3"])
def test_affordable_rounds_are_exact(limit: str) -> None:
    made = book(budget(limit), reserved("a", 0))
    rounds = affordable(made, "ct", "s", (STEP,))
    assert price(1 + rounds) <= Decimal(limit) or rounds == 0
    more = epsilon([STEP] * (2 + rounds), Decimal("1e-5"), interval=1e-4)
    assert more.value > Decimal(limit)


def test_a_budget_against_the_aggregate_bears_more_shared_noise() -> None:
    everyone = affordable(book(budget("2")), "ct", "s", (SHARED,))
    aggregate = affordable(book(budget("2", audience="aggregate")), "ct", "s", (SHARED,))
    # Four sites' noise is twice as strong, which bears about four times as many steps.
    assert 3 * everyone < aggregate < 6 * everyone


def test_fewer_steps_are_covered_and_nothing_else_is() -> None:
    fewer = PrivacyEvent.gaussian(4.0, 0.5, 4, unit="patient", relation="add-remove")
    less_noise = PrivacyEvent.gaussian(3.9, 0.5, 1, unit="patient", relation="add-remove")
    assert covers((STEP,), (fewer,))
    assert covers((STEP,), ())
    assert covers((STEP, STEP), (fewer, fewer))
    assert not covers((STEP,), (fewer, fewer))
    assert not covers((STEP,), (less_noise,))


def test_spends_restored_from_the_log_count() -> None:
    lost = Lost(sequence=7, run="r", study="s", dataset="ct", round=1, events=(STEP,))
    made = book(budget("3"), Accepted(seen=7, lost=(lost,), reason="disk replaced"))
    assert made.accounts("ct", "s")[0].spent.value == price(1)
    assert made.passed == 7


def test_a_copy_does_not_follow() -> None:
    made = book(budget("3"))
    copy = made.copy()
    made.apply(2, 0, reserved("a"))
    assert not copy.open


@pytest.mark.parametrize(("epsilon", "delta"), [("inf", "0.1"), ("1", "0"), ("1", "1")])
def test_a_budget_without_limit_is_refused(epsilon: str, delta: str) -> None:
    with pytest.raises(AccountingError):
        BudgetSet(dataset="ct", study="", epsilon=epsilon, delta=delta, audience="everyone")
