"""A coordinator or a site that deviates within a round. One test an attack."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from secagg_federation import (
    COORDINATOR,
    MODEL,
    SIGNERS,
    Federation,
    boxes_for,
    build,
    check,
    ready,
)

from wardround.privacy.errors import (
    AggregateRejected,
    ContributionInvalid,
    OutOfOrder,
    SharesRejected,
    SurvivorsRejected,
    TaskRejected,
    TooFewSites,
    UploadRejected,
)
from wardround.privacy.identity import FileSigner
from wardround.privacy.secagg import (
    Contribution,
    Quorum,
    RunSpec,
    Survivors,
    SurvivorSignature,
    digest,
    keys,
    vector_digest,
)
from wardround.privacy.secagg.checks import box_digest, sealed_holders
from wardround.privacy.secagg.dealing import derived_share
from wardround.privacy.secagg.messages import signed
from wardround.privacy.secagg.quantization import Quantizer

VICTIM, PEER = "site-00", "site-01"


def uploaded(n: int = 5, uploads: int | None = None, **changes: object) -> Federation:
    """A federation whose sites (the first `uploads` of them) have uploaded to round 1."""
    federation = ready(n, **changes)
    task = federation.start()
    for site in federation.names[:uploads]:
        federation.upload(task, site)
    return federation


def survivors_over(federation: Federation, site: str, chosen: tuple[str, ...]) -> Survivors:
    """The survivor message a deviating coordinator can make for any part of the uploads."""
    attempt = federation.aggregator._collection
    boxes = {name: attempt._boxes[name] for name in chosen}
    headers = tuple(attempt._headers[name] for name in chosen)
    return Survivors(
        attempt.task.context, headers, boxes_for(federation, attempt.task, site, boxes)
    )


def quorum_over(federation: Federation, chosen: tuple[str, ...], signers: list[str]) -> Quorum:
    """A quorum whose signatures are all genuine: every signer is corrupt."""
    message = survivors_over(federation, chosen[0], chosen)
    signatures = tuple(
        signed(SurvivorSignature(message.context, site, digest(message.set)), SIGNERS[site])
        for site in signers
    )
    return Quorum(message.context, digest(message.set), signatures)


# Tasks


def test_replay_of_a_task() -> None:
    federation = ready(3)
    task = federation.start()
    federation.upload(task, VICTIM)
    with pytest.raises(TaskRejected, match="is not after"):
        federation.sites[VICTIM].begin_round(task, MODEL, federation.contribution(0))


def test_replay_of_an_earlier_round() -> None:
    federation = ready(3)
    early, late = federation.start(1), federation.start(2)
    federation.sites[VICTIM].check_task(early, MODEL)
    federation.upload(late, VICTIM)
    with pytest.raises(TaskRejected, match="round 1 attempt 1 is not after round 2"):
        federation.sites[VICTIM].check_task(early, MODEL)


def test_replay_of_another_run() -> None:
    federation, other = ready(3), ready(3, run="run-2")
    with pytest.raises(TaskRejected, match="another run"):
        federation.sites[VICTIM].check_task(other.start(), MODEL)


def test_task_of_an_earlier_key_agreement() -> None:
    federation = ready(3)
    old = federation.start()
    federation.aggregator.restart_keys()
    federation.agree()
    with pytest.raises(TaskRejected, match="another key book"):
        federation.sites[VICTIM].check_task(old, MODEL)


def test_split_view_of_the_global_model() -> None:
    """Pasquini et al. (CCS 2022): other models for other sites single out one update. Here the
    model's hash is part of the context, so such sites share no mask and no survivor set."""
    federation = ready(3)
    task = federation.start(model=MODEL)
    with pytest.raises(TaskRejected, match="another global model"):
        federation.sites[VICTIM].check_task(task, bytes(32))
    twisted = federation.start(1, 2, model=bytes(32))
    for site in federation.names[1:]:
        federation.sites[site].begin_round(task, MODEL, federation.contribution(1))
    header = federation.sites[VICTIM].begin_round(twisted, bytes(32), federation.contribution(0))
    federation.aggregator.add(*header)
    message = survivors_over(federation, VICTIM, (VICTIM,))
    with pytest.raises(OutOfOrder, match="not for the attempt"):
        federation.sites[PEER].accept_survivors(message)


def test_task_for_a_cohort_below_the_minimum() -> None:
    federation = ready(5)
    task = signed(replace(federation.start(), participants=(VICTIM, PEER)), COORDINATOR)
    with pytest.raises(TaskRejected, match="2 participants; the run asks for 3"):
        federation.sites[VICTIM].check_task(task, MODEL)


def test_task_that_names_a_stranger_or_leaves_the_site_out() -> None:
    federation = ready(5)
    task = federation.start()
    for participants, message in (
        ((*federation.names, "site-77"), "not in the key book"),
        (federation.names[1:], "not for this site"),
        ((VICTIM, VICTIM, PEER, "site-02"), "named twice"),
    ):
        forged = signed(replace(task, participants=participants), COORDINATOR)
        with pytest.raises(TaskRejected, match=message):
            federation.sites[VICTIM].check_task(forged, MODEL)


def test_task_that_the_coordinator_did_not_sign() -> None:
    """Anyone else could use up a site's rounds otherwise."""
    federation = ready(3)
    task = federation.start()
    for forged in (
        replace(task, round=7),
        replace(task, clip=0.5),
        replace(task, prior=bytes(32)),
        signed(task, FileSigner.generate()),
    ):
        with pytest.raises(TaskRejected, match="not signed by the coordinator"):
            federation.sites[VICTIM].check_task(forged, MODEL)


def test_task_with_a_bound_that_the_run_does_not_allow() -> None:
    federation = ready(3)
    task = federation.start()
    for clip in (1.5, 0.0, 1e-29):
        wide = signed(replace(task, clip=clip), COORDINATOR)
        with pytest.raises(TaskRejected, match="clip is outside"):
            federation.sites[VICTIM].check_task(wide, MODEL)


def test_task_beyond_the_rounds_of_the_run() -> None:
    federation = ready(3)
    forged = signed(replace(federation.start(), round=21), COORDINATOR)
    with pytest.raises(TaskRejected, match="the run has 20"):
        federation.sites[VICTIM].check_task(forged, MODEL)


def test_nan_or_infinity_never_leaves_and_uses_up_nothing() -> None:
    federation = ready(3)
    task = federation.start()
    for bad in (np.nan, np.inf):
        values = np.zeros(federation.spec.spec.dimension, np.float32)
        values[-1] = bad
        with pytest.raises(ContributionInvalid):
            federation.sites[VICTIM].begin_round(task, MODEL, Contribution(values, 1, (0, 0)))
    federation.sites[VICTIM].check_task(task, MODEL)


# Uploads


def test_double_upload() -> None:
    federation = uploaded(3)
    with pytest.raises(UploadRejected, match="uploaded twice"):
        federation.aggregator.add(*federation.uploads[VICTIM])


def test_header_tampered() -> None:
    federation = ready(5)
    task = federation.start()
    upload, vector = federation.sites[VICTIM].begin_round(task, MODEL, federation.contribution(0))
    header = upload.header
    for change in (
        {"site": PEER},
        {"vector": bytes(32)},
        {"self_commitment": bytes(32)},
        {"pair_commitments": header.pair_commitments[::-1]},
        {"boxes": header.boxes[::-1]},
        {"signature": bytes(64)},
    ):
        with pytest.raises(UploadRejected, match="not signed"):
            federation.aggregator.add(replace(upload, header=replace(header, **change)), vector)
    federation.aggregator.add(upload, vector)


def test_upload_of_another_attempt() -> None:
    federation = ready(3)
    old = federation.sites[VICTIM].begin_round(
        federation.start(), MODEL, federation.contribution(0)
    )
    federation.start(1, 2)
    with pytest.raises(UploadRejected, match="another attempt, round or run"):
        federation.aggregator.add(*old)


def test_vector_tampered_leaves_the_sum_untouched() -> None:
    federation = ready(3)
    task = federation.start()
    given = {site: federation.contribution(k) for k, site in enumerate(federation.names)}
    for site in federation.names:
        upload, vector = federation.sites[site].begin_round(task, MODEL, given[site])
        damaged = vector.copy()
        damaged[5] ^= 1
        with pytest.raises(UploadRejected, match="was damaged"):
            federation.aggregator.add(upload, damaged)
        with pytest.raises(UploadRejected, match="another length or ring"):
            federation.aggregator.add(upload, vector[:-1])
        with pytest.raises(UploadRejected, match="another length or ring"):
            federation.aggregator.add(upload, vector.astype(np.int64))
        federation.aggregator.add(upload, vector)
    federation.aggregator.survivors()
    federation.sign()
    federation.release()
    check(federation.aggregator.result(), given, federation.spec.spec)


def test_box_tampered_or_swapped_on_the_way_up() -> None:
    federation = ready(5)
    task = federation.start()
    upload, vector = federation.sites[VICTIM].begin_round(task, MODEL, federation.contribution(0))
    for boxes in (upload.boxes[::-1], upload.boxes[:1], (upload.boxes[0], b"x")):
        with pytest.raises(UploadRejected, match="boxes of site-00"):
            federation.aggregator.add(replace(upload, boxes=boxes), vector)


def test_two_ends_that_commit_to_different_pair_secrets() -> None:
    """A lying site would spoil the sum; the coordinator and every survivor see it."""
    federation = ready(3)
    task = federation.start()
    federation.upload(task, PEER)
    upload, vector = federation.sites[VICTIM].begin_round(task, MODEL, federation.contribution(0))
    lie = signed(
        replace(upload.header, pair_commitments=(bytes(32), upload.header.pair_commitments[1])),
        SIGNERS[VICTIM],
    )
    with pytest.raises(UploadRejected, match="different pair secrets"):
        federation.aggregator.add(replace(upload, header=lie), vector)
    federation.upload(task, "site-02")
    federation.aggregator._collection._headers[VICTIM] = lie
    federation.aggregator._collection._boxes[VICTIM] = upload.boxes
    for site in (PEER, "site-02"):
        with pytest.raises(SurvivorsRejected, match="different pair secrets"):
            federation.sites[site].accept_survivors(
                survivors_over(federation, site, federation.names)
            )


# Survivors and quorum


def test_second_survivor_set() -> None:
    federation = uploaded(5)
    names = federation.names
    federation.sites[VICTIM].accept_survivors(survivors_over(federation, VICTIM, names))
    with pytest.raises(SurvivorsRejected, match="second, different survivor set"):
        federation.sites[VICTIM].accept_survivors(survivors_over(federation, VICTIM, names[:4]))


def test_overlapping_lists_one_site_both_active_and_dead() -> None:
    """Flower's SecAgg+ recovers a live site's update this way. Here one message names one set,
    and the share lists follow from it: no share of both kinds leaves for any peer, for any set
    a quorum can be found for."""
    federation = uploaded(5)
    for chosen in (federation.names, federation.names[:4], federation.names[:3]):
        for site in chosen:
            fresh = uploaded(5)
            message = survivors_over(fresh, site, chosen)
            fresh.sites[site].accept_survivors(message)
            shares = fresh.sites[site].release_shares(
                quorum_over(fresh, chosen, list(chosen)[: fresh.spec.spec.threshold])
            )
            dead = len(federation.names) - len(chosen)
            assert len(shares.self_shares) == len(chosen)
            assert len(shares.pair_shares) == len(chosen) * dead
    doubled = survivors_over(federation, VICTIM, (VICTIM, PEER, PEER, "site-02"))
    with pytest.raises(SurvivorsRejected, match="named twice"):
        federation.sites[VICTIM].accept_survivors(doubled)


def test_split_view_of_the_survivors() -> None:
    """Half the sites are told one set, half another: neither half is a quorum."""
    federation = uploaded(5)
    names = federation.names
    one, two = names[:4], names[1:]
    signatures = {}
    for site, chosen in (
        ("site-00", one),
        ("site-01", one),
        ("site-02", two),
        ("site-03", two),
        ("site-04", two),
    ):
        message = survivors_over(federation, site, chosen)
        signatures[site] = federation.sites[site].accept_survivors(message)
    for victim, signers in (("site-00", names[:2]), ("site-00", names[:4]), ("site-02", names)):
        chosen = one if victim == "site-00" else two
        name = digest(survivors_over(federation, victim, chosen).set)
        quorum = Quorum(
            signatures[victim].context, name, tuple(signatures[site] for site in signers)
        )
        with pytest.raises(SurvivorsRejected):
            federation.sites[victim].release_shares(quorum)


def test_too_few_survivors() -> None:
    federation = uploaded(5)
    with pytest.raises(SurvivorsRejected, match="2 survivors; the run asks for at least 3"):
        federation.sites[VICTIM].accept_survivors(
            survivors_over(federation, VICTIM, (VICTIM, PEER))
        )


def test_cohort_between_threshold_and_minimum() -> None:
    """t sites could open such a sum; the run asks for more of them in it, at every step."""
    federation = ready(5, min_cohort=4)
    names = federation.names
    assert federation.spec.spec.threshold == 3
    small = signed(replace(federation.start(), participants=names[:3]), COORDINATOR)
    with pytest.raises(TaskRejected, match="3 participants; the run asks for 4"):
        federation.sites[VICTIM].check_task(small, MODEL)
    task = federation.start(1, 2)
    for site in names[:3]:
        federation.upload(task, site)
    with pytest.raises(TooFewSites, match="uploads arrived: 3"):
        federation.aggregator.survivors()
    with pytest.raises(SurvivorsRejected, match="3 survivors; the run asks for at least 4"):
        federation.sites[VICTIM].accept_survivors(survivors_over(federation, VICTIM, names[:3]))


@pytest.mark.parametrize(
    ("field", "text"),
    [("pair_commitments", "does not commit to 4 pair"), ("boxes", "1 boxes"), ("length", "coord")],
)
def test_header_of_another_shape_signed_by_a_corrupt_site(field: str, text: str) -> None:
    """Coordinator and sites refuse it in words, and do not stumble over what is missing."""
    federation = uploaded(5)
    upload, vector = federation.uploads[PEER]
    value = getattr(upload.header, field)
    short = replace(upload.header, **{field: value + 1 if field == "length" else value[:-1]})
    short = signed(short, SIGNERS[PEER])
    message = survivors_over(federation, VICTIM, federation.names)
    headers = (message.headers[0], short, *message.headers[2:])
    with pytest.raises(SurvivorsRejected, match=text):
        federation.sites[VICTIM].accept_survivors(replace(message, headers=headers))
    del federation.aggregator._collection._headers[PEER]
    with pytest.raises(UploadRejected, match=text):
        federation.aggregator.add(replace(upload, header=short), vector)


def test_survivor_set_without_the_sites_own_upload() -> None:
    federation = uploaded(5)
    message = survivors_over(federation, PEER, federation.names[1:])
    with pytest.raises(SurvivorsRejected, match="this site's own upload"):
        federation.sites[VICTIM].accept_survivors(message)


def test_survivor_set_with_a_forged_header() -> None:
    federation = uploaded(5)
    message = survivors_over(federation, VICTIM, federation.names)
    forged = replace(message.headers[1], self_commitment=bytes(32))
    headers = (message.headers[0], forged, *message.headers[2:])
    with pytest.raises(SurvivorsRejected, match="not signed by site-01"):
        federation.sites[VICTIM].accept_survivors(replace(message, headers=headers))


def test_box_tampered_or_swapped_on_the_way_down() -> None:
    federation = uploaded(5)
    message = survivors_over(federation, VICTIM, federation.names)
    first, second = message.boxes  # of site-01 and site-02; the other shares it computes
    for boxes, text in (
        ((second, first), "not the one site-01 sent"),
        ((first[:-1] + bytes([first[-1] ^ 1]), second), "not the one site-01 sent"),
        ((first,), "boxes sealed to this site"),
        ((first, second, second), "boxes sealed to this site"),
    ):
        with pytest.raises(SurvivorsRejected, match=text):
            federation.sites[VICTIM].accept_survivors(replace(message, boxes=boxes))


def test_too_few_signatures() -> None:
    federation = uploaded(5)
    federation.aggregator.survivors()
    federation.sign()
    quorum = federation.aggregator.quorum()
    with pytest.raises(SurvivorsRejected, match="2 sites signed the survivor set; 3 must"):
        federation.sites[VICTIM].release_shares(replace(quorum, signatures=quorum.signatures[:2]))
    doubled = (quorum.signatures[0], *quorum.signatures[:2])
    with pytest.raises(SurvivorsRejected, match="one is there twice"):
        federation.sites[VICTIM].release_shares(replace(quorum, signatures=doubled))


def test_forged_signatures() -> None:
    federation = uploaded(5)
    federation.aggregator.survivors()
    federation.sign()
    quorum = federation.aggregator.quorum()
    first, second, third, *rest = quorum.signatures
    for forged, text in (
        (replace(third, signature=second.signature), "not signed by site-02"),
        (replace(third, survivors=bytes(32)), "another survivor set"),
    ):
        with pytest.raises(SurvivorsRejected, match=text):
            federation.sites[VICTIM].release_shares(
                replace(quorum, signatures=(first, second, forged, *rest))
            )
    stranger = replace(third, site="site-33")
    with pytest.raises(SurvivorsRejected, match="is no survivor"):
        federation.sites[VICTIM].release_shares(
            replace(quorum, signatures=(*quorum.signatures, stranger))
        )


def test_quorum_for_another_set_than_the_signed_one() -> None:
    federation = uploaded(5)
    names = federation.names
    federation.sites[VICTIM].accept_survivors(survivors_over(federation, VICTIM, names))
    with pytest.raises(SurvivorsRejected, match="another survivor set than the signed one"):
        federation.sites[VICTIM].release_shares(quorum_over(federation, names[:4], list(names[:3])))


def test_quorum_before_the_survivor_set() -> None:
    federation = uploaded(5)
    with pytest.raises(OutOfOrder):
        federation.sites[VICTIM].release_shares(
            quorum_over(federation, federation.names, list(federation.names))
        )


# Shares


def test_bad_share_is_routed_around() -> None:
    """One of five sites lies about every share; four good ones of three needed remain."""
    federation = uploaded(5)
    federation.aggregator.survivors()
    federation.sign()
    quorum = federation.aggregator.quorum()
    for site in federation.names:
        shares = federation.sites[site].release_shares(quorum)
        if site == VICTIM:
            lies = tuple(bytes(b ^ 0x55 for b in share) for share in shares.self_shares)
            shares = signed(replace(shares, self_shares=lies), SIGNERS[site])
        federation.aggregator.add_shares(shares)
    given = {site: federation.contribution(k) for k, site in enumerate(federation.names)}
    check(federation.aggregator.result(), given, federation.spec.spec)


def test_bad_shares_for_a_dead_site_are_routed_around() -> None:
    federation = uploaded(7, 6)
    federation.aggregator.survivors()
    federation.sign()
    quorum = federation.aggregator.quorum()
    for site in federation.names[:6]:
        shares = federation.sites[site].release_shares(quorum)
        if site == PEER:
            shares = signed(replace(shares, pair_shares=(bytes(32),) * 6), SIGNERS[site])
        federation.aggregator.add_shares(shares)
    given = {site: federation.contribution(k) for k, site in enumerate(federation.names[:6])}
    check(federation.aggregator.result(), given, federation.spec.spec)


@pytest.mark.parametrize("liars", [1, 3])
def test_shares_of_another_length_are_routed_around(liars: int) -> None:
    federation = uploaded(5)
    federation.aggregator.survivors()
    federation.sign()
    quorum = federation.aggregator.quorum()
    for site in federation.names:
        shares = federation.sites[site].release_shares(quorum)
        if site in federation.names[:liars]:
            short = tuple(share[:7] for share in shares.self_shares)
            shares = signed(replace(shares, self_shares=short), SIGNERS[site])
        federation.aggregator.add_shares(shares)
    if liars > 2:
        with pytest.raises(SharesRejected, match="fewer than 3 shares that open"):
            federation.aggregator.result()
        return
    given = {site: federation.contribution(k) for k, site in enumerate(federation.names)}
    check(federation.aggregator.result(), given, federation.spec.spec)


@pytest.mark.parametrize("opens", [False, True])
def test_box_made_badly_by_its_sender_costs_one_share_only(opens: bool) -> None:
    """A dealer that seals rubbish to one peer: that peer cannot help, the others can."""
    federation = ready(5)
    task = federation.start()
    upload, vector = federation.sites[PEER].begin_round(task, MODEL, federation.contribution(1))
    first = sealed_holders(task.participants, PEER, federation.spec.spec.threshold)[0]
    root = federation.sites[PEER]._roots(federation.sites[PEER]._state.roots)[first]
    bad = keys.seal(root, task.context, PEER, first, bytes(40)) if opens else b"rubbish"
    boxes = (bad, *upload.boxes[1:])
    header = replace(upload.header, boxes=tuple(map(box_digest, boxes)))
    header = signed(header, SIGNERS[PEER])
    federation.sites[PEER]._state = replace(
        federation.sites[PEER]._state,
        current=replace(federation.sites[PEER]._state.current, header=header),
    )
    federation.aggregator.add(replace(upload, header=header, boxes=boxes), vector)
    for site in federation.names:
        if site != PEER:
            federation.upload(task, site)
    federation.aggregator.survivors()
    federation.sign()
    federation.release()
    given = {site: federation.contribution(k) for k, site in enumerate(federation.names)}
    check(federation.aggregator.result(), given, federation.spec.spec)


def test_dealer_whose_polynomial_misses_a_computed_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """A holder that computes its share can be dealt a bad one too; it is routed around."""

    def missing(root: bytes, context: bytes, dealer: str, holder: str, *rest: Any) -> bytes:
        share = derived_share(root, context, dealer, holder, *rest)
        return bytes(len(share)) if (dealer, holder) == (PEER, "site-02") else share

    federation = ready(5)
    task = federation.start()
    monkeypatch.setattr("wardround.privacy.secagg.dealing.derived_share", missing)  # deals only
    given = federation.run(task)
    check(federation.aggregator.result(), given, federation.spec.spec)


def test_too_many_bad_shares_abort_with_a_typed_error() -> None:
    federation = uploaded(5)
    federation.aggregator.survivors()
    federation.sign()
    quorum = federation.aggregator.quorum()
    for index, site in enumerate(federation.names):
        shares = federation.sites[site].release_shares(quorum)
        if index < 2:
            lies = tuple(bytes(b ^ (index + 1) for b in share) for share in shares.self_shares)
            shares = signed(replace(shares, self_shares=lies), SIGNERS[site])
        federation.aggregator.add_shares(shares)
    with pytest.raises(SharesRejected):
        federation.aggregator.result()


def test_shares_forged_or_for_another_set() -> None:
    federation = uploaded(5)
    federation.aggregator.survivors()
    federation.sign()
    shares = federation.sites[VICTIM].release_shares(federation.aggregator.quorum())
    for forged, text in (
        (replace(shares, site=PEER), "not signed by site-01"),
        (replace(shares, site="site-30"), "is no survivor"),
        (replace(shares, survivors=bytes(32)), "another survivor set"),
        (replace(shares, self_shares=shares.self_shares[::-1]), "not signed by site-00"),
        (
            signed(replace(shares, self_shares=shares.self_shares[1:]), SIGNERS[VICTIM]),
            "another number of shares",
        ),
    ):
        with pytest.raises(SharesRejected, match=text):
            federation.aggregator.add_shares(forged)


# Differencing


def test_differencing_by_a_second_attempt_with_another_participant_set() -> None:
    """The coordinator opens a sum, calls the attempt failed, and asks again without one site."""
    federation = uploaded(5)
    federation.aggregator.survivors()
    federation.sign()
    federation.release(federation.names[:3])
    again = federation.start(1, 2, federation.names[:4])
    for site in federation.names[:3]:
        with pytest.raises(TaskRejected, match="could be subtracted"):
            federation.sites[site].check_task(again, MODEL)


def test_differencing_by_a_second_attempt_with_another_survivor_set() -> None:
    """Same participants, but one upload is called lost: refused where shares were released."""
    federation = uploaded(5)
    federation.aggregator.survivors()
    federation.sign()
    federation.release(federation.names[:3])
    task = federation.start(1, 2)
    for site in federation.names[:4]:
        federation.upload(task, site)
    for site in federation.names[:3]:
        with pytest.raises(SurvivorsRejected, match="could be subtracted"):
            federation.sites[site].accept_survivors(
                survivors_over(federation, site, federation.names[:4])
            )
    # Only the two sites that released nothing sign, and three must.
    federation.aggregator.survivors()
    federation.sign(federation.names[3:4])
    with pytest.raises(TooFewSites):
        federation.aggregator.quorum()


@pytest.mark.parametrize("first", [None, 0.5])
def test_differencing_by_a_second_bound_for_the_same_updates(first: float | None) -> None:
    """The same sites, model and updates, but a tighter or wider clip: as that moves, each opened
    sum changes only by the coordinates that it cuts, so enough of them list every site's."""
    federation = ready(5)
    task = federation.start(clip=first)
    for site in federation.names:
        federation.upload(task, site)
    federation.aggregator.survivors()
    federation.sign()
    federation.release(federation.names[:3])
    federation.restart(VICTIM)
    for attempt, bound in enumerate((0.25, 1.0), start=2):
        again = federation.start(1, attempt, clip=bound)
        for site in federation.names[:3]:
            with pytest.raises(TaskRejected, match="under another bound"):
                federation.sites[site].check_task(again, MODEL)
        federation.sites["site-04"].check_task(again, MODEL)  # it released nothing
    same = federation.start(1, 4, clip=first)
    federation.sites[VICTIM].check_task(same, MODEL)


def test_differencing_by_a_bound_from_another_sum() -> None:
    """In group mode a task names the sum its bound comes from; here the coordinator names two."""
    federation = ready(3, ring_bits=16, group_mode=True)
    federation.run(federation.start(1))
    for site in federation.names:
        federation.sites[site].accept_aggregate(*federation.opened())
    model = bytes(32)
    task = federation.start(2, model=model)
    assert task.prior is not None
    federation.run(task)
    for attempt, changed in ((2, {"prior": None}), (3, {"prior": None, "clip": 0.5})):
        again = signed(replace(task, attempt=attempt, **changed), COORDINATOR)
        with pytest.raises(TaskRejected, match="under another bound"):
            federation.sites[VICTIM].check_task(again, model)
    federation.sites[VICTIM].check_task(signed(replace(task, attempt=4), COORDINATOR), model)


def test_differencing_across_rounds_that_keep_the_model() -> None:
    federation = uploaded(5)
    federation.aggregator.survivors()
    federation.sign()
    federation.release()
    later = federation.start(9, 1, federation.names[:4], model=MODEL)
    with pytest.raises(TaskRejected, match="could be subtracted"):
        federation.sites[VICTIM].check_task(later, MODEL)
    federation.sites[VICTIM].check_task(
        federation.start(10, 1, federation.names[:4], model=bytes(32)), bytes(32)
    )


def test_the_very_same_set_may_open_again() -> None:
    federation = uploaded(5)
    federation.aggregator.survivors()
    federation.sign()
    federation.release(federation.names[:2])  # then the coordinator crashes
    given = federation.run(federation.start(1, 2))
    check(federation.aggregator.result(), given, federation.spec.spec)


def test_differencing_rule_survives_new_keys_and_restarts() -> None:
    federation = uploaded(5)
    federation.aggregator.survivors()
    federation.sign()
    federation.release()
    federation.restart(VICTIM)
    federation.aggregator.restart_keys()
    federation.agree(federation.names[:4])
    task = federation.start(2, 1, federation.names[:4])
    with pytest.raises(TaskRejected, match="could be subtracted"):
        federation.sites[VICTIM].check_task(task, MODEL)


# The aggregate


@pytest.mark.parametrize("group_mode", [False, True])
@pytest.mark.parametrize("bits", [32, 16])
def test_altered_aggregate(group_mode: bool, bits: int) -> None:
    """Anywhere: an update's coordinate, the weight, a counter, a tag; with the digest redone."""
    federation = ready(3, group_mode=group_mode, ring_bits=bits)
    federation.run(federation.start())
    opening, vector = federation.opened()
    spec = federation.spec.spec
    places = [
        0,
        spec.dimension - 1,
        spec.encoded_length,
        spec.plain_length - 1,
        spec.plain_length,
        -1,
    ]
    for place in places:
        altered = vector.copy()
        altered[place] += 1
        forged = replace(opening, vector=vector_digest(altered))
        with pytest.raises(AggregateRejected, match="not the sum that the sites protected"):
            federation.sites[VICTIM].accept_aggregate(forged, altered)
    scaled = vector * vector.dtype.type(2)
    with pytest.raises(AggregateRejected, match="not the sum"):
        federation.sites[VICTIM].accept_aggregate(
            replace(opening, vector=vector_digest(scaled)), scaled
        )
    with pytest.raises(AggregateRejected, match="differs from its digest"):
        federation.sites[VICTIM].accept_aggregate(opening, scaled)
    with pytest.raises(AggregateRejected, match="another length"):
        federation.sites[VICTIM].accept_aggregate(opening, vector[:-1])
    federation.sites[VICTIM].accept_aggregate(opening, vector)


def test_wrapped_aggregate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sites that encode beyond their bound make the sum wrap; the tags are sums of integers."""

    def thrice(spec: RunSpec, clip: float | None, values: Any, weight: int) -> Quantizer:
        quantizer = Quantizer(spec, clip, values, weight)
        quantizer._scale *= np.float32(3)
        quantizer._bound = np.float32(2**31 - 129)
        return quantizer

    monkeypatch.setattr("wardround.privacy.secagg.protection.Quantizer", thrice)
    federation = ready(3)
    top = Contribution(np.full(40, 0.9, np.float32), 100, (0, 0))
    federation.run(federation.start(), dict.fromkeys(federation.names, top))
    opening, vector = federation.opened()
    with pytest.raises(AggregateRejected, match="not the sum that the sites protected"):
        federation.sites[VICTIM].accept_aggregate(opening, vector)


def test_replay_of_an_aggregate() -> None:
    federation = ready(3, group_mode=True)
    federation.run(federation.start(1))
    first = federation.opened()
    federation.sites[VICTIM].accept_aggregate(*first)
    federation.run(federation.start(2, model=bytes(32)))
    second = federation.opened()
    with pytest.raises(AggregateRejected):  # the sum of round 1 under the name of round 2
        federation.sites[VICTIM].accept_aggregate(
            replace(second[0], vector=first[0].vector), first[1]
        )
    federation.sites[VICTIM].accept_aggregate(*second)
    federation.sites[VICTIM].accept_aggregate(*second)  # again after a crash: the same is fine
    for _ in range(2):
        with pytest.raises(AggregateRejected, match="accepted already"):
            federation.sites[VICTIM].accept_aggregate(*first)
        federation.restart(VICTIM)


def test_aggregate_of_a_set_that_no_quorum_signed() -> None:
    federation = ready(5, group_mode=True)
    federation.run(federation.start())
    opening, vector = federation.opened()
    fewer = replace(
        opening.survivors,
        sites=opening.survivors.sites[:4],
        headers=opening.survivors.headers[:4],
    )
    with pytest.raises(SurvivorsRejected, match="signed another survivor set"):
        federation.sites[VICTIM].accept_aggregate(
            replace(opening, survivors=fewer, signatures=opening.signatures[:4]), vector
        )
    with pytest.raises(SurvivorsRejected, match="2 sites signed"):
        federation.sites[VICTIM].accept_aggregate(
            replace(opening, signatures=opening.signatures[:2]), vector
        )


def test_aggregate_of_a_set_below_the_minimum() -> None:
    """t corrupt sites sign that they alone are the set; the run asks for more in a sum."""
    federation = ready(5, min_cohort=4, group_mode=True)
    federation.run(federation.start())
    opening, vector = federation.opened()
    few = replace(
        opening.survivors,
        sites=opening.survivors.sites[:3],
        headers=opening.survivors.headers[:3],
    )
    signatures = tuple(
        signed(SurvivorSignature(few.context, site, digest(few)), SIGNERS[site])
        for site in few.sites
    )
    forged = replace(opening, survivors=few, signatures=signatures)
    with pytest.raises(SurvivorsRejected, match="3 survivors; the run asks for at least 4"):
        federation.sites["site-04"].accept_aggregate(forged, vector)


def test_second_aggregate_of_one_round() -> None:
    """Two attempts over the same set open; a site reads one sum a round, in its own attempt."""
    federation = ready(5, group_mode=True)
    federation.run(federation.start())
    first = federation.opened()
    federation.sites[VICTIM].accept_aggregate(*first)
    federation.run(federation.start(1, 2))
    second = federation.opened()
    with pytest.raises(AggregateRejected, match="accepted already"):
        federation.sites[VICTIM].accept_aggregate(*second)
    with pytest.raises(AggregateRejected, match="not of the set this site helped to open"):
        federation.sites[PEER].accept_aggregate(*first)
    mixed = replace(second[0], survivors=first[0].survivors, signatures=first[0].signatures)
    with pytest.raises(AggregateRejected, match="set is of another attempt"):
        federation.sites[PEER].accept_aggregate(mixed, second[1])


def test_group_key_of_another_run_does_not_read_the_sum() -> None:
    federation, other = ready(3, group_mode=True), build(3, group_mode=True)
    other.agree()
    federation.run(federation.start())
    opening, vector = federation.opened()
    with pytest.raises(TaskRejected, match="another key book"):
        other.sites[VICTIM].accept_aggregate(opening, vector)
