"""Whole rounds: the sum is the plaintext sum, whoever drops out and when, or nothing opens."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from secagg_federation import (
    COORDINATOR,
    MODEL,
    build,
    check,
    expected_mean,
    ready,
    wire,
)

from wardround.privacy.errors import (
    CoordinatorBlind,
    OutOfOrder,
    TaskRejected,
    TooFewSites,
    UploadRejected,
)
from wardround.privacy.model import TensorLayout
from wardround.privacy.secagg import Aggregator, Contribution
from wardround.privacy.secagg.masking import apply_streams
from wardround.privacy.secagg.recovery import Recovery


@pytest.mark.parametrize("bits", [32, 16])
def test_three_sites_sum_in_plain_mode(bits: int) -> None:
    federation = ready(3, ring_bits=bits)
    given = federation.run(federation.start())
    check(federation.aggregator.result(), given, federation.spec.spec)
    opening, vector = federation.opened()
    for site in federation.names:
        check(federation.sites[site].accept_aggregate(opening, vector), given, federation.spec.spec)


@pytest.mark.parametrize("bits", [32, 16])
def test_group_mode_opens_at_the_sites_only(bits: int) -> None:
    federation = ready(3, ring_bits=bits, group_mode=True)
    given = federation.run(federation.start())
    with pytest.raises(CoordinatorBlind):
        federation.aggregator.result()
    opening, vector = federation.opened()
    for site in federation.names:
        check(federation.sites[site].accept_aggregate(opening, vector), given, federation.spec.spec)


def test_group_mode_hides_every_bit_of_the_sum_from_the_coordinator() -> None:
    """With one mask shared by all, |U| = 4 copies of it would show the two lowest bits."""
    federation = ready(4, group_mode=True, layout=(TensorLayout("w", (4000,)),))
    zeros = Contribution(np.zeros(4000, np.float32), 0, (0, 0))
    federation.run(federation.start(), dict.fromkeys(federation.names, zeros))
    low_bits = federation.aggregator.opened()[:4000] & 3
    assert np.bincount(low_bits.astype(np.intp), minlength=4).min() > 800


@settings(max_examples=25)
@given(data=st.data())
def test_the_sum_is_exact_over_sizes_weights_and_drop_outs(data: st.DataObject) -> None:
    n = data.draw(st.integers(3, 7), label="n")
    bits = data.draw(st.sampled_from([16, 32]), label="ring")
    colluders = data.draw(st.integers(0, (n - 1) // 2), label="c")
    sizes = data.draw(st.lists(st.integers(0, 40), min_size=1, max_size=3), label="sizes")
    layout = tuple(TensorLayout(f"t{k}", (size,)) for k, size in enumerate([*sizes, 1]))
    federation = build(n, ring_bits=bits, colluders=colluders, layout=layout)
    at_setup = data.draw(st.sets(st.sampled_from(federation.names), max_size=1), label="absent")
    present = [site for site in federation.names if site not in at_setup]
    smallest = federation.spec.spec.smallest_cohort
    if len(present) < smallest:
        present = list(federation.names)
    federation.agree(present)
    uploading = data.draw(
        st.lists(st.sampled_from(present), min_size=smallest, unique=True), label="uploading"
    )
    contributions = {
        site: federation.contribution(
            data.draw(st.integers(0, 2**31)),
            weight=data.draw(st.integers(1, 100)),
            scale=data.draw(st.sampled_from([0.01, 0.3, 5.0])),
        )
        for site in uploading
    }
    task = federation.start(participants=present)
    for site, contribution in contributions.items():
        federation.upload(task, site, contribution)
    federation.aggregator.survivors()
    quorum = st.lists(
        st.sampled_from(sorted(uploading)), min_size=federation.spec.spec.threshold, unique=True
    )
    federation.sign(signers := data.draw(quorum, label="signers"))
    federation.release(signers)
    check(federation.aggregator.result(), contributions, federation.spec.spec)


def test_extreme_counters_and_weights_are_exact() -> None:
    federation = ready(3, ring_bits=16, max_weight=2**31 - 1)
    values = np.zeros(federation.spec.spec.dimension, np.float32)
    top = Contribution(values, 2**31 - 1, (2**31 - 1, 0))
    federation.run(federation.start(), dict.fromkeys(federation.names, top))
    aggregate = federation.aggregator.result()
    assert aggregate.weight == 3 * (2**31 - 1)
    assert aggregate.counters == {"correct": 3 * (2**31 - 1), "evaluated": 0}


def test_a_round_in_which_every_site_only_evaluates_has_a_zero_mean() -> None:
    federation = ready(3)
    contributions = {
        site: federation.contribution(k, weight=0) for k, site in enumerate(federation.names)
    }
    federation.run(federation.start(), contributions)
    aggregate = federation.aggregator.result()
    assert aggregate.weight == 0
    assert not aggregate.mean.any()
    assert aggregate.counters["evaluated"] > 0


def test_a_drop_out_before_keys_leaves_a_smaller_run() -> None:
    federation = build(5)
    federation.agree(federation.names[:4])
    given = federation.run(federation.start(participants=federation.names[:4]))
    check(federation.aggregator.result(), given, federation.spec.spec)


def test_a_drop_out_between_advert_and_approval_is_survived_by_agreeing_again() -> None:
    federation = build(5)
    for site in federation.names:
        federation.aggregator.add_advert(wire(federation.sites[site].advertise()))
    book = wire(federation.aggregator.key_book())
    for site in federation.names[:4]:
        federation.aggregator.add_ack(wire(federation.sites[site].accept_book(book)))
    assert federation.aggregator.missing_acks == (federation.names[4],)
    with pytest.raises(TooFewSites, match="did not approve"):
        federation.aggregator.confirmation(federation.names[0])
    federation.aggregator.restart_keys()
    federation.agree(federation.names[:4])
    given = federation.run(federation.start(participants=federation.names[:4]))
    check(federation.aggregator.result(), given, federation.spec.spec)


def test_drop_outs_before_upload_down_to_the_threshold() -> None:
    federation = ready(5)
    given = {site: federation.contribution(k) for k, site in enumerate(federation.names[:3])}
    federation.run(federation.start(), given)
    check(federation.aggregator.result(), given, federation.spec.spec)


def test_drop_outs_after_upload_down_to_the_threshold() -> None:
    federation = ready(5)
    task = federation.start()
    given = {site: federation.contribution(k) for k, site in enumerate(federation.names)}
    for site, contribution in given.items():
        federation.upload(task, site, contribution)
    federation.aggregator.survivors()
    federation.sign(federation.names[:4])
    federation.release(federation.names[1:4])
    check(federation.aggregator.result(), given, federation.spec.spec)


def test_one_site_below_the_threshold_aborts_at_every_stage() -> None:
    federation = build(5)
    for site in federation.names[:2]:
        federation.aggregator.add_advert(wire(federation.sites[site].advertise()))
    with pytest.raises(TooFewSites, match="sent keys"):
        federation.aggregator.key_book()

    federation = ready(5)
    task = federation.start()
    for site in federation.names[:2]:
        federation.upload(task, site)
    with pytest.raises(TooFewSites, match="uploads arrived"):
        federation.aggregator.survivors()

    federation.upload(task, federation.names[2])
    federation.sign(federation.names[:2])
    with pytest.raises(TooFewSites, match="signed the survivor set"):
        federation.aggregator.quorum()

    federation.sign(federation.names[2:3])
    federation.release(federation.names[:2])
    with pytest.raises(TooFewSites, match="released shares"):
        federation.aggregator.result()
    federation.release(federation.names[2:3])
    assert federation.aggregator.result().survivors == federation.names[:3]


def test_a_late_upload_stays_masked() -> None:
    """With everything the coordinator can recover, a late vector still wears its self mask."""
    federation = ready(5, layout=(TensorLayout("w", (4096,)),))
    task = federation.start()
    zeros = Contribution(np.zeros(4096, np.float32), 10, (0, 0))
    for site in federation.names[:4]:
        federation.upload(task, site, zeros)
    federation.aggregator.survivors()
    late = federation.names[4]
    upload, vector = federation.sites[late].begin_round(task, MODEL, zeros)
    with pytest.raises(UploadRejected, match="after the survivors were fixed"):
        federation.aggregator.add(upload, vector)
    federation.sign()
    federation.release()
    federation.aggregator.result()
    # All its pair masks are public now: strip them as a coordinator would.
    attempt = federation.aggregator._collection
    masks = Recovery(federation.spec.spec, task, attempt.fix_survivors(), attempt._headers).masks(
        attempt._shares
    )
    pair_masks = masks[1::2]  # self mask, pair mask with the late site, self mask, ...
    assert len(pair_masks) == 4
    stripped = vector.copy()
    apply_streams(stripped, pair_masks)
    high_bytes = np.bincount((stripped[:4096] >> 24).astype(np.intp), minlength=256)
    assert high_bytes.max() < 50  # uniform: 16 expected; the zeros it hides would be all one byte
    with pytest.raises(OutOfOrder):
        federation.aggregator.survivors_for(late)


def test_a_site_that_missed_a_round_joins_the_next_one() -> None:
    federation = ready(5)
    absent = federation.names[2]
    others = [site for site in federation.names if site != absent]
    federation.run(federation.start(1, participants=others))
    federation.aggregator.result()
    federation.restart(absent)
    given = federation.run(federation.start(2, model=bytes(32)))
    check(federation.aggregator.result(), given, federation.spec.spec)


def test_a_site_that_missed_a_round_reads_its_aggregate_in_group_mode() -> None:
    federation = ready(5, group_mode=True)
    absent = federation.names[4]
    given = federation.run(federation.start(participants=federation.names[:4]))
    opening, vector = federation.opened()
    federation.restart(absent)
    check(federation.sites[absent].accept_aggregate(opening, vector), given, federation.spec.spec)


def test_an_unopened_attempt_is_repeated_with_the_same_updates_and_fewer_sites() -> None:
    federation = ready(5)
    first = federation.start(1, 1)
    given = {site: federation.contribution(k) for k, site in enumerate(federation.names)}
    for site in federation.names:
        federation.upload(first, site, given[site])
    federation.sign(federation.names[:2])  # then three sites lose their connection
    rest = {site: given[site] for site in federation.names[:4]}
    federation.run(federation.start(1, 2, federation.names[:4]), rest)
    check(federation.aggregator.result(), rest, federation.spec.spec)


@pytest.mark.parametrize("group_mode", [False, True])
def test_the_second_round_in_16_bits_is_bounded_by_the_first_sum(group_mode: bool) -> None:
    """By the coordinator that read it, or by the sites that did when the coordinator cannot."""
    layout = (TensorLayout("w", (2000,)),)
    federation = ready(4, ring_bits=16, group_mode=group_mode, layout=layout, counters=())
    errors = []
    for number in (1, 2, 3):
        task = federation.start(number, model=bytes([number]) * 32)
        given = {
            site: federation.contribution(10 * number + k, weight=20 + 10 * k, scale=1e-3)
            for k, site in enumerate(federation.names)
        }
        federation.run(task, given)
        opening, vector = federation.opened()
        if not group_mode:
            federation.aggregator.result()
        assert (task.clip is not None) == (number > 1 and not group_mode)
        assert (task.prior is not None) == (number > 1 and group_mode)
        federation.aggregator = Aggregator.restore(
            federation.aggregator.save(), federation.spec, federation.roster, COORDINATOR
        )
        expected = expected_mean(given, 1.0)
        for site in federation.names:
            mean = federation.sites[site].accept_aggregate(opening, vector).mean
            again = federation.sites[site].accept_aggregate(opening, vector).mean
            np.testing.assert_array_equal(mean, again)
        errors.append(np.linalg.norm(mean - expected) / np.linalg.norm(expected))
    assert errors[0] > 1e-2
    assert max(errors[1:]) < 1e-3


def test_a_site_that_missed_an_aggregate_takes_no_task_that_builds_on_it() -> None:
    federation = ready(3, ring_bits=16, group_mode=True)
    federation.run(federation.start(1))
    first = federation.opened()
    task = federation.start(2, model=bytes(32))
    late = federation.sites[federation.names[0]]
    with pytest.raises(TaskRejected, match="does not hold"):
        late.check_task(task, bytes(32))
    late.accept_aggregate(*first)
    late.check_task(task, bytes(32))


def test_a_coordinator_that_forgot_its_last_sum_builds_on_the_one_before() -> None:
    federation = ready(3, ring_bits=16, group_mode=True)
    for number in (1, 2):
        federation.run(federation.start(number, model=bytes([number]) * 32))
        saved = federation.aggregator.save()
        opened = federation.opened()
        for site in federation.names[: 3 if number == 1 else 2]:  # one misses the second sum
            federation.sites[site].accept_aggregate(*opened)
    federation.aggregator = Aggregator.restore(
        saved, federation.spec, federation.roster, COORDINATOR
    )
    task = federation.start(3, model=bytes([3]) * 32)
    assert task.prior is not None
    given = federation.run(task)
    mean = federation.sites[federation.names[0]].accept_aggregate(*federation.opened()).mean
    expected = expected_mean(given, 1.0)
    assert np.linalg.norm(mean - expected) < 0.01 * np.linalg.norm(expected)
