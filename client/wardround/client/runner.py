"""The site runner: takes the SuperNode's tasks and calls the locally installed handler.

It stands where Flower would start one process a message and run the code of the bundle (FAB) that
came with the run. The runner lives long, imports the handler once, and never unpacks a bundle: of
a bundle it only compares the digest with those it may serve.

A request that comes again (its reply was lost with the SuperNode, say) gets the same bytes again,
and the handler is not called: the coordinator names each asking. After the runner itself or the
coordinator has been started anew, the handler may be asked the same thing again.
"""

import hashlib
import logging
import signal
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType
from typing import Final

import httpx
from flwr.app import Context, Message
from flwr.common.constant import SubStatus
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    PushTaskOutputRequest,
    SendTaskHeartbeatRequest,
)
from flwr.supercore.constant import TaskType
from flwr.supercore.fab import Fab
from flwr.supercore.heartbeat import HeartbeatSender
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.run import Run
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

from wardround.client.messages import Handler, make_reply, read_request
from wardround.client.pace import expect_whole_messages
from wardround.privacy.errors import MalformedData, WardroundError
from wardround.privacy.exchange import ERROR, FAB_SHA256

CACHED_BYTES: Final = 64 * 1024 * 1024
"""Replies kept for a request that comes again; the newest is kept whatever its size."""
RECONNECT_SECONDS: Final = 0.5
BUSY_SECONDS: Final = 120.0
IDLE_POLL_SECONDS: Final = 0.5
"""Pause between two looks for a task once none has come for `BUSY_SECONDS`."""

Answer = tuple[str, bytes, bytes | None]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunnerConfig:
    """Where the SuperNode is, and what the runner may serve."""

    address: str
    """`SuperNodeProcess.address`."""
    secret: bytes = field(repr=False)
    """The secret shared with the SuperNode."""
    allowed_fabs: frozenset[str] = frozenset({FAB_SHA256})
    """SHA-256 of the bundles for whose runs the runner works."""
    poll_seconds: float = 0.1
    """Pause between two looks for a task while tasks come."""


class SiteRunner:
    """Serves one SuperNode. `run_forever` belongs into the main thread.

    A `WardroundError` of the handler goes to the coordinator as an "error" reply with its text. Any
    other exception goes as an "error" reply that names only its type, and ends the runner with it.
    """

    def __init__(self, config: RunnerConfig, handler: Handler) -> None:
        self._config = config
        self._handler = handler
        self._stopping = threading.Event()
        self._replies = _Replies()
        self._last_task = time.monotonic()
        self._version = RuntimeVersionHttpInterceptor(component_name="flwr-clientapp")

    def stop(self) -> None:
        """End `run_forever` after the task at hand; may be called from anywhere."""
        self._stopping.set()

    def run_forever(self, *, signals: bool = True) -> None:
        """Serve until `stop`, or SIGINT or SIGTERM if `signals` (a second one interrupts)."""
        expect_whole_messages()
        with _stop_on_signals(self) if signals else _nothing():
            signed = SuperExecAuthHttpInterceptor(
                master_secret=self._config.secret,
                protected_methods=["/flwr.proto.Runtime/AcquireTask"],
            )
            with self._client(signed) as client:
                while not self._stopping.is_set():
                    token = self._acquire(client)
                    if token is not None:
                        self._serve(token)

    def _client(
        self, interceptor: SuperExecAuthHttpInterceptor | RuntimeTokenHttpInterceptor
    ) -> RuntimeHttpClient:
        return RuntimeHttpClient.from_server_address(
            server_address=self._config.address,
            insecure=True,  # loopback
            root_certificates=None,
            interceptors=[self._version, interceptor],
        )

    def _acquire(self, client: RuntimeHttpClient) -> str | None:
        """The token of a task, or None after a pause."""
        try:
            answer = client.AcquireTask(
                AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP])
            )
        except httpx.HTTPError as error:
            logger.debug("the SuperNode does not answer (%s)", type(error).__name__)
            self._stopping.wait(RECONNECT_SECONDS)
            return None
        if answer.token:
            self._last_task = time.monotonic()
            return str(answer.token)
        silent = time.monotonic() - self._last_task > BUSY_SECONDS
        self._stopping.wait(IDLE_POLL_SECONDS if silent else self._config.poll_seconds)
        return None

    def _serve(self, token: str) -> None:
        """One task, from its input to its reply. A SuperNode that dies meanwhile is no failure."""
        with self._client(RuntimeTokenHttpInterceptor(token)) as client:
            heartbeat = HeartbeatSender(lambda: _beat(client))
            heartbeat.start()
            try:
                self._answer(client, *_input(client))
            except (httpx.HTTPError, ObjectPullError, _Dropped) as error:
                logger.warning(
                    "the SuperNode was lost during a task (%s); the coordinator will ask again",
                    type(error).__name__,
                )
                with suppress(httpx.HTTPError):  # one that lives waits for the end of its task
                    client.PushTaskOutput(PushTaskOutputRequest(sub_status=SubStatus.FAILED))
            finally:
                if heartbeat.is_running:
                    heartbeat.stop()

    def _answer(
        self, client: RuntimeHttpClient, message: Message, context: Context, run: Run, fab: Fab
    ) -> None:
        status = SubStatus.FAILED
        try:
            self._check_bundle(run, fab)
            answer = self._handle(message)
            status = SubStatus.COMPLETED
        except WardroundError as error:
            answer = (ERROR, str(error).encode(), None)
        except Exception as error:
            # The text of an unforeseen exception may hold anything, a patient's data too.
            self._send(client, message, context, (ERROR, _unforeseen(error), None), status)
            raise
        self._send(client, message, context, answer, status)

    def _send(
        self,
        client: RuntimeHttpClient,
        message: Message,
        context: Context,
        answer: Answer,
        status: str,
    ) -> None:
        push_message(client, make_reply(message, *answer), context)
        push_task_output(client, context, status, "")

    def _check_bundle(self, run: Run, fab: Fab) -> None:
        digest = hashlib.sha256(fab.content).hexdigest()
        if digest != run.fab_hash or digest not in self._config.allowed_fabs:
            raise MalformedData(
                f"the run's bundle {digest[:16]} is not one that this site serves; coordinator "
                "and site need the same version of Wardround"
            )

    def _handle(self, message: Message) -> Answer:
        asking = message.metadata.group_id
        kind, body, payload = read_request(message)
        known = self._replies.get(asking)
        if known is not None:
            logger.info("the %s request came again; it gets the same answer", kind)
            return known
        began = time.monotonic()
        answer = self._handler(kind, body, payload)
        logger.info("answered %s with %s in %.1f s", kind, answer[0], time.monotonic() - began)
        if asking:
            self._replies.put(asking, answer)
        return answer


class _Replies:
    """The latest replies by the name of their asking, bounded in bytes."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Answer] = OrderedDict()

    def get(self, asking: str) -> Answer | None:
        return self._kept.get(asking)

    def put(self, asking: str, answer: Answer) -> None:
        self._kept[asking] = answer
        while len(self._kept) > 1 and sum(map(_size, self._kept.values())) > CACHED_BYTES:
            self._kept.popitem(last=False)


def _size(answer: Answer) -> int:
    return len(answer[1]) + len(answer[2] or b"")


class _Dropped(Exception):
    """The SuperNode has made a task and then dropped its message: its run was stopped meanwhile."""


def _input(client: RuntimeHttpClient) -> tuple[Message, Context, Run, Fab]:
    try:
        return pull_task_input(client)
    except RuntimeError as error:  # Flower's word for a task without a message
        raise _Dropped from error


def _unforeseen(error: Exception) -> bytes:
    return f"the site's app failed ({type(error).__name__}); see the site's own log".encode()


def _beat(client: RuntimeHttpClient) -> bool:
    """Tell the SuperNode that the task is alive. Flower's own version would signal the process."""
    try:
        return bool(client.SendTaskHeartbeat(SendTaskHeartbeatRequest()).success)
    except httpx.HTTPError:
        return False


@contextmanager
def _stop_on_signals(runner: SiteRunner) -> Iterator[None]:
    def first(number: int, frame: FrameType | None) -> None:
        runner.stop()
        for each, handler in previous.items():
            signal.signal(each, handler)

    previous = {each: signal.signal(each, first) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)


@contextmanager
def _nothing() -> Iterator[None]:
    yield
