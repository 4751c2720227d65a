"""How long Flower waits, in the site's processes: its own pauses are made for longer exchanges."""

import time
from typing import Final

from flwr.supercore.inflatable import inflatable_utils
from flwr.supercore.retry import http_retry
from flwr.supernode import start_client_internal

PULL_PACE: Final = {
    "initial_backoff": 0.05,
    "backoff_cap": 1.0,
    "max_tries_per_object": 10_000,
}
"""For a part of a message that is still on its way: by itself Flower waits 1 s, 2 s, 4 s, up to
10 s, 500 times."""

WHOLE: Final = {"max_tries_per_object": 1}

MAX_RETRY_SECONDS: Final = 3
"""Longest pause before the coordinator is tried again, instead of Flower's 20 s."""


class Pace:
    """Stands for the `time` module in the SuperNode's loop, which uses nothing of it but `sleep`.

    Flower sleeps 3 s between two looks for a message, and 0.5 s between two looks for the reply.
    While messages come, both are much shorter; after a while of silence they grow again.
    """

    REPLY_SECONDS: Final = 0.03
    IDLE_SECONDS: Final = ((120.0, 0.2), (1800.0, 1.0))
    """(silence up to, pause); beyond the last, Flower's own pause."""

    def __init__(self) -> None:
        self._last_message = time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Pause, for less than Flower asks for."""
        now = time.monotonic()
        if seconds < 1:
            self._last_message = now
            time.sleep(self.REPLY_SECONDS)
            return
        silence = now - self._last_message
        pauses = [pause for limit, pause in self.IDLE_SECONDS if silence < limit]
        time.sleep(min([seconds, *pauses]))


def expect_whole_messages() -> None:
    """In the runner's process: the SuperNode gives out whole messages, so nothing is waited for."""
    pull = inflatable_utils.pull_and_inflate_object_from_tree
    pull.__kwdefaults__ = {**(pull.__kwdefaults__ or {}), **WHOLE}


def hurry_supernode() -> None:
    """Shorten all waits of a SuperNode's loop, in this process."""
    pull = inflatable_utils.pull_objects
    pull.__kwdefaults__ = {**(pull.__kwdefaults__ or {}), **PULL_PACE}
    vars(start_client_internal)["time"] = Pace()
    vars(http_retry)["MAX_RETRY_DELAY"] = MAX_RETRY_SECONDS
