"""The site runner against the Runtime API of a real SuperNode whose messages are put in by hand."""

import hashlib
import signal
import socket
import threading
import time
from collections.abc import Iterator

import httpx
import pytest
import uvicorn
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.supercore.constant import TaskType
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.main import create_app
from flwr.supernode.nodestate import NodeStateFactory

from wardround.client.intake import WholeMessages
from wardround.client.messages import make_reply, read_request
from wardround.client.runner import RunnerConfig, SiteRunner
from wardround.client.supernode import new_secret
from wardround.client.supernode_process import OnlyRunner
from wardround.privacy.errors import MalformedData, WardroundError
from wardround.privacy.exchange import INLINE_PAYLOAD, MAX_BODY
from wardround.server.exchange import content, parse

BUNDLE = b"the bundle's bytes are never looked into"
NODE = 4711
RUN = 7


def made(records: RecordDict, asking: str = "") -> Message:
    """A message to the site, with its identifier as the SuperLink gives it."""
    message = Message(records, NODE, "query.wardround", group_id=asking)
    message.metadata.__dict__["_message_id"] = message.object_id
    return message


class SuperNode:
    """Flower's SuperNode without its connection to a coordinator."""

    def __init__(self) -> None:
        self.secret = new_secret()
        objects = ObjectStoreFactory()
        factory = NodeStateFactory(objectstore_factory=objects)
        self.state = factory.state_instance = WholeMessages(objects.store())
        self.state.set_node_id(NODE)
        app = OnlyRunner(create_app(state_factory=factory, superexec_auth_secret=self.secret))
        self._server = uvicorn.Server(uvicorn.Config(app, log_config=None, ws="none"))
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._socket.bind(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],))
        self._thread.start()
        TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = RUN, 1, 1

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)
        self._socket.close()

    def know_run(self, bundle: bytes = BUNDLE) -> str:
        """Keep a run of `bundle` as if it had been fetched; return the bundle's digest."""
        digest = hashlib.sha256(bundle).hexdigest()
        run = Run.create_empty(RUN)
        run.fab_hash = digest
        context = Context(RUN, NODE, {}, RecordDict(), {})
        self.state.set_run_series_context(run.series_id, context)
        self.state.store_run(run)
        self.state.store_fab(Fab(digest, bundle, {}))
        return digest

    def send(self, records: RecordDict, bundle: bytes = BUNDLE, asking: str = "") -> Message:
        message = made(records, asking)
        digest = self.know_run(bundle)
        store = self.state.object_store
        store.preregister(RUN, get_object_tree(message))
        self.state.store_message(message)
        for identifier, part in get_all_nested_objects(message).items():
            store.put(identifier, part.deflate())
        assert self.state.create_task(TaskType.CLIENT_APP, RUN, fab_hash=digest)
        return message

    def reply(self) -> tuple[str, bytes, bytes | None]:
        """The next reply, once all of it is there."""
        end = time.monotonic() + 20
        while not (found := self.state.get_messages_legacy(is_reply=True)):
            assert time.monotonic() < end, "no reply"
            time.sleep(0.01)
        identifier = found[0].metadata.message_id
        store = self.state.object_store
        parts = [tree.object_id for tree in iterate_object_tree(store.get_object_tree(identifier))]
        while not all(store.get(part) for part in parts):
            assert time.monotonic() < end, "an incomplete reply"
            time.sleep(0.01)
        contents = {part: store.get(part) or b"" for part in parts}
        message = inflate_object_from_contents(identifier, contents)
        assert isinstance(message, Message)
        return parse(message.content)

    def ask(
        self, kind: str, body: bytes = b"", payload: bytes | None = None, asking: str = ""
    ) -> tuple[str, bytes, bytes | None]:
        self.send(content(kind, body, payload), asking=asking)
        return self.reply()


@pytest.fixture
def node() -> Iterator[SuperNode]:
    supernode = SuperNode()
    yield supernode
    supernode.stop()


class Site:
    """A runner in a thread, with a handler that answers in capitals and counts."""

    def __init__(self, node: SuperNode, allowed: bytes = BUNDLE, secret: bytes | None = None):
        self.calls: list[str] = []
        self.failure: BaseException | None = None
        config = RunnerConfig(
            node.address,
            secret or node.secret,
            frozenset({hashlib.sha256(allowed).hexdigest()}),
            poll_seconds=0.01,
        )
        self.runner = SiteRunner(config, self.handle)
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self.runner.run_forever(signals=False)
        except ValueError as error:
            self.failure = error

    def handle(
        self, kind: str, body: bytes, payload: bytes | None
    ) -> tuple[str, bytes, bytes | None]:
        self.calls.append(kind)
        if kind == "refuse":
            raise WardroundError("the policy admits no such task")
        if kind == "break":
            raise ValueError("patient 4711 could not be read")
        return kind.upper(), body + str(len(self.calls)).encode(), payload

    def __enter__(self) -> "Site":
        self.thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.runner.stop()
        self.thread.join(20)
        assert not self.thread.is_alive()


@pytest.mark.parametrize("size", [None, 0, 10, INLINE_PAYLOAD + 1, 11 * 1024 * 1024])
def test_the_installed_handler_is_called(node: SuperNode, size: int | None) -> None:
    payload = None if size is None else bytes(size)
    with Site(node) as site:
        assert node.ask("task", b"plan", payload) == ("TASK", b"plan1", payload)
    assert site.calls == ["task"]


def test_a_bundle_that_is_not_on_the_list_is_refused_and_never_run(node: SuperNode) -> None:
    with Site(node, allowed=b"another bundle") as site:
        kind, body, _ = node.ask("task")
    assert kind == "error"
    assert b"not one that this site serves" in body
    assert site.calls == []


def test_a_request_that_comes_again_gets_the_same_answer_once_handled(node: SuperNode) -> None:
    with Site(node) as site:
        first = node.ask("task", b"plan", asking="asking-1")
        assert node.ask("task", b"plan", asking="asking-1") == first
        assert node.ask("task", b"plan", asking="asking-2") != first
    assert site.calls == ["task", "task"]


def test_a_refusal_is_told_in_its_own_words_and_asked_anew_the_next_time(node: SuperNode) -> None:
    with Site(node) as site:
        for _ in range(2):
            answer = node.ask("refuse", asking="asking-1")
            assert answer == ("error", b"the policy admits no such task", None)
        assert node.ask("task") == ("TASK", b"3", None)
    assert site.calls == ["refuse", "refuse", "task"]


def test_an_unforeseen_failure_tells_nothing_but_its_type_and_ends_the_runner(
    node: SuperNode,
) -> None:
    with Site(node) as site:
        kind, body, _ = node.ask("break")
        site.thread.join(20)
    assert (kind, b"ValueError" in body, b"4711" in body) == ("error", True, False)
    assert isinstance(site.failure, ValueError)


def test_a_message_in_another_form_is_refused(node: SuperNode) -> None:
    with Site(node) as site:
        node.send(RecordDict({"wardround": ConfigRecord({"kind": "task", "code": "import os"})}))
        assert node.reply()[0] == "error"
    assert site.calls == []


def test_a_runner_without_the_secret_gets_no_task(node: SuperNode) -> None:
    with Site(node, secret=new_secret()) as site:
        node.send(content("task", b"", None))
        time.sleep(1)
    assert site.calls == []


def test_the_supernode_serves_its_runner_and_nothing_else(node: SuperNode) -> None:
    with httpx.Client(base_url=f"http://{node.address}") as client:
        for path in ("/docs", "/openapi.json", "/health", "/v1/runtime/get-nodes"):
            assert client.get(path).status_code == 404
            assert client.post(path).status_code == 404
        headers = {"content-type": "application/protobuf"}
        for path in ("acquire-task", "pull-task-input", "pull-object", "push-messages"):
            assert client.post(f"/v1/runtime/{path}", headers=headers).status_code == 401


def test_both_sides_read_what_the_other_writes() -> None:
    for payload in (None, b"", b"x", bytes(INLINE_PAYLOAD), bytes(INLINE_PAYLOAD + 1)):
        TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = RUN, 1, 1
        request = Message(content("task", b"plan", payload), NODE, "query.wardround")
        assert read_request(request) == ("task", b"plan", payload)
        assert parse(make_reply(request, "done", b"ok", payload).content) == (
            "done",
            b"ok",
            payload,
        )


@pytest.mark.parametrize(
    ("kind", "records"),
    [
        ("train", content("task", b"", None)),
        ("query.wardround", RecordDict()),
        ("query.wardround", RecordDict({"wardround": ArrayRecord()})),
        ("query.wardround", RecordDict({"wardround": ConfigRecord({"kind": "task"})})),
        ("query.wardround", RecordDict({"other": ConfigRecord()})),
    ],
)
def test_requests_in_another_form_are_not_read(kind: str, records: RecordDict) -> None:
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = RUN, 1, 1
    with pytest.raises(MalformedData):
        read_request(Message(records, NODE, kind))


def test_a_reply_beyond_the_limits_is_never_made() -> None:
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = RUN, 1, 1
    request = Message(content("task", b"", None), NODE, "query.wardround")
    for kind, size in (("", 0), ("x" * 65, 0), ("task", MAX_BODY + 1)):
        with pytest.raises(MalformedData, match="payload"):
            make_reply(request, kind, bytes(size), None)


def test_a_signal_ends_the_runner_after_the_task_at_hand(node: SuperNode) -> None:
    site = Site(node)
    previous = signal.getsignal(signal.SIGTERM)
    threading.Timer(0.3, signal.raise_signal, [signal.SIGTERM]).start()
    site.runner.run_forever()
    assert signal.getsignal(signal.SIGTERM) is previous


@pytest.mark.parametrize("lost", ["the message", "its parts"])
def test_a_task_that_cannot_be_read_is_ended_and_keeps_the_runner_from_nothing(
    node: SuperNode, lost: str
) -> None:
    message = made(content("task", b"lost", None))
    if lost == "its parts":
        node.state.object_store.preregister(RUN, get_object_tree(message))
        node.state.store_message(message)
    assert node.state.create_task(TaskType.CLIENT_APP, RUN, fab_hash=node.know_run())
    with Site(node) as site:
        end = time.monotonic() + 20
        while node.state.at_work():
            assert time.monotonic() < end
            time.sleep(0.01)
        node.state.forget()
        assert node.ask("task", b"plan") == ("TASK", b"plan1", None)
    assert site.calls == ["task"]
