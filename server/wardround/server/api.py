"""Wardround's own routes of the public listener: joining, and bringing the log up to date.

    GET  /wardround/v1/ca      the certificate authority; a token's digest authenticates it
    POST /wardround/v1/enrol   a join token's secret and a site's signed enrolment
    POST /wardround/v1/sync    an enrolled site's head; answers with the log's head

A call to `sync` is signed by the site's identity key, which must be enrolled and not revoked at
the moment of the call.
"""

import time
from dataclasses import dataclass, field

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool

from wardround.privacy import canonical
from wardround.privacy.errors import MalformedData, SignatureInvalid, WardroundError
from wardround.privacy.joining import HEADER_SITE, verify_call
from wardround.privacy.loghead import SiteHead
from wardround.privacy.statements import Envelope
from wardround.server.enrolment import Enrolment
from wardround.server.errors import EnrolmentError
from wardround.server.loglink import LogLink

PREFIX = "/wardround/v1"


@dataclass(slots=True)
class Links:
    """The log link of each site that called; what they remember may be lost at any time."""

    enrolment: Enrolment
    _links: dict[str, LogLink] = field(default_factory=dict)

    def link(self, site: str) -> LogLink:
        """Return the link of `site`."""
        if site not in self._links:
            self._links[site] = LogLink(self.enrolment.log, site)
        return self._links[site]


def make_api(enrolment: Enrolment, authority: bytes) -> FastAPI:
    """Return the routes as an ASGI application. `authority` is the CA's certificate in PEM."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    links = Links(enrolment)

    @app.get(f"{PREFIX}/ca")
    def ca() -> Response:
        return Response(authority, media_type="application/x-pem-file")

    @app.post(f"{PREFIX}/enrol")
    async def enrol(request: Request) -> dict[str, str]:
        body = await request.body()
        return await run_in_threadpool(take, body)

    def take(body: bytes) -> dict[str, str]:
        try:
            value = canonical.loads_object(body)
            if set(value) != {"secret", "statement"}:
                raise MalformedData("an enrolment is a secret and a statement")
            secret = bytes.fromhex(str(value["secret"]))
            enrolment.receive(secret, Envelope.from_json(value["statement"]))
        except (MalformedData, ValueError) as error:
            raise HTTPException(400, f"not an enrolment of this version: {error}") from None
        except EnrolmentError as error:
            raise HTTPException(403, str(error)) from None
        return {"status": "pending"}

    @app.post(f"{PREFIX}/sync")
    async def sync(request: Request) -> Response:
        # In a thread: the database may make a caller wait, and Fleet calls share this loop.
        return await run_in_threadpool(answer, request, await request.body())

    def answer(request: Request, body: bytes) -> Response:
        site = _authenticate(enrolment, request, body)
        try:
            link = links.link(site)
            link.receive(SiteHead.from_json(canonical.loads(body)))
            head = link.head().to_json()
        except WardroundError as error:
            raise HTTPException(409, str(error)) from None
        data = canonical.dumps({"head": head, "status": "approved"})
        return Response(data, media_type="application/json")

    return app


def _authenticate(enrolment: Enrolment, request: Request, body: bytes) -> str:
    """Return the enrolled site that signed the call; 403 says what is the matter otherwise."""
    site = request.headers.get(HEADER_SITE, "")
    federation = enrolment.federation()
    if site in federation.revoked:
        raise HTTPException(403, "this site's keys were revoked; speak with the coordinator")
    keys = federation.sites.get(site)
    if keys is None:
        waiting = any(row.site == site and row.status == "pending" for row in enrolment.rows())
        raise HTTPException(
            403,
            "this site waits for an officer's approval; compare fingerprints by phone"
            if waiting
            else "this site is not enrolled; ask the coordinator for a join token",
        )
    try:
        verify_call(
            keys.identity,
            request.headers,
            request.method,
            request.url.path,
            body,
            time.time_ns() // 1_000_000,
        )
    except SignatureInvalid as error:
        raise HTTPException(403, str(error)) from None
    return site
