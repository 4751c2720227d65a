"""The source mark of a reported value: who stands behind it, and where in the log it is written.

A report mixes what a site signed with what a coordinator merely says. A reader can weigh a value
only if its mark travels with it, so no value of a report model is bare: it is a `Marked`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

T = TypeVar("T")
U = TypeVar("U")


class Source(StrEnum):
    """Who stands behind a value."""

    SITE = "S"
    COORDINATOR = "C"
    WITNESSED = "W"
    VERIFIED = "V"
    EXTERNAL = "X"

    @property
    def meaning(self) -> str:
        """Return one sentence that a reader of a report is shown."""
        return _MEANING[self]


_MEANING = {
    Source.SITE: "Signed by the site it speaks of, with its identity key.",
    Source.COORDINATOR: "Asserted by the coordinator; nobody else confirms it.",
    Source.WITNESSED: "In a checkpoint that sites cosigned: it cannot change unseen, "
    "but its truth is not confirmed.",
    Source.VERIFIED: "Recomputed by the verifier from the evidence.",
    Source.EXTERNAL: "Refers to a document that people keep elsewhere; not checked here.",
}


@dataclass(frozen=True, slots=True)
class Marked(Generic[T]):
    """A value with its source and the indices of the log entries it was read from."""

    value: T
    source: Source
    entries: tuple[int, ...] = ()

    def map(self, change: Callable[[T], U]) -> "Marked[U]":
        """Return `change(value)` under the same mark."""
        return Marked(change(self.value), self.source, self.entries)
