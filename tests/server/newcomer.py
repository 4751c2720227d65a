"""A site's side of joining and of signed calls, with no site behind it."""

import time
from dataclasses import dataclass, field, replace

from wardround.client.supernode import create_node_key
from wardround.privacy import canonical
from wardround.privacy.events import Enrol
from wardround.privacy.identity import FileSigner
from wardround.privacy.joining import JoinToken, sign_call
from wardround.privacy.loghead import SiteHead
from wardround.privacy.statements import FIRST, Body, Envelope, Statement, sign
from wardround.server.desk import Desk

SYNC = "/wardround/v1/sync"
HEAD = SiteHead(0, 0, "", ())


def now_ms() -> int:
    """The time as calls state it."""
    return time.time_ns() // 1_000_000


def offer(desk: Desk, site: str) -> JoinToken:
    """Make a token as `enrol` does."""
    return desk.enrolment.offer(
        site,
        url=desk.home.url,
        origin=desk.home.origin,
        ca="00" * 32,
        log_public=desk.log.signer.public_bytes(),
        coordinator=desk.signer.public_bytes(),
    )


@dataclass
class Newcomer:
    """Keys of a site that would like to take part in the federation of `desk`."""

    desk: Desk
    site: str
    supernode: bytes
    identity: FileSigner = field(default_factory=FileSigner.generate)
    witness: FileSigner = field(default_factory=FileSigner.generate)

    def event(self) -> Enrol:
        """What it says of itself."""
        return Enrol(
            self.site,
            self.identity.public_bytes().hex(),
            self.witness.public_bytes().hex(),
            self.supernode.hex(),
            f"Clinic {self.site}",
            "wardround test",
        )

    def statement(self) -> Statement:
        """Its first statement to this log."""
        body = Body(self.event().to_json())
        return Statement(self.desk.log.log, self.site, 1, FIRST, now_ms(), "enrol", body)

    def enrolment(self, signer: FileSigner | None = None, **changes: object) -> Envelope:
        """Its enrolment, signed; `changes` are made to the statement first."""
        statement = replace(self.statement(), **changes)  # type: ignore[arg-type]  # for attacks
        return sign(statement, signer or self.identity)

    def join(self) -> None:
        """Join in the regular way."""
        token = offer(self.desk, self.site)
        self.desk.enrolment.receive(token.secret, self.enrolment())
        self.desk.enrolment.approve(self.site, "officer")

    def call(
        self, body: bytes, *, at_ms: int | None = None, signer: FileSigner | None = None
    ) -> dict[str, str]:
        """The headers of a call to `sync` with `body`."""
        time_ms = now_ms() if at_ms is None else at_ms
        return sign_call(signer or self.identity, self.site, "POST", SYNC, body, time_ms)


def newcomer(desk: Desk, folder_name: str) -> Newcomer:
    """A newcomer with a name and a SuperNode key of its own."""
    key = desk.home.folder / f"{folder_name}.supernode.key"
    return Newcomer(desk, folder_name, create_node_key(key))


def head_bytes(head: SiteHead = HEAD) -> bytes:
    """The body of a call to `sync`."""
    return canonical.dumps(head.to_json())
