"""Group mode against coordinators and sites that deviate."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from deploy.local import LocalFederation
from tests.system.conftest import make_plan
from tests.system.test_group_mode import FIVE, events, five, grouped, replicas
from tests.system.test_study_in_process import evidence, reasons

from wardround.client.round import RoundHandler
from wardround.client.witness import Witness
from wardround.privacy.conversation import Ask, Kind
from wardround.privacy.events import (
    Event,
    ModelStep,
    Refusal,
    RoundStart,
    Survivors,
)
from wardround.privacy.events import (
    Fault as FaultLogged,
)
from wardround.privacy.secagg.authentication import tags_of
from wardround.privacy.secagg.codec import decode, encode
from wardround.privacy.secagg.messages import Opening
from wardround.privacy.secagg.parameters import RunSpec
from wardround.privacy.secagg.quantization import to_limbs
from wardround.privacy.secagg.segments import vector_digest
from wardround.server.hidden_model import HiddenModel
from wardround.server.openings import Openings


def test_an_altered_sum_is_refused_and_ends_the_run(
    federation: LocalFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The coordinator adds to one coordinate and names the altered vector's own digest."""
    get = Openings.get

    def alter(self: Openings, number: int) -> tuple[bytes, bytes]:
        message, vector = get(self, number)
        ring = np.frombuffer(vector, np.uint32).copy()
        ring[5] += 1
        opening = replace(decode(Opening, message), vector=vector_digest(ring))
        return encode(opening), ring.tobytes()

    monkeypatch.setattr(Openings, "get", alter)
    federation.approve(grouped(make_plan()))
    outcome = federation.run("findings")
    assert outcome.status == "failed"
    assert "the aggregate is not the sum that the sites protected" in outcome.note
    refused = [event for event in events(federation, Refusal) if isinstance(event, Refusal)]
    assert [event.rule for event in refused] == ["aggregate"] * 3
    assert events(federation, ModelStep) == []
    assert {replica.round for replica in replicas(federation, outcome.run).values()} == {0}


@pytest.mark.parametrize("renamed", [False, True])
def test_an_old_sum_is_not_taken_for_a_new_one(
    federation: LocalFederation, monkeypatch: pytest.MonkeyPatch, renamed: bool
) -> None:
    """In round 2 the sites get the sum of round 1 again, as it was or as that of round 2."""
    get = Openings.get

    def replay(self: Openings, number: int) -> tuple[bytes, bytes]:
        old, vector = get(self, 1)
        if number == 1 or not renamed:
            return old, vector
        message, _ = get(self, number)
        digest = decode(Opening, old).vector
        return encode(replace(decode(Opening, message), vector=digest)), vector

    monkeypatch.setattr(Openings, "get", replay)
    monkeypatch.setattr(Openings, "drop", lambda self, before: None)
    federation.approve(grouped(make_plan()))
    outcome = federation.run("findings")
    assert outcome.status == "failed"
    told = "not the sum that the sites protected" if renamed else "without signing"
    assert told in reasons(federation)
    assert {replica.round for replica in replicas(federation, outcome.run).values()} == {1}


def forged(group_key: bytes, message: bytes, vector: bytes, spec: RunSpec) -> tuple[bytes, bytes]:
    """Add to a sum and to its tags, as whoever holds the group key can."""
    opening, ring = decode(Opening, message), np.frombuffer(vector, np.uint32).copy()
    change = np.zeros(spec.vector_length, np.int32)
    change[7] = 1_000_000
    ring += change.view(np.uint32)
    limbs = [
        limb
        for tag in tags_of(group_key, opening.task.context, change)
        for limb in to_limbs(tag, spec.limb_bits, spec.tag_limbs)
    ]
    ring[spec.plain_length :] += np.asarray(limbs, np.uint32)
    return encode(replace(opening, vector=vector_digest(ring))), ring.tobytes()


@pytest.mark.parametrize("insists", [False, True])
def test_a_coordinator_with_a_sites_key_gains_nothing_by_giving_another_site_another_sum(
    tmp_path: Path,
    images: Callable[[int], Path],
    monkeypatch: pytest.MonkeyPatch,
    insists: bool,
) -> None:
    """Site e's group key forges a MAC for c; c comes to another model, which is seen at once."""
    federation, plan = five(tmp_path, images, rounds=1)
    with federation:
        federation.approve(plan)
        e = RoundHandler(federation.sites["e"].home, federation.sites["e"])
        c = RoundHandler(federation.sites["c"].home, federation.sites["c"])

        def deceived(
            kind: str, body: bytes, payload: bytes | None
        ) -> tuple[str, bytes, bytes | None]:
            ask = Ask.from_bytes(body)
            if kind == Kind.AGGREGATE and payload is not None:
                participant = e._runs[ask.run].participant
                key = participant._state.group_key
                opening, payload = forged(key, ask.part("opening"), payload, participant._spec)
                body = replace(ask, parts={**ask.parts, "opening": opening}).to_bytes()
            return c(kind, body, payload)

        federation.grid.replace("e", e)
        federation.grid.replace("c", deceived)
        if insists:
            settle = HiddenModel.settle
            monkeypatch.setattr(
                HiddenModel,
                "settle",
                lambda self, done, online: (settle(self, done, online), tuple(online))[1],
            )
        outcome = federation.run("findings")
        made = replicas(federation, outcome.run)
        assert outcome.status == "completed"
        assert len({made[site].digest for site in "abde"}) == 1
        assert made["c"].digest != made["a"].digest
        told = reasons(federation)
        assert f"it came to the model {made['c'].steps[0].model_digest[:12]} after round 1" in told
        assert ("names another global model" in told) == insists
        last = [e for e in events(federation, Survivors) if isinstance(e, Survivors)][-1]
        assert last.survivors == ("a", "b", "d", "e")
        found = {finding.check for finding in evidence(federation, outcome.run).findings}
        assert "model" in found
        assert "replay" not in found


def lie(monkeypatch: pytest.MonkeyPatch, *liars: str) -> None:
    """Let some sites sign the digest of no model at all."""
    statement = Witness.statement

    def lying(self: Witness, event: Event) -> object:
        if self.site in liars and isinstance(event, ModelStep):
            event = replace(event, model_digest=liars.index(self.site).to_bytes(32, "big").hex())
        return statement(self, event)

    monkeypatch.setattr(Witness, "statement", lying)


def test_a_site_that_lies_about_its_model_is_named_and_left_out(
    tmp_path: Path, images: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    lie(monkeypatch, "b")
    federation, plan = five(tmp_path, images, rounds=2)
    with federation:
        federation.approve(plan)
        outcome = federation.run("findings")
        assert outcome.status == "completed"
        starts = [e for e in events(federation, RoundStart) if isinstance(e, RoundStart)]
        assert [start.invited for start in starts] == [FIVE, *[("a", "c", "d", "e")] * 2]
        faults = [e for e in events(federation, FaultLogged) if isinstance(e, FaultLogged)]
        assert [(fault.site, fault.round, fault.stage) for fault in faults] == [
            ("b", 2, "aggregate")
        ]
        assert "it came to the model 000000000000 after round 1, 4 sites to" in faults[0].what
        (finding,) = evidence(federation, outcome.run).findings
        assert (finding.check, finding.found) == ("model", f"{'00' * 32}, as b says")


def test_sites_that_cannot_agree_end_the_run_with_the_reason(
    federation: LocalFederation, monkeypatch: pytest.MonkeyPatch
) -> None:
    lie(monkeypatch, "west")
    federation.approve(grouped(make_plan()))
    outcome = federation.run("findings")
    assert outcome.status == "failed"
    assert "fewer than 3 sites signed one model after round 1" in outcome.note
    assert "west 000000000000" in outcome.note
    starts = [e for e in events(federation, RoundStart) if isinstance(e, RoundStart)]
    assert [(start.round, start.attempt) for start in starts] == [(1, 1)]
