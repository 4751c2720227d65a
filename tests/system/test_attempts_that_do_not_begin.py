"""Attempts that fail before a round begins: the log says so, and the next attempt goes on."""

from dataclasses import replace

import pytest
from deploy.local import LocalFederation
from tests.system.conftest import SITES, make_plan
from tests.system.test_study_in_process import evidence, spends

from wardround.client.round import RoundHandler
from wardround.privacy.events import Fault, KeyBookMade, RoundStart, RunStart
from wardround.server.app import execute
from wardround.server.inprocess import Fault as Injected

Reply = tuple[str, bytes, bytes | None]


def faults(federation: LocalFederation) -> list[Fault]:
    return [leaf.event for leaf in federation.leaves() if isinstance(leaf.event, Fault)]


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ("hello", "the run cannot begin without south"),
        ("book", "south did not approve the keys"),
    ],
)
def test_a_failed_set_up_is_logged_with_its_attempt_and_the_next_one_is_a_whole_one(
    federation: LocalFederation, step: str, said: str
) -> None:
    federation.approve(make_plan(rounds=1))
    south = RoundHandler(federation.sites["south"].home, federation.sites["south"])
    asked: list[str] = []

    def garbled_once(kind: str, body: bytes, payload: bytes | None) -> Reply:
        asked.append(kind)
        answer = south(kind, body, payload)
        return (kind, b"{", None) if kind == step and asked.count(step) == 1 else answer

    federation.grid.replace("south", garbled_once)
    outcome = federation.run("findings")

    place = [(fault.round, fault.attempt, fault.site, fault.stage) for fault in faults(federation)]
    assert place == [(0, 1, "south", "set-up"), (0, 1, "", "set-up")]
    assert said in faults(federation)[1].what
    assert (outcome.status, outcome.note) == ("completed", "")
    kinds = [leaf.kind for leaf in federation.leaves()]
    assert (kinds.count(RunStart.kind), kinds.count(KeyBookMade.kind)) == (1, 1)
    assert evidence(federation, outcome.run).findings == ()


def test_an_attempt_that_cannot_invite_enough_sites_is_logged_and_begins_no_round(
    federation: LocalFederation,
) -> None:
    federation.approve(make_plan(rounds=1))
    home = federation.desk.home
    impatient = replace(home, rounds=replace(home.rounds, patience=0))
    south = RoundHandler(federation.sites["south"].home, federation.sites["south"])
    down = False

    def leave_after_set_up(kind: str, body: bytes, payload: bytes | None) -> Reply:
        nonlocal down
        answer = south(kind, body, payload)
        if kind == "book" and not down:
            down = True
            federation.grid.inject("south", Injected.DOWN)
        return answer

    def come_back(seconds: float) -> None:
        if seconds == 2.0:  # the pause between two attempts
            federation.grid.restore("south")

    federation.grid.replace("south", leave_after_set_up)
    run = federation.desk.studies.start("findings")
    execute(replace(federation.desk, home=impatient), federation.grid, run, sleep=come_back)

    (fault,) = faults(federation)
    assert fault == Fault(
        *(run, 1, 1, "", "invitation"),
        "2 of 3 sites are online; south must start (wardround-site start)",
    )
    begun = [leaf.event for leaf in federation.leaves() if isinstance(leaf.event, RoundStart)]
    assert [(start.round, start.attempt) for start in begun] == [(1, 2), (2, 1)]
    outcome = federation.outcome(run)
    assert outcome.status == "completed"
    assert sorted(spends(federation)) == [(site, 1) for site in SITES]
    assert evidence(federation, run).findings == ()
