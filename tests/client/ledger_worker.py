"""Processes at work on one ledger, for the tests: run as a script, so that forking is safe.

race DATABASE PROCESSES   each process reserves and commits rounds of its own run until refused
crash DATABASE KILLS SEED one run, whose process is killed at random moments and started again
"""

import json
import os
import random
import signal
import sys
import time
from decimal import Decimal
from pathlib import Path

from wardround.client.database import open_database
from wardround.client.errors import BudgetExceeded
from wardround.client.ledger import Ledger
from wardround.client.spend import Spend
from wardround.privacy.accounting import PrivacyEvent, epsilon

EVENTS = (PrivacyEvent.gaussian(20.0, 1.0, 3, unit="patient", relation="add-remove"),)


def race(database: Path, processes: int) -> None:
    children = []
    for number in range(processes):
        read, write = os.pipe()
        if (child := os.fork()) == 0:
            os.write(write, json.dumps(reserve_all(database, f"run-{number}")).encode())
            os._exit(0)
        os.close(write)
        children.append((child, read))
    results = []
    for child, read in children:
        with os.fdopen(read, "rb") as stream:
            results.append(json.loads(stream.read()))
        os.waitpid(child, 0)
    print(json.dumps(results))


def reserve_all(database: Path, run: str) -> dict[str, int]:
    ledger, done = Ledger(open_database(database)), {"committed": 0, "open": 0}
    for round in range(1000):
        try:
            held = ledger.reserve(run=run, study="s", dataset="ct", round=round, events=EVENTS)
        except BudgetExceeded:
            return done
        if round % 2:
            ledger.commit(held.id, EVENTS)
        done["committed" if round % 2 else "open"] += 1
    raise SystemExit("the budget never ended")


def crash(database: Path, kills: int, seed: int) -> None:
    journal = database.with_suffix(".journal")
    journal.touch()
    chance = random.Random(seed)  # noqa: S311  # moments of a test, not a secret
    for kill in range(kills):
        size = journal.stat().st_size
        if (child := os.fork()) == 0:
            train(database, journal, rounds=10**6)
            os._exit(0)
        while kill % 3 and journal.stat().st_size == size:
            time.sleep(0.001)  # two in three are killed at work, one in three while starting
        time.sleep(chance.uniform(0.0, 0.08))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    last = 1 + max((round for step, round in steps(journal) if step == "left"), default=0)
    train(database, journal, rounds=last)
    print(json.dumps(steps(journal)))


def train(database: Path, journal: Path, rounds: int) -> None:
    """Go on where the journal ends: what a site does after a restart."""
    ledger = Ledger(open_database(database))
    left = {round for step, round in steps(journal) if step == "left"}
    for round in range(1, rounds + 1):
        if round in left:
            continue
        held = ledger.reserve(run="run", study="s", dataset="ct", round=round, events=EVENTS)
        note(journal, "reserved", round)
        if not isinstance(held, Spend):
            ledger.commit(held.id, EVENTS)
            note(journal, "committed", round)
        note(journal, "left", round)


def note(journal: Path, step: str, round: int) -> None:
    descriptor = os.open(journal, os.O_WRONLY | os.O_APPEND)
    os.write(descriptor, f"{step} {round}\n".encode())
    os.close(descriptor)


def steps(journal: Path) -> list[tuple[str, int]]:
    return [(line.split()[0], int(line.split()[1])) for line in journal.read_text().splitlines()]


if __name__ == "__main__":
    epsilon(EVENTS, Decimal("1e-5"))  # import the accountant once, before the forks
    what, path, number, *rest = sys.argv[1:]
    if what == "race":
        race(Path(path), int(number))
    else:
        crash(Path(path), int(number), int(rest[0]))
