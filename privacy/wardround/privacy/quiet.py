"""Flower's switches against calling out: no telemetry, no update check, no package downloads.

Flower reads some of them when it is first imported, so `apply()` comes before that, and every
child process is given `environment()`.
"""

import os
from pathlib import Path
from typing import Final

SWITCHES: Final = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_TRACING_ENABLED": "0",
    "FLWR_OIDC_ENABLED": "0",
    "FLWR_ENABLE_EVENT_LOG": "0",
    "FLWR_INTERNAL_GRPC_CONTROL_API": "0",
    "FLWR_INTERNAL_GRPC_FLEET_API": "0",
}

LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
"""Never reached through a proxy."""


def environment(flower_home: Path) -> dict[str, str]:
    """The variables for a process that runs Flower; its own files go to `flower_home`."""
    proxy_exempt = os.environ.get("NO_PROXY") or os.environ.get("no_proxy") or ""
    exempt = ",".join(dict.fromkeys([*filter(None, proxy_exempt.split(",")), *LOOPBACK]))
    return SWITCHES | {"FLWR_HOME": str(flower_home), "NO_PROXY": exempt, "no_proxy": exempt}


def apply(flower_home: Path) -> None:
    """Set the variables in this process."""
    os.environ.update(environment(flower_home))
