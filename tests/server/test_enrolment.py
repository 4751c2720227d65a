"""Who gets in: a token works once, for one name and a day; an officer lets in; the log is why."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session
from tests.server.newcomer import Newcomer, newcomer, offer

from wardround.privacy.errors import IdentityUnknown
from wardround.privacy.events import Enrol, Leaf, Revoke, from_leaf
from wardround.privacy.identity import FileSigner
from wardround.privacy.statements import Body, Envelope
from wardround.server import config
from wardround.server.desk import Desk
from wardround.server.errors import EnrolmentError
from wardround.server.operations import JoinRequest


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """One coordinator; each test brings a site of another name."""
    home = config.create(
        tmp_path_factory.mktemp("enrolment") / "coordinator",
        origin="enrolment.example/wardround",
        host="127.0.0.1",
        bind="127.0.0.1",
        port=9443,
        internal_port=9440,
    )
    with Desk.open(home) as opened:
        yield opened


def leaves(desk: Desk, site: str) -> list[Leaf]:
    """What the log says of a site."""
    found = map(from_leaf, desk.log.entries(0, desk.log.size()))
    return [leaf for leaf in found if leaf.site == site]


def refused(desk: Desk, secret: bytes, envelope: Envelope) -> str:
    """The one line with which an enrolment is refused; nothing of it is in the log."""
    before = desk.log.size()
    with pytest.raises(EnrolmentError) as caught:
        desk.enrolment.receive(secret, envelope)
    assert desk.log.size() == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_site_that_joins_waits_and_takes_part_once_an_officer_approved(desk: Desk) -> None:
    site = newcomer(desk, "anna")
    token = offer(desk, "anna")
    assert [row.status for row in desk.enrolment.rows() if row.site == "anna"] == ["token made"]
    desk.enrolment.receive(token.secret, site.enrolment())
    waiting = desk.enrolment.pending("anna")
    assert (waiting.status, waiting.organisation) == ("pending", "Clinic anna")
    assert "anna" not in desk.enrolment.federation().sites
    assert leaves(desk, "anna") == []

    keys = desk.enrolment.approve("anna", "actor-1")
    assert keys.fingerprint() == waiting.fingerprint
    assert keys.identity == site.identity.public_bytes()
    assert desk.enrolment.federation().sites["anna"] == keys
    (leaf,) = leaves(desk, "anna")
    assert (leaf.event, leaf.actor) == (site.event(), "actor-1")
    assert desk.log.checkpoint().split(b"\n")[1] == str(desk.log.size()).encode()


def test_an_unknown_token_is_refused(desk: Desk) -> None:
    assert "unknown, used or older than a day" in refused(
        desk, bytes(32), newcomer(desk, "bela").enrolment()
    )


def test_a_token_works_once(desk: Desk) -> None:
    site, token = newcomer(desk, "cora"), offer(desk, "cora")
    desk.enrolment.receive(token.secret, site.enrolment())
    assert "unknown, used or older" in refused(desk, token.secret, site.enrolment())
    desk.enrolment.approve("cora", "officer")
    assert "unknown, used or older" in refused(desk, token.secret, site.enrolment())


def test_a_token_older_than_a_day_is_refused(desk: Desk) -> None:
    site, token = newcomer(desk, "dora"), offer(desk, "dora")
    with Session(desk.engine) as database, database.begin():
        database.execute(update(JoinRequest).where(JoinRequest.site == "dora").values(expires_ms=1))
    assert "older than a day" in refused(desk, token.secret, site.enrolment())


def test_a_new_token_ends_the_one_before_and_its_request(desk: Desk) -> None:
    site, first = newcomer(desk, "elsa"), offer(desk, "elsa")
    second = offer(desk, "elsa")
    assert "unknown, used" in refused(desk, first.secret, site.enrolment())
    desk.enrolment.receive(second.secret, site.enrolment())
    offer(desk, "elsa")
    with pytest.raises(EnrolmentError, match="no request of 'elsa' waits"):
        desk.enrolment.approve("elsa", "officer")


def test_a_token_of_another_site_is_refused_and_stays_good(desk: Desk) -> None:
    thief, site = newcomer(desk, "frieda"), newcomer(desk, "gerda")
    token = offer(desk, "gerda")
    assert "for a site of another name" in refused(desk, token.secret, thief.enrolment())
    desk.enrolment.receive(token.secret, site.enrolment())
    assert desk.enrolment.pending("gerda").keys is not None


def forgeries(site: Newcomer) -> dict[str, Envelope]:
    """Enrolments that do not hold, each for another reason."""
    body = site.statement().event
    return {
        "signed by another key": site.enrolment(FileSigner.generate()),
        "to another log": site.enrolment(log="ab" * 32),
        "not the first": site.enrolment(sequence=2),
        "a continued chain": site.enrolment(previous="cd" * 32),
        "of another kind": site.enrolment(kind="closing"),
        "of another's keys": site.enrolment(event=Body({**body, "site": "somebody"})),
        "without a witness": site.enrolment(event=Body({**body, "witness": body["identity"]})),
        "with a field too many": site.enrolment(event=Body({**body, "more": 1})),
        "another payload": replace(site.enrolment(), payload="e30="),
        "no SuperNode key": site.enrolment(event=Body({**body, "supernode": "00ff"})),
    }


@pytest.mark.parametrize("forgery", range(10))
def test_an_enrolment_that_does_not_hold_is_refused_and_the_token_stays_good(
    desk: Desk, forgery: int
) -> None:
    name = f"hedda-{forgery}"
    site, token = newcomer(desk, name), offer(desk, name)
    envelope = list(forgeries(site).values())[forgery]
    assert refused(desk, token.secret, envelope).startswith("the enrolment does not hold: ")
    desk.enrolment.receive(token.secret, site.enrolment())


def test_a_key_that_another_site_uses_is_refused(desk: Desk) -> None:
    first = newcomer(desk, "ilse")
    first.join()
    for name, keys in (
        ("ilse-2", {"identity": first.identity}),
        ("ilse-3", {"witness": first.witness}),
        ("ilse-4", {"supernode": first.supernode}),
        ("ilse-5", {"witness": first.identity}),
    ):
        second = replace(newcomer(desk, name), **keys)  # type: ignore[arg-type]  # an attack
        token = offer(desk, name)
        assert "another site's" in refused(desk, token.secret, second.enrolment())


def test_no_token_is_made_for_an_enrolled_site_or_a_name_that_is_none(desk: Desk) -> None:
    newcomer(desk, "jutta").join()
    with pytest.raises(EnrolmentError, match="jutta is enrolled already"):
        offer(desk, "jutta")
    for name in ("", "Jutta", "a b", "../x", "x" * 33, "-a"):
        with pytest.raises(EnrolmentError):
            offer(desk, name)


def test_nobody_is_approved_who_does_not_wait(desk: Desk) -> None:
    newcomer(desk, "klara").join()
    for site in ("klara", "nobody"):
        with pytest.raises(EnrolmentError, match=f"no request of '{site}' waits for approval"):
            desk.enrolment.approve(site, "officer")


def test_a_revocation_is_logged_and_takes_the_keys_out(desk: Desk) -> None:
    site = newcomer(desk, "lotte")
    site.join()
    desk.enrolment.revoke("lotte", "laptop\nstolen", "actor-2", 1000)
    leaf = leaves(desk, "lotte")[-1]
    assert leaf.event == Revoke("lotte", site.event().identity, "laptop stolen", 1000)
    assert leaf.actor == "actor-2"
    with pytest.raises(IdentityUnknown, match="'lotte' is revoked"):
        desk.enrolment.federation().roster(["lotte"])
    assert [row.status for row in desk.enrolment.rows() if row.site == "lotte"] == ["revoked"]
    with pytest.raises(EnrolmentError, match="lotte was revoked; let it join under another name"):
        offer(desk, "lotte")
    with pytest.raises(EnrolmentError, match="no site 'lotte' is enrolled"):
        desk.enrolment.revoke("lotte", "again", "actor-2")


def test_approving_again_after_a_crash_logs_nothing_twice(desk: Desk) -> None:
    site, token = newcomer(desk, "marta"), offer(desk, "marta")
    desk.enrolment.receive(token.secret, site.enrolment())
    envelope = Envelope.from_bytes(_waiting(desk, "marta"))
    desk.log.append([envelope], actor="officer")  # and then the process died
    desk.enrolment.approve("marta", "officer")
    assert [type(leaf.event) for leaf in leaves(desk, "marta")] == [Enrol]


def test_secrets_of_tokens_are_kept_as_hashes_alone(desk: Desk) -> None:
    token = offer(desk, "nora")
    stored = b"".join(
        path.read_bytes() for path in Path(desk.home.folder).glob("coordinator.sqlite3*")
    )
    assert b"nora" in stored
    assert token.secret not in stored
    assert token.secret.hex().encode() not in stored
    assert token.secret.hex() not in repr(token)


def _waiting(desk: Desk, site: str) -> bytes:
    with Session(desk.engine) as database:
        rows = database.query(JoinRequest).filter_by(site=site, status="pending").all()
        return rows[0].envelope
