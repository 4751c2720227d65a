"""The process of the SuperNode: `python -m wardround.client.supernode_process SOCKET`.

Flower's own SuperNode loop, with five differences: it looks for messages every quarter of a second
rather than every three while a study is going on; it takes messages whole and waits for no reply
that cannot come (`intake`); its Runtime API serves the site's runner and nothing else; it ends,
with a code other than 0, as soon as its loop or any of its threads has failed, and when its parent
dies; and it never starts an app itself. Settings come as JSON on
standard input, the Runtime API's listening socket as an open file.
"""

import json
import logging
import os
import socket
import sys
import threading
import time
from typing import Final

import uvicorn
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.supernode import start_client_internal as supernode
from flwr.supernode.main import create_app
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from wardround.client import intake, pace

LOOP_ENDED: Final = 70
THREAD_FAILED: Final = 71
ORPHANED: Final = 72
PARENT_CHECK_SECONDS: Final = 0.5

RUNTIME_ROUTES: Final = frozenset(
    f"/v1/runtime/{name}"
    for name in (
        "acquire-task",
        "send-task-heartbeat",
        "pull-task-input",
        "push-task-output",
        "push-object",
        "pull-object",
        "confirm-message-received",
        "push-messages",
        "pull-messages",
    )
)


class OnceInAWhile(logging.Filter):
    """Lets a message of Flower's through once a minute: it warns of every single retry."""

    SECONDS: Final = 60.0

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record passes."""
        now = time.monotonic()
        template = str(record.msg)
        if now - self._last.get(template, -self.SECONDS) < self.SECONDS:
            return False
        self._last[template] = now
        return True


class OnlyRunner:
    """Serves the runner's routes of the Runtime API; everything else is not found."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one call."""
        if scope["type"] == "http" and scope["path"] not in RUNTIME_ROUTES:
            await JSONResponse({"detail": "not found"}, 404)(scope, receive, send)
            return
        await self._app(scope, receive, send)


def main(arguments: list[str]) -> None:
    """Run until told to end; never returns normally."""
    (descriptor,) = arguments
    settings = json.load(sys.stdin)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    threading.excepthook = _end_with_thread
    logging.basicConfig(format="%(asctime)s %(levelname)s SuperNode: %(message)s")
    flower = logging.getLogger("flwr")
    flower.handlers.clear()
    flower.setLevel(logging.WARNING)
    flower.addFilter(OnceInAWhile())
    pace.hurry_supernode()
    key = serialization.load_pem_private_key(settings["key"].encode(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("the SuperNode's key is not an EC key")
    secret = bytes.fromhex(settings["secret"])
    state_factory = intake.install()
    app = OnlyRunner(create_app(state_factory=state_factory, superexec_auth_secret=secret))
    server = uvicorn.Server(
        uvicorn.Config(app, log_config=None, log_level="warning", access_log=False, ws="none")
    )
    listening = socket.socket(fileno=int(descriptor))
    threading.Thread(target=server.run, args=([listening],), daemon=True).start()
    supernode.start_client_internal(
        state_factory=state_factory,
        server_address=settings["coordinator"],
        node_config={},
        root_certificates=settings["authority"].encode(),
        insecure=False,
        authentication_keys=(key, key.public_key()),
        isolation="process",
        superexec_auth_secret=secret,
        runtime_dependency_install=False,
    )
    # Flower logs an error of its loop and comes back here: its stock command would then wait for
    # the other threads, for ever.
    os._exit(LOOP_ENDED)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK_SECONDS)
    os._exit(ORPHANED)


def _end_with_thread(failure: threading.ExceptHookArgs) -> None:
    name = failure.thread.name if failure.thread is not None else "a thread"
    print(f"SuperNode: {name} failed ({failure.exc_type.__name__})", file=sys.stderr, flush=True)
    os._exit(THREAD_FAILED)


if __name__ == "__main__":
    main(sys.argv[1:])
