"""Flower's grid, without its waiting: a slow upload holds up neither the others nor the deadline.

Flower's `pull_messages` returns once all parts of all replies that it found have arrived. A site
with a slow line, or one that announces a reply and never sends it, would hold up the round. Here
each reply is fetched in a thread, and `pull_messages` gives those that are complete.
"""

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Final

from flwr.app import Error, Message, Metadata
from flwr.app.message import make_message
from flwr.common.constant import ErrorCode
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.runtime_pb2 import PullAppMessagesRequest
from flwr.supercore.constant import SYSTEM_MESSAGE_TYPE
from flwr.supercore.date import now
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_protobuf_utils import make_pull_object_fn_protobuf
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    inflate_object_from_contents,
    pull_objects,
)
from flwr.superlink.grid import HttpGrid

FETCHERS: Final = 16
"""Replies fetched at the same time; each is in memory as a whole."""

SHORT_SECONDS: Final = 0.5
"""How long a call waits for replies that it has just found: most are complete by then."""

FIRST_PAUSE_SECONDS: Final = 0.05
LONGEST_PAUSE_SECONDS: Final = 1.0
MAX_PAUSES: Final = 10_000
"""For a part that is still on its way up: by itself Flower waits 1 s, 2 s, 4 s, up to 10 s."""


class StreamingGrid(HttpGrid):
    """See the module; everything else is Flower's. For one caller at a time."""

    def __init__(self, address: str, token: str) -> None:
        super().__init__(runtime_api_address=address, insecure=True, token=token)
        self._fetchers = ThreadPoolExecutor(FETCHERS, thread_name_prefix="fetch")
        self._under_way: dict[str, Future[Message]] = {}

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies to these messages that have arrived as a whole, each given once."""
        identifiers = list(message_ids)
        asked = [each for each in identifiers if each not in self._under_way]
        if asked:
            answer = self._runtime_client.PullMessages(PullAppMessagesRequest(message_ids=asked))
            found = list(zip(answer.messages_list, answer.message_object_trees, strict=True))
            new = {
                proto.metadata.reply_to_message_id: self._fetchers.submit(self._fetch, proto, tree)
                for proto, tree in found
            }
            self._under_way |= new
            wait(new.values(), SHORT_SECONDS)
        complete = [
            each for each in identifiers if each in self._under_way and self._under_way[each].done()
        ]
        return [self._under_way.pop(each).result() for each in complete]

    def close(self) -> None:
        """Give up what is under way and disconnect."""
        self._fetchers.shutdown(wait=False, cancel_futures=True)
        super().close()

    def _fetch(self, proto: ProtoMessage, tree: ObjectTree) -> Message:
        """All parts of one reply; a message that carries an error if they do not come."""
        run_id = self.run.run_id
        identifier = proto.metadata.message_id
        client = self._runtime_client
        pull = make_pull_object_fn_protobuf(client.PullObject, self.node, run_id)
        parts = [part.object_id for part in iterate_object_tree(tree)]
        try:
            contents = pull_objects(
                parts,
                pull,
                initial_backoff=FIRST_PAUSE_SECONDS,
                backoff_cap=LONGEST_PAUSE_SECONDS,
                max_tries_per_object=MAX_PAUSES,
            )
        except ObjectPullError:
            return self._lost(run_id, proto.metadata.reply_to_message_id)
        client.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(
                node=self.node, run_id=run_id, message_object_id=identifier
            )
        )
        message = inflate_object_from_contents(identifier, contents)
        if not isinstance(message, Message):
            return self._lost(run_id, proto.metadata.reply_to_message_id)
        message.metadata.__dict__["_message_id"] = identifier
        return message

    def _lost(self, run_id: int, reply_to: str) -> Message:
        metadata = Metadata(
            run_id=run_id,
            message_id="",
            src_node_id=self.node.node_id,
            dst_node_id=self.node.node_id,
            message_type=SYSTEM_MESSAGE_TYPE,
            group_id="",
            ttl=0,
            reply_to_message_id=reply_to,
            created_at=now().timestamp(),
        )
        error = Error(ErrorCode.MESSAGE_UNAVAILABLE, "the reply was announced and never sent")
        return make_message(metadata, error=error)
