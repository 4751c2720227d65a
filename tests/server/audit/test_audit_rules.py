"""What may stand where in a log: each rule broken once, in a log that all sites have cosigned."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from audit_forger import Forger, found
from audit_study import ORIGIN, Evidence, Study

from wardround.privacy import canonical
from wardround.privacy.errors import AccountantMissing
from wardround.privacy.events import Closing, Event, RecoveryShare
from wardround.privacy.identity import FileSigner
from wardround.privacy.notes import Note, cosign, witness_name
from wardround.privacy.verify import epsilon

Change = Callable[[Forger], int]


@pytest.fixture
def forger(study: Study, evidence: Evidence) -> Forger:
    return Forger(study, evidence)


def again(kind: str, after: str = "", round: int = 0) -> Change:
    """An entry of the coordinator's a second time, behind another one or at the end."""

    def change(forger: Forger) -> int:
        leaf = forger.leaves[forger.find(kind, round=round)]
        at = forger.find(after, round=round) + 1 if after else len(forger.leaves)
        forger.leaves.insert(at, leaf)
        forger.stamp(at, forger.leaf(at - 1).ts_ms)
        return at

    return change


def edited(kind: str, round: int = 0, **fields: object) -> Change:
    """Other fields in an entry of the coordinator's."""

    def change(forger: Forger) -> int:
        at = forger.find(kind, round=round)
        forger.edit(at, **fields)
        return at

    return change


def said(kind: str, before: str, round: int = 0) -> Change:
    """Something that site b said, said by it again later, before another entry."""

    def change(forger: Forger) -> int:
        event = forger.leaf(forger.find(kind, "b", round)).event
        return forger.say(forger.find(before, round=round), "b", event)

    return change


def uninvited(forger: Forger) -> int:
    forger.edit(forger.find("round_start", round=1), invited=["b", "c", "d"])
    return forger.find("update", "a", 1)


def closed_elsewhere(forger: Forger) -> int:
    at = forger.find("closing", "b")
    event = forger.leaf(at).event
    assert isinstance(event, Closing)
    forger.restate(at, replace(event, last_sequence=event.last_sequence + 1))
    return at


def another_attempt(forger: Forger) -> int:
    forger.edit(forger.find("round_start", round=1), attempt=5)
    return forger.find("update", "a", 1)


@pytest.mark.parametrize(
    ("change", "check", "expected"),
    [
        (again("genesis"), "genesis", "one genesis"),
        (again("run_start"), "run", "a new run"),
        (again("run_end"), "run", "an open run"),
        (again("round_start", round=1), "round", "an open run"),
        (again("round_start", "round_end", 3), "round", "a new attempt"),
        (again("survivors", "survivors", 1), "aggregate", "one set of survivors"),
        (edited("run_start", roster_digest="0" * 64), "keys", "a roster of the logged keys"),
        (edited("round_start", 1, invited=list("abcdz")), "round", "participants of the run"),
        (edited("survivors", 1, survivors=["a", "b"]), "aggregate", "at least 3 sites"),
        (edited("survivors", 1, context="0" * 64), "round", "context"),
        (uninvited, "round", "an invited site"),
        (another_attempt, "round", "round 1 attempt 1 of run-1 is open"),
        (said("update", "survivors", 1), "round", "one update of b"),
        (said("recovery_share", "aggregate", 1), "round", "one set of shares of b"),
        (said("update", "run_end"), "closing", "nothing more of b"),
        (said("closing", "run_end"), "closing", "one closing of run-1"),
        (closed_elsewhere, "closing", "after statement"),
    ],
)
def test_a_rule_broken(
    forger: Forger, tmp_path: Path, change: Change, check: str, expected: str
) -> None:
    at = change(forger)
    result = forger.rederive().seal().verify(tmp_path)
    assert any(
        f.breaks and (f.check, f.entry) == (check, at) and f.expected.startswith(expected)
        for f in result.findings
    )


def test_keys_that_the_run_did_not_pin_replay_nothing(forger: Forger, tmp_path: Path) -> None:
    edited("run_start", roster_digest="0" * 64)(forger)
    result = forger.rederive().seal().verify(tmp_path, replay=True)
    assert found(result, "replay", forger.find("aggregate", round=1))
    assert result.replayed == frozenset()


def test_shares_that_open_another_sum(forger: Forger, tmp_path: Path) -> None:
    at, other = forger.find("recovery_share", "b", 1), forger.find("recovery_share", "b", 2)
    one, two = forger.leaf(at).event, forger.leaf(other).event
    assert isinstance(one, RecoveryShare)
    assert isinstance(two, RecoveryShare)
    swapped: Event = replace(one, shares=two.shares)
    forger.restate(at, swapped)
    result = forger.rederive().seal().verify(tmp_path, replay=True)
    assert found(result, "replay", forger.find("aggregate", round=1))


def test_a_plan_of_another_form_leaves_the_evidence_incomplete(
    forger: Forger, tmp_path: Path
) -> None:
    at = forger.find("study_plan")
    forger.edit(at, plan="{}", plan_digest=hashlib.sha256(b"{}").hexdigest())
    result = forger.rederive().seal().verify(tmp_path)
    assert [(f.entry, f.breaks) for f in result.findings if f.check == "plan"] == [(at, False)]


def test_a_cosignature_by_a_key_that_nobody_knows(forger: Forger, tmp_path: Path) -> None:
    note = Note.from_bytes(forger.notes[-1].encode())
    line = cosign(note.text, witness_name(ORIGIN, "a"), FileSigner.generate(), 1_800_000_000)
    forger.notes[-1] = Note(note.text, (*note.signatures, line)).to_bytes().decode()
    result = forger.verify(tmp_path)
    assert found(result, "cosignature", forger.checkpoint(-1).size - 1)


def test_more_rows_than_entries(forger: Forger, tmp_path: Path) -> None:
    forger.columns.append(forger.columns[-1])
    assert found(forger.verify(tmp_path), "columns", len(forger.leaves))


def test_a_manifest_of_another_log(forger: Forger, tmp_path: Path) -> None:
    value = canonical.loads_object(forger.manifest)
    forger.manifest = canonical.dumps({**value, "origin": "elsewhere.example/log"})
    assert found(forger.verify(tmp_path), "genesis")


def test_without_an_accountant_the_evidence_is_incomplete(
    forger: Forger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object, **__: object) -> None:
        raise AccountantMissing("no privacy accountant is installed")

    monkeypatch.setattr(epsilon, "epsilon", missing)
    result = forger.verify(tmp_path, recompute=True)
    assert [f.breaks for f in result.findings if f.check == "epsilon"] == [False]
    assert result.recomputed == ()
