"""Whose key counts at which entry: enrolment, rotation, revocation, and what breaks a chain."""

from dataclasses import dataclass, field, replace

import pytest

from wardround.privacy.events import (
    Closing,
    Enrol,
    Event,
    Leaf,
    Revoke,
    Rotate,
    from_leaf,
    rotation_message,
    statement_leaf,
    to_leaf,
)
from wardround.privacy.identity import FileSigner
from wardround.privacy.keyring import ChainBroken, Keyring
from wardround.privacy.statements import FIRST, Body, Statement, sign

LOG = "ab" * 32


@dataclass
class Speaker:
    """A site that signs one statement after the other."""

    name: str
    identity: FileSigner = field(default_factory=FileSigner.generate)
    witness: FileSigner = field(default_factory=FileSigner.generate)
    sequence: int = 0
    last: str = FIRST

    def say(self, event: Event, log: str = LOG) -> Leaf:
        body = Body(event.to_json())
        made = Statement(log, self.name, self.sequence + 1, self.last, 1, event.kind, body)
        envelope = sign(made, self.identity)
        self.sequence, self.last = made.sequence, envelope.digest()
        return from_leaf(statement_leaf(envelope, 2))

    def enrol(self) -> Leaf:
        keys = self.identity.public_bytes().hex(), self.witness.public_bytes().hex()
        return self.say(Enrol(self.name, *keys, "", "Hospital", "wardround-0.1.0"))

    def close(self, run: str = "run-1") -> Leaf:
        return self.say(Closing(run, 1, 0, "0" * 64, 0, 0))

    def rotate(self, identity: FileSigner, witness: FileSigner, proof: FileSigner) -> Leaf:
        keys = identity.public_bytes().hex(), witness.public_bytes().hex()
        event = Rotate(self.name, *keys, "", "0" * 128, "yearly")
        signed = proof.sign(rotation_message(LOG, event)).hex()
        leaf = self.say(replace(event, proof=signed))
        self.identity, self.witness = identity, witness
        return leaf


def revoke(site: Speaker) -> Leaf:
    key = site.identity.public_bytes().hex()
    return from_leaf(to_leaf(Revoke(site.name, key, "stolen", 1), 3))


@pytest.fixture
def ring() -> Keyring:
    return Keyring(LOG)


@pytest.fixture
def site(ring: Keyring) -> Speaker:
    made = Speaker("a")
    ring.admit(made.enrol())
    return made


def broken(ring: Keyring, leaf: Leaf, rule: str) -> None:
    before = dict(ring.sites)
    with pytest.raises(ChainBroken) as caught:
        ring.admit(leaf)
    assert caught.value.rule == rule
    assert ring.sites == before


def test_a_chain_of_statements_is_admitted(ring: Keyring, site: Speaker) -> None:
    for run in ("run-1", "run-2", "run-3"):
        ring.admit(site.close(run))
    assert ring.sites["a"].sequence == 4


def test_a_gap_or_another_previous_breaks_the_chain(ring: Keyring, site: Speaker) -> None:
    site.sequence += 1
    broken(ring, site.close(), "sequence")
    site.sequence, site.last = 1, "1" * 64
    broken(ring, site.close(), "sequence")


def test_a_statement_for_another_log_is_refused(ring: Keyring, site: Speaker) -> None:
    broken(ring, site.say(Closing("r", 1, 0, "0" * 64, 0, 0), log="cd" * 32), "other-log")


def test_a_stranger_and_a_second_enrolment_are_refused(ring: Keyring, site: Speaker) -> None:
    broken(ring, Speaker("b").close(), "keys")
    broken(ring, site.enrol(), "keys")


def test_anothers_key_is_refused(ring: Keyring, site: Speaker) -> None:
    broken(ring, Speaker("b", identity=site.identity).enrol(), "keys")
    broken(ring, Speaker("b", witness=site.identity).enrol(), "keys")
    one = FileSigner.generate()
    broken(ring, Speaker("b", identity=one, witness=one).enrol(), "keys")


def test_a_rotation_is_signed_by_the_old_key_and_the_new(ring: Keyring, site: Speaker) -> None:
    old, new, witness = site.identity, FileSigner.generate(), FileSigner.generate()
    ring.admit(site.rotate(new, witness, proof=new))
    ring.admit(site.close())
    site.identity = old
    broken(ring, site.close(), "signature")


def test_a_rotation_without_proof_of_the_new_key_is_refused(ring: Keyring, site: Speaker) -> None:
    leaf = site.rotate(FileSigner.generate(), FileSigner.generate(), proof=FileSigner.generate())
    broken(ring, leaf, "keys")


def test_a_rotation_by_the_new_key_alone_is_refused(ring: Keyring, site: Speaker) -> None:
    thief = Speaker("a", sequence=site.sequence, last=site.last)
    broken(ring, thief.rotate(thief.identity, thief.witness, proof=thief.identity), "signature")


def test_only_the_identity_may_be_replaced(ring: Keyring, site: Speaker) -> None:
    new = FileSigner.generate()
    ring.admit(site.rotate(new, site.witness, proof=new))
    assert ring.sites["a"].witness == site.witness.public_bytes()


def test_a_revoked_site_is_silent_until_it_enrols_with_fresh_keys(
    ring: Keyring, site: Speaker
) -> None:
    ring.admit(revoke(site))
    broken(ring, replace(site).close(), "revoked")
    broken(ring, replace(site).enrol(), "keys")
    fresh = Speaker("a", sequence=site.sequence, last=site.last)
    ring.admit(fresh.enrol())
    ring.admit(fresh.close())


def test_a_key_given_up_does_not_come_back(ring: Keyring, site: Speaker) -> None:
    old, old_witness, new = site.identity, site.witness, FileSigner.generate()
    ring.admit(site.rotate(new, FileSigner.generate(), proof=new))
    broken(ring, site.rotate(old, old_witness, proof=old), "keys")


def test_only_a_key_in_force_is_revoked(ring: Keyring, site: Speaker) -> None:
    broken(ring, revoke(Speaker("a")), "revoked")
    broken(ring, revoke(Speaker("b")), "revoked")
    ring.admit(revoke(site))
    broken(ring, revoke(site), "revoked")
