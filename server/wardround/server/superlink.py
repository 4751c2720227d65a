"""Flower's SuperLink, embedded: what `wardround-coordinator serve` keeps running.

    with CoordinatorLink(config, on_access, extra_app) as link:
        link.register_node(public_key, "north")
        link.keep("run-1")          # goes on until its ServerApp has ended

One process holds the SuperLink and two listeners (see `listener`), and starts one further process
for each run (see `runs`). The SuperLink's state is one SQLite file: after `kill -9` and a new start
the nodes are still registered and find the coordinator again by themselves. The run's process dies
with the coordinator and is started anew by `keep`; what it needs in order to go on is Wardround's
own database, never Flower's.
"""

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
import sqlite3
import ssl
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Final, Self

import uvicorn
from starlette.types import ASGIApp

from wardround.privacy import quiet
from wardround.server import guard
from wardround.server.access import AccessLog, AccessRecord
from wardround.server.errors import CannotListen

START_SECONDS: Final = 30.0
STOP_SECONDS: Final = 5.0
MAX_CONNECTIONS: Final = 512
KEEP_ALIVE_SECONDS: Final = 30

PRAGMAS: Final = (
    ("auto_vacuum", "INCREMENTAL"),
    ("busy_timeout", "120000"),
    ("secure_delete", "ON"),
)
"""Beyond Flower's own: wait 120 s for a lock rather than 5, overwrite what is deleted, give freed
pages back. The first only takes effect in a database that has no tables yet, so it leads."""


@dataclass(frozen=True, slots=True)
class LinkConfig:
    """Where the SuperLink lives and listens. A port of 0 picks a free one."""

    home: Path
    """The coordinator's folder; the SuperLink's own files go to `home/flower`."""
    certificate: Path
    private_key: Path = field(repr=False)
    public_host: str = "127.0.0.1"
    public_port: int = 8443
    loopback_port: int = 8440
    control_tokens: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Name and hash (`plugins.hash_token`) of each bearer token for the Control API."""
    serverapp: str = "wardround.server.app:app"
    """The installed ServerApp, which every run's process loads."""
    poll_seconds: float = 0.25
    """How often a run's process and its keeper look for something new."""

    @property
    def flower_home(self) -> Path:
        """Folder of the SuperLink's state."""
        return self.home / "flower"

    @property
    def database(self) -> Path:
        """The SuperLink's SQLite file."""
        return self.flower_home / "superlink.sqlite"


class CoordinatorLink:
    """The running SuperLink with its listeners and runs. Use it as a context manager.

    Args:
        config: see `LinkConfig`.
        on_access: told of every accepted and refused call, from a thread of its own; if it raises,
            nobody is served any more.
        extra_app: ASGI application for `/wardround/v1/...` on the public listener (full paths are
            passed on; it gets no lifespan events).
        on_run_end: told when a run that was kept has ended, from a thread of its own: the run, and
            None or one line that says why it failed.

    Raises `CannotListen` on entering when a port is taken or the certificate cannot be read.
    """

    def __init__(
        self,
        config: LinkConfig,
        on_access: Callable[[AccessRecord], None],
        extra_app: ASGIApp | None = None,
        on_run_end: Callable[[str, str | None], None] = lambda run, failure: None,
    ) -> None:
        quiet.apply(config.flower_home)
        for name in ("alembic", "httpx"):
            logging.getLogger(name).setLevel(logging.WARNING)
        # Flower reads its switches when it is imported, hence not before this line.
        from wardround.server.control import Control
        from wardround.server.listener import LOOPBACK_ROUTES, PUBLIC_ROUTES, Door, Gate
        from wardround.server.plugins import TokenAuthn, hash_token, new_token
        from wardround.server.runs import RunKeeper

        self._config = config
        self._log = AccessLog(on_access)
        self._sockets: list[socket.socket] = []
        self._servers: list[uvicorn.Server] = []
        self._thread: threading.Thread | None = None

        certificate = _certificate(config)
        loopback = _listen("127.0.0.1", config.loopback_port)
        self._sockets.append(loopback)
        try:
            public = _listen(config.public_host, config.public_port)
        except CannotListen:
            loopback.close()
            raise
        self._sockets.append(public)
        config.flower_home.mkdir(mode=0o700, parents=True, exist_ok=True)
        _prepare_database(config.database)
        token = new_token()  # of this life of the process, for its own calls
        authn = TokenAuthn({**config.control_tokens, "coordinator": hash_token(token)})
        secret = secrets.token_bytes(32)
        superlink = _create_superlink(config, authn, secret)
        self.loopback_port: int = loopback.getsockname()[1]
        self.public_port: int = public.getsockname()[1]
        gates = (
            Gate(superlink, Door(LOOPBACK_ROUTES, authn.name_of), self._log),
            Gate(superlink, Door(PUBLIC_ROUTES, authn.name_of, extra_app), self._log),
        )
        self._servers = [
            _Server(_uvicorn_config(gates[0], None, lifespan="on")),
            _Server(_uvicorn_config(gates[1], certificate, lifespan="off")),
        ]
        self._control = Control(self.loopback_address, token)
        self._keeper = RunKeeper(
            home=config.home,
            address=self.loopback_address,
            control=self._control,
            secret=secret,
            serverapp=config.serverapp,
            poll_seconds=config.poll_seconds,
            on_end=on_run_end,
        )

    @property
    def loopback_address(self) -> str:
        """Host and port of the Control and Runtime APIs."""
        return f"127.0.0.1:{self.loopback_port}"

    # Sites and runs.

    def register_node(self, public_key: bytes, name: str) -> int:
        """Let a site's SuperNode in (see `Control.register_node`)."""
        return self._control.register_node(public_key, name)

    def unregister_node(self, name: str) -> None:
        """Shut a site's SuperNode out, at its next request."""
        self._control.unregister_node(name)

    def online(self) -> frozenset[str]:
        """Names of the sites whose SuperNode is connected, as Flower sees it."""
        return frozenset(node.name for node in self._control.nodes() if node.online)

    def registered(self) -> dict[str, bytes]:
        """Name and SuperNode key (PEM) of all sites that are let in, online or not."""
        return {node.name: node.public_key for node in self._control.nodes()}

    def keep(self, run: str) -> None:
        """Keep the run's ServerApp running until it ends; safe to call again for the same run.

        Call it for every unfinished run after a start: the ServerApp goes on from Wardround's own
        checkpoint.
        """
        self._keeper.keep(run)

    def drop(self, run: str) -> None:
        """Stop keeping a run and end its process."""
        self._keeper.drop(run)

    def kept(self) -> frozenset[str]:
        """Runs that are kept running now."""
        return self._keeper.kept()

    # Life.

    def __enter__(self) -> Self:
        self._log.start()
        self._thread = threading.Thread(target=self._serve, name="superlink", daemon=True)
        self._thread.start()
        deadline = threading.Event()
        waited = 0.0
        while not all(server.started for server in self._servers):
            if not self._thread.is_alive() or waited > START_SECONDS:
                self.stop()
                raise CannotListen("the coordinator's listeners did not start; see its log")
            deadline.wait(0.02)
            waited += 0.02
        self._keeper.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the runs' processes, the listeners and the access log, in this order."""
        self._keeper.stop()
        self._control.close()
        for server in self._servers:
            server.should_exit = True
        if self._thread is not None:
            self._thread.join(STOP_SECONDS * 2)
        for listening in self._sockets:
            listening.close()
        self._log.stop()

    def serve_forever(
        self,
        on_ready: Callable[[], None] = lambda: None,
        stopped: threading.Event | None = None,
    ) -> None:
        """Serve until SIGINT or SIGTERM, or until `stopped` is set. From the main thread only.

        `on_ready` is called once when the listeners are up: the place to register sites and to
        `keep` the unfinished runs. From here on this process can load nothing that reads patient
        data (see `guard`).
        """
        guard.install()
        stopped = stopped or threading.Event()

        def stop(signum: int, frame: FrameType | None) -> None:
            stopped.set()

        numbers = (signal.SIGINT, signal.SIGTERM)
        previous = {number: signal.signal(number, stop) for number in numbers}
        try:
            with self:
                on_ready()
                while not stopped.wait(0.5):
                    if self._thread is None or not self._thread.is_alive():
                        raise CannotListen("the coordinator's listeners ended; see its log")
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _serve(self) -> None:
        async def both() -> None:
            await asyncio.gather(
                *(
                    server.serve([listening])
                    for server, listening in zip(self._servers, self._sockets, strict=True)
                )
            )

        asyncio.run(both())


class _Server(uvicorn.Server):
    """Uvicorn without its signal handlers: two of them live in one process here."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _uvicorn_config(
    app: ASGIApp, certificate: ssl.SSLContext | None, lifespan: str
) -> uvicorn.Config:
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        lifespan="on" if lifespan == "on" else "off",
        ws="none",
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=2,
    )
    config.load()
    config.ssl = certificate
    return config


def _certificate(config: LinkConfig) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_cert_chain(config.certificate, config.private_key)
    except OSError as error:  # ssl.SSLError is one
        raise CannotListen(
            f"the TLS certificate or its key cannot be read ({error.strerror or error}); "
            "check [tls] in config.toml"
        ) from None
    return context


def _listen(host: str, port: int) -> socket.socket:
    """A bound socket."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns off Nagle's delay (40 ms an answer) only where the protocol is named.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise CannotListen(
            f"cannot listen on {host}:{port} ({error.strerror}); another process may use the port"
        ) from None
    return listening


def _prepare_database(path: Path) -> None:
    """Create the file for its owner alone, or give freed pages of an old one back."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.close(descriptor)
    connection = sqlite3.connect(path, timeout=120)
    try:
        if connection.execute("PRAGMA page_count").fetchone()[0] == 0:
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA incremental_vacuum").fetchall()
        connection.commit()
    finally:
        connection.close()


def _create_superlink(config: LinkConfig, authn: object, secret: bytes) -> ASGIApp:
    """Flower's application, with our plug-ins, its file database and no process of its own."""
    from flwr.supercore import sql_mixin
    from flwr.supercore.routers.runtime.tracing import RuntimeTracingMiddleware
    from flwr.superlink.auth_plugin import ControlAuthnPlugin
    from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
    from flwr.superlink.config_loader import SuperLinkLifespanConfig
    from flwr.superlink.main import create_app
    from flwr.superlink.routers.control import middlewares

    from wardround.server.plugins import NodeRules

    if not isinstance(authn, ControlAuthnPlugin):
        raise TypeError("the Control API needs an authentication plug-in")
    logging.getLogger("flwr").setLevel(logging.WARNING)
    logging.getLogger("flwr").handlers.clear()  # it would say everything twice
    ours = {name for name, _ in PRAGMAS}
    # Flower offers no way to set these; a contract test watches over the name.
    settings = vars(sql_mixin)
    theirs = [pair for pair in settings["SQLITE_PRAGMAS"] if pair[0] not in ours]
    settings["SQLITE_PRAGMAS"] = (*PRAGMAS, *theirs)
    lifespan = SuperLinkLifespanConfig(
        control_address="127.0.0.1:0",
        health_server_address=None,
        host="127.0.0.1",
        port=config.loopback_port,
        insecure=True,  # the public listener has the TLS; Flower itself opens no port
        certificates=None,
        superexec_auth_secret=secret,
        authn_plugin=authn,
        event_log_plugin=None,
        fleet_event_log_plugin=NodeRules(),
        enable_event_log=False,
        artifact_provider=None,
        enable_supernode_auth=True,
        fleet_api_type="grpc-rere",
        fleet_api_address=None,
        simulation=False,
        ssl_ca_certfile=None,
        ssl_certfile=None,
        ssl_keyfile=None,
        database=str(config.database),
        isolation="process",
        runtime_dependency_install=False,
    )
    with warnings.catch_warnings():
        # Flower's own migrations are written for an older Alembic.
        warnings.simplefilter("ignore", DeprecationWarning)
        app = create_app(lifespan, SuperLinkLifespan)
    # Each of Flower's middlewares costs every call half a millisecond; these have nothing to do
    # here (no tracing, no licence, no log-in, and the Control API's events are the gate's matter).
    idle: set[object] = {
        RuntimeTracingMiddleware,
        middlewares.ControlLicenseMiddleware,
        middlewares.ControlEventLogMiddleware,
        middlewares.ControlSensitiveResponseMiddleware,
    }
    app.user_middleware = [layer for layer in app.user_middleware if layer.cls not in idle]
    return app
