"""Checking every statement's signature: Ed25519 takes longer than all else, so on every core.

One process reads the log; the others check signatures in batches. With one job, or few statements,
no process is started; where processes cannot be, or end, this one does their work.
"""

from collections import deque
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import TypeAlias

from wardround.privacy.errors import MalformedData, SignatureInvalid
from wardround.privacy.statements import Envelope

BATCH = 1000
_WAITING = 4  # batches a process may have before it: memory stays that of a few thousand statements

Claim: TypeAlias = tuple[int, bytes, Envelope]  # entry, the key it should be signed by, statement


@dataclass(slots=True)
class Signatures:
    """Takes in statements in the order of the log; `finish` names those that are not signed.

    `jobs` is the number of processes that may be busy, this one among them. With more than one,
    a program that calls this needs the guard `if __name__ == "__main__"`.
    """

    jobs: int = 1
    _batch: list[Claim] = field(default_factory=list)
    _running: deque[tuple[list[Claim], Future[list[int]]]] = field(default_factory=deque)
    _wrong: list[int] = field(default_factory=list)
    _pool: ProcessPoolExecutor | None = None

    def add(self, entry: int, identity: bytes, envelope: Envelope) -> None:
        """Have the signature of `entry` checked under `identity` (32 bytes)."""
        self._batch.append((entry, identity, envelope))
        if len(self._batch) >= BATCH:
            self._hand_on()

    def finish(self) -> list[int]:
        """Return the entries whose signature does not verify, in order; ends the processes."""
        try:
            self._wrong += wrong(self._batch)
            while self._running:
                self._take_back()
        finally:
            self.stop()
        return sorted(self._wrong)

    def stop(self) -> None:
        """End the processes, whatever they are at."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def _hand_on(self) -> None:
        batch, self._batch = self._batch, []
        if self.jobs < 2:
            self._wrong += wrong(batch)
            return
        if self._pool is None:
            self._pool = ProcessPoolExecutor(self.jobs - 1, mp_context=get_context("spawn"))
        try:
            self._running.append((batch, self._pool.submit(wrong, batch)))
        except BrokenExecutor:
            self.jobs = 1
            self._wrong += wrong(batch)
        while len(self._running) > _WAITING * self.jobs:
            self._take_back()

    def _take_back(self) -> None:
        batch, future = self._running.popleft()
        try:
            self._wrong += future.result()
        except BrokenExecutor:
            self._wrong += wrong(batch)


def wrong(batch: list[Claim]) -> list[int]:
    """Return the entries of a batch whose signature does not verify."""
    found = []
    for entry, identity, envelope in batch:
        try:
            envelope.verify(identity)
        except (SignatureInvalid, MalformedData):
            found.append(entry)
    return found
