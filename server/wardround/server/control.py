"""What the coordinator asks of its SuperLink, over the loopback Control API with a token.

Used by the serving process itself, and usable from another process that has a token.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import httpx
from flwr.common.constant import Status
from flwr.common.serde import user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.proto.fab_pb2 import Fab
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.error import FlowerError
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.interceptors.http.utils import add_headers
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext

from wardround.privacy.exchange import RUN_KEY
from wardround.server.errors import FlowerRefused, FlowerUnreachable
from wardround.server.fab import build_fab, fab_digest

ONLINE: Final = "online"
SHUT_OUT: Final = "unregistered"


@dataclass(frozen=True, slots=True)
class Node:
    """A registered SuperNode."""

    node_id: int
    name: str
    public_key: bytes
    online: bool
    """As Flower sees it: a node that died shows as online for up to a minute."""
    shut_out: bool
    """It was registered once and is not any more."""


@dataclass(frozen=True, slots=True)
class FlowerRun:
    """A run of Flower's, which carries one stretch of a run of Wardround's."""

    flower_id: int
    finished: bool
    detail: str


class _Bearer:
    """Adds the token to every request."""

    def __init__(self, token: str) -> None:
        self._token = token

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """Send the request with the token."""
        add_headers(context.request, {"authorization": f"Bearer {self._token}"})
        return call_next(context)


class Control:
    """The Control API of a running coordinator.

    Args:
        address: host and port of the loopback listener.
        token: a bearer token that it knows.

    Every method raises `FlowerUnreachable` when nobody answers, and `FlowerRefused` when the
    SuperLink says no.
    """

    def __init__(self, address: str, token: str) -> None:
        self._client = ControlHttpClient.from_server_address(
            address,
            insecure=True,
            root_certificates=None,
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="flwr-cli"),
                _Bearer(token),
            ],
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def register_node(self, public_key: bytes, name: str) -> int:
        """Let a site's SuperNode in; gives its node id.

        `public_key` is the PEM text of its EC P-384 key. A key that is registered under this name
        already keeps its id. A name has one key at a time and a key one name, for ever: a key that
        was shut out stays out.
        """
        for node in self.nodes(also_shut_out=True):
            if node.public_key == public_key:
                if node.name == name and not node.shut_out:
                    return node.node_id
                raise FlowerRefused(
                    f"the SuperNode key of {name} was shut out before, or is another site's; the "
                    "site has to make a new one and join again"
                )
            if node.name == name and not node.shut_out:
                raise FlowerRefused(
                    f"{name} has another SuperNode key registered; unregister that one first"
                )
        with _translated("register a node"):
            request = RegisterNodeRequest(public_key=public_key, name=name)
            return int(self._client.RegisterNode(request).node_id)

    def unregister_node(self, name: str) -> None:
        """Shut a site's SuperNode out, with effect at its next request. Unknown names are fine."""
        for node in self.nodes():
            if node.name == name:
                with _translated("unregister a node"):
                    self._client.UnregisterNode(UnregisterNodeRequest(node_id=node.node_id))

    def nodes(self, *, also_shut_out: bool = False) -> list[Node]:
        """The registered nodes; on request those too that were registered once."""
        with _translated("list nodes"):
            answer = self._client.ListNodes(ListNodesRequest())
        return [
            Node(
                node.node_id,
                node.name,
                node.public_key,
                online=node.status == ONLINE,
                shut_out=node.status == SHUT_OUT,
            )
            for node in answer.nodes_info
            if also_shut_out or node.status != SHUT_OUT
        ]

    def start_run(self, run: str) -> int:
        """Start a run of Flower's for Wardround's run `run`; gives Flower's id of it."""
        fab = Fab(hash_str=fab_digest(), content=build_fab())
        request = StartRunRequest(
            fab=fab, override_config=user_config_to_proto({RUN_KEY: run}), federation=""
        )
        with _translated("start a run"):
            flower_id = int(self._client.StartRun(request).run_id)
        if flower_id == 0:
            raise FlowerRefused("Flower did not start the run; see the coordinator's log")
        return flower_id

    def stop_run(self, flower_id: int) -> None:
        """End a run of Flower's; its messages are dropped."""
        with _translated("stop a run"):
            self._client.StopRun(StopRunRequest(run_id=flower_id))

    def runs(self) -> list[FlowerRun]:
        """All runs of Flower's that the SuperLink knows."""
        with _translated("list runs"):
            answer = self._client.ListRuns(ListRunsRequest())
        return [
            FlowerRun(
                run.run_id,
                run.status.status == Status.FINISHED,
                f"{run.status.status}:{run.status.sub_status}".rstrip(":"),
            )
            for run in answer.run_dict.values()
        ]


@contextmanager
def _translated(doing: str) -> Iterator[None]:
    """Turn what the client raises into Wardround's errors."""
    try:
        yield
    except httpx.HTTPStatusError as error:
        known = FlowerError.from_json(error.response.text)
        reason = known.message if known else f"HTTP {error.response.status_code}"
        raise FlowerRefused(f"the SuperLink refused to {doing}: {reason}") from None
    except httpx.TransportError as error:
        raise FlowerUnreachable(
            f"could not {doing}: the coordinator does not answer on its loopback port "
            f"({type(error).__name__}); is `wardround-coordinator serve` running?"
        ) from None
