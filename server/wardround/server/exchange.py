"""One exchange with many sites: the one place where the coordinator makes and reads messages.

    exchange = Exchange(grid)
    for site, answer in exchange.ask({"north": Request("hello", body)}, deadline=60):
        if isinstance(answer, Reply): ...

Answers come as they arrive, one in memory at a time, so that an upload can be added and dropped.
A site answers an exchange at most once. A request is sent again, as a new Flower message with the
same bytes, where the first cannot be answered any more: the site's SuperNode was started anew, or
its runner died on it. Each asking has a name, by which the site's runner knows a request that comes
again and gives the same answer without calling its handler.

`grid` is Flower's, over the network, or `InProcessGrid`.
"""

import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid

from wardround.privacy.errors import MalformedData
from wardround.privacy.exchange import (
    ARRAY_DTYPE,
    ARRAY_FORM,
    ARRAYS,
    INLINE_PAYLOAD,
    MESSAGE_TYPE,
    PAYLOAD,
    RECORD,
    check_array,
    read_record,
    write_record,
)

PULL_BATCH = 4
"""How many answers one pull may bring at most, which bounds what is in memory at once."""

NODE_CHECK_SECONDS = 2.0
"""How often, while answers are missing, the list of nodes is read again."""

TTL_MARGIN_SECONDS = 30.0
"""How much longer than the deadline Flower keeps a message."""

MAX_SENDS = 4
"""How often one request is sent in all, before the site counts as failed."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a site is asked. `body` is small (under `MAX_BODY`), `payload` is of any size."""

    kind: str
    body: bytes = field(repr=False)
    payload: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Reply:
    """What a site answered; `kind` is "error" where the site refused or failed."""

    kind: str
    body: bytes = field(repr=False)
    payload: bytes | None = field(default=None, repr=False)


class Reason(Enum):
    """Why there is no reply."""

    UNKNOWN = "unknown"
    """No node is registered under the site's name, or it never came online."""
    TIMEOUT = "timeout"
    """The deadline passed."""
    UNAVAILABLE = "unavailable"
    """Flower gave the message up: the node is gone, or its app failed again and again."""
    MALFORMED = "malformed"
    """The answer is not in the form of an exchange, or claims another source."""


@dataclass(frozen=True, slots=True)
class Failure:
    """No usable reply from a site; `detail` is one line fit for the log."""

    reason: Reason
    detail: str


@dataclass(slots=True)
class _Pending:
    """One site's request while it is unanswered."""

    request: Request
    name: str = field(default_factory=lambda: secrets.token_hex(16))
    """Of this asking; Flower carries it as the message's group, the same each time it is sent."""
    node_id: int | None = None
    activated: str = ""
    """When Flower last saw the node start: a later start means that the message is lost."""
    current: str | None = None
    """Id of the message sent last."""
    sends: int = 0

    def is_with(self, node: NodeInfo) -> bool:
        """Whether the request is on its way to this life of the node."""
        here = (self.node_id, self.activated) == (node.node_id, node.last_activated_at)
        return self.current is not None and here

    def sent(self, node: NodeInfo, identifier: str) -> None:
        """Note that the request was sent to the node."""
        self.node_id, self.activated = node.node_id, node.last_activated_at
        self.current = identifier
        self.sends += 1


def content(kind: str, body: bytes, payload: bytes | None) -> RecordDict:
    """The Flower content of a message of the exchange."""
    records = RecordDict({RECORD: ConfigRecord({**write_record(kind, body, payload)})})
    if payload is not None and len(payload) > INLINE_PAYLOAD:
        array = Array(ARRAY_DTYPE, (len(payload),), ARRAY_FORM, payload)
        records[ARRAYS] = ArrayRecord({PAYLOAD: array})
    return records


def parse(records: RecordDict) -> tuple[str, bytes, bytes | None]:
    """Kind, body and payload of a received content. Raises `MalformedData`."""
    if not {RECORD} <= set(records) <= {RECORD, ARRAYS}:
        raise MalformedData("the message holds other records than those of an exchange")
    record = records[RECORD]
    if not isinstance(record, ConfigRecord):
        raise MalformedData("the message's record has other fields than those of an exchange")
    kind, body, small = read_record(record)
    if ARRAYS not in records:
        return kind, body, small
    arrays = records[ARRAYS]
    if small is not None or not isinstance(arrays, ArrayRecord) or set(arrays) != {PAYLOAD}:
        raise MalformedData("the message's arrays are not the one payload, or it is there twice")
    array = arrays[PAYLOAD]
    check_array(array.dtype, array.stype, array.shape, array.data)
    return kind, body, bytes(array.data)


class Exchange:
    """Asks sites, by name, over a Flower grid.

    Args:
        grid: Flower's grid, or `InProcessGrid`.
        poll_seconds: pause between two looks for answers.
        sleep: used for that pause; a test may give its own.
        clock: seconds, by which deadlines are kept.
    """

    def __init__(
        self,
        grid: Grid,
        *,
        poll_seconds: float = 0.2,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._grid = grid
        self._poll_seconds = poll_seconds
        self._sleep = sleep
        self._clock = clock

    def nodes(self) -> dict[str, int]:
        """Flower's node id of every named site that is online now."""
        return {name: node.node_id for name, node in self._online().items()}

    def ask(
        self, requests: Mapping[str, Request], deadline: float
    ) -> Iterator[tuple[str, Reply | Failure]]:
        """Send every request and yield each site's answer as it arrives.

        Exactly one pair is yielded for each site, at the latest after `deadline` seconds. A site
        that is offline at first is asked as soon as it appears. Stop iterating at any time: what
        is unanswered then is dropped.
        """
        end = self._clock() + deadline
        pending = {site: _Pending(request) for site, request in requests.items()}
        sites: dict[str, str] = {}  # of every message sent
        next_check = self._clock()
        while pending:
            now = self._clock()
            if now >= next_check:
                self._send_due(pending, sites, max(end - now, 0.0))
                next_check = now + NODE_CHECK_SECONDS
            arrived = False
            for message in self._pull(pending):
                site = sites.get(message.metadata.reply_to_message_id)
                if site is None or site not in pending:
                    continue
                answer = self._read(message, pending[site])
                if answer is None:
                    next_check = 0.0  # send again at once
                    continue
                arrived = True
                del pending[site]
                yield site, answer
                del message, answer
            if not pending:
                return
            if self._clock() >= end:
                break
            if not arrived:
                self._sleep(self._poll_seconds)
        for site, missing in pending.items():
            yield site, _late(missing, deadline)

    def _online(self) -> dict[str, NodeInfo]:
        return {node.name: node for node in self._grid.get_nodes() if node.name}

    def _send_due(
        self, pending: dict[str, _Pending], sites: dict[str, str], remaining: float
    ) -> None:
        """Send to every site whose request is not on its way, or was lost with its node."""
        online = self._online()
        due: list[tuple[str, NodeInfo, Message]] = []
        for site, waiting in pending.items():
            node = online.get(site)
            if node is None or waiting.sends >= MAX_SENDS or waiting.is_with(node):
                continue
            request = waiting.request
            message = Message(
                content(request.kind, request.body, request.payload),
                node.node_id,
                MESSAGE_TYPE,
                ttl=remaining + TTL_MARGIN_SECONDS,
                group_id=waiting.name,
            )
            due.append((site, node, message))
        if not due:
            return
        identifiers = self._grid.push_messages([message for _, _, message in due])
        for (site, node, _), identifier in zip(due, identifiers, strict=True):
            if identifier:  # Flower gives none for a node that has just gone
                pending[site].sent(node, identifier)
                sites[identifier] = site

    def _pull(self, pending: dict[str, _Pending]) -> Iterator[Message]:
        """Answers that are there now, a few at a time."""
        identifiers = [waiting.current for waiting in pending.values() if waiting.current]
        for start in range(0, len(identifiers), PULL_BATCH):
            messages = list(self._grid.pull_messages(identifiers[start : start + PULL_BATCH]))
            while messages:
                yield messages.pop()

    def _read(self, message: Message, waiting: _Pending) -> Reply | Failure | None:
        """The answer in a message; None where the request should be sent again."""
        if message.has_error():
            # Flower's own errors come from the SuperLink's node id: only the message that they
            # answer says whom they concern.
            if message.metadata.reply_to_message_id != waiting.current:
                return None
            waiting.current = None
            if waiting.sends < MAX_SENDS:
                return None
            return Failure(
                Reason.UNAVAILABLE,
                f"Flower gave up on the site (error {message.error.code}); see that its services "
                "run (`wardround-site status`)",
            )
        if message.metadata.src_node_id != waiting.node_id:
            return Failure(
                Reason.MALFORMED, "an answer came from another node than the one that was asked"
            )
        try:
            return Reply(*parse(message.content))
        except MalformedData as error:
            return Failure(Reason.MALFORMED, str(error))


def _late(waiting: _Pending, deadline: float) -> Failure:
    if waiting.sends == 0:
        return Failure(
            Reason.UNKNOWN,
            f"the site was not online within {deadline:.0f} s; start it (`wardround-site start`)",
        )
    return Failure(Reason.TIMEOUT, f"no answer within {deadline:.0f} s")
