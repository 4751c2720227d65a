"""The two doors of the coordinator, and what each lets in.

* **public** (TLS): of Flower's Fleet API what an enrolled node needs, and Wardround's own routes
  below `/wardround/v1/`. A node can neither register nor unregister itself here.
* **loopback**: the parts of the Control and Runtime APIs that the coordinator itself uses; a
  Control call needs a bearer token, a Runtime call a task's token or the executor's signature.

Whatever is not listed is answered 404, without a look at its body. Bodies are bounded. Each call
is reported to the access log, the refused ones too.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from flwr.supercore.constant import (
    SUPEREXEC_AUTH_SIGNATURE_HEADER,
    TASK_TOKEN_HEADER,
)
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wardround.privacy.exchange import MAX_BODY
from wardround.server.access import AccessLog, AccessRecord

EXTRA_PREFIX: Final = "/wardround/v1/"
SMALL_BODY: Final = 1024 * 1024
LARGE_BODY: Final = max(MAX_BODY, 5 * 1024 * 1024) + SMALL_BODY
"""Of an object: a message's body or one of Flower's chunks of 5 MB, and its envelope."""

FLEET: Final = (
    "activate-node",
    "deactivate-node",
    "send-node-heartbeat",
    "pull-messages",
    "push-messages",
    "get-run",
    "get-fab",
    "push-object",
    "pull-object",
    "confirm-message-received",
)
CONTROL: Final = (
    "start-run",
    "stop-run",
    "list-runs",
    "register-node",
    "unregister-node",
    "list-nodes",
)
RUNTIME: Final = (
    "acquire-task",
    "send-task-heartbeat",
    "pull-task-input",
    "push-task-output",
    "push-object",
    "pull-object",
    "confirm-message-received",
    "push-messages",
    "pull-messages",
    "get-nodes",
)
_LARGE: Final = {
    "/v1/fleet/push-object",
    "/v1/runtime/push-object",
    "/v1/runtime/push-messages",  # names all parts of the messages to all sites
}
_METHODS: Final = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}

PUBLIC_ROUTES: Final = frozenset(f"/v1/fleet/{name}" for name in FLEET)
LOOPBACK_ROUTES: Final = frozenset(
    [f"/v1/control/{name}" for name in CONTROL] + [f"/v1/runtime/{name}" for name in RUNTIME]
)


@dataclass(frozen=True, slots=True)
class Door:
    """What one listener serves.

    `token_name` gives the name of a valid Control token; `extra` serves `EXTRA_PREFIX`, if given.
    """

    routes: frozenset[str]
    token_name: Callable[[str], str | None] = field(repr=False)
    extra: ASGIApp | None = field(default=None, repr=False)
    extra_body: int = SMALL_BODY


class Gate:
    """An ASGI application before another: checks, bounds and reports each call."""

    def __init__(self, superlink: ASGIApp, door: Door, log: AccessLog) -> None:
        self._superlink = superlink
        self._door = door
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection's event scope."""
        if scope["type"] == "lifespan":
            await self._superlink(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        call = _Call(scope, self._door)
        if not self._log.is_working:
            await _refuse(503, "the audit log cannot be written", scope, receive, send)
            return
        recorder = _Recorder(send)
        try:
            await self._serve(call, scope, receive, recorder)
        finally:
            self._log.note(call.record(recorder.status))

    async def _serve(self, call: "_Call", scope: Scope, receive: Receive, send: Send) -> None:
        refusal = call.refusal()
        if refusal is not None:
            await _refuse(*refusal, scope, receive, send)
            return
        application = call.extra or self._superlink
        try:
            body = await _read_body(call, receive)
        except _BadBody as error:
            await _refuse(error.status, str(error), scope, receive, send)
            return
        await application(scope, _Replay(body, receive), send)


class _Call:
    """One request, as far as the gate looks into it."""

    def __init__(self, scope: Scope, door: Door) -> None:
        self._scope = scope
        self._door = door
        self.headers = Headers(scope=scope)
        self._method: str = scope["method"]
        self._path: str = scope["path"]
        self._token_name: str | None = None
        self.extra = door.extra if self._path.startswith(EXTRA_PREFIX) else None

    def refusal(self) -> tuple[int, str] | None:
        """Status and reason if the call is not let in."""
        if self.extra is not None:
            return None
        if self._path not in self._door.routes:
            return 404, "not found"
        if self._method != "POST":
            return 405, "method not allowed"
        if self._path.startswith("/v1/control/"):
            scheme, _, token = self.headers.get("authorization", "").partition(" ")
            if scheme.lower() == "bearer":
                self._token_name = self._door.token_name(token)
            if self._token_name is None:
                return 401, "a bearer token is needed"
        if self._path.startswith("/v1/runtime/"):
            acquires = self._path == "/v1/runtime/acquire-task"
            needed = SUPEREXEC_AUTH_SIGNATURE_HEADER if acquires else TASK_TOKEN_HEADER
            if not self.headers.get(needed):
                return 401, "a task's token is needed"
        return None

    def body_limit(self) -> int:
        """Bytes that the body may have."""
        if self.extra is not None:
            return self._door.extra_body
        return LARGE_BODY if self._path in _LARGE else SMALL_BODY

    def record(self, status: int) -> AccessRecord:
        """What the log says of the call, once it is answered."""
        known = self._path in PUBLIC_ROUTES | LOOPBACK_ROUTES
        if known:
            api, path_class = self._path.split("/")[2], self._path
        elif self.extra is not None:
            # The route, not the path, which may hold a token: FastAPI leaves it in the scope.
            route = getattr(self._scope.get("route"), "path", None)
            api, path_class = "wardround", route if isinstance(route, str) else "other"
        else:
            api, path_class = "other", "other"
        outcome = "failed" if status >= 500 else "refused" if status >= 400 else "accepted"
        role, actor = self._actor(api) if outcome == "accepted" else (None, None)
        method = self._method if self._method in _METHODS else "OTHER"
        return AccessRecord(api, method, path_class, outcome, status, role, actor)

    def _actor(self, api: str) -> tuple[str | None, str | None]:
        if api == "control":
            return "operator", self._token_name
        if api == "runtime":
            return "run", None
        if api == "fleet":
            # Flower has compared this node id with the key that signed the request.
            request = self._scope.get("state", {}).get("protobuf_request")
            node = getattr(request, "node", request)
            node_id = getattr(node, "node_id", None)
            return "site", None if node_id is None else str(node_id)
        return None, None


class _BadBody(Exception):
    """A body that is not passed on."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


async def _read_body(call: _Call, receive: Receive) -> bytes:
    """The whole body, which Flower would hold in memory anyway. Raises `_BadBody`."""
    limit = call.body_limit()
    announced = call.headers.get("content-length", "0")
    if not announced.isdecimal() or int(announced) > limit:
        raise _BadBody(413, "the body is too large")
    body = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise _BadBody(400, "the body is not complete")
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > limit:
            raise _BadBody(413, "the body is too large")
    return bytes(body)


class _Replay:
    """`receive`, giving the body that was read, and then what comes next."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Message:
        if self._body is None:
            return await self._receive()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


class _Recorder:
    """`send`, remembering the status."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 500

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)


async def _refuse(status: int, reason: str, scope: Scope, receive: Receive, send: Send) -> None:
    headers = {"connection": "close"} | ({"www-authenticate": "Bearer"} if status == 401 else {})
    await JSONResponse({"detail": reason}, status, headers)(scope, receive, send)
