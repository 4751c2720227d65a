"""The privacy ledger: the way of a round, budgets, refusals, what a spend says."""

import threading
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import DatabaseError

from wardround.client.database import open_database
from wardround.client.errors import BudgetExceeded, LedgerDamaged, LedgerError, Refused
from wardround.client.ledger import Ledger
from wardround.client.spend import Reservation, Spend
from wardround.privacy import canonical
from wardround.privacy.accounting import PrivacyEvent, epsilon
from wardround.privacy.errors import AccountingError, MalformedData
from wardround.privacy.events import PrivacySpend
from wardround.privacy.plan import decimal_text
from wardround.privacy.planned import Forecast

DELTA = Decimal("1e-5")


def steps(count: int, **changes: object) -> tuple[PrivacyEvent, ...]:
    kind = {"sigma": 4.0, "sample_rate": 0.5, "unit": "patient", "relation": "add-remove"}
    return (PrivacyEvent.gaussian(**{**kind, "steps": count, **changes}),)  # type: ignore[arg-type]  # keywords of several types


STEPS = steps(5)


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return open_database(tmp_path / "site.sqlite3")


@pytest.fixture
def ledger(engine: Engine) -> Ledger:
    ledger = Ledger(engine)
    ledger.set_budget("ct", Decimal(3), DELTA)
    return ledger


def price(rounds: int) -> Decimal:
    return epsilon(STEPS * rounds, DELTA).value


def reserve(
    ledger: Ledger,
    round: int,
    *,
    run: str = "run",
    study: str = "s",
    events: tuple[PrivacyEvent, ...] = STEPS,
) -> Reservation:
    held = ledger.reserve(run=run, study=study, dataset="ct", round=round, events=events)
    assert isinstance(held, Reservation)
    return held


def spend(ledger: Ledger, round: int, **what: str) -> Spend:
    return ledger.commit(reserve(ledger, round, **what).id, STEPS)  # type: ignore[arg-type]  # run and study


# -- the way of a round ---------------------------------------------------------------------------


def test_a_round_is_reserved_trained_and_committed(ledger: Ledger) -> None:
    first = spend(ledger, 1)
    second = spend(ledger, 2)
    assert first.epsilon_before == 0
    assert first.epsilon_after == second.epsilon_before == price(1)
    assert second.epsilon_after == price(2)
    assert second.sequence == ledger.position().sequence == 5
    assert second.left == 3 - price(2)


def test_what_is_stored_are_events(ledger: Ledger) -> None:
    spend(ledger, 1)
    (spent,) = ledger.book().spent.values()
    assert spent.committed.events == STEPS


def test_fewer_steps_than_reserved_cost_less(ledger: Ledger) -> None:
    held = reserve(ledger, 1)
    done = ledger.commit(held.id, steps(2))
    assert done.epsilon_after == epsilon(steps(2), DELTA).value < price(1)


def test_more_than_reserved_cannot_be_committed(ledger: Ledger) -> None:
    held = reserve(ledger, 1)
    with pytest.raises(LedgerError, match="nothing of it may leave"):
        ledger.commit(held.id, steps(6))
    with pytest.raises(LedgerError, match="nothing of it may leave"):
        ledger.commit(held.id, steps(5, sigma=3.9))
    assert ledger.book().open.keys() == {held.id}


def test_a_released_round_costs_nothing(ledger: Ledger) -> None:
    held = reserve(ledger, 1)
    ledger.release(held.id)
    ledger.release(held.id)
    assert ledger.book().accounts("ct", "s")[0].held.value == 0
    with pytest.raises(LedgerError, match="not open"):
        ledger.commit(held.id, STEPS)
    assert spend(ledger, 1).epsilon_after == price(1)


def test_a_spend_cannot_be_taken_back(ledger: Ledger) -> None:
    done = spend(ledger, 1)
    with pytest.raises(LedgerError, match="not open"):
        ledger.release(done.id)


def test_a_retried_round_is_not_spent_twice(ledger: Ledger) -> None:
    held = reserve(ledger, 1)
    assert reserve(ledger, 1) == held
    done = ledger.commit(held.id, STEPS)
    assert ledger.commit(held.id, STEPS) == done
    again = ledger.reserve(run="run", study="s", dataset="ct", round=1, events=STEPS)
    assert again == done
    assert len(ledger.book().spent) == 1


def test_the_same_round_for_other_training_is_refused(ledger: Ledger) -> None:
    reserve(ledger, 1)
    with pytest.raises(LedgerError, match="reserved for other training"):
        reserve(ledger, 1, events=steps(4))


def test_a_spend_cannot_be_committed_again_as_something_else(ledger: Ledger) -> None:
    done = spend(ledger, 1)
    with pytest.raises(LedgerError, match="not open"):
        ledger.commit(done.id, steps(1))


# -- budgets --------------------------------------------------------------------------------------


def test_no_budget_no_training(engine: Engine) -> None:
    with pytest.raises(BudgetExceeded, match="ledger budget set ct --epsilon"):
        reserve(Ledger(engine), 1)


def test_a_refusal_says_budget_spent_asked_and_what_to_do(ledger: Ledger) -> None:
    spend(ledger, 1)
    reserve(ledger, 2)
    asked = epsilon((*STEPS, *STEPS, *steps(50)), DELTA, interval=1e-4).text
    with pytest.raises(BudgetExceeded) as caught:
        reserve(ledger, 3, events=steps(50))
    message, one, two = str(caught.value), decimal_text(price(1)), decimal_text(price(2))
    for part in ("epsilon 3 at", f"{one} is spent", f"{two} with", asked, "suggest"):
        assert part in message
    assert isinstance(caught.value, Refused)
    assert caught.value.rule == "privacy budget"


def test_the_last_affordable_round_is_announced(ledger: Ledger) -> None:
    rounds = ledger.affordable_rounds("ct", "s", STEPS)
    announced = []
    for round in range(1, rounds + 1):
        held = reserve(ledger, round)
        announced.append(held.last_affordable)
        ledger.commit(held.id, STEPS)
    assert announced == [False] * (rounds - 1) + [True]
    with pytest.raises(BudgetExceeded):
        reserve(ledger, rounds + 1)
    assert ledger.affordable_rounds("ct", "s", STEPS) == 0


def test_an_open_round_of_another_run_is_held_against_the_budget(ledger: Ledger) -> None:
    rounds = ledger.affordable_rounds("ct", "s", STEPS)
    for round in range(rounds):
        reserve(ledger, round, run="other", study="t")
    with pytest.raises(BudgetExceeded):
        reserve(ledger, 1)


def test_a_study_has_its_own_budget(ledger: Ledger) -> None:
    ledger.set_budget("ct", price(1), DELTA, study="s")
    done = spend(ledger, 1)
    assert (done.budget, done.study_epsilon) == (3, price(1))
    with pytest.raises(BudgetExceeded, match="study s on data set ct"):
        reserve(ledger, 2)
    assert spend(ledger, 2, study="t").study_epsilon == price(1)


def test_a_budget_lowered_meanwhile_stops_the_commit(ledger: Ledger) -> None:
    held = reserve(ledger, 1)
    ledger.set_budget("ct", Decimal("0.1"), DELTA)
    with pytest.raises(BudgetExceeded):
        ledger.commit(held.id, STEPS)
    assert ledger.book().accounts("ct", "s")[0].held.value > Decimal("0.1")


def test_setting_the_same_budget_again_adds_no_entry(ledger: Ledger) -> None:
    before = ledger.position()
    ledger.set_budget("ct", Decimal("3.0"), DELTA)
    assert ledger.position() == before


@pytest.mark.parametrize(
    ("limit", "delta"), [("NaN", "0.1"), ("-1", "0.1"), ("1", "0"), ("1", "1")]
)
def test_impossible_budgets_are_refused(ledger: Ledger, limit: str, delta: str) -> None:
    with pytest.raises((AccountingError, MalformedData)):
        ledger.set_budget("ct", Decimal(limit), Decimal(delta))


def test_units_do_not_mix_in_one_data_set(ledger: Ledger) -> None:
    spend(ledger, 1)
    with pytest.raises(AccountingError, match="patients and images"):
        reserve(ledger, 2, events=steps(1, unit="image"))


def test_shared_noise_needs_a_budget_that_says_so(ledger: Ledger) -> None:
    shared = steps(1, sigma=0.9, honest=9)
    with pytest.raises(BudgetExceeded):
        ledger.reserve(run="r", study="s", dataset="ct", round=1, events=shared * 3)
    ledger.set_budget("ct", Decimal(3), DELTA, audience="aggregate")
    held = reserve(ledger, 1, run="r", events=shared * 3)
    done = ledger.commit(held.id, shared * 3)
    assert done.shared_after is not None
    assert done.shared_after < 3 < done.epsilon_after
    assert done.left == 3 - done.shared_after
    assert done.counted == done.shared_after
    said = done.statement(attempt=0, clip=Decimal(1))
    assert (said.shared_noise_epsilon, said.epsilon_after) == (
        decimal_text(done.shared_after),
        decimal_text(done.epsilon_after),
    )


def test_a_forecast_says_what_a_plan_costs_of_what_is_left(ledger: Ledger) -> None:
    spend(ledger, 1)
    found = ledger.forecast(STEPS, "ct", "s", rounds=2)
    assert found.fits
    cost, left = price(3) - price(1), 3 - price(1)
    assert found.sentence == f"This plan costs {cost:.2f} of the {left:.2f} left of 3 on ct."
    over = ledger.forecast(STEPS, "ct", "s", rounds=1000)
    assert not over.fits
    assert f"{over.rounds} of its 1000 rounds are affordable" in over.sentence
    assert canonical.loads(canonical.dumps(over.to_json())) == over.to_json()
    unknown: Forecast = ledger.forecast(STEPS, "mri", "s")
    assert "no privacy budget" in unknown.sentence


# -- what a spend says ----------------------------------------------------------------------------


def test_a_spend_is_a_statement_for_the_log(ledger: Ledger) -> None:
    done = spend(ledger, 1)
    said = done.statement(attempt=2, clip=Decimal("1.50"), releases_outside=["sample count"])
    assert PrivacySpend.from_json(canonical.loads(canonical.dumps(said.to_json()))) == said
    assert (said.attempt, said.clip, said.ledger_sequence) == (2, "1.5", done.sequence)
    assert said.mechanisms[0].noise_multiplier == "4"
    again = [(one.noise_multiplier, one.sample_rate, one.steps) for one in said.mechanisms]
    assert epsilon(
        [
            PrivacyEvent.gaussian(
                Decimal(sigma), Decimal(rate), count, unit=said.unit, relation=said.relation
            )
            for sigma, rate, count in again
        ],
        Decimal(said.delta),
    ).value == Decimal(said.epsilon_after)


def test_a_spend_states_what_nist_sp_800_226_asks_for(ledger: Ledger) -> None:
    said = spend(ledger, 1).to_json()
    assert canonical.loads(canonical.dumps(said)) == said
    for field in ("unit", "neighbouring_relation", "delta", "sampling", "accountant"):
        assert said[field]
    assert str(said["accountant_version"]).startswith("dp-accounting")


# -- rows -----------------------------------------------------------------------------------------


def test_another_process_reads_the_same(ledger: Ledger, engine: Engine, tmp_path: Path) -> None:
    done = spend(ledger, 1)
    other = Ledger(open_database(tmp_path / "site.sqlite3"))
    assert other.position() == ledger.position()
    assert spend(other, 2).epsilon_before == done.epsilon_after
    assert ledger.position() == other.position()


@pytest.mark.parametrize(
    "attack",
    [
        "UPDATE ledger_entry SET body = '{}' WHERE sequence = 2",
        "UPDATE ledger_entry SET sequence = 99 WHERE sequence = 3",
        "DELETE FROM ledger_entry WHERE sequence = 3",
        "DELETE FROM ledger_entry",
        "INSERT OR REPLACE INTO ledger_entry SELECT 3, kind, body, digest FROM ledger_entry"
        " WHERE sequence = 1",
        "INSERT INTO ledger_entry SELECT 9, kind, body, digest FROM ledger_entry"
        " WHERE sequence = 1",
    ],
)
def test_rows_are_only_ever_added(ledger: Ledger, engine: Engine, attack: str) -> None:
    spend(ledger, 1)
    with pytest.raises(DatabaseError, match="append-only"), engine.begin() as connection:
        connection.execute(text(attack))
    assert spend(ledger, 2).epsilon_after == price(2)


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param("UPDATE ledger_entry SET body = replace(body, '4', '5')", id="cheaper"),
        pytest.param("DELETE FROM ledger_entry WHERE sequence = 2", id="row cut out"),
        pytest.param("UPDATE ledger_entry SET digest = '00'", id="digests forged"),
        pytest.param("UPDATE ledger_entry SET kind = 'release' WHERE sequence = 3", id="kind"),
    ],
)
def test_edited_rows_are_noticed(
    ledger: Ledger, engine: Engine, tmp_path: Path, attack: str
) -> None:
    spend(ledger, 1)
    with engine.begin() as connection:
        guards = connection.execute(
            text("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'")
        ).all()
        for name, _ in guards:
            connection.execute(text(f"DROP TRIGGER {name}"))
        connection.execute(text(attack))
        for _, sql in guards:
            connection.execute(text(sql))
    with pytest.raises(LedgerDamaged, match="was changed"):
        Ledger(open_database(tmp_path / "site.sqlite3"))


def test_a_missing_guard_is_noticed(ledger: Ledger, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("DROP TRIGGER ledger_no_delete"))
    with pytest.raises(LedgerDamaged, match="ledger_no_delete"):
        Ledger(engine)


def test_a_failed_transaction_leaves_nothing_behind(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, append = ledger.position(), ledger._append

    def break_after(*arguments: object, **more: object) -> None:
        append(*arguments, **more)  # type: ignore[arg-type]  # passed through
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "_append", break_after)
        with pytest.raises(OSError, match="disk full"):
            reserve(ledger, 1)
    assert ledger.position() == before
    assert not ledger.book().open
    assert spend(ledger, 1).sequence == before.sequence + 2


# -- several at once ------------------------------------------------------------------------------


def together(count: int, work: Callable[[int], None]) -> None:
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_threads_cannot_overspend(ledger: Ledger) -> None:
    ledger.set_budget("ct", price(5), DELTA)
    rounds = ledger.affordable_rounds("ct", "s", STEPS)
    outcomes: list[bool] = []

    def work(number: int) -> None:
        for round in range(3):
            try:
                reserve(ledger, round, run=f"run-{number}")
            except BudgetExceeded:
                outcomes.append(False)
            else:
                outcomes.append(True)

    together(4, work)
    assert len(outcomes) == 12
    assert outcomes.count(True) == len(ledger.book().open) == rounds == 5


def test_threads_that_reserve_one_round_get_one_reservation(ledger: Ledger) -> None:
    found: list[str] = []
    together(4, lambda _: found.append(reserve(ledger, 1).id))
    assert len(found) == 4
    assert len(set(found)) == len(ledger.book().open) == 1
