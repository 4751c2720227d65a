"""A verifier recomputes the sum from retained uploads and logged shares, or says what is wrong."""

from dataclasses import replace
from typing import Any

import pytest
from secagg_federation import COORDINATOR, SIGNERS, Federation, check, ready

from wardround.privacy.errors import (
    KeysRejected,
    ParametersInvalid,
    SecureAggregationError,
    SharesRejected,
    SurvivorsRejected,
    TaskRejected,
    TooFewSites,
    UploadRejected,
)
from wardround.privacy.secagg import Replayed, replay
from wardround.privacy.secagg.messages import signed


def evidence(**changes: Any) -> tuple[Federation, dict[str, Any], dict[str, Any]]:
    """A finished round of five sites of which four survived, and what was kept of it."""
    federation = ready(5, **changes)
    task = federation.start()
    given = {site: federation.contribution(k) for k, site in enumerate(federation.names[:4])}
    federation.run(task, given)
    attempt = federation.aggregator._collection
    assert attempt is not None
    kept = {
        "spec": federation.spec,
        "coordinator_public": COORDINATOR.public_bytes(),
        "roster": federation.roster,
        "book": federation.aggregator.key_book(),
        "task": task,
        "uploads": [(upload.header, vector) for upload, vector in federation.uploads.values()],
        "signatures": federation.aggregator.quorum().signatures,
        "shares": list(attempt._shares.values()),
    }
    return federation, given, kept


def test_replay_gives_the_aggregate_of_the_round() -> None:
    federation, given, kept = evidence()
    replayed = replay(**kept)
    assert isinstance(replayed, Replayed)
    assert replayed.digest == federation.aggregator.result().digest
    assert replayed.aggregate is not None
    check(replayed.aggregate, given, federation.spec.spec)


def test_replay_of_group_mode_gives_the_digest_alone() -> None:
    federation, given, kept = evidence(group_mode=True)
    replayed = replay(**kept)
    opening, vector = federation.opened()
    assert replayed.digest == opening.vector.hex()
    assert replayed.aggregate is None
    assert replayed.survivors == tuple(given)
    aggregate = federation.sites["site-00"].accept_aggregate(opening, vector)
    assert aggregate.digest == replayed.digest


def test_replay_streams_its_uploads() -> None:
    _, _, kept = evidence()
    kept["uploads"] = iter(kept["uploads"])
    kept["shares"] = iter(kept["shares"])
    assert replay(**kept).aggregate is not None


@pytest.mark.parametrize(
    ("what", "change", "error"),
    [
        ("coordinator_public", lambda v: bytes(32), KeysRejected),
        ("roster", lambda v: replace(v, sites=v.sites[:4]), ParametersInvalid),
        ("book", lambda v: replace(v, adverts=v.adverts[:4]), TaskRejected),
        ("task", lambda v: replace(v, round=2), TaskRejected),
        ("uploads", lambda v: v[:3], SurvivorsRejected),
        ("uploads", lambda v: v[:2], TooFewSites),
        ("uploads", lambda v: [v[0], *v], UploadRejected),
        ("uploads", lambda v: [(v[0][0], v[0][1] + v[0][1].dtype.type(1)), *v[1:]], UploadRejected),
        ("signatures", lambda v: v[:2], SurvivorsRejected),
        ("shares", lambda v: v[:2], TooFewSites),
        (
            "shares",
            lambda v: [
                signed(replace(s, self_shares=(bytes(32),) * 4), SIGNERS[s.site]) for s in v
            ],
            SharesRejected,
        ),
    ],
)
def test_replay_refuses_evidence_that_does_not_hold(
    what: str, change: Any, error: type[SecureAggregationError]
) -> None:
    _, _, kept = evidence()
    with pytest.raises(error):
        replay(**{**kept, what: change(kept[what])})
