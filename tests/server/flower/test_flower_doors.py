"""What an outsider, an operator, a site and a dishonest site can do at the coordinator's doors."""

import hashlib
import json
import socket
import sqlite3
import ssl
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
    RegisterNodeFleetRequest,
)
from flwr.proto.node_pb2 import Node
from flwr.supercore.constant import (
    SUPEREXEC_AUTH_BODY_SHA256_HEADER,
    SUPEREXEC_AUTH_NONCE_HEADER,
    SUPEREXEC_AUTH_SIGNATURE_HEADER,
    SUPEREXEC_AUTH_TIMESTAMP_HEADER,
    TASK_TOKEN_HEADER,
)
from flwr.supercore.inflatable.inflatable_object import get_object_tree
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from wardround.server.access import AccessRecord
from wardround.server.control import Control
from wardround.server.errors import CannotListen, FlowerRefused, FlowerUnreachable
from wardround.server.listener import LARGE_BODY, LOOPBACK_ROUTES, PUBLIC_ROUTES, SMALL_BODY
from wardround.server.plugins import hash_token, new_token
from wardround.server.superlink import CoordinatorLink, LinkConfig

TOKEN = new_token()
PROTOBUF = {"content-type": "application/protobuf"}
EVERY_PATH = sorted({path for _, path in PROTOBUF_REQUEST_TYPES} | {"/v1/runtime/responses"})
OTHER_PATHS = ["/docs", "/openapi.json", "/health", "/", "/redoc", "/wardround", "/v1/fleet/"]


@dataclass
class Coordinator:
    """A running coordinator and what its access log was told."""

    link: CoordinatorLink
    home: Path
    records: list[AccessRecord]

    def public(self) -> httpx.Client:
        context = ssl.create_default_context(cafile=str(self.home / "ca.crt"))
        return httpx.Client(base_url=f"https://127.0.0.1:{self.link.public_port}", verify=context)

    def loopback(self) -> httpx.Client:
        return httpx.Client(base_url=f"http://{self.link.loopback_address}")

    def site(self, key: ec.EllipticCurvePrivateKey) -> FleetHttpClient:
        """Flower's own client of the Fleet API, with a node's key."""
        return FleetHttpClient.from_server_address(
            f"127.0.0.1:{self.link.public_port}",
            insecure=False,
            root_certificates=(self.home / "ca.crt").read_bytes(),
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="SuperNode"),
                NodeAuthHttpInterceptor(key, key.public_key()),
            ],
        )


def public_form(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


async def joining(request: Request) -> PlainTextResponse:
    return PlainTextResponse(f"{len(await request.body())} bytes")


@pytest.fixture(scope="module")
def coordinator(
    tmp_path_factory: pytest.TempPathFactory, certificates: Callable[[Path], None]
) -> Iterator[Coordinator]:
    home = tmp_path_factory.mktemp("coordinator")
    certificates(home)
    records: list[AccessRecord] = []
    config = LinkConfig(
        home=home,
        certificate=home / "tls.crt",
        private_key=home / "tls.key",
        public_port=0,
        loopback_port=0,
        control_tokens={"anna": hash_token(TOKEN)},
    )
    extra = Starlette(routes=[Route("/wardround/v1/join", joining, methods=["POST"])])
    with CoordinatorLink(config, records.append, extra) as link:
        yield Coordinator(link, home, records)


def wait_for(condition: Callable[[], bool]) -> None:
    """Until the access log's thread has come so far."""
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP384R1())


def test_outsider_finds_no_control_or_runtime_path_at_the_public_door(
    coordinator: Coordinator,
) -> None:
    with coordinator.public() as client:
        for path in [*EVERY_PATH, *OTHER_PATHS]:
            if path in PUBLIC_ROUTES:
                continue
            for headers in ({}, {"authorization": f"Bearer {TOKEN}"}):
                answer = client.post(path, headers=PROTOBUF | headers)
                assert answer.status_code == 404, path
                assert client.get(path, headers=headers).status_code == 404, path
        assert client.post("/v1/fleet/register-node", headers=PROTOBUF).status_code == 404
        assert client.post("/v1/fleet/unregister-node", headers=PROTOBUF).status_code == 404


def test_outsider_without_a_key_is_refused_on_every_fleet_path(coordinator: Coordinator) -> None:
    with coordinator.public() as client:
        for path in sorted(PUBLIC_ROUTES):
            assert client.post(path, headers=PROTOBUF).status_code == 401, path
            assert client.get(path).status_code == 405, path


def test_loopback_without_a_token_is_refused_on_every_path(coordinator: Coordinator) -> None:
    with coordinator.loopback() as client:
        for path in [*EVERY_PATH, *OTHER_PATHS]:
            expected = 401 if path in LOOPBACK_ROUTES else 404
            for headers in (
                {},
                {"authorization": "Bearer wrc_wrong"},
                {"authorization": "Basic x"},
            ):
                assert client.post(path, headers=PROTOBUF | headers).status_code == expected, path


def test_loopback_with_an_invented_task_token_is_refused(coordinator: Coordinator) -> None:
    paths = [path for path in LOOPBACK_ROUTES if path.startswith("/v1/runtime/")]
    now = str(int(time.time()))
    forged = {
        TASK_TOKEN_HEADER: "invented",
        SUPEREXEC_AUTH_SIGNATURE_HEADER: "0" * 64,
        SUPEREXEC_AUTH_NONCE_HEADER: "0" * 32,
        SUPEREXEC_AUTH_TIMESTAMP_HEADER: now,
        SUPEREXEC_AUTH_BODY_SHA256_HEADER: hashlib.sha256(b"").hexdigest(),
    }
    with coordinator.loopback() as client:
        for path in paths:
            answer = client.post(path, headers=PROTOBUF | forged)
            assert answer.status_code == 401, (path, answer.text)
            assert "needed" not in answer.text, "this is to be refused behind the gate"


def test_operator_with_a_token_registers_and_lists_nodes(
    coordinator: Coordinator, key: ec.EllipticCurvePrivateKey
) -> None:
    control = Control(coordinator.link.loopback_address, TOKEN)
    node_id = control.register_node(public_form(key), "hill")
    assert control.register_node(public_form(key), "hill") == node_id
    other = public_form(ec.generate_private_key(ec.SECP384R1()))
    with pytest.raises(FlowerRefused, match="another SuperNode key"):
        control.register_node(other, "hill")
    nodes = {node.name: node for node in control.nodes()}
    assert (nodes["hill"].node_id, nodes["hill"].public_key) == (node_id, public_form(key))
    assert not nodes["hill"].online
    control.unregister_node("hill")
    assert "hill" not in coordinator.link.registered()
    control.register_node(other, "hill")  # a new key, after the old one was shut out
    assert "hill" in coordinator.link.registered()
    control.close()


def test_a_key_that_was_shut_out_stays_out(
    coordinator: Coordinator, key: ec.EllipticCurvePrivateKey
) -> None:
    coordinator.link.register_node(public_form(key), "isle")
    coordinator.link.unregister_node("isle")
    for name in ("isle", "inlet"):
        with pytest.raises(FlowerRefused, match="make a new one"):
            coordinator.link.register_node(public_form(key), name)


def test_an_incomplete_body_is_not_passed_on(coordinator: Coordinator) -> None:
    context = ssl.create_default_context(cafile=str(coordinator.home / "ca.crt"))
    address = ("127.0.0.1", coordinator.link.public_port)
    with (
        socket.create_connection(address) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        head = "POST /wardround/v1/join HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n"
        connection.sendall(head.encode() + b"half")
    wait_for(
        lambda: any(
            (record.api, record.status) == ("wardround", 400) for record in coordinator.records
        )
    )


def test_operator_with_a_wrong_token_is_told_so(coordinator: Coordinator) -> None:
    control = Control(coordinator.link.loopback_address, new_token())
    with pytest.raises(FlowerRefused, match="401"):
        control.nodes()
    control.close()


def test_a_coordinator_that_is_down_is_named_as_such() -> None:
    control = Control("127.0.0.1:9", TOKEN)
    with pytest.raises(FlowerUnreachable, match="serve"):
        control.nodes()
    control.close()


def test_a_key_on_another_curve_is_not_registered(coordinator: Coordinator) -> None:
    with pytest.raises(FlowerRefused, match="register a node"):
        coordinator.link.register_node(b"not a key", "mill")


def test_unknown_and_revoked_sites_are_refused(
    coordinator: Coordinator, key: ec.EllipticCurvePrivateKey
) -> None:
    form = public_form(key)
    activate = ActivateNodeRequest(public_key=form, heartbeat_interval=30)
    with coordinator.site(key) as site:
        with pytest.raises(httpx.HTTPStatusError):
            site.ActivateNode(activate)
        with pytest.raises(httpx.HTTPStatusError, match="404"):
            site.RegisterNode(RegisterNodeFleetRequest(public_key=form))
        node_id = coordinator.link.register_node(form, "lake")
        assert site.ActivateNode(activate).node_id == node_id
        assert "lake" in coordinator.link.online()
        pull = PullMessagesRequest(node=Node(node_id=node_id))
        assert not site.PullMessages(pull).messages_list
        coordinator.link.unregister_node("lake")
        with pytest.raises(httpx.HTTPStatusError, match="401"):
            site.PullMessages(pull)


def test_a_site_cannot_speak_with_another_sites_node_id(coordinator: Coordinator) -> None:
    honest, dishonest = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
    victim = coordinator.link.register_node(public_form(honest), "victim-1")
    coordinator.link.register_node(public_form(dishonest), "attacker-1")
    with coordinator.site(dishonest) as site, pytest.raises(httpx.HTTPStatusError, match="401"):
        site.PullMessages(PullMessagesRequest(node=Node(node_id=victim)))


def test_a_reply_in_another_sites_name_is_vetoed(coordinator: Coordinator) -> None:
    honest, dishonest = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
    victim = coordinator.link.register_node(public_form(honest), "victim-2")
    attacker = coordinator.link.register_node(public_form(dishonest), "attacker-2")
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 7, 1, 1
    records = RecordDict({"wardround": ConfigRecord({"kind": "task", "body": b""})})

    def push(source: int) -> PushMessagesRequest:
        asked = Message(records, source, "query.wardround")
        asked.metadata.__dict__["_message_id"] = "a" * 64
        reply = Message(records, reply_to=asked)
        reply.metadata.__dict__["_message_id"] = reply.object_id
        return PushMessagesRequest(
            node=Node(node_id=attacker),
            messages_list=[message_to_proto(remove_content_from_message(reply))],
            message_object_trees=[get_object_tree(reply)],
        )

    with coordinator.site(dishonest) as site:
        with pytest.raises(httpx.HTTPStatusError) as forged:
            site.PushMessages(push(victim))
        assert forged.value.response.status_code == 403
        assert "its own name" in forged.value.response.text
        with pytest.raises(httpx.HTTPStatusError) as own:
            site.PushMessages(push(attacker))
        # In its own name it comes as far as Flower's next check: there is no such run.
        assert "its own name" not in own.value.response.text
    assert any(
        record.path_class == "/v1/fleet/push-messages" and record.status == 403
        for record in coordinator.records
    )


def test_a_node_that_starts_again_takes_its_former_place_at_once(
    coordinator: Coordinator, key: ec.EllipticCurvePrivateKey
) -> None:
    node_id = coordinator.link.register_node(public_form(key), "phoenix")
    activate = ActivateNodeRequest(public_key=public_form(key), heartbeat_interval=30)
    with coordinator.site(key) as site:
        assert site.ActivateNode(activate).node_id == node_id
        assert site.ActivateNode(activate).node_id == node_id


@pytest.mark.parametrize(
    ("path", "limit"),
    [
        ("/v1/fleet/pull-messages", SMALL_BODY),
        ("/v1/fleet/push-object", LARGE_BODY),
        ("/wardround/v1/join", SMALL_BODY),
    ],
)
def test_bodies_are_bounded_announced_or_not(
    coordinator: Coordinator, path: str, limit: int
) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(limit // 65_536 + 1):
            yield bytes(65_536)

    with coordinator.public() as client:
        announced = client.post(path, content=bytes(limit + 1), headers=PROTOBUF)
        assert announced.status_code == 413
        assert client.post(path, content=pieces(), headers=PROTOBUF).status_code == 413


def test_extra_routes_are_served_at_the_public_door_alone(coordinator: Coordinator) -> None:
    with coordinator.public() as client:
        assert client.post("/wardround/v1/join", content=b"abc").text == "3 bytes"
        assert client.get("/wardround/v1/other").status_code == 404
    with coordinator.loopback() as client:
        assert client.post("/wardround/v1/join").status_code == 404


def test_calls_are_reported_with_their_actor_and_never_with_their_path(
    coordinator: Coordinator,
) -> None:
    control = Control(coordinator.link.loopback_address, TOKEN)
    site_key = ec.generate_private_key(ec.SECP384R1())
    node_id = control.register_node(public_form(site_key), "reported")
    control.close()
    with coordinator.site(site_key) as site:
        site.ActivateNode(
            ActivateNodeRequest(public_key=public_form(site_key), heartbeat_interval=30)
        )
        site.DeactivateNode(DeactivateNodeRequest(node_id=node_id))
    with coordinator.public() as client:
        client.delete("/secret-in-a-path")
    wait_for(lambda: any(record.method == "DELETE" for record in coordinator.records))
    text = json.dumps([str(record) for record in coordinator.records])
    assert "secret-in-a-path" not in text
    seen = set(coordinator.records)
    assert (
        AccessRecord(
            "control", "POST", "/v1/control/register-node", "accepted", 200, "operator", "anna"
        )
        in seen
    )
    assert (
        AccessRecord(
            "fleet", "POST", "/v1/fleet/deactivate-node", "accepted", 200, "site", str(node_id)
        )
        in seen
    )
    assert AccessRecord("other", "DELETE", "other", "refused", 404, None, None) in seen


def test_old_tls_and_plain_text_are_refused_at_the_public_door(coordinator: Coordinator) -> None:
    context = ssl.create_default_context(cafile=str(coordinator.home / "ca.crt"))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    base = f"127.0.0.1:{coordinator.link.public_port}"
    with httpx.Client(verify=context) as client, pytest.raises(httpx.ConnectError):
        client.get(f"https://{base}/")
    with httpx.Client() as client, pytest.raises(httpx.TransportError):
        client.get(f"http://{base}/")


def test_the_superlinks_database_is_private_and_overwrites_what_it_deletes(
    coordinator: Coordinator,
) -> None:
    path = coordinator.home / "flower" / "superlink.sqlite"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    with sqlite3.connect(path) as fresh:
        assert fresh.execute("PRAGMA auto_vacuum").fetchone() == (2,)
    fresh.close()


def test_a_taken_port_is_named(coordinator: Coordinator, certified: Path) -> None:
    config = LinkConfig(
        home=certified,
        certificate=certified / "tls.crt",
        private_key=certified / "tls.key",
        public_port=coordinator.link.public_port,
        loopback_port=0,
    )
    with pytest.raises(CannotListen, match=str(coordinator.link.public_port)):
        CoordinatorLink(config, lambda record: None)


def test_a_missing_certificate_is_named(tmp_path: Path) -> None:
    config = LinkConfig(
        home=tmp_path,
        certificate=tmp_path / "none.crt",
        private_key=tmp_path / "none.key",
        public_port=0,
        loopback_port=0,
    )
    with pytest.raises(CannotListen, match="certificate"):
        CoordinatorLink(config, lambda record: None)
