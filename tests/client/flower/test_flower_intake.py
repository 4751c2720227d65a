"""The two halves of the SuperNode's loop, where a message or its reply does not come."""

import threading
import time
from collections.abc import Callable

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.common.constant import Status, SubStatus
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.constant import TaskType
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.run import Run, RunNotRunningException
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode import start_client_internal

from wardround.client import intake
from wardround.client.intake import WholeMessages
from wardround.server.exchange import content

RUN = 7
NODE = 4711


class Loop:
    """Flower's two halves with a coordinator made of functions."""

    def __init__(self) -> None:
        state = intake.install().state()
        assert isinstance(state, WholeMessages)
        self.state = state
        state.set_node_id(NODE)
        TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = RUN, 1, 1
        self.request = Message(content("task", b"plan", None), NODE, "query.wardround")
        self.request.metadata.__dict__["_message_id"] = self.request.object_id
        self.parts = {
            name: part.deflate() for name, part in get_all_nested_objects(self.request).items()
        }
        self.sent: list[Message] = []
        run = Run.create_empty(RUN)
        state.set_run_series_context(run.series_id, Context(RUN, NODE, {}, RecordDict(), {}))
        state.store_run(run)
        state.store_fab(Fab("", b"", {}))

    def fetch(
        self, part: Callable[[int, str], bytes], confirm: Callable[[int, str], None] | None = None
    ) -> int | None:
        # The message as the coordinator announces it, which changes nothing in `request` itself.
        run: int | None = vars(start_client_internal)["_pull_and_store_message"](
            state=self.state,
            object_store=self.state.object_store,
            node_config={},
            receive=lambda: (self.request, get_object_tree(self.request)),
            get_run=None,
            get_fab=None,
            pull_object=part,
            confirm_message_received=confirm or (lambda run, message: None),
            trusted_entities=None,
        )
        return run

    def answer(self) -> None:
        vars(start_client_internal)["_push_messages"](
            state=self.state,
            object_store=self.state.object_store,
            send=self._send,
            push_object=lambda *arguments: None,
        )

    def _send(self, message: Message, tree: ObjectTree, seconds: float) -> tuple[set[str], str]:
        self.sent.append(message)
        return {tree.object_id}, "session"

    def take(self) -> int:
        """As the runner does: the one pending task, at work."""
        (task,) = self.state.get_tasks(statuses=[Status.PENDING])
        assert self.state.claim_task(task.task_id)
        assert self.state.activate_task(task.task_id)
        assert self.state.get_messages_legacy(run_ids=[RUN], is_reply=False)
        return task.task_id

    def nothing_is_left(self) -> bool:
        state = self.state
        return not (state.at_work() or state.msg_store or len(state.object_store))


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    for half in ("_pull_and_store_message", "_push_messages"):
        monkeypatch.setattr(start_client_internal, half, getattr(start_client_internal, half))
    monkeypatch.setattr(intake, "REPLY_PAUSE", 0.01)
    return Loop()


@pytest.mark.parametrize("failure", [RunNotRunningException, ValueError])
def test_a_message_that_is_not_received_leaves_no_task_behind(
    loop: Loop, failure: type[BaseException]
) -> None:
    """Its run was stopped between its announcement and its parts, as when a coordinator dies."""

    def part(run: int, name: str) -> bytes:
        raise failure

    assert loop.fetch(part) is None
    assert loop.nothing_is_left()
    assert loop.fetch(lambda run, name: loop.parts[name]) == RUN
    loop.take()


def test_no_task_is_given_out_before_its_message_is_whole(loop: Loop) -> None:
    given: list[str | None] = []

    def part(run: int, name: str) -> bytes:
        given.extend(
            loop.state.claim_task(task.task_id)
            for task in loop.state.get_tasks(statuses=[Status.PENDING])
        )
        return loop.parts[name]

    assert loop.fetch(part) == RUN
    assert given
    assert set(given) == {None}
    loop.take()


@pytest.mark.parametrize("reply", ["none", "in part"])
def test_a_task_that_ends_without_its_reply_is_answered_with_an_error(
    loop: Loop, reply: str
) -> None:
    assert loop.fetch(lambda run, name: loop.parts[name]) == RUN
    task = loop.take()
    if reply == "in part":
        half = Message(content("done", b"sum", None), reply_to=loop.request)
        half.metadata.__dict__["_message_id"] = half.object_id
        loop.state.object_store.preregister(RUN, get_object_tree(half))
        loop.state.store_message(half)
    threading.Timer(
        0.1, loop.state.finish_task, [task, SubStatus.FAILED, "the runner lost its connection"]
    ).start()
    loop.answer()
    (sent,) = loop.sent
    assert sent.has_error()
    assert sent.metadata.reply_to_message_id == loop.request.metadata.message_id
    assert loop.nothing_is_left()


def test_a_reply_is_sent_once_its_task_has_ended(loop: Loop) -> None:
    assert loop.fetch(lambda run, name: loop.parts[name]) == RUN
    task = loop.take()
    answering = threading.Thread(target=loop.answer)
    answering.start()
    reply = Message(content("done", b"sum", None), reply_to=loop.request)
    start_client_internal._insert_message(reply, loop.state, loop.state.object_store)
    time.sleep(0.1)
    assert loop.sent == []
    loop.state.finish_task(task, SubStatus.COMPLETED, "")
    answering.join(20)
    assert [message.has_error() for message in loop.sent] == [False]


def test_a_task_whose_runner_fell_silent_is_answered_with_an_error(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "flwr.supercore.corestate.in_memory_corestate.HEARTBEAT_DEFAULT_INTERVAL", 0.1
    )
    monkeypatch.setattr("flwr.supercore.corestate.in_memory_corestate.HEARTBEAT_PATIENCE", 2)
    assert loop.fetch(lambda run, name: loop.parts[name]) == RUN
    loop.take()
    loop.answer()
    assert [message.has_error() for message in loop.sent] == [True]
    assert not loop.state.at_work()


def test_a_task_outside_the_loop_is_claimed_as_ever(loop: Loop) -> None:
    task = loop.state.create_task(TaskType.CLIENT_APP, RUN, fab_hash="")
    assert task is not None
    assert loop.state.claim_task(task)
