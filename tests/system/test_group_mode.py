"""Whole studies in group mode: the coordinator is blind to sums and models, the sites learn."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from deploy.local import LocalFederation, Outcome
from tests.system.conftest import SITES, make_plan
from tests.system.test_study_in_process import Killed, evidence, spends

import wardround.client.round as round_module
import wardround.privacy.secagg.participant as participant_module
from wardround.client.config import Home
from wardround.client.errors import Refused
from wardround.client.link import Link
from wardround.client.replica import Replica, load_replica
from wardround.client.round import RoundHandler
from wardround.client.site import Site
from wardround.client.trainer import Trainer
from wardround.client.witness import Witness
from wardround.privacy.conversation import Kind
from wardround.privacy.events import (
    Aggregated,
    Evaluation,
    Event,
    ModelStep,
    Refusal,
    RoundStart,
    RunEnd,
)
from wardround.privacy.model import initial_vector
from wardround.privacy.plan import StudyPlan
from wardround.privacy.run_spec import metrics
from wardround.privacy.secagg.masking import Stream, apply_streams
from wardround.privacy.secagg.parameters import RunSpec
from wardround.privacy.secagg.participant import Participant
from wardround.privacy.secagg.protection import GroupKeys
from wardround.privacy.secagg.quantization import Aggregate
from wardround.privacy.secagg.segments import Ring
from wardround.server.hidden_model import HiddenModel
from wardround.server.inprocess import Fault
from wardround.server.openings import Openings
from wardround.server.rounds import StudyRun

FIVE = ("a", "b", "c", "d", "e")


def grouped(plan: StudyPlan) -> StudyPlan:
    """The same plan in group mode."""
    return replace(plan, secure_aggregation=replace(plan.secure_aggregation, group_mode=True))


def narrow(plan: StudyPlan) -> StudyPlan:
    """The same plan in a ring of 2^16, where each bound follows from the sum before."""
    return replace(plan, secure_aggregation=replace(plan.secure_aggregation, ring_bits=16))


def replicas(federation: LocalFederation, run: str) -> dict[str, Replica]:
    """What each site has made of the run."""
    found = {}
    for name, site in federation.sites.items():
        replica = load_replica(site.home.models, run)
        assert replica is not None
        found[name] = replica
    return found


def events(federation: LocalFederation, kind: type[Event]) -> list[Event]:
    return [leaf.event for leaf in federation.leaves() if isinstance(leaf.event, kind)]


def test_the_sites_come_to_one_model_and_the_coordinator_to_none(
    federation: LocalFederation,
) -> None:
    plan = grouped(make_plan())
    federation.approve(plan)
    outcome = federation.run("findings")
    assert (outcome.status, outcome.note) == ("completed", "")
    made = replicas(federation, outcome.run)
    (digest,) = {replica.digest for replica in made.values()}
    before = initial_vector(plan.model.tensors, plan.model.seed)
    assert np.abs(made["north"].vector - before).max() > 0
    assert [step.model_digest for step in made["north"].steps[1:]] == [digest, digest]
    for replica in made.values():
        assert replica.steps == made["north"].steps
        assert all(metrics(plan, step.counters) for step in replica.steps)
    (end,) = events(federation, RunEnd)
    assert isinstance(end, RunEnd)
    assert (end.outcome, end.model_digest) == ("completed", digest)
    assert events(federation, Evaluation) == []
    for event in events(federation, Aggregated):
        assert isinstance(event, Aggregated)
        assert (event.weight, event.counters, event.model_digest) == (0, (), "")
    assert (outcome.model.size, outcome.metrics) == (0, ())
    assert sorted(spends(federation)) == sorted((s, n) for s in SITES for n in (1, 2))
    found = evidence(federation, outcome.run)
    assert (found.status, found.findings) == ("verified", ())
    assert len(found.replayed) == len(found.hidden) == 3


def five(
    folder: Path, images: Callable[[int], Path], rounds: int
) -> tuple[LocalFederation, StudyPlan]:
    """Five sites, of which one may fall away, and their plan in group mode."""
    data = {site: images(number) for number, site in enumerate(FIVE)}
    federation = LocalFederation(folder, data, epsilon=8.0, deadline=1)
    return federation, grouped(make_plan(FIVE, rounds=rounds))


def same_updates(self: Trainer, vector: np.ndarray) -> tuple[np.ndarray, int]:
    """An update that follows from model and data alone, in the place of noisy training."""
    seed = int.from_bytes(vector[:64].tobytes()[:8], "little") + len(self._train.owners)
    values = np.random.default_rng(seed).normal(0, 0.01, vector.size)
    return values.astype(np.float32), 10 + len(self._train.owners) % 7


@pytest.mark.parametrize("ring_bits", [32, 16])
def test_the_model_is_the_one_that_plain_mode_makes_of_the_same_updates(
    federation: LocalFederation, monkeypatch: pytest.MonkeyPatch, ring_bits: int
) -> None:
    monkeypatch.setattr(Trainer, "train", same_updates)
    plan = make_plan() if ring_bits == 32 else narrow(make_plan())
    hidden = grouped(replace(plan, study=replace(plan.study, id="hidden")))
    federation.approve(plan)
    federation.approve(hidden)
    plain = federation.run("findings")
    made = replicas(federation, federation.run("hidden").run)
    shown = tuple(metrics(plan, step.counters)["accuracy"] for step in made["west"].steps)
    assert plain.metrics == pytest.approx(shown, abs=5e-5)
    for replica in made.values():
        assert (replica.vector == plain.model).all()  # bit for bit


def test_sites_whose_updates_16_bits_would_round_to_zero_refuse_and_pay_for_saying_so(
    federation: LocalFederation,
) -> None:
    plan = narrow(make_plan())
    coarse = replace(plan.secure_aggregation, max_weight=100_000)
    federation.approve(grouped(replace(plan, secure_aggregation=coarse)))
    outcome = federation.run("findings")
    assert outcome.status == "failed"
    assert "max_weight near the patients of the largest site" in outcome.note
    rules = [event.rule for event in events(federation, Refusal) if isinstance(event, Refusal)]
    assert set(rules) == {"precision"}
    # A refusal follows from the update, so each is one release of it, and no more is spent.
    assert sorted(spends(federation)) == sorted((site, 1) for site in SITES)
    federation.run("findings")
    assert len(spends(federation)) == 2 * len(SITES)


def test_a_site_that_demands_group_mode_approves_no_other_plan_and_runs_none(
    federation: LocalFederation,
) -> None:
    site = federation.sites["north"]
    admits = site.home.policy.read_text()
    demands = admits + "require_group_mode = true\n"
    site.home.policy.write_text(demands)
    with pytest.raises(Refused, match="group_mode = true") as caught:
        federation.approve(make_plan(rounds=1))
    assert caught.value.rule == "group_mode"
    site.home.policy.write_text(admits)
    federation.approve(make_plan(rounds=1))
    site.home.policy.write_text(demands)  # after the approval
    outcome = federation.run("findings")
    assert outcome.status == "failed"
    assert "ask for a plan with group_mode = true" in outcome.note
    (refusal,) = events(federation, Refusal)
    assert isinstance(refusal, Refusal)
    assert (refusal.rule, refusal.run, refusal.round) == ("group_mode", outcome.run, 0)
    federation.approve(grouped(make_plan(rounds=1)))
    assert federation.run("findings").status == "completed"


def test_nothing_at_the_coordinator_holds_a_sum_or_a_model(
    federation: LocalFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither its folder, log and database, nor anything that goes between it and a site."""
    wanted: set[bytes] = set()
    unprotect = participant_module.unprotect

    def read(
        spec: RunSpec, clip: float | None, sites: Sequence[str], opened: Ring, group: GroupKeys
    ) -> Aggregate:
        aggregate, total = unprotect(spec, clip, sites, opened, group), opened.copy()
        apply_streams(total, [Stream(group.mask(site), -1) for site in sites])
        signs = np.sign(total[: spec.dimension].view(np.int32))
        assert (signs == np.sign(aggregate.mean)).all()  # it is the sum that was read
        if aggregate.weight:
            wanted.update((total[:16].tobytes(), aggregate.mean[:16].tobytes()))
        return aggregate

    monkeypatch.setattr(participant_module, "unprotect", read)
    passed: list[bytes] = []
    for name, site in federation.sites.items():
        handler = RoundHandler(site.home, site)

        def listen(
            kind: str, body: bytes, payload: bytes | None, handler: RoundHandler = handler
        ) -> tuple[str, bytes, bytes | None]:
            answer = handler(kind, body, payload)
            passed.extend((body, payload or b"", answer[1], answer[2] or b""))
            return answer

        federation.grid.replace(name, listen)
    federation.approve(grouped(make_plan(rounds=1)))
    outcome = federation.run("findings")
    assert outcome.status == "completed"
    made = replicas(federation, outcome.run)["south"].vector[:16].tobytes()
    kept = files(federation.sites["south"].home.folder)
    assert any(made in data for data in kept)
    stored = files(federation.desk.home.folder)
    assert len(wanted) == 2
    for data in (*stored, *passed):
        assert not any(value in data for value in (made, *wanted))


def files(folder: Path) -> list[bytes]:
    """What every file of a folder holds, keys left out."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".key")
    return [path.read_bytes() for path in paths]


def test_a_site_that_was_away_for_two_rounds_reads_their_sums_in_order(
    tmp_path: Path, images: Callable[[int], Path]
) -> None:
    federation, plan = five(tmp_path, images, rounds=3)
    with federation:
        federation.approve(plan)
        tasks = 0
        a = RoundHandler(federation.sites["a"].home, federation.sites["a"])

        def count(kind: str, body: bytes, payload: bytes | None) -> tuple[str, bytes, bytes | None]:
            nonlocal tasks
            tasks += kind == Kind.TASK
            if tasks == 1 and kind == Kind.OPEN:
                federation.grid.inject("c", Fault.DOWN)
            if tasks == 3 and kind == Kind.OPEN:
                federation.grid.restore("c")
            return a(kind, body, payload)

        federation.grid.replace("a", count)
        outcome = federation.run("findings")
        assert outcome.status == "completed"
        starts = [e for e in events(federation, RoundStart) if isinstance(e, RoundStart)]
        assert ["c" in start.invited for start in starts] == [True, False, False, True]
        made = replicas(federation, outcome.run)
        assert made["c"] == replace(made["a"], vector=made["c"].vector)
        assert (made["c"].vector == made["a"].vector).all()
        read = [leaf for leaf in federation.leaves() if isinstance(leaf.event, ModelStep)]
        assert [leaf.event.round for leaf in read if leaf.site == "c"] == [1, 2, 3, 4]
        asked = [kind for site, kind in federation.grid.calls if site == "c"]
        assert asked.count(Kind.AGGREGATE) == 4
        assert evidence(federation, outcome.run).findings == ()
        assert list((federation.desk.home.openings / outcome.run).glob("*/*")) == []


def test_sites_that_are_started_anew_at_every_message_go_on(federation: LocalFederation) -> None:
    federation.approve(grouped(make_plan(rounds=1)))
    for name, site in federation.sites.items():
        home = site.home

        def fresh(
            kind: str,
            body: bytes,
            payload: bytes | None,
            home: Home = home,
            link: Link = site.link,
        ) -> tuple[str, bytes, bytes | None]:
            with Site.open(home, link) as reopened:
                return RoundHandler(home, reopened)(kind, body, payload)

        federation.grid.replace(name, fresh)
    outcome = federation.run("findings")
    assert outcome.status == "completed"
    assert {replica.round for replica in replicas(federation, outcome.run).values()} == {2}
    assert evidence(federation, outcome.run).findings == ()


def resumed(federation: LocalFederation, run: str, monkeypatch: pytest.MonkeyPatch) -> Outcome:
    """Run until something dies, then go on."""
    try:
        return federation.resume(run)
    except Killed:
        monkeypatch.undo()
        return federation.resume(run)


def check_whole(federation: LocalFederation, outcome: Outcome) -> None:
    """The run has ended as if nothing had happened."""
    assert outcome.status == "completed"
    assert sorted(spends(federation)) == [(site, 1) for site in SITES]
    sums = [leaf.round for leaf in federation.leaves() if isinstance(leaf.event, Aggregated)]
    read = [
        (leaf.round, leaf.site) for leaf in federation.leaves() if isinstance(leaf.event, ModelStep)
    ]
    assert sums == [1, 2]
    assert sorted(read) == [(number, site) for number in (1, 2) for site in SITES]
    assert len({replica.digest for replica in replicas(federation, outcome.run).values()}) == 1
    assert evidence(federation, outcome.run).findings == ()


@pytest.mark.parametrize("after", [5, 7, 9])
def test_a_coordinator_that_is_killed_at_an_exchange_goes_on(
    federation: LocalFederation, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    federation.approve(grouped(make_plan(rounds=1)))
    run = federation.desk.studies.start("findings")
    pull, pulls = federation.grid.pull_messages, 0

    def die(identifiers: list[str]) -> object:
        nonlocal pulls
        pulls += 1
        if pulls == after:
            raise Killed
        return pull(identifiers)

    monkeypatch.setattr(federation.grid, "pull_messages", die)
    check_whole(federation, resumed(federation, run, monkeypatch))


@pytest.mark.parametrize(
    ("where", "name", "late"),
    [
        (Openings, "keep", True),
        (StudyRun, "_record", False),
        (StudyRun, "_take_up_logged_round", False),
        (HiddenModel, "_hand_out", False),
        (Openings, "drop", False),
        (StudyRun, "_close", False),
        (HiddenModel, "forget", False),
        (Participant, "accept_aggregate", True),
        (round_module, "save_replica", True),
        (Witness, "statement", True),
    ],
)
def test_a_death_on_either_side_of_a_step_repeats_and_loses_nothing(
    federation: LocalFederation,
    monkeypatch: pytest.MonkeyPatch,
    where: object,
    name: str,
    late: bool,
) -> None:
    """The coordinator dies before or after a step, or a site does and takes the run with it."""
    federation.approve(grouped(narrow(make_plan(rounds=1))))
    run = federation.desk.studies.start("findings")
    step, begun = getattr(where, name), False

    def die(*arguments: object, **named: object) -> object:
        nonlocal begun
        steps = [event for event in arguments if isinstance(event, ModelStep)]
        # The first call of these two comes before any sum.
        early = name == "statement" and not steps
        early |= name == "save_replica" and not arguments[2].round  # type: ignore[attr-defined]
        early |= name == "_take_up_logged_round" and not events(federation, Aggregated)
        if begun or early:
            return step(*arguments, **named)
        begun = True
        if late:
            step(*arguments, **named)
        raise Killed

    monkeypatch.setattr(where, name, die)
    outcome = resumed(federation, run, monkeypatch)
    assert begun
    check_whole(federation, outcome)
