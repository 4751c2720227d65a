"""What the coordinator takes for granted of Flower's private modules.

A failure here means: this version of Flower is built otherwise; look at the place that is named.
"""

import inspect
from dataclasses import fields

import flwr
from flwr.common.event_log_plugin import EventLogWriterPlugin
from flwr.server.superlink.linkstate import LinkState
from flwr.serverapp import Grid, ServerApp
from flwr.supercore import sql_mixin
from flwr.supercore.inflatable import inflatable_utils
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.superlink import main as superlink
from flwr.superlink.auth_plugin import ControlAuthnPlugin
from flwr.superlink.config_loader import SuperLinkLifespanConfig
from flwr.superlink.grid import HttpGrid
from flwr.superlink.routers.fleet.middlewares import FleetEventLogMiddleware
from flwr.superlink.routers.fleet.node_auth import NodeAuthMiddleware

from wardround.server.listener import LOOPBACK_ROUTES, PUBLIC_ROUTES
from wardround.server.plugins import NodeRules, TokenAuthn


def test_version_is_the_one_that_was_read() -> None:
    assert flwr.__version__.startswith("1.41.")


def test_superlink_is_created_from_a_configuration_and_a_lifespan() -> None:
    assert list(inspect.signature(superlink.create_app).parameters) == [
        "config",
        "superlink_lifespan_class",
    ]
    assert {field.name for field in fields(SuperLinkLifespanConfig)} == {
        "control_address",
        "health_server_address",
        "host",
        "port",
        "insecure",
        "certificates",
        "superexec_auth_secret",
        "authn_plugin",
        "event_log_plugin",
        "fleet_event_log_plugin",
        "enable_event_log",
        "artifact_provider",
        "enable_supernode_auth",
        "fleet_api_type",
        "fleet_api_address",
        "simulation",
        "ssl_ca_certfile",
        "ssl_certfile",
        "ssl_keyfile",
        "database",
        "isolation",
        "runtime_dependency_install",
    }


def test_every_listed_route_exists_and_nodes_cannot_register_themselves() -> None:
    known = {path for _, path in PROTOBUF_REQUEST_TYPES}
    assert known >= PUBLIC_ROUTES | LOOPBACK_ROUTES
    assert known - PUBLIC_ROUTES >= {"/v1/fleet/register-node", "/v1/fleet/unregister-node"}
    assert {path for path in known if path.startswith("/v1/fleet/")} - PUBLIC_ROUTES == {
        "/v1/fleet/register-node",
        "/v1/fleet/unregister-node",
    }


def test_rules_for_nodes_run_after_the_node_is_authenticated() -> None:
    order = [layer.cls for layer in superlink._get_middleware()]
    assert order.index(NodeAuthMiddleware) < order.index(FleetEventLogMiddleware)
    source = inspect.getsource(FleetEventLogMiddleware.dispatch)
    assert source.index("write_before)") < source.index("await call_next(request)\n        except")


def test_plugins_have_exactly_the_abstract_methods_that_we_fill() -> None:
    assert ControlAuthnPlugin.__abstractmethods__ == {
        "__init__",
        "get_login_details",
        "validate_tokens_in_metadata",
        "get_auth_tokens",
        "refresh_tokens",
    }
    assert EventLogWriterPlugin.__abstractmethods__ == {
        "__init__",
        "compose_log_before_event",
        "compose_log_after_event",
        "write_log",
    }
    assert isinstance(TokenAuthn({}), ControlAuthnPlugin)
    assert isinstance(NodeRules(), EventLogWriterPlugin)


def test_sqlite_settings_are_read_from_one_module_variable() -> None:
    names = [name for name, _ in sql_mixin.SQLITE_PRAGMAS]
    assert {"busy_timeout", "journal_mode", "synchronous"} <= set(names)
    assert "SQLITE_PRAGMAS" in inspect.getsource(sql_mixin._set_sqlite_pragmas)


def test_state_offers_what_a_restarted_node_needs() -> None:
    for method in ("get_node_id_by_public_key", "deactivate_node"):
        assert callable(getattr(LinkState, method))


def test_waits_for_parts_can_be_given() -> None:
    names = {"initial_backoff", "backoff_cap", "max_tries_per_object"}
    assert names <= set(inspect.signature(inflatable_utils.pull_objects).parameters)


def test_grid_has_what_the_runs_process_uses() -> None:
    grid = HttpGrid(insecure=True, token="none")  # noqa: S106
    assert isinstance(grid._runtime_client, RuntimeHttpClient)
    assert hasattr(grid._retry_invoker, "max_tries")
    grid.close()
    assert callable(ServerApp().__call__)


def test_grid_has_no_further_abstract_methods() -> None:
    assert Grid.__abstractmethods__ == {
        "set_run",
        "run",
        "create_message",
        "get_node_ids",
        "push_messages",
        "pull_messages",
        "send_and_receive",
    }
