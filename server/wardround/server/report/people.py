"""Reads what people and programs did at the coordinator: calls of its API, and what was handed out.

A log tells actors by random ids; who is behind one stands in a table that can be erased.
"""

from collections import defaultdict

from wardround.privacy.events import Access, Export
from wardround.privacy.presentation.marks import Marked, Source
from wardround.server.report.model import AccessFacts, ExportFacts
from wardround.server.report.reading import Noted, Reading


def access(reading: Reading, run: str) -> tuple[AccessFacts, ...]:
    """Return the calls that concern `run` or no run at all, counted by kind and outcome."""
    groups: dict[tuple[str, str, str, str], list[Noted[Access]]] = defaultdict(list)
    for noted in reading.all(Access):
        event = noted.event
        if event.run in ("", run):
            what = f"{event.method} {event.path_class}"
            groups[event.api, what, event.role, f"{event.outcome} ({event.status})"].append(noted)
    return tuple(_count(key, notes) for key, notes in sorted(groups.items()))


def exports(reading: Reading, run: str) -> tuple[ExportFacts, ...]:
    """Return everything handed out that concerns `run` or no run at all, in order."""
    return tuple(
        ExportFacts(
            what=noted.mark(f"{noted.event.what} ({noted.event.format})"),
            digest=noted.mark(noted.event.digest),
            size=noted.mark(noted.event.size),
            recipient=noted.mark(noted.event.recipient),
            actor=noted.mark(noted.leaf.actor),
            at_ms=noted.logged_ms,
        )
        for noted in reading.all(Export)
        if noted.event.run in ("", run)
    )


def _count(key: tuple[str, str, str, str], notes: list[Noted[Access]]) -> AccessFacts:
    indices = tuple(noted.index for noted in notes)

    def mark(value: str) -> Marked[str]:
        return Marked(value, Source.COORDINATOR, indices)

    api, what, role, outcome = key
    actors = {noted.leaf.actor for noted in notes}
    return AccessFacts(
        api=mark(api),
        what=mark(what),
        role=mark(role),
        outcome=mark(outcome),
        refused=any(noted.event.status >= 400 for noted in notes),
        calls=Marked(sum(n.event.count for n in notes), Source.COORDINATOR, indices),
        actors=Marked(len(actors), Source.COORDINATOR, indices),
    )
