"""Reads log leaves for a report: typed access to events, each with its place and its mark."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from wardround.privacy.errors import MalformedData
from wardround.privacy.events import Event, Leaf, from_leaf
from wardround.privacy.presentation.marks import Marked, Source
from wardround.privacy.transparency import CompactRange, leaf_hash

T = TypeVar("T")
E = TypeVar("E", bound=Event)


@dataclass(frozen=True, slots=True)
class Noted(Generic[E]):
    """An event with its log index; `mark` puts that index and the event's source on a value."""

    index: int
    leaf: Leaf
    event: E

    @property
    def site(self) -> str:
        """The site that signed the entry or that it is about."""
        return self.leaf.site

    def mark(self, value: T) -> Marked[T]:
        """Return `value` as read from this entry."""
        signed = self.leaf.statement is not None
        return Marked(value, Source.SITE if signed else Source.COORDINATOR, (self.index,))

    @property
    def logged_ms(self) -> Marked[int]:
        """When it entered the log, by the coordinator's clock, whoever signed it."""
        return Marked(self.leaf.ts_ms, Source.COORDINATOR, (self.index,))

    def refer(self, value: str) -> Marked[str]:
        """Return `value`, a reference to a document that is kept elsewhere."""
        return Marked(value, Source.EXTERNAL, (self.index,))


@dataclass(frozen=True, slots=True)
class Reading:
    """The entries of a log in order; `unreadable` are the indices that are not valid leaves."""

    leaves: tuple[tuple[int, Leaf], ...]
    hashes: tuple[str, ...]
    unreadable: tuple[int, ...]

    @classmethod
    def of(cls, entries: Iterable[bytes]) -> "Reading":
        """Read raw leaves; position is the log index. An unreadable leaf is noted, not fatal:
        a report on a log that was tampered with must still say so.
        """
        leaves, hashes, unreadable = [], [], []
        for index, data in enumerate(entries):
            hashes.append(leaf_hash(data).hex())
            try:
                leaves.append((index, from_leaf(data)))
            except MalformedData:
                unreadable.append(index)
        return cls(tuple(leaves), tuple(hashes), tuple(unreadable))

    def root(self, size: int) -> str:
        """Return the Merkle root (hex) of the first `size` entries."""
        tree = CompactRange()
        for digest in self.hashes[:size]:
            tree.append(bytes.fromhex(digest))
        return tree.root().hex()

    def all(self, kind: type[E]) -> Iterator[Noted[E]]:
        """Yield every event of a kind, in order."""
        for index, leaf in self.leaves:
            if isinstance(leaf.event, kind):
                yield Noted(index, leaf, leaf.event)

    def run(self, kind: type[E], run: str) -> Iterator[Noted[E]]:
        """Yield every event of a kind that belongs to `run`, in order."""
        return (noted for noted in self.all(kind) if noted.leaf.run == run)
