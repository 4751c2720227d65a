"""One message at a time, whole or not at all: the two halves of the SuperNode's loop, made safe.

Flower's loop makes the runner's task first and then fetches the message part by part; where the
run is stopped meanwhile, it leaves a task whose parts never come. It then waits for the reply
without an end, even when the task has ended and no reply can come. Either takes a site out of its
runs for good while all its processes look alive.

Here no task is given out before its message is whole; a message that was not received leaves
nothing behind; and a task that ended without its reply is answered with an error, upon which the
coordinator asks again.
"""

import logging
import threading
from typing import Any, Final

from flwr.app import Message
from flwr.common.constant import Status, SubStatus
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.object_store import ObjectStore, ObjectStoreFactory
from flwr.supernode import start_client_internal
from flwr.supernode.nodestate import NodeStateFactory
from flwr.supernode.nodestate.in_memory_nodestate import (
    CLIENT_APP_CRASHED_ERROR,
    InMemoryNodeState,
)

UNFINISHED: Final = (Status.PENDING, Status.STARTING, Status.RUNNING)
REPLY_PAUSE: Final = 0.5
"""Seconds that Flower sleeps between two looks for a reply; `Pace` makes less of them."""

logger = logging.getLogger(__name__)


class WholeMessages(InMemoryNodeState):
    """Flower's state of a SuperNode, which gives out no task during `fetching`."""

    def __init__(self, object_store: ObjectStore) -> None:
        super().__init__(object_store)
        self.fetching = threading.Event()

    def claim_task(self, task_id: int) -> str | None:
        """The task's token for the runner; None while a message is being fetched."""
        return None if self.fetching.is_set() else super().claim_task(task_id)

    def at_work(self) -> bool:
        """Whether some task has not ended. A runner that fell silent ends its task in a while."""
        return bool(self.get_tasks(statuses=UNFINISHED))

    def forget(self) -> None:
        """Leave no task, message or part behind."""
        for task in self.get_tasks(statuses=UNFINISHED):
            self.finish_task(task.task_id, SubStatus.FAILED, "its message was not received")
        self.delete_messages()
        self.object_store.clear()

    def without_reply(self) -> list[Message]:
        """The messages to this site to which no reply with all its parts has been given."""
        with self.lock_msg_store:
            messages = [entry.message for entry in self.msg_store.values()]
        replied = {
            message.metadata.reply_to_message_id
            for message in messages
            if message.metadata.reply_to_message_id and self._is_whole(message)
        }
        return [
            message
            for message in messages
            if not message.metadata.reply_to_message_id
            and message.metadata.message_id not in replied
        ]

    def _is_whole(self, message: Message) -> bool:
        tree = self.object_store.get_object_tree(message.metadata.message_id)
        return all(self.object_store.get(part.object_id) for part in iterate_object_tree(tree))


def install() -> NodeStateFactory:
    """Put both halves into Flower's loop, in this process; gives the factory of its state."""
    objects = ObjectStoreFactory()
    factory = NodeStateFactory(objectstore_factory=objects)
    state = factory.state_instance = WholeMessages(objects.store())
    loop = vars(start_client_internal)
    pull, push = loop["_pull_and_store_message"], loop["_push_messages"]

    def fetch(**arguments: Any) -> int | None:
        """Flower's first half; gives the run's identifier, None if no message was received."""
        state.fetching.set()
        try:
            run: int | None = pull(**arguments)
            if run is None:
                state.forget()
        finally:
            state.fetching.clear()
        return run

    def answer(**arguments: Any) -> None:
        """Flower's second half, once there is a reply to send."""
        loop["time"].sleep(REPLY_PAUSE)
        while state.at_work():
            loop["time"].sleep(REPLY_PAUSE)
        for message in state.without_reply():
            logger.warning("a task ended without a reply; the coordinator will ask again")
            state.forget()
            reply = Message(CLIENT_APP_CRASHED_ERROR, reply_to=message)
            start_client_internal._insert_message(reply, state, state.object_store)
        push(**arguments)

    loop["_pull_and_store_message"], loop["_push_messages"] = fetch, answer
    return factory
