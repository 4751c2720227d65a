"""`wardround-site ledger` and `wardround-site plan`, as a person types them."""

import json
import shutil
import sqlite3
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest
from typer import Typer
from typer.testing import CliRunner, Result

from wardround.client import database as database_module
from wardround.client import ledger_cli, plan_cli
from wardround.client.database import open_database
from wardround.client.errors import LedgerError, LedgerRolledBack, SiteStateError
from wardround.client.ledger import Ledger
from wardround.client.spend import Reservation
from wardround.datasets import cohort, phantom
from wardround.datasets.cohort import Cohort
from wardround.privacy.accounting import PrivacyEvent, epsilon
from wardround.privacy.errors import PlanInvalid
from wardround.privacy.plan import StudyPlan
from wardround.privacy.planned import PlannedSpend, suggest

DELTA = Decimal("1e-5")
DAY = 86_400_000
EVENTS = (PrivacyEvent.gaussian(6.0, 0.25, 5, unit="patient", relation="add-remove"),)
PLAN = """
[study]
id = "nodules"
title = "Nodules"
purpose = "A test"
legal_basis = "none needed"
[task]
kind = "tabular"
classes = ["no", "yes"]
input_shape = [8]
[model]
name = "mlp"
seed = 1
tensors = [{ name = "w", shape = [8, 2] }]
[training]
rounds = 4
mode = "local_steps"
local_steps = 5
optimiser = "adamw"
learning_rate = 0.002
[privacy]
unit = "patient"
relation = "add-remove"
clip = 1.0
noise_multiplier = 6.0
sample_rate = 0.25
target_epsilon = 1
delta = 1e-5
[secure_aggregation]
threshold = 4
colluders = 1
min_cohort = 4
max_weight = 1000
update_clip = 1.0
[participants]
sites = ["east", "north", "south", "west"]
"""
SHARED = (
    PLAN.replace('"local_steps"\n', '"one_step"\n')
    .replace("local_steps = 5", "local_steps = 1")
    .replace("delta = 1e-5", "delta = 1e-5\nshared_noise = true")
)


def run(app: Typer, *arguments: object, fails: type[Exception] | None = None) -> Result:
    result = CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "80"})
    if fails is None:
        assert result.exception is None, result.exception
    else:
        assert isinstance(result.exception, fails), result.output
    return result


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ledger") / "site.sqlite3"
    engine = open_database(path)
    now = 1_760_000_000_000

    def clock() -> int:
        nonlocal now
        now += 10 * DAY
        return now

    ledger = Ledger(engine, clock=clock)
    ledger.set_budget("chest-ct", Decimal(3), DELTA)
    ledger.set_budget("chest-ct", Decimal(2), DELTA, study="nodules")
    for study in ("nodules", "covid"):
        for round in (1, 2):
            held = ledger.reserve(
                run=f"run-{study}", study=study, dataset="chest-ct", round=round, events=EVENTS
            )
            assert isinstance(held, Reservation)
            ledger.commit(held.id, EVENTS)
    ledger.reserve(run="run-cut", study="covid", dataset="chest-ct", round=7, events=EVENTS)
    engine.dispose()
    phantom.images(
        path.parent / "images", seed=3, patients=24, classes=("clear", "nodule"), size=16, scanner=0
    )
    cohort.add(path.parent / "images", path.parent, "mri", "image-classification-2d", key=b"k" * 32)
    return path


@pytest.fixture
def home(tmp_path: Path, database: Path) -> Path:
    shutil.copy2(database, tmp_path)
    shutil.copytree(database.parent / "datasets", tmp_path / "datasets")
    return tmp_path


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "study.toml"
    path.write_text(PLAN)
    return path


def price(rounds: int) -> str:
    return epsilon(EVENTS * rounds, DELTA).text


# -- ledger ---------------------------------------------------------------------------------------


def test_the_account_is_shown_within_80_columns(home: Path) -> None:
    shown = run(ledger_cli.app, "--home", home).output
    assert max(map(len, shown.splitlines())) <= 80
    for part in ("opening", "closing", price(4), "budget", "left", "study nodules"):
        assert part in shown
    assert f"-> {Decimal(price(2)):.4f} of 2 at delta 0.00001" in shown
    assert "run run-cut, round 7) counts as spent until decided" in shown
    assert "Outside the accountant" in shown
    assert "held-out evaluation" in shown


def test_the_account_for_machines(home: Path) -> None:
    said = json.loads(run(ledger_cli.app, "--home", home, "--json").output)
    (account,) = said["datasets"]
    assert (account["opening"], account["closing"]) == ("0", price(4))
    assert account["held_for_open_rounds"] == price(5)
    assert [(line["study"], line["rounds"], line["steps"]) for line in account["spends"]] == [
        ("nodules", 2, 10),
        ("covid", 2, 10),
    ]
    assert [part["closing"] for part in account["studies"]] == [price(2), price(2)]
    for claim in (account["claim"], *(part["claim"] for part in account["studies"])):
        assert (claim["neighbouring_relation"], claim["delta"]) == ("add-remove", "0.00001")
    assert said["outside_the_accountant"]
    assert said["suspended"] is None


def test_a_period_opens_with_what_was_spent_before(home: Path) -> None:
    # Entries are ten days apart from 2025-10-19 on; the third spend is the eighth, of 2025-12-28.
    arguments = ("--home", home, "--since", "2025-12-10", "--until", "2026-01-01", "--json")
    (account,) = json.loads(run(ledger_cli.app, *arguments).output)["datasets"]
    assert (account["opening"], account["closing"]) == (price(2), price(3))
    assert [line["study"] for line in account["spends"]] == ["covid"]


def test_a_picture_is_written(home: Path) -> None:
    run(ledger_cli.app, "--home", home, "--plot", home / "ledger.png")
    assert (home / "ledger.png").read_bytes().startswith(b"\x89PNG")
    run(ledger_cli.app, "--home", home, "--plot", home / "none" / "x.png", fails=LedgerError)


def test_a_budget_is_set_and_kept(home: Path) -> None:
    run(
        ledger_cli.app, "budget", "set", "mri", "--epsilon", "1.5", "--delta", "1e-6",
        "--home", home,
    )  # fmt: skip
    account = json.loads(run(ledger_cli.app, "--home", home, "--dataset", "mri", "--json").output)
    pseudonym = Cohort.load(home, "mri").pseudonym
    (found,) = account["datasets"]
    assert (found["name"], found["dataset"]) == ("mri", pseudonym)
    assert (found["budget"]["dataset"], found["budget"]["epsilon"]) == (pseudonym, "1.5")
    for called in ("mri", pseudonym, pseudonym[:12]):
        shown = run(ledger_cli.app, "--home", home, "--dataset", called).output
        assert shown.startswith(f"mri ({pseudonym})")
        assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize("mistyped", ["mir", "", "chest", "0"])
def test_a_budget_under_a_mistyped_name_is_refused(home: Path, mistyped: str) -> None:
    result = run(
        ledger_cli.app, "budget", "set", mistyped, "--epsilon", "1", "--delta", "1e-6",
        "--home", home, fails=LedgerError,
    )  # fmt: skip
    assert "it has: mri; see: wardround-site data list" in str(result.exception)


def test_a_damaged_data_set_does_not_hide_the_account(home: Path) -> None:
    (home / "datasets" / "mri" / "manifest.jsonl").write_text("{}\n")
    assert price(4) in run(ledger_cli.app, "--home", home).output


@pytest.mark.parametrize("bad", ["three", "-1", "nan"])
def test_a_budget_that_is_no_number_is_refused(home: Path, bad: str) -> None:
    run(
        ledger_cli.app, "budget", "set", "mri", f"--epsilon={bad}", "--delta", "1e-6",
        "--home", home, fails=LedgerError,
    )  # fmt: skip


def test_no_site_is_no_traceback(tmp_path: Path) -> None:
    result = run(ledger_cli.app, "--home", tmp_path / "nowhere", fails=SiteStateError)
    assert "wardround-site init" in str(result.exception)
    assert not (tmp_path / "nowhere").exists()


def test_a_site_without_a_ledger_is_told_how_it_comes_to_one(tmp_path: Path) -> None:
    (tmp_path / "site.toml").touch()
    result = run(ledger_cli.app, "--home", tmp_path, fails=SiteStateError)
    assert "join TOKEN" in str(result.exception)
    (tmp_path / "coordinator.json").touch()  # it has joined: once there was one
    result = run(ledger_cli.app, "--home", tmp_path, fails=SiteStateError)
    assert "bring back its newest copy" in str(result.exception)
    assert not (tmp_path / "site.sqlite3").exists()


def test_a_delta_that_gives_a_patient_away_is_pointed_out(home: Path) -> None:
    patients = len({s.patient for s in Cohort.load(home, "mri").samples("train")})
    for delta, warned in (("1e-5", False), ("0.006", True), ("0.06", True)):
        set_to = ("mri", "--epsilon", "1", "--delta", delta, "--home", home)
        shown = " ".join(run(ledger_cli.app, "budget", "set", *set_to).output.split())
        assert (f"not well under 1 / {patients} patients" in shown) == warned


def test_shared_noise_has_two_closings(home: Path) -> None:
    event = PrivacyEvent.gaussian(3, 0.5, 1, unit="patient", relation="add-remove", honest=4)
    engine = open_database(home / "site.sqlite3")
    ledger = Ledger(engine)
    mri = Cohort.load(home, "mri").pseudonym
    ledger.set_budget(mri, Decimal(3), DELTA, audience="aggregate")
    held = ledger.reserve(run="r", study="s", dataset=mri, round=1, events=(event,))
    ledger.commit(held.id, (event,))
    engine.dispose()
    for_all, for_the_sum = (epsilon([event], DELTA, audience=a) for a in ("everyone", "aggregate"))
    shown = run(ledger_cli.app, "--home", home, "--dataset", "mri").output
    assert "against who sees only the sum" in shown
    assert f"noise was shared: {for_all.value:.4f} against everyone" in shown
    said = json.loads(run(ledger_cli.app, "--home", home, "--json").output)
    first, second = said["datasets"]
    assert first["claim_otherwise"] is None
    assert (second["closing"], second["claim_otherwise"]["epsilon"]) == (
        for_the_sum.text,
        for_all.text,
    )


def test_a_damaged_or_busy_database_is_one_line(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = home / "site.sqlite3"
    monkeypatch.setattr(database_module, "WAIT_SECONDS", 0.1)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        result = run(ledger_cli.app, "--home", home, fails=SiteStateError)
        assert "try again when it has ended" in str(result.exception)
    data = path.read_bytes()
    path.write_bytes(data[:4096] + bytes(len(data) - 4096))
    result = run(ledger_cli.app, "--home", home, fails=SiteStateError)
    assert "is it this site's database, whole?" in str(result.exception)


def test_a_folder_named_in_the_wrong_place_is_not_passed_over(home: Path) -> None:
    result = CliRunner().invoke(
        ledger_cli.app, ["--home", str(home), "budget", "set", "x", "--epsilon=1", "--delta=0.1"]
    )
    assert result.exit_code == 2


def test_a_day_that_is_none_is_refused(home: Path) -> None:
    run(ledger_cli.app, "--home", home, "--since", "yesterday", fails=LedgerError)


def test_no_budget_says_how_to_set_one(home: Path) -> None:
    shown = run(ledger_cli.app, "--home", home, "--dataset", "mri").output
    assert "No budget is set for mri" in shown
    assert "ledger budget set" in shown


def test_an_open_reservation_is_released_with_a_reason(home: Path) -> None:
    (id,) = Ledger(open_database(home / "site.sqlite3")).book().open
    run(ledger_cli.app, "release", id, "--home", home, "--reason", "killed before training")
    run(ledger_cli.app, "release", "ffff", "--home", home, "--reason", "x", fails=LedgerError)
    (account,) = json.loads(run(ledger_cli.app, "--home", home, "--json").output)["datasets"]
    assert account["open_reservations"] == []
    assert account["held_for_open_rounds"] == price(4)


def test_a_restored_copy_is_shown_and_accepted(home: Path) -> None:
    ledger = Ledger(open_database(home / "site.sqlite3"))
    with pytest.raises(LedgerRolledBack):
        ledger.check_position(99)
    assert "Suspended" in run(ledger_cli.app, "--home", home).output
    arguments = ("accept-restore", "--home", home, "--reason", "new disk")
    run(ledger_cli.app, *arguments, fails=LedgerError)
    assert "after entry 99" in run(ledger_cli.app, *arguments, "--unknown").output
    assert "Suspended" not in run(ledger_cli.app, "--home", home).output


def test_a_forecast_against_what_is_left(home: Path, plan: Path) -> None:
    shown = run(ledger_cli.app, "forecast", plan, "chest-ct", "--home", home).output
    assert "This plan costs 0." in shown
    assert "on chest-ct" in shown
    said = json.loads(
        run(ledger_cli.app, "forecast", plan, "chest-ct", "--home", home, "--json").output
    )
    assert said["fits"]
    assert len(said["budgets"]) == 2


# -- plan -----------------------------------------------------------------------------------------


def test_the_cost_of_a_plan_needs_no_site(plan: Path) -> None:
    shown = run(plan_cli.app, "cost", plan).output
    assert max(map(len, shown.splitlines())) <= 80
    for part in (price(4), "4 rounds of 5 noisy steps", "at most 1", "Renyi ceiling"):
        assert part in shown


def test_a_plan_that_does_not_keep_its_word_is_shown_so(plan: Path) -> None:
    plan.write_text(PLAN.replace("target_epsilon = 1", "target_epsilon = 0.1"))
    assert "not kept" in run(plan_cli.app, "cost", plan).output
    assert json.loads(run(plan_cli.app, "cost", plan, "--json").output)["within_target"] is False


def test_the_cost_of_a_plan_for_this_site(home: Path, plan: Path) -> None:
    shown = run(plan_cli.app, "cost", plan, "--dataset", "chest-ct", "--home", home).output
    assert "This plan costs" in shown


def test_shared_noise_shows_both_prices(plan: Path) -> None:
    plan.write_text(SHARED)
    planned = PlannedSpend.of_plan(StudyPlan.from_toml(SHARED))
    assert planned.honest == 3  # four must survive, one of them may collude
    shown = run(plan_cli.app, "cost", plan).output
    assert f"{planned.cost().text} at delta" in shown
    assert f"{planned.cost('aggregate').text} against coordinator plus 1 site " in shown
    # All of the honest together add the plan's noise.
    whole = [PrivacyEvent.gaussian(6.0, 0.25, 4, unit="patient", relation="add-remove")]
    assert abs(planned.cost("aggregate").value - epsilon(whole, DELTA).value) < Decimal("0.001")


def test_a_plan_that_cannot_be_read_is_no_traceback(tmp_path: Path) -> None:
    run(plan_cli.app, "cost", tmp_path / "no.toml", fails=PlanInvalid)
    (tmp_path / "bad.toml").write_text("[study\n")
    run(plan_cli.app, "cost", tmp_path / "bad.toml", fails=PlanInvalid)


def test_suggestions_meet_the_budget_with_the_least_noise(tmp_path: Path) -> None:
    found = suggest(Decimal(3), DELTA, 2000, steps=(50,), rates=(Decimal("0.1"), Decimal("0.5")))
    for one in found:
        less = PrivacyEvent.gaussian(
            one.sigma - Decimal("0.01"), one.sample_rate, one.steps,
            unit="patient", relation="add-remove",
        )  # fmt: skip
        assert one.epsilon <= 3 < epsilon([less], DELTA).value
        assert one.step_error == pytest.approx(float(one.sigma) / (float(one.sample_rate) * 2000))
        assert one.run_error == pytest.approx(one.step_error / 50**0.5)
    assert found[0].sample_rate == Decimal("0.5")  # large samples do best


def test_a_suggestion_can_be_pasted_into_a_plan() -> None:
    shown = run(
        plan_cli.app, "suggest", "--epsilon", "3", "--patients", "500", "--steps", "20"
    ).output
    assert max(map(len, shown.splitlines())) <= 80
    lines = dict(line.split(" = ") for line in shown.splitlines() if " = " in line[:30])
    text = (
        PLAN.replace("target_epsilon = 1", "target_epsilon = 3")
        .replace("noise_multiplier = 6.0", f"noise_multiplier = {lines['noise_multiplier']}")
        .replace("sample_rate = 0.25", f"sample_rate = {lines['sample_rate']}")
    )
    assert PlannedSpend.of_plan(StudyPlan.from_toml(text)).cost().value <= 3


def test_a_suggestion_for_the_data_of_this_site(home: Path, tmp_path: Path) -> None:
    patients = len({s.patient for s in Cohort.load(home, "mri").samples("train")})
    images = len(Cohort.load(home, "mri").samples("train"))
    assert patients < images
    few = ("suggest", "--epsilon", "3", "--steps", "20", "--home", home)
    assert f", {patients} of unit patient," in run(plan_cli.app, *few).output
    shown = run(plan_cli.app, *few, "--dataset", "mri", "--unit", "image").output
    assert f", {images} of unit image," in shown
    for lacking in (("--dataset", "pet"), ("--home", tmp_path / "none")):
        result = run(plan_cli.app, *few, *lacking, fails=LedgerError)
        assert "give --patients" in str(result.exception)


def test_suggestions_for_machines() -> None:
    said = json.loads(
        run(
            plan_cli.app, "suggest", "--epsilon", "1", "--patients", "500", "--steps", "20",
            "--json",
        ).output
    )  # fmt: skip
    assert {one["steps"] for one in said} == {20}
    assert all(Decimal(one["epsilon"]) <= 1 for one in said)
    for one in said:
        assert (one["unit"], one["neighbouring_relation"]) == ("patient", "add-remove")
        assert (one["sampling"], one["delta"]) == ("poisson", "0.00001")
        assert "dp-accounting" in one["accountant_version"]
