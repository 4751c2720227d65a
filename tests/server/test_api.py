"""Wardround's own routes: what a call is answered that is not as it should be, in one line."""

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import httpx
import pytest
from fastapi import FastAPI
from tests.server.newcomer import SYNC, Newcomer, head_bytes, newcomer, now_ms, offer

from wardround.privacy import canonical
from wardround.privacy.events import from_leaf
from wardround.privacy.identity import FileSigner
from wardround.privacy.joining import HEADER_SIGNATURE, HEADER_SITE, HEADER_TIME
from wardround.privacy.loghead import LogHead, SiteHead
from wardround.server import config
from wardround.server.api import make_api
from wardround.server.desk import Desk

ENROL = "/wardround/v1/enrol"
MINUTES_MS = 60_000


@dataclass(frozen=True)
class Client:
    """Somebody at the public door; an exception of the application is raised here."""

    app: FastAPI

    def get(self, path: str) -> httpx.Response:
        return asyncio.run(self._call("GET", path, b"", {}))

    def post(
        self, path: str, content: bytes, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        return asyncio.run(self._call("POST", path, content, headers or {}))

    async def _call(
        self, method: str, path: str, content: bytes, headers: Mapping[str, str]
    ) -> httpx.Response:
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url="https://public") as client:
            return await client.request(method, path, content=content, headers=headers)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """One coordinator; each test brings a site of another name."""
    home = config.create(
        tmp_path_factory.mktemp("api") / "coordinator",
        origin="api.example/wardround",
        host="127.0.0.1",
        bind="127.0.0.1",
        port=9443,
        internal_port=9440,
    )
    with Desk.open(home) as opened:
        yield opened


@pytest.fixture(scope="module")
def client(desk: Desk) -> Client:
    """The routes with a coordinator behind them."""
    return Client(make_api(desk.enrolment, b"the authority"))


@pytest.fixture(scope="module")
def site(desk: Desk) -> Newcomer:
    """A site that is enrolled."""
    made = newcomer(desk, "north")
    made.join()
    return made


def refusal(client: Client, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, str]:
    """Status and line of a call that is refused."""
    answer = client.post(path, content=body, headers=headers)
    assert 400 <= answer.status_code < 500
    assert set(answer.json()) == {"detail"}
    line = answer.json()["detail"]
    assert "\n" not in line
    assert len(line) < 300
    return answer.status_code, line


def enrolment(secret: bytes, site: Newcomer) -> bytes:
    return canonical.dumps({"secret": secret.hex(), "statement": site.enrolment().to_json()})


def test_the_authority_is_shown_to_everybody(client: Client) -> None:
    answer = client.get("/wardround/v1/ca")
    assert (answer.status_code, answer.content) == (200, b"the authority")


def test_nothing_else_is_there(client: Client) -> None:
    for path in ("/docs", "/openapi.json", "/redoc", "/", "/wardround/v1", "/wardround/v1/sites"):
        assert client.get(path).status_code == 404, path
    assert client.get(SYNC).status_code == 405


def test_a_token_and_a_good_statement_are_taken_once(client: Client, desk: Desk) -> None:
    newly, token = newcomer(desk, "anna"), offer(desk, "anna")
    body = enrolment(token.secret, newly)
    answer = client.post(ENROL, content=body)
    assert (answer.status_code, answer.json()) == (200, {"status": "pending"})
    status, line = refusal(client, ENROL, body, {})
    assert (status, line) == (
        403,
        "this join token is unknown, used or older than a day; ask for a new one",
    )


def test_a_wrong_token_is_refused(client: Client, desk: Desk) -> None:
    status, line = refusal(client, ENROL, enrolment(bytes(32), newcomer(desk, "bela")), {})
    assert status == 403
    assert "ask for a new one" in line


def test_another_sites_token_is_refused(client: Client, desk: Desk) -> None:
    token = offer(desk, "cora")
    status, line = refusal(client, ENROL, enrolment(token.secret, newcomer(desk, "dora")), {})
    assert (status, line) == (403, "this join token is for a site of another name")


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"\xff\x00", b"{}", b"[]", b"null", b"1.5", b'{"a":1,"a":2}', b"[" * 5000),
        *(b'{"secret":"zz","statement":{}}', b'{"secret":"00","statement":null}'),
        b'{"secret":["00"],"statement":{"payload":1,"payloadType":2,"signatures":[3]}}',
        b'{"secret":"00","statement":{"payload":"","payloadType":"","signatures":[{}]}}',
    ],
)
def test_what_is_no_enrolment_is_refused(client: Client, body: bytes) -> None:
    status, line = refusal(client, ENROL, body, {})
    assert status == 400
    assert line.startswith("not an enrolment of this version: ")


def test_an_enrolled_site_gets_the_log(client: Client, desk: Desk, site: Newcomer) -> None:
    answer = client.post(SYNC, content=head_bytes(), headers=site.call(head_bytes()))
    assert answer.status_code == 200
    value = answer.json()
    assert value["status"] == "approved"
    head = LogHead.from_json(value["head"])
    assert head.since == 0
    assert head.leaves() == desk.log.entries(0, desk.log.size())


def test_a_call_that_comes_again_at_once_changes_nothing(
    client: Client, desk: Desk, site: Newcomer
) -> None:
    headers = site.call(head_bytes())
    first = client.post(SYNC, content=head_bytes(), headers=headers)
    size = desk.log.size()
    again = client.post(SYNC, content=head_bytes(), headers=headers)
    assert (again.status_code, again.json()) == (200, first.json())
    assert desk.log.size() == size


def altered(site: Newcomer) -> dict[str, tuple[bytes, dict[str, str]]]:
    """Calls in the name of `site` that it did not make so, or not now."""
    body = head_bytes()
    other = head_bytes(SiteHead(0, 0, "line\n", ()))
    good, late = site.call(body), site.call(body, at_ms=now_ms() - 6 * MINUTES_MS)
    return {
        "unsigned": (body, {HEADER_SITE: site.site}),
        "without a signature": (body, good | {HEADER_SIGNATURE: ""}),
        "wrongly signed": (body, site.call(body, signer=FileSigner.generate())),
        "of another body": (other, good),
        "of another time": (body, good | {HEADER_TIME: str(int(good[HEADER_TIME]) + 1)}),
        "replayed late": (body, late),
        "too early": (body, site.call(body, at_ms=now_ms() + 6 * MINUTES_MS)),
        "at no time": (body, good | {HEADER_TIME: "noon"}),
        "at a time without end": (body, good | {HEADER_TIME: "9" * 5000}),
        "with a signature that is none": (body, good | {HEADER_SIGNATURE: "00"}),
    }


@pytest.mark.parametrize("number", range(10))
def test_a_call_that_the_site_did_not_make_so_and_now_is_refused(
    client: Client, desk: Desk, site: Newcomer, number: int
) -> None:
    name, (body, headers) = list(altered(site).items())[number]
    size = desk.log.size()
    status, line = refusal(client, SYNC, body, headers)
    assert status == 403, name
    assert ("check the clock" in line) == (name in {"replayed late", "too early"})
    assert desk.log.size() == size


def test_an_unknown_site_is_told_to_join(client: Client, desk: Desk) -> None:
    stranger = newcomer(desk, "stranger")
    body = head_bytes()
    expected = (403, "this site is not enrolled; ask the coordinator for a join token")
    assert refusal(client, SYNC, body, stranger.call(body)) == expected
    assert refusal(client, SYNC, body, {}) == expected


def test_a_site_that_waits_is_told_so(client: Client, desk: Desk) -> None:
    waiting, token = newcomer(desk, "waiting"), offer(desk, "waiting")
    desk.enrolment.receive(token.secret, waiting.enrolment())
    status, line = refusal(client, SYNC, head_bytes(), waiting.call(head_bytes()))
    assert (status, "waits for an officer's approval" in line) == (403, True)


def test_a_revoked_site_is_refused_at_its_next_call(client: Client, desk: Desk) -> None:
    gone = newcomer(desk, "gone")
    gone.join()
    body = head_bytes()
    assert client.post(SYNC, content=body, headers=gone.call(body)).status_code == 200
    desk.enrolment.revoke("gone", "key lost", "officer")
    status, line = refusal(client, SYNC, body, gone.call(body))
    assert (status, "revoked" in line) == (403, True)
    kinds = [from_leaf(leaf).kind for leaf in desk.log.entries(0, desk.log.size())]
    assert kinds.count("revoke") == 1


@pytest.mark.parametrize("body", [b"", b"{}", b"\xff", b"[]", b'{"size":-1}', b"[" * 5000])
def test_a_signed_call_that_is_no_head_is_refused(
    client: Client, site: Newcomer, body: bytes
) -> None:
    assert refusal(client, SYNC, body, site.call(body))[0] == 409


def test_a_site_cannot_speak_for_another(client: Client, desk: Desk, site: Newcomer) -> None:
    victim = newcomer(desk, "victim")
    victim.join()
    size = desk.log.size()
    body = head_bytes(SiteHead(0, 0, "", (victim.enrolment(sequence=2),)))
    status, line = refusal(client, SYNC, body, site.call(body))
    assert (status, "sends a statement of victim" in line) == (409, True)
    assert desk.log.size() == size


def test_a_forged_cosignature_is_refused(client: Client, site: Newcomer) -> None:
    body = head_bytes(SiteHead(1, 0, "\u2014 api.example AAAA\n", ()))
    assert refusal(client, SYNC, body, site.call(body))[0] == 409
    assert client.post(SYNC, content=head_bytes(), headers=site.call(head_bytes())).is_success


def test_a_site_ahead_of_the_log_is_told_that_the_database_is_old(
    client: Client, desk: Desk, site: Newcomer
) -> None:
    body = head_bytes(SiteHead(desk.log.size() + 5, 0, "", ()))
    status, line = refusal(client, SYNC, body, site.call(body))
    assert (status, "the database is an old copy" in line) == (409, True)
