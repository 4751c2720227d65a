"""What the site takes for granted of Flower's private modules.

A failure here means: this version of Flower is built otherwise; look at the place that is named.
"""

import inspect
import re

import pytest
from flwr.supercore.heartbeat import HeartbeatSender
from flwr.supercore.inflatable import inflatable_utils
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES
from flwr.supercore.retry import http_retry
from flwr.supercore.run import RunNotRunningException
from flwr.supernode import main, start_client_internal
from flwr.supernode.fleet_http_connection import http_request_response
from flwr.supernode.nodestate import NodeStateFactory
from flwr.supernode.runtime import run_clientapp

from wardround.client.intake import WholeMessages
from wardround.client.pace import PULL_PACE, WHOLE
from wardround.client.supernode_process import RUNTIME_ROUTES


def test_the_loop_uses_time_for_two_kinds_of_pause_alone() -> None:
    source = inspect.getsource(start_client_internal)
    assert set(re.findall(r"\btime\.(\w+)\(([^)]*)\)", source)) == {
        ("sleep", "3"),
        ("sleep", "0.5"),
    }


def test_the_loop_takes_what_it_is_given() -> None:
    parameters = inspect.signature(start_client_internal.start_client_internal).parameters
    assert {
        "state_factory",
        "server_address",
        "node_config",
        "root_certificates",
        "insecure",
        "authentication_keys",
        "isolation",
        "superexec_auth_secret",
        "runtime_dependency_install",
    } <= set(parameters)
    assert list(inspect.signature(NodeStateFactory.__init__).parameters)[1:] == [
        "objectstore_factory"
    ]


def test_the_loop_looks_up_its_two_halves_by_name() -> None:
    source = inspect.getsource(start_client_internal.start_client_internal)
    assert source.count("_pull_and_store_message(") == source.count("_push_messages(") == 1
    assert not re.search(r"_(pull_and_store_message|push_messages)\(\s*[^\s)=]+[,)]", source)
    message_and_stores = ["msg", "state", "store"]
    assert list(inspect.signature(start_client_internal._insert_message).parameters) == (
        message_and_stores
    )


def test_a_stopped_run_leaves_the_loop_by_an_exception_that_its_handlers_do_not_catch() -> None:
    # The reason why what was half fetched is forgotten here.
    assert not issubclass(RunNotRunningException, Exception)


def test_the_state_is_kept_by_its_factory() -> None:
    objects = ObjectStoreFactory()
    factory = NodeStateFactory(objectstore_factory=objects)
    state = factory.state_instance = WholeMessages(objects.store())
    assert factory.state() is state


def test_the_loop_comes_back_after_an_error_of_its_connection() -> None:
    # The reason why the process ends itself after the loop.
    assert "log(ERROR, exc)" in inspect.getsource(http_request_response)


def test_retries_read_their_longest_pause_from_a_module_variable() -> None:
    assert "max_delay=MAX_RETRY_DELAY" in inspect.getsource(http_retry)


@pytest.mark.parametrize("name", sorted(PULL_PACE))
def test_waits_for_parts_are_keyword_defaults(name: str) -> None:
    assert name in (inflatable_utils.pull_objects.__kwdefaults__ or {})


def test_the_runners_waits_for_parts_are_keyword_defaults_of_another_function() -> None:
    pull = inflatable_utils.pull_and_inflate_object_from_tree
    assert set(WHOLE) <= set(pull.__kwdefaults__ or {})
    assert "pull_and_inflate_object_from_tree(" in inspect.getsource(run_clientapp.pull_task_input)


def test_the_runtime_api_has_the_routes_that_the_runner_uses() -> None:
    assert {path for _, path in PROTOBUF_REQUEST_TYPES} >= RUNTIME_ROUTES
    assert list(inspect.signature(main.create_app).parameters) == [
        "state_factory",
        "superexec_auth_secret",
    ]


def test_the_runners_borrowed_functions_take_the_same_arguments() -> None:
    def arguments(function: object) -> list[str]:
        assert callable(function)
        return list(inspect.signature(function).parameters)

    assert arguments(run_clientapp.pull_task_input) == ["client"]
    assert arguments(run_clientapp.push_message) == ["client", "message", "context"]
    assert arguments(run_clientapp.push_task_output) == [
        "client",
        "context",
        "sub_status",
        "details",
    ]
    assert "install_from_fab" not in inspect.getsource(run_clientapp.pull_task_input)
    assert arguments(HeartbeatSender) == ["heartbeat_fn"]
