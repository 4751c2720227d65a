"""Keeps each run's ServerApp running, in a process of its own, until it has ended.

For every run that is to be kept: start a run of Flower's, take its task from the SuperLink (with
the executor's secret), and start `runprocess` with the task's token. When that process ends well,
the run has ended. When it dies, Flower's run is stopped and the next one started: the ServerApp
reads from Wardround's own database how far it had come. A ServerApp that fails again and again,
each time within a minute, is given up.

Every kept run has a thread here, so that a slow one holds nobody up. The processes watch for the
death of the coordinator and die with it.
"""

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import httpx
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.interceptors import (
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.runtime import RuntimeHttpClient

from wardround.server.control import Control
from wardround.server.errors import FlowerRefused, FlowerUnreachable, LinkError

FAILURES: Final = 3
"""How often in a row a ServerApp may fail quickly before its run is given up."""
QUICK_SECONDS: Final = 60.0
RESTART_SECONDS: Final = (0.5, 2.0, 10.0)
ACQUIRE_SECONDS: Final = 30.0
TERMINATE_SECONDS: Final = 5.0

logger = logging.getLogger(__name__)


class RunKeeper:
    """See the module. `keep` and `drop` may be called from any thread, after `start`."""

    def __init__(
        self,
        *,
        home: Path,
        address: str,
        control: Control,
        secret: bytes,
        serverapp: str,
        poll_seconds: float,
        on_end: Callable[[str, str | None], None],
    ) -> None:
        self._home = home
        self._address = address
        self._control = control
        self._serverapp = serverapp
        self._poll_seconds = poll_seconds
        self._on_end = on_end
        self._lock = threading.Lock()
        self._acquiring = threading.Lock()
        self._kept: dict[str, _Kept] = {}
        self._runtime = RuntimeHttpClient.from_server_address(
            server_address=address,
            insecure=True,
            root_certificates=None,
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="SuperExec"),
                SuperExecAuthHttpInterceptor(
                    master_secret=secret,
                    protected_methods=["/flwr.proto.Runtime/AcquireTask"],
                ),
            ],
        )

    def start(self) -> None:
        """End what a former life of the coordinator left unfinished in Flower."""
        for run in self._control.runs():
            if not run.finished:
                self._stop_flower_run(run.flower_id)

    def keep(self, run: str) -> None:
        """Keep this run; nothing happens if it is kept already."""
        with self._lock:
            if run in self._kept:
                return
            kept = _Kept(run)
            self._kept[run] = kept
        kept.thread = threading.Thread(
            target=self._live, args=(kept,), name=f"run-{run}", daemon=True
        )
        kept.thread.start()

    def drop(self, run: str) -> None:
        """Stop keeping this run and wait for its process to end."""
        with self._lock:
            kept = self._kept.get(run)
        if kept is not None:
            kept.dropped.set()
            kept.join()

    def kept(self) -> frozenset[str]:
        """The runs that are kept."""
        with self._lock:
            return frozenset(self._kept)

    def stop(self) -> None:
        """Drop all runs."""
        with self._lock:
            runs = list(self._kept)
        for run in runs:
            self._kept[run].dropped.set()
        for run in runs:
            self.drop(run)
        self._runtime.close()

    def _live(self, kept: "_Kept") -> None:
        failure: str | None = None
        failures = 0
        try:
            while not kept.dropped.is_set():
                started = time.monotonic()
                try:
                    failure = self._once(kept)
                except LinkError as error:
                    # No matter of the run's: the SuperLink is busy, or has just started.
                    logger.warning("run %s waits: %s", kept.run, error)
                    kept.dropped.wait(RESTART_SECONDS[-1])
                    continue
                if failure is None or kept.dropped.is_set():
                    break
                quick = time.monotonic() - started < QUICK_SECONDS
                failures = failures + 1 if quick else 1
                logger.warning("run %s: %s", kept.run, failure)
                if failures >= FAILURES:
                    break
                kept.dropped.wait(RESTART_SECONDS[min(failures, len(RESTART_SECONDS)) - 1])
            if not kept.dropped.is_set():
                self._on_end(kept.run, failure)
        finally:
            # Last: who is told of the end writes it down before the run can be kept again.
            with self._lock:
                self._kept.pop(kept.run, None)

    def _once(self, kept: "_Kept") -> str | None:
        """One life of the run's process; None if the ServerApp ended well."""
        flower_id, token = self._acquire(kept.run)
        failure: str | None = "its process did not start"
        try:
            failure = self._process(kept, token)
        finally:
            if failure is not None:
                self._stop_flower_run(flower_id)
        try:
            self._control.runs()  # Flower drops an ended run's messages when runs are listed
        except LinkError as error:
            logger.warning("%s", error)
        return failure

    def _acquire(self, run: str) -> tuple[int, str]:
        """Start a run of Flower's and take its one task."""
        with self._acquiring:
            flower_id = self._control.start_run(run)
            deadline = time.monotonic() + ACQUIRE_SECONDS
            while time.monotonic() < deadline:
                try:
                    answer = self._runtime.AcquireTask(
                        AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP])
                    )
                except httpx.HTTPError as error:
                    raise FlowerUnreachable(
                        f"the SuperLink gave out no task for run {run} ({type(error).__name__})"
                    ) from None
                if answer.token and answer.task.run_id == flower_id:
                    return flower_id, answer.token
                time.sleep(self._poll_seconds)
        self._stop_flower_run(flower_id)
        raise FlowerRefused(f"the SuperLink gave out no task for run {run}")

    def _process(self, kept: "_Kept", token: str) -> str | None:
        command = [
            sys.executable,
            "-m",
            "wardround.server.runprocess",
            kept.run,
            str(self._home),
            self._address,
            self._serverapp,
        ]
        # The token goes through a pipe: a command line can be read by every user of the machine.
        process = subprocess.Popen(  # noqa: S603  (our own module)
            command,
            stdin=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the parent, which then ends it in order
        )
        if process.stdin is None:
            raise RuntimeError("the run's process has no standard input")
        with process.stdin as pipe:
            pipe.write(token.encode() + b"\n")
        while process.poll() is None:
            if kept.dropped.wait(self._poll_seconds):
                process.terminate()
                try:
                    process.wait(TERMINATE_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        if process.returncode == 0:
            return None
        if process.returncode < 0:
            return f"its process was ended by signal {-process.returncode}"
        return f"its ServerApp failed (exit code {process.returncode}); see the coordinator's log"

    def _stop_flower_run(self, flower_id: int) -> None:
        try:
            self._control.stop_run(flower_id)
        except FlowerRefused:
            logger.debug("run %s of Flower has ended already", flower_id)
        except LinkError as error:
            logger.warning("%s", error)


class _Kept:
    """One kept run."""

    def __init__(self, run: str) -> None:
        self.run = run
        self.dropped = threading.Event()
        self.thread: threading.Thread | None = None

    def join(self) -> None:
        """Wait for the thread, unless this is the thread itself."""
        if self.thread is not None and self.thread is not threading.current_thread():
            self.thread.join(TERMINATE_SECONDS * 3)
