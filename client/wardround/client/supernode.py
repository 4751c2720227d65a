"""The site's SuperNode: Flower's connection to the coordinator, in a process of its own.

    with SuperNodeProcess(config) as node:
        SiteRunner(RunnerConfig(node.address, config.secret), handler).run_forever()

The SuperNode's process sees ciphertext, protocol messages and its own key; data, ledger and the
site's other keys stay with the process that runs the `SiteRunner`. It is given everything through
a pipe, reads no file of the site, and may run as another user. A stock SuperNode can lose its
connection for good and live on; this one ends in any such case, and is started again.
"""

import json
import logging
import os
import pwd
import secrets
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from wardround.client.errors import SiteStateError
from wardround.privacy import quiet
from wardround.privacy.identity import read_private, write_private

RESTART_SECONDS: Final = (0.5, 1.0, 2.0, 5.0, 10.0)
"""Pauses before a restart; the last one is kept for as long as it goes on."""
SETTLED_SECONDS: Final = 60.0
"""A life this long makes the next pause the first one again."""
STOP_SECONDS: Final = 5.0
BACKLOG: Final = 16

logger = logging.getLogger(__name__)


def create_node_key(path: Path) -> bytes:
    """Make the SuperNode's EC P-384 key (mode 0600); gives its public form for registration.

    That form is the PEM text of the public key, which Flower registers. Raises KeyFileError when
    the file exists.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    write_private(
        path,
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )
    return _public_form(key)


def node_public_key(path: Path) -> bytes:
    """The public form of an existing key file; KeyFileError or SiteStateError if it is not one."""
    return _public_form(_load(read_private(path)))


def _load(pem: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP384R1):
        raise SiteStateError("the SuperNode's key file holds no EC P-384 key; restore it")
    return key


def _public_form(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _group_of(user: str | None) -> int | None:
    """The user's own group; SiteStateError if there is no such user."""
    if user is None:
        return None
    try:
        return pwd.getpwnam(user).pw_gid
    except KeyError:
        raise SiteStateError(
            f"this machine knows no user {user}; create it or set another one in site.toml"
        ) from None


def new_secret() -> bytes:
    """The secret that SuperNode and runner share for one life of the site: 256 random bits."""
    return secrets.token_bytes(32)


@dataclass(frozen=True, slots=True)
class SuperNodeConfig:
    """What the SuperNode needs in order to connect."""

    coordinator: str
    """Host and port of the coordinator's public listener."""
    authority: Path
    """PEM file of the coordinator's certificate authority: the only one that is trusted."""
    key: Path = field(repr=False)
    """The SuperNode's key file."""
    flower_home: Path
    """A folder for Flower's own files (none are expected)."""
    secret: bytes = field(default_factory=new_secret, repr=False)
    """Shared with the runner; see `new_secret`."""
    runtime_port: int = 0
    """Loopback port on which the runner finds the SuperNode; 0 picks a free one."""
    user: str | None = None
    """User to run as, when this process is root's."""


class SuperNodeProcess:
    """Keeps the SuperNode's process running. Use it as a context manager, or `start` and `stop`.

    The listening socket for the runner is opened here and outlives the process, so that `address`
    stays the same over restarts.
    """

    def __init__(self, config: SuperNodeConfig) -> None:
        self._config = config
        self._input = json.dumps(
            {
                "coordinator": config.coordinator,
                "authority": config.authority.read_text("ascii"),
                "key": read_private(config.key).decode("ascii"),
                "secret": config.secret.hex(),
            }
        ).encode()
        _load(read_private(config.key))
        self._group = _group_of(config.user)
        if config.user is None and os.geteuid() == 0:
            logger.warning("the SuperNode runs as root; set a user for it")
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind(("127.0.0.1", config.runtime_port))
            self._socket.listen(BACKLOG)
        except OSError as error:
            self._socket.close()
            raise SiteStateError(
                f"port {config.runtime_port} of this machine is taken ({error.strerror}); set "
                "another one in site.toml"
            ) from None
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._supervise, name="supernode", daemon=True)
        self.restarts = 0
        """How often the process had to be started again."""

    @property
    def pid(self) -> int | None:
        """Process id of the SuperNode, while there is one."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def start(self) -> None:
        """Start the process and the thread that watches over it."""
        self._thread.start()

    def stop(self) -> None:
        """End the process: it takes its leave of the coordinator first."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS * 2)
        self._socket.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _supervise(self) -> None:
        attempts = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                self._process = self._spawn()
                ended = self._wait(self._process)
            except OSError as error:
                ended = f"could not be started ({error.strerror})"
            if self._stopping.is_set():
                return
            attempts = 0 if time.monotonic() - began > SETTLED_SECONDS else attempts + 1
            pause = RESTART_SECONDS[min(attempts, len(RESTART_SECONDS) - 1)]
            logger.warning("the SuperNode %s; it starts again in %.1f s", ended, pause)
            self.restarts += 1
            self._stopping.wait(pause)

    def _wait(self, process: subprocess.Popen[bytes]) -> str:
        """How the process ended; on `stop` it is ended."""
        while process.poll() is None:
            if self._stopping.wait(0.2):
                self._end(process)
        return f"ended (exit code {process.returncode})"

    def _spawn(self) -> subprocess.Popen[bytes]:
        descriptor = self._socket.fileno()
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith("WARDROUND_")
        }
        process = subprocess.Popen(  # noqa: S603  (our own module)
            [sys.executable, "-m", "wardround.client.supernode_process", str(descriptor)],
            stdin=subprocess.PIPE,
            pass_fds=[descriptor],
            start_new_session=True,  # Ctrl-C is for the parent, which then ends it in order
            env=inherited | quiet.environment(self._config.flower_home),
            user=self._config.user,
            group=self._group,
            extra_groups=None if self._group is None else [],
        )
        if process.stdin is None:
            raise RuntimeError("the SuperNode's process has no standard input")
        try:
            with process.stdin as pipe:
                pipe.write(self._input)
        except BrokenPipeError:
            logger.debug("the SuperNode ended before it had read its settings")
        return process

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
