"""Real processes on one ledger: they cannot overspend, and killing them never under-counts."""

import json
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from wardround.client.database import open_database
from wardround.client.ledger import Ledger
from wardround.privacy.accounting import PrivacyEvent, epsilon

WORKER = Path(__file__).with_name("ledger_worker.py")
EVENTS = (PrivacyEvent.gaussian(20.0, 1.0, 3, unit="patient", relation="add-remove"),)
DELTA = Decimal("1e-5")


def run(*arguments: object) -> Any:
    done = subprocess.run(
        [sys.executable, str(WORKER), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "site.sqlite3"


def ledger_with(database: Path, limit: Decimal) -> Ledger:
    ledger = Ledger(open_database(database))
    ledger.set_budget("ct", limit, DELTA)
    return ledger


def test_processes_cannot_overspend(database: Path) -> None:
    ledger = ledger_with(database, Decimal("1.5"))
    affordable = ledger.affordable_rounds("ct", "s", EVENTS)
    assert affordable >= 12
    results = run("race", database, 4)
    book = ledger.book()
    assert sum(one["committed"] for one in results) == len(book.spent)
    assert sum(one["open"] for one in results) == len(book.open)
    assert len(book.spent) + len(book.open) == affordable
    (account,) = book.accounts("ct", "s", EVENTS)
    assert account.held.value <= Decimal("1.5") < account.asked.value


def test_a_kill_at_any_point_never_under_counts(database: Path) -> None:
    ledger_with(database, Decimal(40))
    journal = [tuple(step) for step in run("crash", database, 30, 20261123)]
    left = {round for step, round in journal if step == "left"}
    ledger = Ledger(open_database(database))  # reads the whole chain again
    book = ledger.book()
    # What left was spent; each round once, though many were begun again after a kill.
    assert {spent.reserved.round for spent in book.spent.values()} == left
    assert len(book.spent) == len(left) == max(left)
    assert len(left) > 5
    assert not book.open
    last = list(book.spent.values())[-1].committed
    assert Decimal(last.epsilon_after) == epsilon(EVENTS * len(left), DELTA).value
    # The kills were not all between rounds: some work was found half done.
    begun = [round for step, round in journal if step == "reserved"]
    assert len(begun) > len(set(begun))


def test_a_reservation_left_by_a_kill_is_held(database: Path) -> None:
    ledger = ledger_with(database, Decimal(40))
    script = (
        "import os, signal, sys; sys.path.insert(0, sys.argv[2])\n"
        "from pathlib import Path\n"
        "from ledger_worker import EVENTS\n"
        "from wardround.client.database import open_database\n"
        "from wardround.client.ledger import Ledger\n"
        "ledger = Ledger(open_database(Path(sys.argv[1])))\n"
        "ledger.reserve(run='run', study='s', dataset='ct', round=1, events=EVENTS)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", script, str(database), str(WORKER.parent)], check=False
    )
    assert killed.returncode == -9
    (account,) = ledger.book().accounts("ct", "s")
    assert account.held.value == epsilon(EVENTS, DELTA).value > account.spent.value == 0
