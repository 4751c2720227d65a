"""One signature for a whole chain: what a coordinator without a site's key can do to it.

Each attack is made on a log in which a site changes its key half way, and is shown to both passes
of the verifier: the one that checks one signature a key, and the one that checks every one.
"""

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.privacy.log.test_keyring import Speaker

from wardround.privacy import canonical
from wardround.privacy.events import (
    Enrol,
    Event,
    Genesis,
    Refusal,
    Rotate,
    from_leaf,
    rotation_message,
    statement_leaf,
    to_leaf,
)
from wardround.privacy.identity import FileSigner, Roster, SiteKeys
from wardround.privacy.notes import log_id
from wardround.privacy.statements import Body, Statement, sign
from wardround.privacy.verify import Policy, write_policy
from wardround.privacy.verify import signatures as signatures_module
from wardround.privacy.verify.entries import EntryPass
from wardround.privacy.verify.findings import Finding
from wardround.privacy.verify.projections import columns
from wardround.privacy.verify.signatures import Signatures

ORIGIN = "wardround.example/chain"
KEY = FileSigner.generate()
LOG = log_id(ORIGIN, KEY.public_bytes())
THIEF = FileSigner.generate()
STATEMENTS, ROTATION = 9, 5  # of site a, the enrolment among them


def refusal(number: int) -> Refusal:
    return Refusal("study", "", "", 0, 0, "purpose", f"reason {number}")


def write_log() -> tuple[list[bytes], Policy]:
    """Statements of two sites in turn; a's fifth replaces its key."""
    a, b = Speaker("a"), Speaker("b")
    roster = Roster(
        tuple(
            SiteKeys(s.name, s.identity.public_bytes(), s.witness.public_bytes(), s.name.encode())
            for s in (a, b)
        )
    )
    policy = Policy.from_text(write_policy(ORIGIN, KEY.public_bytes(), roster, 1))
    leaves = [
        to_leaf(Genesis(ORIGIN, KEY.public_bytes().hex(), "", "Operator", "wardround-0.1.0"), 1)
    ]

    def say(site: Speaker, event: Event) -> None:
        made = Body(event.to_json())
        head = Statement(LOG, site.name, site.sequence + 1, site.last, 1, event.kind, made)
        envelope = sign(head, site.identity)
        site.sequence, site.last = head.sequence, envelope.digest()
        leaves.append(statement_leaf(envelope, 2))

    for site in (a, b):
        public = site.identity.public_bytes().hex(), site.witness.public_bytes().hex()
        say(site, Enrol(site.name, *public, "", "Hospital", "wardround-0.1.0"))
    for number in range(2, STATEMENTS + 1):
        if number == ROTATION:
            keys = FileSigner.generate(), FileSigner.generate()
            public = keys[0].public_bytes().hex(), keys[1].public_bytes().hex()
            event = Rotate("a", *public, "", "0" * 128, "yearly")
            proof = keys[0].sign(rotation_message(LOG, event)).hex()
            say(a, replace(event, proof=proof))
            a.identity = keys[0]
        else:
            say(a, refusal(number))
        say(b, refusal(number))
    return leaves, policy


LEAVES, POLICY = write_log()
OF_A = [n for n, data in enumerate(LEAVES) if from_leaf(data).site == "a"]


def check(leaves: list[bytes], every: bool, jobs: int = 1) -> tuple[Finding, ...]:
    """What one pass finds; with doubt, what the second finds, as the verifier does."""
    found = EntryPass(POLICY, Signatures(jobs) if every else None)
    found.run(leaves, [columns(n, from_leaf(data)) for n, data in enumerate(leaves)], set())
    return check(leaves, True) if found.doubt and not every else found.findings.all()


def other(data: bytes, signer: FileSigner | None, previous: str = "", sequence: int = 0) -> bytes:
    """Another statement in the place of one; without a signer the signature stays as it was."""
    leaf = from_leaf(data)
    assert leaf.statement is not None
    assert leaf.envelope is not None
    if previous:  # the same words, linked to another
        made = replace(leaf.statement, previous=previous, sequence=sequence)
    elif isinstance(leaf.event, Refusal):
        made = replace(leaf.statement, event=Body(refusal(99).to_json()))
    else:
        made = replace(leaf.statement, time_ms=leaf.statement.time_ms + 1)
    if signer is not None:
        return statement_leaf(sign(made, signer), leaf.ts_ms)
    payload = base64.b64encode(canonical.dumps(made.to_json())).decode()
    return statement_leaf(replace(leaf.envelope, payload=payload), leaf.ts_ms)


def relink(leaves: list[bytes], places: list[int], signer: FileSigner | None) -> None:
    """Make each of `places` name the one before it again."""
    for before, at in pairwise(places):
        envelope = from_leaf(leaves[before]).envelope
        statement = from_leaf(leaves[before]).statement
        assert envelope is not None
        assert statement is not None
        leaves[at] = other(leaves[at], signer, envelope.digest(), statement.sequence + 1)


def forge(leaves: list[bytes], n: int) -> None:
    """The coordinator's own words, under a key of its own."""
    leaves[OF_A[n]] = other(leaves[OF_A[n]], THIEF)


def reword(leaves: list[bytes], n: int) -> None:
    """Other words over the site's signature."""
    leaves[OF_A[n]] = other(leaves[OF_A[n]], None)


def forge_the_rest(leaves: list[bytes], n: int) -> None:
    """All that follows is linked to the forged one and signed by the coordinator's key."""
    forge(leaves, n)
    relink(leaves, OF_A[n:], THIEF)


def reword_the_rest(leaves: list[bytes], n: int) -> None:
    """All that follows is linked to the reworded one, under the signatures there were."""
    reword(leaves, n)
    relink(leaves, OF_A[n:], None)


def forge_all_but_the_last(leaves: list[bytes], n: int) -> None:
    """The statement whose signature is checked is the site's own."""
    last = leaves[OF_A[-1]]
    forge_the_rest(leaves, n)
    if n < len(OF_A) - 1:
        leaves[OF_A[-1]] = last


def drop(leaves: list[bytes], n: int) -> None:
    """A statement is missing in the middle; the last is another attack."""
    del leaves[OF_A[min(n, len(OF_A) - 2)]]


def drop_and_renumber(leaves: list[bytes], n: int) -> None:
    """A statement is missing and the rest is numbered and linked anew."""
    n = min(n, len(OF_A) - 2)
    rest = [at - 1 for at in OF_A[n + 1 :]]
    del leaves[OF_A[n]]
    relink(leaves, OF_A[max(n - 1, 0) : n] + rest, None)


def cut_the_head_off(leaves: list[bytes], n: int) -> None:
    """The first statements are missing, the enrolment among them."""
    for at in reversed(OF_A[: n + 1]):
        del leaves[at]
    if n == len(OF_A) - 1:  # nothing of the site is left: put its last word back
        leaves.append(LEAVES[OF_A[-1]])


def cut_the_head_behind_the_enrolment(leaves: list[bytes], n: int) -> None:
    """The enrolment stays, what the site said first is missing."""
    for at in reversed(OF_A[1 : max(2, min(n, len(OF_A) - 1))]):
        del leaves[at]


def swap(leaves: list[bytes], n: int) -> None:
    """Two statements change places."""
    one, two = OF_A[min(n, len(OF_A) - 2)], OF_A[min(n, len(OF_A) - 2) + 1]
    leaves[one], leaves[two] = leaves[two], leaves[one]


def repeat(leaves: list[bytes], n: int) -> None:
    """A true statement a second time."""
    leaves.append(leaves[OF_A[n]])


def add_one(leaves: list[bytes], n: int) -> None:
    """A forged statement at the end, in sequence."""
    end = len(leaves)
    leaves.append(leaves[OF_A[-1]])
    relink(leaves, [OF_A[-1], end], THIEF if n % 2 else None)


ATTACKS: tuple[Callable[[list[bytes], int], None], ...] = (
    forge, reword, forge_the_rest, reword_the_rest, forge_all_but_the_last, drop,
    drop_and_renumber, cut_the_head_off, cut_the_head_behind_the_enrolment, swap, repeat, add_one,
)  # fmt: skip


def test_the_log_as_it_is_passes() -> None:
    assert check(LEAVES, every=False) == ()
    assert check(LEAVES, every=True) == ()


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
@pytest.mark.parametrize("n", range(STATEMENTS))
def test_no_attack_passes_with_one_signature_a_key(
    attack: Callable[[list[bytes], int], None], n: int
) -> None:
    leaves = list(LEAVES)
    attack(leaves, n)
    assert leaves != LEAVES
    quick, thorough = check(leaves, every=False), check(leaves, every=True)
    assert any(finding.breaks for finding in quick)
    assert quick == thorough  # a quick pass that doubts tells no less


@given(st.sampled_from([1, 2, ROTATION, ROTATION + 1, STATEMENTS - 2]), st.binary(max_size=64))
def test_of_an_earlier_signature_only_its_bytes_are_unchecked(n: int, noise: bytes) -> None:
    """What the site said stays what it said; checking every signature finds the damage."""
    leaves, at = list(LEAVES), OF_A[n]
    value = json.loads(leaves[at])
    signature = value["statement"]["signatures"][0]
    genuine = base64.b64decode(signature["sig"])
    changed = bytes(x ^ y for x, y in zip(genuine, noise.ljust(64, b"\0"), strict=True))
    signature["sig"] = base64.b64encode(changed).decode()
    leaves[at] = canonical.dumps(value)
    assert check(leaves, every=False) == ()
    found = [(f.check, f.entry) for f in check(leaves, every=True)]
    assert found == ([] if changed == genuine else [("signature", at)])


def test_a_chain_cut_off_at_its_end_is_a_true_shorter_chain() -> None:
    """No signature shows it: closing statements, pins and receipts do (see the limits)."""
    leaves = [data for n, data in enumerate(LEAVES) if n not in OF_A[-2:]]
    assert check(leaves, every=False) == check(leaves, every=True) == ()


def test_other_processes_find_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signatures_module, "BATCH", 3)
    leaves = list(LEAVES)
    forge_the_rest(leaves, 1)
    alone = check(leaves, every=True)
    assert {f.entry for f in alone if f.check == "signature"} == set(OF_A[1:])
    assert check(leaves, every=True, jobs=2) == alone
    assert check(LEAVES, every=True, jobs=2) == ()


def test_processes_that_end_lose_no_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a killed process had before it is checked here."""
    monkeypatch.setattr(signatures_module, "BATCH", 3)
    hand_on = Signatures._hand_on

    def kill(self: Signatures) -> None:
        hand_on(self)
        for process in dict(self._pool._processes).values() if self._pool else ():
            process.kill()

    monkeypatch.setattr(Signatures, "_hand_on", kill)
    leaves = list(LEAVES)
    forge(leaves, 3)
    alone = check(leaves, every=True)
    assert any(f.check == "signature" for f in alone)
    assert check(leaves, every=True, jobs=2) == alone
