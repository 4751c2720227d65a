"""The run's grid: a reply whose parts do not come holds up no other reply."""

import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from flwr.app import Message
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import PullObjectRequest, PullObjectResponse
from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PullAppMessagesResponse
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from wardround.server.exchange import content, parse
from wardround.server.grid import StreamingGrid


class Runtime:
    """A SuperLink with two replies, of which one is still on its way up."""

    def __init__(self) -> None:
        TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 7, 1, 1
        self.arrived = threading.Event()
        self.gone = threading.Event()
        self.replies: dict[str, Message] = {}
        self.confirmed: list[str] = []
        for name in ("fast", "slow"):
            request = Message(content("task", b"", None), 11, "query.wardround")
            request.metadata.__dict__["_message_id"] = name
            reply = Message(content("done", name.encode(), None), reply_to=request)
            reply.metadata.__dict__["_message_id"] = reply.object_id
            self.replies[name] = reply
        self.parts = {
            identifier: (name, part.deflate())
            for name, reply in self.replies.items()
            for identifier, part in get_all_nested_objects(reply).items()
        }

    def PullMessages(self, request: PullAppMessagesRequest) -> PullAppMessagesResponse:  # noqa: N802
        found = [self.replies.pop(name) for name in request.message_ids if name in self.replies]
        return PullAppMessagesResponse(
            messages_list=[message_to_proto(reply) for reply in found],
            message_object_trees=[get_object_tree(reply) for reply in found],
        )

    def PullObject(self, request: PullObjectRequest) -> PullObjectResponse:  # noqa: N802
        name, part = self.parts[request.object_id]
        if name == "slow" and self.gone.is_set():
            return PullObjectResponse(object_found=False, object_available=False)
        if name == "slow" and not self.arrived.is_set():
            return PullObjectResponse(object_found=True, object_available=False)
        return PullObjectResponse(object_found=True, object_available=True, object_content=part)

    def ConfirmMessageReceived(self, request: SimpleNamespace) -> None:  # noqa: N802
        self.confirmed.append(request.message_object_id)

    def close(self) -> None:
        pass


@pytest.fixture
def runtime() -> Runtime:
    return Runtime()


@pytest.fixture
def grid(runtime: Runtime) -> Iterator[StreamingGrid]:
    made = StreamingGrid("127.0.0.1:9", "token")
    made._client = runtime  # type: ignore[assignment]  # has the three calls in question
    made.set_run(Run.create_empty(7))
    yield made
    runtime.arrived.set()
    made.close()


def pull(grid: StreamingGrid) -> list[Message]:
    return list(grid.pull_messages(["slow", "fast"]))


def until_pulled(grid: StreamingGrid) -> Message:
    for _ in range(1000):
        found = pull(grid)
        if found:
            return found[0]
        threading.Event().wait(0.01)
    pytest.fail("the reply never came")


def test_a_slow_reply_holds_up_no_other(grid: StreamingGrid, runtime: Runtime) -> None:
    (fast,) = pull(grid)
    assert parse(fast.content) == ("done", b"fast", None)
    assert pull(grid) == []
    runtime.arrived.set()
    assert parse(until_pulled(grid).content) == ("done", b"slow", None)
    assert pull(grid) == [], "each reply is given once"
    assert len(runtime.confirmed) == 2


def test_a_reply_that_was_announced_and_never_sent_becomes_an_error(
    grid: StreamingGrid, runtime: Runtime
) -> None:
    pull(grid)
    runtime.gone.set()
    message = until_pulled(grid)
    assert message.has_error()
    assert message.metadata.reply_to_message_id == "slow"
