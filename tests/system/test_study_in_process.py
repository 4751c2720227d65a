"""A whole study over the in-process grid: how it ends well, and each way it may go wrong."""

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from deploy.local import LocalFederation
from tests.system.conftest import make_plan

from wardround.client.errors import Refused
from wardround.client.round import RoundHandler
from wardround.client.site import Site
from wardround.client.trainer import Trainer
from wardround.privacy.bundle import Bundle
from wardround.privacy.errors import IdentityUnknown, SignatureInvalid
from wardround.privacy.events import (
    Aggregated,
    PrivacySpend,
    Refusal,
    RoundEnd,
    RunEnd,
    Survivors,
    Update,
)
from wardround.privacy.events import (
    Fault as FaultLogged,
)
from wardround.privacy.identity import FileSigner
from wardround.privacy.model import TensorLayout, initial_vector
from wardround.privacy.plan import SignedPlan
from wardround.privacy.plan_entry import plan_entry
from wardround.privacy.verify import Policy, Verification, verify, write_policy
from wardround.server.blobs import BlobStore
from wardround.server.errors import StudyError
from wardround.server.evidence import newest_cosigned, write_bundle
from wardround.server.global_model import Taken
from wardround.server.inprocess import Fault
from wardround.server.rounds import StudyRun


class Killed(BaseException):
    """Stands for the death of a process: nothing in the code under test catches it."""


def evidence(federation: LocalFederation, run: str) -> Verification:
    """Verify the evidence of a run as an auditor does who holds every site's pin."""
    desk = federation.desk
    sites = federation.desk.enrolment.federation()
    path = federation.folder / f"{run}.zip"
    uploads = BlobStore(desk.home.blobs)
    write_bundle(desk.engine, path, run, uploads, newest_cosigned(desk.engine, len(sites.sites)))
    text = write_policy(
        desk.log.origin,
        desk.log.signer.public_bytes(),
        sites.roster(sites.sites),
        len(sites.sites),
    )
    pins = [site.witness.pin() for site in federation.sites.values()]
    with Bundle(path) as bundle:
        return verify(
            bundle, Policy.from_text(text), pins=pins, replay=True, recompute_epsilon=True
        )


def spends(federation: LocalFederation) -> list[tuple[str, int]]:
    """Site and round of every privacy spend in the log."""
    return [
        (leaf.site, leaf.event.round)
        for leaf in federation.leaves()
        if isinstance(leaf.event, PrivacySpend)
    ]


def reasons(federation: LocalFederation) -> str:
    """Every line about something that went wrong in the log."""
    return "\n".join(
        leaf.event.what if isinstance(leaf.event, FaultLogged) else leaf.event.reason
        for leaf in federation.leaves()
        if isinstance(leaf.event, FaultLogged | Refusal | RoundEnd | RunEnd)
    )


def test_a_study_ends_with_a_model_and_evidence_that_verifies(
    federation: LocalFederation,
) -> None:
    plan = make_plan()
    federation.approve(plan)
    outcome = federation.run("findings")
    assert (outcome.status, outcome.note) == ("completed", "")
    assert len(outcome.metrics) == 3  # before each of two rounds, and of the last model
    before = initial_vector(plan.model.tensors, plan.model.seed)
    assert outcome.model.shape == before.shape
    assert np.abs(outcome.model - before).max() > 0
    assert set(outcome.epsilon) == set(federation.sites)
    assert all(0 < value <= 8 for value in outcome.epsilon.values())
    assert sorted(spends(federation)) == sorted(
        (site, number) for site in federation.sites for number in (1, 2)
    )
    for site in federation.sites.values():
        kept = np.load(site.home.folder / "models" / f"{outcome.run}.npy")
        assert (kept == outcome.model).all()
        assert not list(site.home.scratch.iterdir())
    found = evidence(federation, outcome.run)
    assert (found.status, found.findings) == ("verified", ())
    assert len(found.replayed) == 3
    assert len(found.recomputed) == 6


def test_the_coordinator_keeps_no_update_in_clear(
    federation: LocalFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[bytes] = []
    train = Trainer.train

    def remember(self: Trainer, vector: np.ndarray) -> tuple[np.ndarray, int]:
        values, weight = train(self, vector)
        sent.append(values.tobytes()[:64])
        return values, weight

    monkeypatch.setattr(Trainer, "train", remember)
    federation.approve(make_plan(rounds=1))
    assert federation.run("findings").status == "completed"
    stored = [
        path.read_bytes()
        for path in federation.desk.home.folder.rglob("*")
        if path.is_file() and path.suffix != ".key"
    ]
    assert len(sent) == 3
    assert not any(values in data for values in sent for data in stored)


def test_a_plan_that_a_site_did_not_approve_is_not_started(federation: LocalFederation) -> None:
    federation.desk.studies.create(make_plan(), federation.desk.signer, "researcher")
    with pytest.raises(StudyError, match="north, south, west has not approved this plan"):
        federation.run("findings")


def test_a_coordinator_that_starts_an_unapproved_plan_is_refused_and_the_refusal_is_logged(
    federation: LocalFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan()
    federation.approve(plan)
    changed = replace(plan, privacy=replace(plan.privacy, clip=Decimal(2)))
    federation.desk.studies.create(changed, federation.desk.signer, "researcher")
    everyone = frozenset(federation.sites)
    state = federation.desk.studies.get("findings")
    monkeypatch.setattr(federation.desk.studies, "get", lambda _study: _Approved(state, everyone))
    outcome = federation.run("findings")
    assert outcome.status == "failed"
    refused = [leaf for leaf in federation.leaves() if isinstance(leaf.event, Refusal)]
    assert {leaf.site for leaf in refused} == everyone
    assert {leaf.event.rule for leaf in refused if isinstance(leaf.event, Refusal)} == {"approval"}
    assert spends(federation) == []


class _Approved:
    """A study as a coordinator would have it that makes approvals up."""

    def __init__(self, state: object, approved: frozenset[str]) -> None:
        self._state = state
        self.approved = approved

    def __getattr__(self, name: str) -> object:
        return getattr(self._state, name)


def test_a_plan_altered_after_signing_is_not_read(federation: LocalFederation) -> None:
    plan = make_plan()
    looser = replace(plan, privacy=replace(plan.privacy, target_epsilon=Decimal(50)))
    signed = SignedPlan.sign(plan, federation.desk.signer)
    forged = SignedPlan(looser.canonical(), signed.signature)
    federation.desk.log.append([plan_entry(looser, forged)])
    site = federation.sites["north"]
    site.sync()
    with pytest.raises(SignatureInvalid):
        site.approve("findings", "officer")


def test_a_plan_signed_by_somebody_else_is_not_read(federation: LocalFederation) -> None:
    plan = make_plan()
    signed = SignedPlan.sign(plan, FileSigner.generate())
    federation.desk.log.append([plan_entry(plan, signed)])
    site = federation.sites["north"]
    site.sync()
    with pytest.raises(SignatureInvalid):
        site.approve("findings", "officer")


def test_a_plan_with_another_layout_is_refused(federation: LocalFederation) -> None:
    plan = make_plan()
    tensors = (*plan.model.tensors[:-1], TensorLayout("head.bias", (7,)))
    federation.approve(replace(plan, model=replace(plan.model, tensors=tensors)))
    outcome = federation.run("findings")
    assert outcome.status == "failed"
    assert "has other tensors than the plan lists" in outcome.note
    assert spends(federation) == []


def test_an_exhausted_budget_refuses_the_next_run(federation: LocalFederation) -> None:
    plan = make_plan()
    cost = replace(plan, privacy=replace(plan.privacy, target_epsilon=Decimal("2.3")))
    federation.approve(cost)
    assert federation.run("findings").status == "completed"
    outcome = federation.run("findings")
    assert outcome.status == "failed"
    assert "costs more than what is left of the data set's budget" in outcome.note
    assert len(spends(federation)) == 6


def test_a_cohort_below_the_minimum_is_refused_at_approval(federation: LocalFederation) -> None:
    federation.desk.studies.create(make_plan(), federation.desk.signer, "researcher")
    site = federation.sites["north"]
    text = site.home.policy.read_text()
    site.home.policy.write_text(text.replace("min_patients = 2", "min_patients = 200"))
    site.sync()
    with pytest.raises(Refused, match="fewer than the 200 patients") as caught:
        site.approve("findings", "officer")
    assert caught.value.rule == "min_patients"


def test_a_nan_update_stays_at_the_site(
    federation: LocalFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Trainer, vector: np.ndarray) -> tuple[np.ndarray, int]:
        values = np.zeros_like(vector)
        values[3] = np.nan
        return values, 10

    monkeypatch.setattr(Trainer, "train", broken)
    federation.approve(make_plan())
    outcome = federation.run("findings")
    assert outcome.status == "failed"
    assert "NaN" in reasons(federation) or "not finite" in reasons(federation)
    assert not any(isinstance(leaf.event, Update) for leaf in federation.leaves())


@pytest.mark.parametrize("fault", [Fault.CRASH, Fault.LOST_REPLY, Fault.DUPLICATE, Fault.DELAY])
@pytest.mark.parametrize("kind", ["task", "survivors", "open"])
def test_a_site_that_fails_in_a_round_costs_no_second_epsilon(
    federation: LocalFederation, fault: Fault, kind: str
) -> None:
    federation.approve(make_plan(rounds=1))
    federation.grid.inject("south", fault, kind=kind)
    outcome = federation.run("findings")
    assert outcome.status == "completed"
    assert sorted(spends(federation)) == [(site, 1) for site in sorted(federation.sites)]
    assert evidence(federation, outcome.run).findings == ()


def test_a_site_that_was_started_anew_goes_on(federation: LocalFederation) -> None:
    federation.approve(make_plan())
    site = federation.sites["south"]
    link = site.link

    with Site.open(site.home, link) as reopened:
        calls = 0

        def restart_at_second_task(
            kind: str, body: bytes, payload: bytes | None
        ) -> tuple[str, bytes, bytes | None]:
            nonlocal calls
            calls += kind == "task"
            handler = RoundHandler(reopened.home, reopened)  # remembers nothing
            return handler(kind, body, payload)

        federation.grid.replace("south", restart_at_second_task)
        outcome = federation.run("findings")
    assert outcome.status == "completed"
    assert calls == 3
    assert len(spends(federation)) == 6


@pytest.mark.parametrize("after", range(1, 13))
def test_a_run_whose_coordinator_is_killed_goes_on_after_restart(
    federation: LocalFederation, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """The coordinator dies at its nth exchange; a new one takes the run up from the database."""
    federation.approve(make_plan())
    run = federation.desk.studies.start("findings")
    pull = federation.grid.pull_messages
    pulls = 0

    def die(identifiers: list[str]) -> object:
        nonlocal pulls
        pulls += 1
        if pulls == after:
            raise Killed
        return pull(identifiers)

    monkeypatch.setattr(federation.grid, "pull_messages", die)
    try:
        outcome = federation.resume(run)
    except Killed:
        monkeypatch.undo()
        outcome = federation.resume(run)
    assert outcome.status == "completed"
    assert sorted(spends(federation)) == sorted(
        (site, number) for site in federation.sites for number in (1, 2)
    )
    assert evidence(federation, run).findings == ()


@pytest.mark.parametrize("after", range(1, 13))
def test_a_coordinator_killed_before_any_write_to_its_record_repeats_nothing(
    federation: LocalFederation, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """Between the log and the record of a run lies a moment in which a process may die."""
    federation.approve(make_plan(rounds=1))
    run = federation.desk.studies.start("findings")
    editing = federation.desk.studies.editing
    edits = 0

    def die(name: str) -> object:
        nonlocal edits
        edits += 1
        if edits == after:
            raise Killed
        return editing(name)

    monkeypatch.setattr(federation.desk.studies, "editing", die)
    try:
        outcome = federation.resume(run)
    except Killed:
        monkeypatch.undo()
        outcome = federation.resume(run)
    assert outcome.status == "completed"
    sums = [leaf.round for leaf in federation.leaves() if isinstance(leaf.event, Aggregated)]
    ends = [leaf.kind for leaf in federation.leaves() if leaf.kind in ("run_start", "run_end")]
    assert sums == [1, 2]
    assert ends == ["run_start", "run_end"]
    assert evidence(federation, run).findings == ()


def test_with_five_sites_a_round_survives_a_lost_one(
    tmp_path: Path, images: Callable[[int], Path]
) -> None:
    sites = ("a", "b", "c", "d", "e")
    data = {site: images(number) for number, site in enumerate(sites)}
    with LocalFederation(tmp_path, data, epsilon=8.0, deadline=2) as federation:
        federation.approve(make_plan(sites, rounds=1))
        federation.grid.inject("c", Fault.LOST_REPLY, kind="task")
        outcome = federation.run("findings")
        assert outcome.status == "completed"
        survivors = [
            leaf.event for leaf in federation.leaves() if isinstance(leaf.event, Survivors)
        ]
        assert survivors[0].survivors == ("a", "b", "d", "e")
        assert [dropped.site for dropped in survivors[0].dropped] == ["c"]


def test_new_keys_open_no_second_sum_of_the_same_updates(
    tmp_path: Path, images: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The coordinator begins its run anew, to open a sum that lacks one site, and subtract."""
    sites = ("a", "b", "c", "d", "e")
    data = {site: images(number) for number, site in enumerate(sites)}
    with LocalFederation(tmp_path, data, epsilon=8.0, deadline=1) as federation:
        federation.approve(make_plan(sites, rounds=1))
        run = federation.desk.studies.start("findings")
        sums: list[tuple[str, ...]] = []

        def opened(_run: StudyRun, *arguments: object) -> None:
            taken = arguments[-1]
            assert isinstance(taken, Taken)
            sums.append(taken.survivors)
            raise Killed

        monkeypatch.setattr(StudyRun, "_record", opened)
        with pytest.raises(Killed):
            federation.resume(run)
        with federation.desk.studies.editing(run) as row:
            row.aggregator, row.attempt = b"", 0
        federation.grid.inject("e", Fault.LOST_REPLY, kind="task", times=99)
        outcome = federation.resume(run)
        assert outcome.status == "failed"
        assert sums == [sites]
        assert "two such sums could be subtracted" in reasons(federation)


def test_a_revoked_site_takes_no_further_part(federation: LocalFederation) -> None:
    federation.approve(make_plan())
    federation.desk.enrolment.revoke("west", "key lost", "officer")
    with pytest.raises(IdentityUnknown, match="west' is revoked"):
        federation.run("findings")


def test_a_stopped_run_says_so_and_spends_no_more(federation: LocalFederation) -> None:
    plan = make_plan(rounds=2)
    federation.approve(plan)
    run = federation.desk.studies.start("findings")
    assert federation.desk.studies.stop("findings") == run
    outcome = federation.resume(run)
    assert (outcome.status, outcome.note) == ("stopped", "an operator stopped it")
    assert spends(federation) == []


def test_two_runs_at_once_are_refused(federation: LocalFederation) -> None:
    federation.approve(make_plan())
    federation.desk.studies.start("findings")
    with pytest.raises(StudyError, match="is going on already"):
        federation.desk.studies.start("findings")
