"""`ledger` and `plan` with odd input, and what they say of it."""

import json
import os
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from rich.console import Console
from tests.commands import Terminal

from wardround.client import cli, ledger_cli
from wardround.client import database as database_module
from wardround.client.database import open_database
from wardround.client.errors import LedgerRolledBack
from wardround.client.ledger import Ledger
from wardround.client.study_cli import show_plan
from wardround.datasets import cohort, phantom
from wardround.datasets.cohort import Cohort
from wardround.privacy.accounting import PrivacyEvent
from wardround.privacy.plan import StudyPlan
from wardround.privacy.planned import PlannedSpend

EXAMPLE = Path(__file__).resolve().parents[2] / "deploy" / "examples" / "study.toml"
OUTSIDE = "Outside the accountant (it bounds none of these):"
EVENTS = (PrivacyEvent.gaussian(6.0, 0.25, 5, unit="patient", relation="add-remove"),)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("site")
    images = home / "images"
    phantom.images(images, seed=3, patients=24, classes=("clear", "nodule"), size=16, scanner=0)
    cohort.add(images, home, "chest", "image-classification-2d", key=b"k" * 32)
    engine = open_database(home / "site.sqlite3")
    ledger, dataset = Ledger(engine), Cohort.load(home, "chest").pseudonym
    ledger.set_budget(dataset, Decimal(3), Decimal("1e-4"))
    for round in (1, 2):
        held = ledger.reserve(run="run", study="s", dataset=dataset, round=round, events=EVENTS)
        ledger.commit(held.id, EVENTS)
    ledger.reserve(run="cut", study="s", dataset=dataset, round=1, events=EVENTS)
    engine.dispose()
    return home


@pytest.fixture
def home(tmp_path: Path, made: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "site"))


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(cli.main, monkeypatch, capsys)


def text(said: str) -> str:
    return " ".join(said.split())


# -- budgets --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("epsilon", "delta"),
    [
        ("1e400", "1e-5"), ("1e-400", "1e-5"), ("5.1234567890123456789", "1e-5"), ("inf", "1e-5"),
        ("3", "0"), ("3", "1"), ("3", "1e-400"), ("3", "1e400"), ("3", "nan"),
    ],
)  # fmt: skip
def test_a_budget_out_of_range_is_one_line_and_changes_nothing(
    home: Path, typed: Terminal, epsilon: str, delta: str
) -> None:
    before = typed("ledger", "--home", home, "--json").out
    given = ("--epsilon", epsilon, "--delta", delta, "--home", home)
    assert typed("ledger", "budget", "set", "chest", *given).is_one_line_error()
    assert typed("ledger", "--home", home, "--json").out == before


def test_a_budget_says_what_is_left_of_it(home: Path, typed: Terminal) -> None:
    give = ("ledger", "budget", "set", "chest", "--home", home)
    said = typed(*give, "--epsilon", "2", "--delta", "1e-4").out
    assert "of it is spent or reserved, " in said
    assert "promises little" not in said
    said = typed(*give, "--epsilon", "0.01", "--delta", "1e-4").out
    assert "is spent or reserved: nothing more will be" in said
    assert "promises little" in typed(*give, "--epsilon", "11", "--delta", "1e-4").out


@pytest.mark.parametrize("study", ["", "UPPER", "a b", "x" * 33])
def test_a_budget_for_what_can_be_no_study_is_refused(
    home: Path, typed: Terminal, study: str
) -> None:
    given = ("--epsilon", "1", "--delta", "1e-4", "--study", study, "--home", home)
    assert "is no study's id" in typed("ledger", "budget", "set", "chest", *given).error
    account = json.loads(typed("ledger", "--home", home, "--json").out)["datasets"][0]
    assert account["budget"]["epsilon"] == "3"


@pytest.mark.parametrize("reason", ["", "  ", "two\nlines", "<b>", "x" * 501])
def test_a_reason_has_to_be_one(home: Path, typed: Terminal, reason: str) -> None:
    (held,) = Ledger(open_database(home / "site.sqlite3")).book().open
    for command in (("release", held), ("accept-restore",)):
        said = typed("ledger", *command, "--home", home, "--reason", reason)
        assert said.is_one_line_error()
        assert "--reason is one line" in said.error


# -- the account ----------------------------------------------------------------------------------


def test_lines_recorded_at_another_delta_are_marked(home: Path, typed: Terminal) -> None:
    assert "recorded then" not in typed("ledger", "--home", home).out
    typed("ledger", "budget", "set", "chest", "--epsilon=3", "--delta=1e-6", "--home", home)
    assert "as recorded then, some at delta 0.0001" in text(typed("ledger", "--home", home).out)
    account = json.loads(typed("ledger", "--home", home, "--json").out)["datasets"][0]
    assert [line["at_delta"] for line in account["spends"]] == ["0.0001"]


def test_runs_side_by_side_have_one_line_each(home: Path, typed: Terminal) -> None:
    engine = open_database(home / "site.sqlite3")
    ledger, dataset = Ledger(engine), Cohort.load(home, "chest").pseudonym
    for run, round in (("b", 1), ("a", 1), ("b", 2), ("a", 2)):
        held = ledger.reserve(run=run, study="s", dataset=dataset, round=round, events=EVENTS)
        ledger.commit(held.id, EVENTS)
    engine.dispose()
    account = json.loads(typed("ledger", "--home", home, "--json").out)["datasets"][0]
    assert [(line["run"], line["rounds"]) for line in account["spends"]] == [
        ("run", 2), ("b", 2), ("a", 2),
    ]  # fmt: skip
    assert account["spends"][-1]["epsilon_after"] == account["closing"]


@pytest.mark.parametrize("columns", [60, 80])
def test_the_account_fits_the_terminal(
    home: Path, typed: Terminal, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setattr(ledger_cli, "out", Console(width=columns, highlight=False))
    said = typed("ledger", "--home", home).out
    assert max(map(len, said.splitlines())) <= columns
    outside = said.splitlines()[said.splitlines().index(OUTSIDE) + 1 :]
    assert len(outside) > 6
    assert {line[:4] for line in outside} == {"  - ", "    "}  # further lines under the first


def test_a_picture_is_of_the_kind_that_its_name_says(home: Path, typed: Terminal) -> None:
    said = typed("ledger", "--home", home, "--plot", home / "ledger.pdf")
    assert said.is_one_line_error()
    assert "ledger.png" in said.error


def test_a_period_that_ends_before_it_begins_is_refused(home: Path, typed: Terminal) -> None:
    period = ("--since", "2026-02-01", "--until", "2026-01-01")
    assert typed("ledger", "--home", home, *period).is_one_line_error()


def test_a_forecast_names_the_study_whose_budget_is_nearest_its_end(
    home: Path, typed: Terminal
) -> None:
    give = ("--epsilon=0.5", "--delta=1e-4", "--study", "chest-nodules", "--home", home)
    typed("ledger", "budget", "set", "chest", *give)
    said = text(typed("ledger", "forecast", EXAMPLE, "chest", "--home", home).out)
    assert "more than the 0.50 left of 0.5 for study chest-nodules on chest:" in said


def test_a_forecast_of_a_suspended_ledger_says_so(home: Path, typed: Terminal) -> None:
    given = ("ledger", "forecast", EXAMPLE, "chest", "--home", home)
    assert typed(*given).error == ""
    with pytest.raises(LedgerRolledBack):
        Ledger(open_database(home / "site.sqlite3")).check_position(99)
    said = typed(*given)
    assert "Suspended: the audit log has seen entry 99" in text(said.error)
    assert said.out.startswith("This plan costs")


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (sqlite3.SQLITE_FULL, "is the disk full"),
        (sqlite3.SQLITE_IOERR | 19 << 8, "is the disk full"),
        (sqlite3.SQLITE_READONLY, "can write to"),
        (sqlite3.SQLITE_BUSY | 2 << 8, "try again when it has ended"),
        (sqlite3.SQLITE_NOTADB, "whole?"),
    ],
)
def test_what_ails_a_database_is_told_apart(code: int, advice: str) -> None:
    error = sqlite3.OperationalError("it failed")
    error.sqlite_errorcode = code
    found = database_module.DatabaseError("", {}, error)
    assert advice in str(database_module._unusable("site.sqlite3", found))


def test_a_folder_that_cannot_be_written_is_one_line(home: Path, typed: Terminal) -> None:
    with closing(sqlite3.connect(home / "site.sqlite3")) as database:
        database.execute("PRAGMA journal_mode=DELETE")
    (home / "site.sqlite3").chmod(0o400)
    home.chmod(0o500)
    try:
        if os.access(home, os.W_OK):
            pytest.skip("this account writes everywhere")
        assert "can write to" in typed("ledger", "--home", home).error
    finally:
        home.chmod(0o700)


# -- plans ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        ("--epsilon", "0"), ("--epsilon", "101"), ("--epsilon", "1e400"), ("--epsilon", "1e-9"),
        ("--epsilon", "3", "--delta", "0"), ("--epsilon", "3", "--delta", "1e-400"),
        ("--epsilon", "3", "--delta", "1"),
    ],
)  # fmt: skip
def test_what_no_plan_may_cost_is_refused(typed: Terminal, given: tuple[str, ...]) -> None:
    assert typed("plan", "suggest", "--patients", "500", *given).is_one_line_error()


def test_a_suggestion_warns_of_a_delta_and_of_too_few_patients(typed: Terminal) -> None:
    few = typed("plan", "suggest", "--epsilon=.5", "--patients=3", "--steps=20")
    assert "With 3 patients the noise of a step is larger than the clip" in text(few.error)
    assert "target_epsilon = 0.5\n" in few.out  # as TOML writes it
    assert few.out.splitlines()[2].split()[2] == "1.5"
    many = typed("plan", "suggest", "--epsilon=3", "--patients=2000000", "--steps=20")
    assert "Take 1e-8 or less" in text(many.error)
    best = many.out.splitlines()[2].split()
    assert Decimal(best[5]) > 0  # never 0.0000: three digits, however small
    said = typed("plan", "suggest", "--epsilon=3", "--patients=2000000", "--steps=20", "--json")
    assert len(json.loads(said.out)) == 4


def test_those_beyond_the_uses_asked_for_come_last_and_are_said_to(typed: Terminal) -> None:
    given = ("--epsilon=3", "--patients=500", "--steps=20", "--passes=5")
    said = typed("plan", "suggest", *given).out
    assert "Last come those that use each unit more than 5 times" in said
    rows = [line.split() for line in said.splitlines()[2:6]]
    assert [Decimal(row[-1]) > 5 for row in rows] == [False, False, False, True]


def test_the_cost_for_a_data_set_looks_at_its_patients(
    home: Path, typed: Terminal, tmp_path: Path
) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(EXAMPLE.read_text().replace("delta = 0.0001", "delta = 0.009"))
    given = ("plan", "cost", plan, "--dataset", "chest", "--home", home)
    assert "Delta 0.009 is not well under 1 / " in text(typed(*given).error)
    said = json.loads(typed(*given, "--json").out)
    assert (said["noise_multiplier_of_a_site"], said["sample_rate"]) == ("3.5", "0.5")
    assert said["honest_sites_that_share_noise"] == 1


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[study\n", b"[total]\nepsilon = 1\n"])
def test_a_file_that_is_no_plan_is_one_line(
    tmp_path: Path, typed: Terminal, content: bytes
) -> None:
    (tmp_path / "plan.toml").write_bytes(content)
    for command in (("plan", "cost"), ("policy", "check")):
        assert typed(*command, tmp_path / "plan.toml").is_one_line_error()
        assert typed(*command, tmp_path).is_one_line_error()


def test_who_reviews_shared_noise_sees_both_prices(capsys: pytest.CaptureFixture[str]) -> None:
    plan = StudyPlan.from_toml(EXAMPLE.read_text())
    show_plan(plan, "north")
    assert "unmasked" not in capsys.readouterr().out
    plan = replace(
        plan,
        training=replace(plan.training, mode="one_step", local_steps=1),
        privacy=replace(plan.privacy, shared_noise=True),
    )
    show_plan(plan, "north")
    shown, planned = text(capsys.readouterr().out), PlannedSpend.of_plan(plan)
    assert f"epsilon {planned.promised().text} of at most 4" in shown
    assert "against who sees only the sum" in shown
    assert f"epsilon {planned.cost().text} against who sees this site's own update" in shown
