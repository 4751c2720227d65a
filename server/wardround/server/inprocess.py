"""A Flower grid whose sites are functions in this process, for tests and notebooks.

Every message goes through the same serialisation as on the wire, in both directions; nothing else
is simulated. Faults that a network and a hospital have can be put in by name:

    grid = InProcessGrid({"north": handler})
    grid.inject("north", Fault.LOST_REPLY, kind="task")
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from flwr.app import Error, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from wardround.server.exchange import content, parse

Handler = Callable[[str, bytes, bytes | None], tuple[str, bytes, bytes | None]]
"""A site: kind, body and payload in; kind, body and payload out."""

FIRST_NODE_ID = 1001
RUN_ID = 7


class Fault(Enum):
    """What can go wrong between coordinator and site."""

    DOWN = "down"
    """The node is offline: not listed, and a message to it is never delivered."""
    LOST_REQUEST = "lost-request"
    """The request reaches nobody and nobody says so."""
    LOST_REPLY = "lost-reply"
    """The site does its work and its reply never arrives."""
    DUPLICATE = "duplicate"
    """The request is delivered twice; both replies arrive."""
    DELAY = "delay"
    """The reply is there only after `pulls` further looks."""
    CRASH = "crash"
    """The site's app dies: Flower answers with an error in the SuperLink's name."""
    FORGED = "forged"
    """The reply claims to come from another node."""
    RESTART = "restart"
    """The SuperNode dies after taking the request and starts again: the request is lost."""


@dataclass(slots=True)
class _Injected:
    fault: Fault
    kind: str | None
    times: int
    pulls: int


@dataclass(slots=True)
class _Waiting:
    reply: "_Wire"
    pulls: int


@dataclass(frozen=True, slots=True)
class _Wire:
    """A message as bytes: the envelope, and its content as Flower's objects."""

    identifier: str
    envelope: bytes
    objects: dict[str, bytes]

    @property
    def size(self) -> int:
        return len(self.envelope) + sum(len(part) for part in self.objects.values())


def _to_wire(message: Message) -> _Wire:
    identifier = message.object_id
    message.metadata.__dict__["_message_id"] = identifier
    envelope = message_to_proto(remove_content_from_message(message)).SerializeToString()
    objects = {name: part.deflate() for name, part in get_all_nested_objects(message).items()}
    return _Wire(identifier, envelope, objects)


def _from_wire(wire: _Wire) -> Message:
    envelope = message_from_proto(ProtoMessage.FromString(wire.envelope))
    message = inflate_object_from_contents(wire.identifier, dict(wire.objects))
    if not isinstance(message, Message) or message.metadata.run_id != envelope.metadata.run_id:
        raise TypeError("the object is not the message of its envelope")
    message.metadata.__dict__["_message_id"] = wire.identifier
    return message


class InProcessGrid(Grid):
    """The parts of Flower's grid that Wardround uses, with sites called in this process.

    A site is called when its reply is pulled, in the order of the message ids given. `calls` lists
    (site, kind) of every call; `sent` and `received` count bytes on the wire for each site.
    """

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = dict(handlers)
        self._node_ids = {
            site: FIRST_NODE_ID + index for index, site in enumerate(sorted(handlers))
        }
        self._sites = {node_id: site for site, node_id in self._node_ids.items()}
        self._starts = dict.fromkeys(self._handlers, 1)
        self._faults: dict[str, list[_Injected]] = {site: [] for site in handlers}
        self._requests: dict[str, _Wire] = {}
        self._replies: dict[str, deque[_Waiting]] = {}
        self._known: set[str] = set()
        self.calls: list[tuple[str, str]] = []
        self.sent = dict.fromkeys(self._handlers, 0)
        self.received = dict.fromkeys(self._handlers, 0)
        self._run = Run.create_empty(RUN_ID)
        # Flower's Message takes its source from this process-wide identity.
        TaskIdentity.run_id, TaskIdentity.task_id = RUN_ID, 1
        TaskIdentity.node_id = SUPERLINK_NODE_ID

    def inject(
        self, site: str, fault: Fault, *, kind: str | None = None, times: int = 1, pulls: int = 1
    ) -> None:
        """Let a fault happen to the next `times` requests of `kind` (any, if None) to a site.

        `DOWN` holds until `restore` instead. `pulls` is the length of a `DELAY`.
        """
        self._faults[site].append(_Injected(fault, kind, times, pulls))

    def restore(self, site: str) -> None:
        """Take all faults from a site."""
        self._faults[site].clear()

    def replace(self, site: str, handler: Handler) -> None:
        """Put another handler in a site's place, as after the site was started anew."""
        self._handlers[site] = handler
        self._starts[site] += 1

    # The grid's interface.

    @property
    def run(self) -> Run:
        """The run that the grid belongs to."""
        return self._run

    def set_run(self, run: Run) -> None:
        """Set the run that the grid belongs to."""
        self._run = run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Make a message (Flower's deprecated way)."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """Ids of the nodes online."""
        return [node.node_id for node in self.get_nodes()]

    def get_nodes(self) -> Iterable[NodeInfo]:
        """The nodes online, with their names."""
        return [
            NodeInfo(
                node_id=node_id,
                name=site,
                status="online",
                last_activated_at=f"start {self._starts[site]}",
            )
            for site, node_id in self._node_ids.items()
            if not self._is_down(site)
        ]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Take messages for the sites; gives their ids."""
        identifiers = []
        for message in messages:
            wire = _to_wire(message)
            self._requests[wire.identifier] = wire
            self._known.add(wire.identifier)
            identifiers.append(wire.identifier)
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies to these messages that are there now, each given once."""
        found: list[Message] = []
        for identifier in message_ids:
            if identifier not in self._known:
                raise KeyError(f"no such message: {identifier}")
            wire = self._requests.pop(identifier, None)
            if wire is not None:
                self._deliver(wire)
            queue = self._replies.get(identifier, deque())
            while queue:
                if queue[0].pulls > 0:
                    queue[0].pulls -= 1
                    break
                found.append(_from_wire(queue.popleft().reply))
        return found

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Push, and pull what is there at once."""
        del timeout  # nothing here takes time
        return self.pull_messages(self.push_messages(messages))

    # Delivery.

    def _is_down(self, site: str) -> bool:
        return any(injected.fault is Fault.DOWN for injected in self._faults[site])

    def _take_fault(self, site: str, kind: str) -> _Injected | None:
        for injected in self._faults[site]:
            if injected.fault is not Fault.DOWN and injected.kind in (None, kind):
                injected.times -= 1
                if injected.times <= 0:
                    self._faults[site].remove(injected)
                return injected
        return None

    def _deliver(self, wire: _Wire) -> None:
        request = _from_wire(wire)
        site = self._sites[request.metadata.dst_node_id]
        if self._is_down(site):
            self._requests[wire.identifier] = wire
            return
        kind, body, payload = parse(request.content)
        self.sent[site] += wire.size
        injected = self._take_fault(site, kind)
        fault = injected.fault if injected else None
        if fault is Fault.LOST_REQUEST:
            return
        if fault is Fault.RESTART:
            self._starts[site] += 1
            return
        if fault is Fault.CRASH:
            error = Message(Error(ErrorCode.CLIENT_APP_CRASHED, "crashed"), reply_to=request)
            error.metadata.__dict__["_src_node_id"] = SUPERLINK_NODE_ID
            self._answer(wire.identifier, error, 0)
            return
        for _ in range(2 if fault is Fault.DUPLICATE else 1):
            self.calls.append((site, kind))
            reply = Message(content(*self._handlers[site](kind, body, payload)), reply_to=request)
            if fault is Fault.FORGED:
                reply.metadata.__dict__["_src_node_id"] = FIRST_NODE_ID + len(self._sites)
            if fault is Fault.LOST_REPLY:
                continue
            pulls = injected.pulls if injected and fault is Fault.DELAY else 0
            self.received[site] += self._answer(wire.identifier, reply, pulls)

    def _answer(self, identifier: str, reply: Message, pulls: int) -> int:
        wire = _to_wire(reply)
        self._replies.setdefault(identifier, deque()).append(_Waiting(wire, pulls))
        return wire.size
