"""Who called which API: every accepted and every refused call, on its way to the audit log.

Calls that a site's node makes all day (looking for messages, heartbeats, moving parts of a
message) are counted and reported once a window; everything else is reported at once. A refusal is
reported at once the first time in a window and counted after that, so that nobody can flood the
log. The number of different records is bounded, since unknown paths and methods share one name.

The callback runs in a thread of its own. If it raises, that thread ends and `is_working` turns
false: the listeners then answer nobody any more, because a call that cannot be logged must not be
served.
"""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

WINDOW_SECONDS: Final = 60.0

ROUTINE: Final = frozenset(
    f"/v1/{path}"
    for path in (
        "fleet/pull-messages",
        "fleet/send-node-heartbeat",
        "fleet/push-object",
        "fleet/pull-object",
        "fleet/confirm-message-received",
        "fleet/get-run",
        "fleet/get-fab",
        "runtime/acquire-task",
        "runtime/send-task-heartbeat",
        "runtime/push-object",
        "runtime/pull-object",
        "runtime/confirm-message-received",
        "runtime/pull-messages",
        "runtime/get-nodes",
        "control/list-nodes",
        "control/list-runs",
    )
) | {"/health", "/wardround/v1/sync"}
"""Routes whose accepted calls are counted rather than reported one by one."""


@dataclass(frozen=True, slots=True)
class AccessRecord:
    """One call, or `count` equal calls within a window."""

    api: str
    """"fleet", "control", "runtime", "wardround" (the extra routes) or "other"."""
    method: str
    """HTTP method; "OTHER" for anything unusual."""
    path_class: str
    """The route, or "other": never the path as it was sent."""
    outcome: str
    """"accepted", "refused" or "failed" (an error on the coordinator's side)."""
    status: int
    """HTTP status of the answer."""
    role: str | None
    """"site", "operator" or "run"; None where nobody was authenticated."""
    actor: str | None
    """Flower's node id, or the token's name; None where nobody was authenticated."""
    count: int = 1


class AccessLog:
    """Hands records to `on_access`, in one thread, coalesced as described above."""

    def __init__(
        self, on_access: Callable[[AccessRecord], None], window_seconds: float = WINDOW_SECONDS
    ) -> None:
        self._on_access = on_access
        self._window = window_seconds
        self._lock = threading.Lock()
        self._due: deque[AccessRecord] = deque()
        self._counts: Counter[AccessRecord] = Counter()
        self._refused: set[AccessRecord] = set()
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="access-log", daemon=True)

    @property
    def is_working(self) -> bool:
        """False once the callback has failed, or before `start` and after `stop`."""
        return self._thread.is_alive() and not self._stopping

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Report what is left and end the thread."""
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def note(self, record: AccessRecord) -> None:
        """Take one record; never blocks on the callback."""
        with self._lock:
            if record.outcome == "accepted" and record.path_class in ROUTINE:
                self._counts[record] += 1
                return
            if record.outcome != "accepted":
                if record in self._refused:
                    self._counts[record] += 1
                    return
                self._refused.add(record)
            self._due.append(record)
        self._wake.set()

    def _work(self) -> None:
        window_ends = time.monotonic() + self._window
        while not self._stopping:
            self._wake.wait(max(window_ends - time.monotonic(), 0.0))
            self._wake.clear()
            window_over = time.monotonic() >= window_ends
            if window_over:
                window_ends = time.monotonic() + self._window
            self._report(window_over)
        self._report(window_over=True)

    def _report(self, window_over: bool) -> None:
        with self._lock:
            records = list(self._due)
            self._due.clear()
            if window_over:
                records += [replace(record, count=n) for record, n in self._counts.items()]
                self._counts.clear()
                self._refused.clear()
        for record in records:
            self._on_access(record)
