"""A process that dies between persisting and sending, at every step, and what it may do after."""

import pytest
from secagg_federation import COORDINATOR, MODEL, build, check, ready, wire

from wardround.privacy.errors import (
    KeysRejected,
    MessageMalformed,
    OutOfOrder,
    ParametersInvalid,
    TaskRejected,
)
from wardround.privacy.secagg import Aggregator, Participant, encode

VICTIM = "site-00"


class StopsInSave(Exception):
    """The power went while the state was being written."""


class BrokenStore:
    """A store that dies before anything is durable."""

    def save(self, state: bytes) -> None:
        raise StopsInSave


def test_the_state_is_saved_before_every_message_leaves() -> None:
    """With a store that fails, no step hands out a message, and the state stays as it was."""
    federation = ready(5)
    participant, store = federation.sites[VICTIM], federation.stores[VICTIM]
    before = store.saved
    task = federation.start()
    participant._store = BrokenStore()
    with pytest.raises(StopsInSave):
        participant.begin_round(task, MODEL, federation.contribution(0))
    with pytest.raises(StopsInSave):
        participant.advertise()
    assert encode(participant._state) == before
    participant._store = store
    for site in federation.names:
        federation.upload(task, site)
    federation.aggregator.survivors()
    federation.sign(federation.names[1:])
    before = store.saved
    participant._store = BrokenStore()
    with pytest.raises(StopsInSave):
        participant.accept_survivors(federation.aggregator.survivors_for(VICTIM))
    assert encode(participant._state) == before
    participant._store = store
    federation.sign([VICTIM])
    participant._store = BrokenStore()
    with pytest.raises(StopsInSave):
        participant.release_shares(federation.aggregator.quorum())
    participant._store = store
    federation.release()
    federation.aggregator.result()


def test_crash_between_persisting_and_sending_the_upload() -> None:
    """The attempt is used up: its masks are never made a second time. The next one works."""
    federation = ready(3)
    task = federation.start()
    federation.sites[VICTIM].begin_round(task, MODEL, federation.contribution(0))
    federation.restart(VICTIM)
    with pytest.raises(TaskRejected, match="is not after"):
        federation.sites[VICTIM].begin_round(task, MODEL, federation.contribution(0))
    given = federation.run(federation.start(1, 2))
    check(federation.aggregator.result(), given, federation.spec.spec)


def test_crash_between_persisting_and_sending_the_survivor_signature() -> None:
    federation = ready(3)
    task = federation.start()
    for site in federation.names:
        federation.upload(task, site)
    federation.aggregator.survivors()
    message = wire(federation.aggregator.survivors_for(VICTIM))
    lost = federation.sites[VICTIM].accept_survivors(message)
    federation.restart(VICTIM)
    assert federation.sites[VICTIM].accept_survivors(message) == lost
    federation.sign()
    federation.release()
    assert federation.aggregator.result().weight == 30


def test_crash_between_persisting_and_sending_the_shares() -> None:
    """The same shares are sent again, though the secrets behind them are gone."""
    federation = ready(3)
    task = federation.start()
    for site in federation.names:
        federation.upload(task, site)
    federation.aggregator.survivors()
    federation.sign()
    quorum = wire(federation.aggregator.quorum())
    lost = federation.sites[VICTIM].release_shares(quorum)
    federation.restart(VICTIM)
    assert federation.sites[VICTIM]._state.current.own_shares == b""
    assert federation.sites[VICTIM]._state.current.held == ()
    assert federation.sites[VICTIM].release_shares(quorum) == lost
    federation.release()
    assert federation.aggregator.result().weight == 30


def test_crash_of_every_site_after_every_step() -> None:
    federation = build(3, group_mode=True)
    for site in federation.names:
        federation.aggregator.add_advert(federation.sites[site].advertise())
        federation.restart(site)
    book = federation.aggregator.key_book()
    for site in federation.names:
        federation.sites[site].accept_book(book)
        federation.restart(site)
        federation.aggregator.add_ack(federation.sites[site].accept_book(book))
    for site in federation.names:
        federation.sites[site].confirm(federation.aggregator.confirmation(site))
        federation.restart(site)
        assert federation.sites[site].ready
    for round_number in (1, 2):
        task = federation.start(round_number, model=bytes([round_number]) * 32)
        given = {site: federation.contribution(k) for k, site in enumerate(federation.names)}
        for site in federation.names:
            federation.upload(task, site, given[site])
            federation.restart(site)
        federation.aggregator.survivors()
        for site in federation.names:
            federation.sign([site])
            federation.restart(site)
        for site in federation.names:
            federation.release([site])
            federation.restart(site)
        opening, vector = federation.opened()
        for site in federation.names:
            aggregate = federation.sites[site].accept_aggregate(opening, vector)
            check(aggregate, given, federation.spec.spec)
            federation.restart(site)


def test_private_keys_and_group_shares_are_deleted_once_they_served() -> None:
    federation = ready(3)
    state = federation.sites[VICTIM]._state
    assert state.private_key == b""
    assert state.group_share == b""
    assert len(state.group_key) == 32


def test_past_pair_secrets_cannot_be_made_from_a_later_state() -> None:
    federation = ready(3)
    federation.run(federation.start(1))
    before = set(federation.sites[VICTIM]._state.roots)
    federation.run(federation.start(2, model=bytes(32)))
    saved = federation.stores[VICTIM].saved
    assert saved is not None
    assert all(root not in saved for root in before)


def test_a_restarted_coordinator_goes_on_with_the_next_attempt() -> None:
    federation = ready(5)
    task = federation.start()
    for site in federation.names:
        federation.upload(task, site)
    saved = federation.aggregator.save()
    federation.aggregator = Aggregator.restore(
        saved, federation.spec, federation.roster, COORDINATOR
    )
    with pytest.raises(OutOfOrder, match="no attempt is under way"):
        federation.aggregator.survivors()
    with pytest.raises(OutOfOrder, match="was used before"):
        federation.start(1, 1)
    given = federation.run(federation.start(1, 2))
    check(federation.aggregator.result(), given, federation.spec.spec)


def test_a_coordinator_restarts_before_and_while_keys_are_agreed() -> None:
    federation = build(3)
    for _ in range(2):
        federation.aggregator = Aggregator.restore(
            federation.aggregator.save(), federation.spec, federation.roster, COORDINATOR
        )
    federation.agree()
    federation.aggregator = Aggregator.restore(
        federation.aggregator.save(), federation.spec, federation.roster, COORDINATOR
    )
    federation.run(federation.start())
    assert federation.aggregator.result().weight == 30


def test_damaged_or_foreign_states_are_refused() -> None:
    federation, other = ready(3), ready(3, run="run-2")

    def restore(saved: bytes, site: str = VICTIM) -> Participant:
        return Participant.restore(
            saved,
            federation.spec,
            VICTIM,
            federation.sites[VICTIM]._signer,
            federation.roster,
            COORDINATOR.public_bytes(),
            federation.stores[VICTIM],
        )

    good = federation.stores[VICTIM].saved
    assert good is not None
    assert restore(good).ready
    for bad in (b"", good[:-1], good + b"\0"):
        with pytest.raises(MessageMalformed):
            restore(bad)
    for foreign in (other.stores[VICTIM].saved, federation.stores["site-01"].saved):
        assert foreign is not None
        with pytest.raises(ParametersInvalid, match="another run or another site"):
            restore(foreign)
    with pytest.raises(MessageMalformed):
        Aggregator.restore(good, federation.spec, federation.roster, COORDINATOR)
    with pytest.raises(KeysRejected, match="another run"):
        Aggregator.restore(other.aggregator.save(), federation.spec, federation.roster, COORDINATOR)
