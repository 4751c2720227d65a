"""The process of one run: `python -m wardround.server.runprocess RUN HOME ADDRESS SERVERAPP`.

Takes the place of Flower's `flwr-serverapp`. It calls the installed ServerApp and never unpacks or
runs anything from a bundle. The task's token comes on the first line of standard input.

Exit code 0: the ServerApp ended. 1: it failed; the reason stands on standard error. A process
whose parent has died ends at once. Of one run at most one such process is at work: a second waits
for the lock file.
"""

import fcntl
import importlib
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from wardround.privacy import quiet
from wardround.server import guard

if TYPE_CHECKING:
    from flwr.supercore.runtime import RuntimeHttpClient

PARENT_CHECK_SECONDS: Final = 0.5
HOME_VARIABLE: Final = "WARDROUND_COORDINATOR_HOME"

logger = logging.getLogger(__name__)


def main(arguments: list[str]) -> int:
    """Run the ServerApp of one task; gives the exit code."""
    run, home, address, serverapp = arguments
    parent = os.getppid()
    guard.install()
    quiet.apply(Path(home) / "flower")
    os.environ[HOME_VARIABLE] = home
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s run: %(message)s")
    for name in ("alembic", "httpx"):
        logging.getLogger(name).setLevel(logging.WARNING)
    token = sys.stdin.readline().strip()
    with _only_one(Path(home) / "flower" / f"{run}.lock"):
        return _serve(address, token, serverapp)


def _serve(address: str, token: str, serverapp: str) -> int:
    # Imported late: Flower reads its switches when it is first imported.
    import httpx
    from flwr.app.message import Context
    from flwr.common.config import get_fused_config_from_fab
    from flwr.common.constant import SubStatus
    from flwr.common.serde import context_from_proto, run_from_proto
    from flwr.proto.runtime_pb2 import PullTaskInputRequest, PushTaskOutputRequest
    from flwr.serverapp import ServerApp
    from flwr.supercore.heartbeat import HeartbeatSender
    from flwr.supercore.task_identity import TaskIdentity

    from wardround.privacy.errors import WardroundError
    from wardround.server.fab import fab_digest
    from wardround.server.grid import StreamingGrid

    logging.getLogger("flwr").setLevel(logging.WARNING)
    logging.getLogger("flwr").handlers.clear()  # it would say everything twice
    grid = StreamingGrid(address, token)
    client = grid._runtime_client
    heart = _heart_client(address, token)
    heartbeat = HeartbeatSender(lambda: _beat(heart))
    heartbeat.start()
    answer = client.PullTaskInput(PullTaskInputRequest())
    TaskIdentity.task_id = answer.task_id
    TaskIdentity.run_id = answer.run.run_id
    TaskIdentity.node_id = answer.context.node_id
    flower_run = run_from_proto(answer.run)
    grid.set_run(flower_run)
    context: Context = context_from_proto(answer.context)
    if flower_run.fab_hash != fab_digest():
        logger.error("the run names another bundle than Wardround's")
        return 1
    context.run_config = get_fused_config_from_fab(answer.fab.content, flower_run)

    module, _, name = serverapp.partition(":")
    status, code = SubStatus.FAILED, 1
    try:
        app = getattr(importlib.import_module(module), name)
        if not isinstance(app, ServerApp):
            raise TypeError(f"{serverapp} is not a Flower ServerApp")
        app(grid=grid, context=context)
        status, code = SubStatus.COMPLETED, 0
    except WardroundError as error:
        logger.error("%s", error)
    finally:
        if heartbeat.is_running:
            heartbeat.stop()  # first: the token ends with the task
        grid._retry_invoker.max_tries = 1
        try:
            client.PushTaskOutput(PushTaskOutputRequest(sub_status=status, details=""))
        except httpx.HTTPError:
            logger.warning("Flower was not told of the run's end")
        heart.close()
        grid.close()
    return code


def _heart_client(address: str, token: str) -> "RuntimeHttpClient":
    from flwr.supercore.interceptors import (
        RuntimeTokenHttpInterceptor,
        RuntimeVersionHttpInterceptor,
    )
    from flwr.supercore.runtime import RuntimeHttpClient

    return RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=True,  # loopback
        root_certificates=None,
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name="flwr-serverapp"),
            RuntimeTokenHttpInterceptor(token=token),
        ],
    )


def _beat(client: "RuntimeHttpClient") -> bool:
    """Tell Flower that the task is alive.

    Flower's own version interrupts this process as soon as a beat is refused, which one on its way
    while the task ends always is. The grid's calls find out soon enough.
    """
    import httpx
    from flwr.proto.runtime_pb2 import SendTaskHeartbeatRequest

    try:
        return bool(client.SendTaskHeartbeat(SendTaskHeartbeatRequest()).success)
    except httpx.HTTPError:
        return False


def _end_with(parent: int) -> None:
    """End this process as soon as its parent has: two rounds loops must never work at once."""
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK_SECONDS)
    os._exit(1)


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Hold the run's lock file, which the system gives back when the process dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
